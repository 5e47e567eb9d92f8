//! Expressions of scopes: the parser and its evaluation against naive ones, for every set of scopes held.

#![no_main]

use latchkey::scope::ScopeSet;
use latchkey::scope::expression::{Expression, Resolve, Resolved};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 4] = ["a:b", "a:c", "and:or", "z:0.x"];
const CHARS_MAX: usize = 1_000;
const DEPTH_MAX: usize = 16;

fuzz_target!(|text: &str| {
    let parsed = Expression::parse(text, &Four);
    let words = words(text);
    let tree = (text.len() <= CHARS_MAX).then(|| either(&words, 0)).flatten();
    assert_eq!(parsed.is_ok(), tree.is_some(), "{parsed:?} {tree:?}");
    let (Ok(parsed), Some(tree)) = (parsed, tree) else { return };
    assert_same(&parsed, &tree);

    let mut named: Vec<&str> = Vec::new();
    for word in words.iter().filter(|word| NAMES.contains(word)) {
        if !named.contains(word) {
            named.push(word);
        }
    }
    assert_eq!(parsed.scopes, named.join(" "));
    assert_eq!(parsed.strict, named.contains(&NAMES[3]));
    let costs = named.iter().filter_map(|name| NAMES.iter().position(|known| known == name));
    assert_eq!(parsed.cost as usize, costs.max().unwrap_or(0));

    let printed = tree.print();
    if printed.len() <= CHARS_MAX && tree.depth() <= DEPTH_MAX {
        let again = Expression::parse(&printed, &Four).expect("what was printed is right");
        assert_same(&again, &tree);
    }
});

/// A catalogue of four; each costs its number, the last is strict.
struct Four;

impl Resolve for Four {
    fn resolve(&self, scope: &str) -> Option<Resolved> {
        let index = NAMES.iter().position(|name| *name == scope)?;
        Some(Resolved { index, strict: index == 3, cost: index as u32 })
    }

    fn nearest(&self, _: &str) -> Option<&str> {
        None
    }
}

fn assert_same(parsed: &Expression, tree: &Tree) {
    for held in 0..16_u32 {
        let mut set = ScopeSet::empty(4);
        for index in (0..4).filter(|index| held >> index & 1 == 1) {
            set.insert(index);
        }
        assert_eq!(parsed.is_met_by(&set), tree.holds(held), "{parsed:?} {tree:?} {held:b}");
    }
}

/// What an expression means.
#[derive(Debug)]
enum Tree {
    Scope(usize),
    Both(Box<[Tree; 2]>),
    Either(Box<[Tree; 2]>),
}

impl Tree {
    fn holds(&self, held: u32) -> bool {
        match self {
            Self::Scope(index) => held >> index & 1 == 1,
            Self::Both(two) => two[0].holds(held) && two[1].holds(held),
            Self::Either(two) => two[0].holds(held) || two[1].holds(held),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Scope(index) => NAMES[*index].to_owned(),
            Self::Both(two) => format!("({})and({})", two[0].print(), two[1].print()),
            Self::Either(two) => format!("({}) | ({})", two[0].print(), two[1].print()),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Scope(_) => 0,
            Self::Both(two) | Self::Either(two) => 1 + two[0].depth().max(two[1].depth()),
        }
    }
}

/// Words and marks; what separates them is gone.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive([' ', '\t', '(', ')', '|'])
        .flat_map(|piece| {
            let (word, mark) = match piece.strip_suffix([' ', '\t', '(', ')', '|']) {
                Some(word) => piece.split_at(word.len()),
                None => (piece, ""),
            };
            [word, mark]
        })
        .filter(|word| !word.trim_matches([' ', '\t']).is_empty())
        .collect()
}

/// Splits at the last `or` that stands in no parentheses, if there is one.
fn either(words: &[&str], depth: usize) -> Option<Tree> {
    let split = last(words, |word| word == "or" || word == "|");
    let Some(at) = split else { return both(words, depth) };
    let two = [either(&words[..at], depth)?, both(&words[at + 1..], depth)?];
    Some(Tree::Either(Box::new(two)))
}

/// Takes the last scope or parenthesis off; before it there may be an `and`.
fn both(words: &[&str], depth: usize) -> Option<Tree> {
    let (start, one) = match *words.last()? {
        ")" => {
            let open = last(&words[..words.len() - 1], |word| word == "(")?;
            (open, group(&words[open + 1..words.len() - 1], depth + 1)?)
        }
        word => (words.len() - 1, Tree::Scope(NAMES.iter().position(|name| *name == word)?)),
    };
    let before = match words[..start].last() {
        None => return Some(one),
        Some(&"and") => &words[..start - 1],
        Some(_) => &words[..start],
    };
    Some(Tree::Both(Box::new([both(before, depth)?, one])))
}

fn group(words: &[&str], depth: usize) -> Option<Tree> {
    if depth > DEPTH_MAX { None } else { either(words, depth) }
}

/// The last word that is wanted and stands in no parentheses that close after it within these words.
fn last(words: &[&str], is_wanted: impl Fn(&str) -> bool) -> Option<usize> {
    let mut closed = 0_usize;
    for (at, word) in words.iter().enumerate().rev() {
        if closed == 0 && is_wanted(word) {
            return Some(at);
        }
        match *word {
            ")" => closed += 1,
            "(" => closed = closed.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

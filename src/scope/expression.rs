//! What a request needs: scopes joined by `and` (or a space), `or` (or `|`) and parentheses.
//!
//! `and` binds tighter than `or`. An expression is resolved against one catalogue when it is parsed
//! and is evaluated over its bits; a scope that the catalogue lacks is the caller's mistake.

use thiserror::Error;

use super::{Scope, ScopeSet};
use crate::token;

/// The most characters of an expression.
pub const EXPRESSION_CHARS_MAX: usize = 1_000;
/// How deep parentheses may be nested.
pub const EXPRESSION_DEPTH_MAX: usize = 16;

/// A required scope, parsed and resolved.
#[derive(Debug)]
pub struct Expression {
    root: Node,
    /// The scopes that it names, in order of appearance and once each, joined by spaces: what a
    /// challenge tells the client to bring.
    pub scopes: String,
    /// Whether any scope that it names is strict.
    pub strict: bool,
    /// The highest cost among the scopes that it names.
    pub cost: u32,
}

#[derive(Debug)]
enum Node {
    Scope(usize),
    All(Vec<Node>),
    Any(Vec<Node>),
}

/// What an expression is resolved against.
pub trait Resolve {
    /// The number, strictness and cost of a scope; `None` when there is none of this name.
    fn resolve(&self, scope: &str) -> Option<Resolved>;
    /// The name most like this one.
    fn nearest(&self, scope: &str) -> Option<&str>;
}

/// A scope as its catalogue knows it.
#[derive(Debug, Clone, Copy)]
pub struct Resolved {
    /// Its bit.
    pub index: usize,
    /// Whether a node that is cut off from the store may not answer for it.
    pub strict: bool,
    /// What one request under it counts.
    pub cost: u32,
}

/// What is wrong with an expression; always the caller's mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadExpression {
    /// Nothing was asked for.
    #[error("is empty; name a scope, or set authenticate_only to ask only whose key it is")]
    Empty,
    /// More than [`EXPRESSION_CHARS_MAX`].
    #[error("is longer than 1,000 characters")]
    TooLong,
    /// More than [`EXPRESSION_DEPTH_MAX`].
    #[error("has parentheses nested deeper than 16")]
    TooDeep,
    /// Something stands where a scope or a parenthesis should.
    #[error("expected {expected} {place}")]
    Unexpected {
        /// What would be right.
        expected: &'static str,
        /// Where.
        place: String,
    },
    /// A scope that is not in the policy's catalogue.
    #[error("the scope {scope} is not in the policy's catalogue{hint}")]
    Unknown {
        /// Its name, as it may be repeated.
        scope: String,
        /// The nearest known name, as a question.
        hint: String,
    },
}

impl Expression {
    /// Reads an expression against a catalogue.
    pub fn parse(text: &str, catalogue: &impl Resolve) -> Result<Self, BadExpression> {
        if text.len() > EXPRESSION_CHARS_MAX {
            return Err(BadExpression::TooLong);
        }
        let mut parser = Parser {
            rest: text,
            catalogue,
            named: Vec::new(),
            expression: Self {
                root: Node::All(Vec::new()),
                scopes: String::new(),
                strict: false,
                cost: 0,
            },
        };
        if parser.peek() == Lexeme::End {
            return Err(BadExpression::Empty);
        }
        let root = parser.any(0)?;
        if parser.peek() != Lexeme::End {
            return Err(parser.unexpected("`and`, `or` or the end"));
        }
        Ok(Self { root, scopes: parser.named.join(" "), ..parser.expression })
    }

    /// Whether what a key holds, implied scopes included, is enough.
    #[must_use]
    pub fn is_met_by(&self, held: &ScopeSet) -> bool {
        self.root.is_met_by(held)
    }
}

impl Node {
    fn is_met_by(&self, held: &ScopeSet) -> bool {
        match self {
            Self::Scope(index) => held.contains(*index),
            Self::All(nodes) => nodes.iter().all(|node| node.is_met_by(held)),
            Self::Any(nodes) => nodes.iter().any(|node| node.is_met_by(held)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lexeme<'a> {
    Word(&'a str),
    And,
    Or,
    Open,
    Close,
    End,
}

struct Parser<'a, C> {
    rest: &'a str,
    catalogue: &'a C,
    named: Vec<&'a str>,
    expression: Expression,
}

impl<'a, C: Resolve> Parser<'a, C> {
    /// `all (or all)*`
    fn any(&mut self, depth: usize) -> Result<Node, BadExpression> {
        let mut nodes = vec![self.all(depth)?];
        while self.peek() == Lexeme::Or {
            self.next();
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    /// `one (and? one)*`
    fn all(&mut self, depth: usize) -> Result<Node, BadExpression> {
        let mut nodes = vec![self.one(depth)?];
        loop {
            match self.peek() {
                Lexeme::And => {
                    self.next();
                    nodes.push(self.one(depth)?);
                }
                Lexeme::Word(_) | Lexeme::Open => nodes.push(self.one(depth)?),
                Lexeme::Or | Lexeme::Close | Lexeme::End => break,
            }
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    /// A scope, or an expression in parentheses.
    fn one(&mut self, depth: usize) -> Result<Node, BadExpression> {
        match self.peek() {
            Lexeme::Word(word) => {
                self.next();
                self.scope(word)
            }
            Lexeme::Open if depth == EXPRESSION_DEPTH_MAX => Err(BadExpression::TooDeep),
            Lexeme::Open => {
                self.next();
                let node = self.any(depth + 1)?;
                if self.peek() != Lexeme::Close {
                    return Err(self.unexpected("`)`"));
                }
                self.next();
                Ok(node)
            }
            Lexeme::And | Lexeme::Or | Lexeme::Close | Lexeme::End => {
                Err(self.unexpected("a scope or `(`"))
            }
        }
    }

    fn scope(&mut self, word: &'a str) -> Result<Node, BadExpression> {
        let Some(resolved) = self.catalogue.resolve(word) else {
            let hint = match (Scope::parse(word), self.catalogue.nearest(word)) {
                (Err(_), _) if word.ends_with('*') => {
                    "; a request names scopes, not patterns".into()
                }
                (_, Some(near)) => format!("; did you mean `{near}`?"),
                (_, None) => String::new(),
            };
            return Err(BadExpression::Unknown { scope: token::quoted(word), hint });
        };
        if !self.named.contains(&word) {
            self.named.push(word);
        }
        self.expression.strict |= resolved.strict;
        self.expression.cost = self.expression.cost.max(resolved.cost);
        Ok(Node::Scope(resolved.index))
    }

    fn peek(&self) -> Lexeme<'a> {
        lex(self.rest).0
    }

    fn next(&mut self) {
        self.rest = lex(self.rest).1;
    }

    fn unexpected(&self, expected: &'static str) -> BadExpression {
        let rest = self.rest.trim_start();
        let place = if rest.is_empty() {
            "at the end".to_owned()
        } else {
            format!("before {}", token::quoted(rest))
        };
        BadExpression::Unexpected { expected, place }
    }
}

/// The first lexeme and what follows it.
fn lex(text: &str) -> (Lexeme<'_>, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(first) = text.chars().next() else {
        return (Lexeme::End, text);
    };
    let single = match first {
        '(' => Some(Lexeme::Open),
        ')' => Some(Lexeme::Close),
        '|' => Some(Lexeme::Or),
        _ => None,
    };
    if let Some(lexeme) = single {
        return (lexeme, &text[1..]);
    }
    let end = text.find([' ', '\t', '(', ')', '|']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    match word {
        "and" => (Lexeme::And, rest),
        "or" => (Lexeme::Or, rest),
        _ => (Lexeme::Word(word), rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A catalogue of `s:0` to `s:9`.
    struct Ten;

    impl Resolve for Ten {
        fn resolve(&self, scope: &str) -> Option<Resolved> {
            let index = scope.strip_prefix("s:")?.parse().ok().filter(|index| *index < 10)?;
            let cost = u32::try_from(index).unwrap();
            Some(Resolved { index, strict: index == 9, cost })
        }

        fn nearest(&self, _: &str) -> Option<&str> {
            Some("s:0")
        }
    }

    fn set(held: &[usize]) -> ScopeSet {
        let mut set = ScopeSet::empty(10);
        for index in held {
            set.insert(*index);
        }
        set
    }

    fn parse(text: &str) -> Result<Expression, BadExpression> {
        Expression::parse(text, &Ten)
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let expression = parse("s:1 s:2 or s:3 and s:4 | s:5").unwrap();
        assert!(expression.is_met_by(&set(&[1, 2])));
        assert!(expression.is_met_by(&set(&[3, 4])));
        assert!(expression.is_met_by(&set(&[5])));
        assert!(!expression.is_met_by(&set(&[1, 3])));
        assert_eq!((expression.scopes.as_str(), expression.cost), ("s:1 s:2 s:3 s:4 s:5", 5));
    }

    #[test]
    fn parentheses_group() {
        let expression = parse("s:1 and (s:2 or s:9)").unwrap();
        assert!(expression.is_met_by(&set(&[1, 9])) && !expression.is_met_by(&set(&[2, 9])));
        assert!(expression.strict);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("  ").err(), Some(BadExpression::Empty));
        assert_eq!(parse(&"s:1 ".repeat(251)).err(), Some(BadExpression::TooLong));
        let deep = format!("{}s:1{}", "(".repeat(17), ")".repeat(17));
        assert_eq!(parse(&deep).err(), Some(BadExpression::TooDeep));
        assert!(parse(&format!("{}s:1{}", "(".repeat(16), ")".repeat(16))).is_ok());
        for (text, message) in [
            ("(s:1", "expected `)` at the end"),
            ("s:1)", "expected `and`, `or` or the end before `)`"),
            ("or s:1", "expected a scope or `(` before `or s:1`"),
            ("s:99", "the scope `s:99` is not in the policy's catalogue; did you mean `s:0`?"),
        ] {
            assert_eq!(parse(text).err().unwrap().to_string(), message);
        }
    }

    /// An expression as text beside what it means.
    #[derive(Debug, Clone)]
    enum Tree {
        Leaf(usize),
        And(Vec<Tree>),
        Or(Vec<Tree>),
    }

    impl Tree {
        /// As few parentheses as there can be, or one pair more around each part.
        fn text(&self, style: usize) -> String {
            let join = |trees: &[Self], word: &str| {
                let texts = trees.iter().map(|tree| {
                    let text = tree.text(style / 2);
                    let is_looser = matches!((self, tree), (Self::And(_), Self::Or(_)));
                    if is_looser || style % 2 == 1 { format!("({text})") } else { text }
                });
                texts.collect::<Vec<_>>().join(word)
            };
            match self {
                Self::Leaf(index) => format!("s:{index}"),
                Self::And(trees) => join(trees, ["  ", " and ", "\tand "][style % 3]),
                Self::Or(trees) => join(trees, ["|", " or ", " | "][style % 3]),
            }
        }

        fn holds(&self, held: &[usize]) -> bool {
            match self {
                Self::Leaf(index) => held.contains(index),
                Self::And(trees) => trees.iter().all(|tree| tree.holds(held)),
                Self::Or(trees) => trees.iter().any(|tree| tree.holds(held)),
            }
        }
    }

    fn trees() -> impl Strategy<Value = Tree> {
        (0_usize..10).prop_map(Tree::Leaf).prop_recursive(4, 40, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Tree::And),
                proptest::collection::vec(inner, 1..4).prop_map(Tree::Or),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_expression_means_what_its_tree_means(
            tree in trees(),
            style in 0_usize..64,
            held in proptest::collection::vec(0_usize..10, 0..10),
        ) {
            let text = tree.text(style);
            prop_assume!(text.len() <= EXPRESSION_CHARS_MAX);
            prop_assert_eq!(parse(&text).unwrap().is_met_by(&set(&held)), tree.holds(&held));
        }

        #[test]
        fn no_text_makes_the_parser_fail(text in "[ s:0-9()|andor]{0,60}|\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}

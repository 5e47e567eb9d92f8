//! What a replay comes to, for people and for programs.

use super::super::RuleBook;
use super::Replayed;
use super::finding::{Finding, Tally, Verdict};
use crate::cli::console::Console;
use crate::cli::table::{Table, Tone};
use crate::cli::tree::Tree;

/// The findings: what would be refused first, and what there is most of.
fn sorted(replayed: &Replayed) -> Vec<(&Finding, &Tally)> {
    let mut findings: Vec<_> = replayed.findings.iter().collect();
    findings.sort_by_key(|(finding, tally)| {
        (finding.verdict, std::cmp::Reverse(tally.count), tally.line)
    });
    findings
}

fn rule_name<'a>(finding: &Finding, book: &'a RuleBook) -> Option<&'a str> {
    let rule = book.rules().get(finding.rule?.checked_sub(1)?)?;
    Some(&rule.name)
}

/// For people.
pub(super) fn tell(replayed: &Replayed, book: &RuleBook, console: &mut Console) {
    let Replayed { lines, passed, refused_before, malformed, shown, findings } = replayed;
    let mut rows = vec![
        ("would be refused".to_owned(), replayed.count(Verdict::Refused).to_string()),
        ("only observed".to_owned(), replayed.count(Verdict::Observed).to_string()),
        ("not known".to_owned(), replayed.count(Verdict::NotKnown).to_string()),
        ("passed before".to_owned(), format!("{passed} of {lines}")),
        ("refused before".to_owned(), refused_before.to_string()),
        ("not understood".to_owned(), malformed.to_string()),
    ];
    rows.extend(shown.iter().map(|(line, why)| (format!("line {line}"), why.clone())));
    console.answer_rows(&rows);
    if findings.is_empty() {
        return;
    }
    console.answer("");
    let head = ["RESULT", "REASON", "RULE", "ROUTE", "KEY", "COUNT", "FIRST", "WHY"];
    let mut table = Table::new(&head);
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for (finding, tally) in sorted(replayed) {
        let tone = match finding.verdict {
            Verdict::Refused => Tone::Bad,
            Verdict::Observed => Tone::Warn,
            Verdict::NotKnown => Tone::Faint,
        };
        let plain = |text: &str| (dash(text), Tone::Plain);
        let route = if finding.route.is_empty() { "all others" } else { &finding.route };
        table.row([
            (finding.verdict.as_str().to_owned(), tone),
            plain(finding.word()),
            plain(rule_name(finding, book).unwrap_or_default()),
            plain(route),
            plain(finding.key.as_deref().unwrap_or_default()),
            plain(&tally.count.to_string()),
            plain(&format!("line {}", tally.line)),
            plain(&tally.why),
        ]);
    }
    console.table(&table);
}

/// For programs.
pub(super) fn tree(replayed: &Replayed, book: &RuleBook) -> Tree {
    let Replayed { lines, passed, refused_before, malformed, shown, findings: _ } = replayed;
    let number = |number: u64| Tree::Leaf(number.into());
    let count = |verdict| number(replayed.count(verdict));
    let line = |(line, why): &(u64, String)| {
        Tree::object([("line", number(*line)), ("why", Tree::text(why))])
    };
    let finding = |(finding, tally): (&Finding, &Tally)| {
        let Finding { verdict, reason: _, rule, route, key } = finding;
        let mut fields =
            vec![("result", Tree::text(verdict.as_str().replace(' ', "_").to_uppercase()))];
        if finding.word() != "-" {
            fields.push(("reason", Tree::text(finding.word())));
        }
        if let Some(place) = rule {
            fields.push(("rule", Tree::text(rule_name(finding, book).unwrap_or_default())));
            fields.push(("ruleNumber", Tree::Leaf((*place).into())));
        }
        if !route.is_empty() {
            fields.push(("route", Tree::text(route)));
        }
        fields.extend(key.as_ref().map(|key| ("keyId", Tree::text(key))));
        fields.extend([
            ("count", number(tally.count)),
            ("firstLine", number(tally.line)),
            ("example", Tree::text(&tally.example)),
            ("why", Tree::text(&tally.why)),
        ]);
        Tree::object(fields)
    };
    Tree::object([
        ("lines", number(*lines)),
        ("passedBefore", number(*passed)),
        ("refusedBefore", number(*refused_before)),
        ("notUnderstood", number(*malformed)),
        ("refused", count(Verdict::Refused)),
        ("observed", count(Verdict::Observed)),
        ("notKnown", count(Verdict::NotKnown)),
        ("findings", Tree::List(sorted(replayed).into_iter().map(finding).collect())),
        ("firstNotUnderstood", Tree::List(shown.iter().map(line).collect())),
    ])
}

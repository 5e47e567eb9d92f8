//! A receipt, for people: where a change holds, and from when on everywhere.

use std::time::Duration;

use super::time::{duration, timestamp};
use crate::clock::Timestamp;
use crate::proto::v1::Receipt;

/// What stands in a receipt for nodes that could not be asked about.
const UNKNOWN: &str = "*";

/// Where the change holds, and from when on everywhere.
pub(super) fn rows(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let Receipt {
        revision,
        applied_nodes,
        pending_nodes,
        effective_everywhere_time,
        effective_everywhere_in,
    } = receipt;
    let names = |nodes: &[String]| {
        if nodes.is_empty() { "none".to_owned() } else { nodes.join(", ") }
    };
    let time = instant(effective_everywhere_time.as_ref());
    let everywhere = match (time, effective_everywhere_in) {
        (Some(time), Some(span)) if !is_zero(span) => {
            format!("{time}, in {}.{:03} s", span.seconds, span.nanos / 1_000_000)
        }
        (Some(time), _) => format!("{time}, already"),
        (None, _) => "not said".to_owned(),
    };
    vec![
        ("change", revision.clone()),
        ("applied by", names(applied_nodes)),
        ("awaited", names(pending_nodes)),
        ("everywhere", everywhere),
    ]
}

/// The same in a sentence.
pub(super) fn told(receipt: &Receipt) -> String {
    let awaited = receipt.pending_nodes.len();
    let Some(first) = receipt.pending_nodes.first() else {
        return "Every node that runs has applied it: it holds everywhere.".to_owned();
    };
    let who = match (first.as_str(), awaited) {
        (UNKNOWN, _) => "Which nodes have applied it could not be found out".to_owned(),
        (_, 1) => "One node may not have applied it yet".to_owned(),
        (_, _) => format!("{awaited} nodes may not have applied it yet"),
    };
    let Some(span) = receipt.effective_everywhere_in else { return format!("{who}.") };
    if is_zero(&span) {
        return format!("{who}, but none can still go by what was true before.");
    }
    let span = format!("{}.{:03} s", span.seconds, span.nanos / 1_000_000);
    format!("{who}. In {span} at most, none goes by what was true before, whatever fails.")
}

/// What is known by a later receipt of the same change: what was reckoned before stays right.
pub(super) fn later(before: &Receipt, later: Receipt) -> Receipt {
    let (Some(earliest), Some(time)) = (
        instant(before.effective_everywhere_time.as_ref()),
        instant(later.effective_everywhere_time.as_ref()),
    ) else {
        return later;
    };
    let sooner = time.since(earliest);
    let span = later.effective_everywhere_in.and_then(|span| Duration::try_from(span).ok());
    let span = span.unwrap_or_default().saturating_sub(sooner);
    Receipt {
        effective_everywhere_time: Some(timestamp(time.min(earliest))),
        effective_everywhere_in: Some(duration(span)),
        ..later
    }
}

fn instant(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::from_seconds_and_nanos(time.seconds, time.nanos))
}

const fn is_zero(span: &prost_types::Duration) -> bool {
    span.seconds <= 0 && span.nanos <= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_when_the_change_holds_everywhere() {
        let mut receipt = Receipt {
            revision: "r".into(),
            applied_nodes: vec!["a".into(), "b".into()],
            pending_nodes: Vec::new(),
            effective_everywhere_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            effective_everywhere_in: Some(prost_types::Duration { seconds: 0, nanos: 850_000_000 }),
        };
        assert_eq!(rows(&receipt)[1].1, "a, b");
        assert_eq!(rows(&receipt)[2].1, "none");
        assert_eq!(rows(&receipt)[3].1, "1970-01-01T00:00:00Z, in 0.850 s");
        receipt.effective_everywhere_in = None;
        assert_eq!(rows(&receipt)[3].1, "1970-01-01T00:00:00Z, already");
    }

    #[test]
    fn what_was_reckoned_before_stays_right() {
        let of = |seconds, span, pending: &[&str]| Receipt {
            effective_everywhere_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            effective_everywhere_in: Some(prost_types::Duration { seconds: span, nanos: 0 }),
            pending_nodes: pending.iter().map(|node| (*node).to_owned()).collect(),
            ..Receipt::default()
        };
        // Asked at 100 and at 105: then 1 s is left of the 6 s that were reckoned first.
        assert_eq!(later(&of(106, 6, &["a"]), of(705, 600, &["a"])), of(106, 1, &["a"]));
        // It is over at 110.
        assert_eq!(later(&of(106, 6, &["a"]), of(710, 600, &["a"])), of(106, 0, &["a"]));
        assert_eq!(later(&of(706, 606, &["a"]), of(105, 0, &[])), of(105, 0, &[]));
    }

    #[test]
    fn a_sentence_says_what_to_expect() {
        let told = |pending: &[&str], seconds| {
            told(&Receipt {
                effective_everywhere_in: Some(prost_types::Duration { seconds, nanos: 0 }),
                pending_nodes: pending.iter().map(|node| (*node).to_owned()).collect(),
                ..Receipt::default()
            })
        };
        assert!(told(&[], 0).starts_with("Every node"));
        assert!(
            told(&["a"], 600).starts_with("One node may not have applied it yet. In 600.000 s")
        );
        assert!(told(&["a", "b"], 0).ends_with("none can still go by what was true before."));
        assert!(told(&["*"], 86_400).contains("could not be found out"));
        let unsaid = Receipt { pending_nodes: vec!["a".to_owned()], ..Receipt::default() };
        assert_eq!(super::told(&unsaid), "One node may not have applied it yet.");
    }
}

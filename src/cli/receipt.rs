//! A receipt, for people: where a change holds, and from when on everywhere.

use crate::clock::Timestamp;
use crate::proto::v1::Receipt;

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
    let time = effective_everywhere_time
        .and_then(|time| Timestamp::from_seconds_and_nanos(time.seconds, time.nanos));
    let everywhere = match (time, effective_everywhere_in) {
        (Some(time), Some(span)) if span.seconds > 0 || span.nanos > 0 => {
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
}

//! What the notes of the clients say of the changes that were answered: a pure function of both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::change::{Made, Way};
use super::log::{Check, Said, now, wall};

/// One moment on two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    instant: Instant,
    wall: SystemTime,
}

impl Moment {
    /// This one. A test that has to wait for its turn between the two looks takes both again.
    pub(super) fn now() -> Self {
        loop {
            let (before, wall, instant) = (now(), wall(), now());
            if instant - before < Duration::from_millis(1) {
                return Self { instant, wall };
            }
        }
    }

    /// What the other clock said.
    pub(super) fn wall(&self, at: Instant) -> SystemTime {
        self.wall + (at - self.instant)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// For each change and each node that did not answer it: how long after the answer the last check was sent that the
    /// node allowed; nothing where there was none.
    pub(super) spread: BTreeMap<Way, Vec<Duration>>,
    /// Allowed by the node that had answered, when asked after it had.
    pub(super) by_the_answering: Vec<Check>,
    /// Allowed by a node that had denied it before.
    pub(super) after_a_denial: Vec<Check>,
    /// Allowed later than the receipt says.
    pub(super) contradicted: Vec<Check>,
    /// Denied before anything was taken away, or for another reason.
    pub(super) wrongly_denied: Vec<Check>,
    /// Never denied by a node.
    pub(super) never_denied: Vec<(Way, usize)>,
    /// Somebody waited for the receipt to come true, and was answered before.
    pub(super) not_waited_for: usize,
    /// How many receipts had come true while the key was still asked for.
    pub(super) tried_receipts: usize,
    /// Not answered, by how.
    pub(super) unanswered: BTreeMap<String, usize>,
    /// How long the answers took about keys that lost nothing, in order.
    pub(super) took: Vec<Duration>,
}

impl Verdict {
    pub(super) fn of(made: &[Made], checks: &[Check], nodes: usize, moment: Moment) -> Self {
        let mut of_question: BTreeMap<usize, Vec<&Check>> = BTreeMap::new();
        for check in checks {
            of_question.entry(check.question).or_default().push(check);
        }
        let mut verdict = Self::default();
        for check in checks {
            if let Said::Failed(_) | Said::Nothing = check.said {
                *verdict.unanswered.entry(format!("{:?}", check.said)).or_default() += 1;
            }
        }
        for made in made {
            let checks = of_question.remove(&made.question).unwrap_or_default();
            verdict.judge(made, &checks, nodes, moment);
        }
        let untouched: Vec<_> = of_question.into_values().flatten().collect();
        verdict.took = untouched.iter().map(|check| check.answered - check.sent).collect();
        verdict.took.sort_unstable();
        let denied = untouched.into_iter().filter(|check| matches!(check.said, Said::Denied(_)));
        verdict.wrongly_denied.extend(denied);
        verdict
    }

    fn judge(&mut self, made: &Made, checks: &[&Check], nodes: usize, moment: Moment) {
        let is_right = |check: &Check| match check.said {
            Said::Denied(reason) => reason == made.way.reason() && check.answered >= made.sent,
            _ => true,
        };
        self.wrongly_denied.extend(checks.iter().copied().filter(|check| !is_right(check)));
        let waits = made.way == Way::RevokeAndWait;
        self.not_waited_for += usize::from(waits && made.effective > moment.wall(made.answered));
        let is_tried = checks.iter().any(|check| {
            let is_answer = !matches!(check.said, Said::Failed(_) | Said::Nothing);
            is_answer && moment.wall(check.sent) > made.effective
        });
        self.tried_receipts += usize::from(is_tried);
        for node in 0..nodes {
            let of_node = || checks.iter().copied().filter(move |check| check.node == node);
            let denied = of_node().filter(|check| matches!(check.said, Said::Denied(_)));
            let denied = denied.map(|check| check.answered).min();
            if denied.is_none() {
                self.never_denied.push((made.way, node));
            }
            let late = || of_node().filter(|it| it.said.is_allow() && it.sent > made.answered);
            let of_late = |is_wrong: &dyn Fn(&Check) -> bool| -> Vec<Check> {
                late().filter(|check| is_wrong(check)).copied().collect()
            };
            self.after_a_denial
                .extend(of_late(&|it| denied.is_some_and(|denied| it.sent > denied)));
            self.contradicted.extend(of_late(&|it| moment.wall(it.sent) > made.effective));
            if node == made.node {
                self.by_the_answering.extend(late());
            } else {
                let last = late().map(|check| check.sent - made.answered).max();
                self.spread.entry(made.way).or_default().push(last.unwrap_or_default());
            }
        }
    }

    /// How long it took everywhere, in all ways in which the answer does not wait for it, in order.
    pub(super) fn all(&self) -> Vec<Duration> {
        let at_once = self.spread.iter().filter(|(way, _)| **way != Way::RevokeAndWait);
        let mut all: Vec<_> = at_once.flat_map(|(_, spread)| spread).copied().collect();
        all.sort_unstable();
        all
    }

    /// Where nodes go on and can be asked.
    pub(super) fn demand_receipts_came_true(&self) {
        assert_eq!(self.not_waited_for, 0, "answered before the receipt had come true");
        assert_ne!(self.tried_receipts, 0, "no receipt came true while its key was asked for");
    }

    /// Whatever else may be: that nothing or not much is answered is the machine's fault, these are not.
    pub(super) fn demand_no_wrong_answer(&self) {
        let Self { by_the_answering, after_a_denial, contradicted, wrongly_denied, .. } = self;
        assert!(by_the_answering.is_empty(), "{by_the_answering:?}");
        assert!(after_a_denial.is_empty(), "{after_a_denial:?}");
        assert!(contradicted.is_empty(), "{contradicted:?}");
        assert!(wrongly_denied.is_empty(), "{wrongly_denied:?}");
        assert!(self.never_denied.is_empty(), "{:?}", self.never_denied);
    }

    /// For whoever runs it.
    pub(super) fn summary(&self) -> String {
        let ways = self.spread.iter().map(|(way, spread)| {
            let mut spread = spread.clone();
            spread.sort_unstable();
            format!("  {:13} {}", format!("{way:?}"), quantiles(&spread))
        });
        let mut lines: Vec<_> = ways.collect();
        lines.push(format!("  {:13} {}", "at once", quantiles(&self.all())));
        lines.push(format!("  {:13} {}", "warm checks", quantiles(&self.took)));
        lines.push(format!(
            "  not answered: {:?}; allowed after the answer by the node that gave it: {}; after a denial: {}; \
             against a receipt: {}, of {} that came true meanwhile; wrongly denied: {}",
            self.unanswered,
            self.by_the_answering.len(),
            self.after_a_denial.len(),
            self.contradicted.len(),
            self.tried_receipts,
            self.wrongly_denied.len(),
        ));
        lines.join("\n")
    }
}

/// What is not more than this share of them, which are in order.
pub(super) fn quantile(sorted: &[Duration], thousandths: usize) -> Duration {
    let at = (sorted.len() * thousandths).div_ceil(1_000).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

pub(super) fn quantiles(sorted: &[Duration]) -> String {
    let of = |thousandths| quantile(sorted, thousandths).as_secs_f64() * 1e3;
    format!(
        "{:6} × p50 {:7.1} ms, p99 {:7.1} ms, max {:7.1} ms",
        sorted.len(),
        of(500),
        of(990),
        of(1_000)
    )
}

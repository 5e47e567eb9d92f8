//! What may be said of a key that is revoked, or paused for a while: by the notes of those who ask and of those who change,
//! and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use latchkey::proto::v1::DecisionReason;

use crate::nodes::BOUND;
use crate::nodes::log::{Check, PATIENCE, Said};

/// What is done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Revoke,
    Disable,
    Enable,
}

/// A change that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) way: Way,
    pub(super) question: usize,
    /// The node that answered.
    pub(super) node: usize,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) allowed: usize,
    pub(super) denied: usize,
    /// Of both, those that were marked as perhaps too old.
    pub(super) marked: usize,
    pub(super) unanswered: BTreeMap<String, usize>,
    /// For each change that takes something away: how long after its answer the last check was sent that was allowed.
    pub(super) spread: Vec<Duration>,
    /// Allowed too late, or where it was denied or known before.
    pub(super) wrongly_allowed: Vec<(Check, Change)>,
    /// How long after the answer that gave a key back the last check was sent that was denied.
    pub(super) longest_denied: Duration,
    /// Denied for no reason, or by one that is older than the bound.
    pub(super) wrongly_denied: Vec<Check>,
}

impl Way {
    const fn reason(self) -> Option<DecisionReason> {
        match self {
            Self::Revoke => Some(DecisionReason::KeyRevoked),
            Self::Disable => Some(DecisionReason::KeyDisabled),
            Self::Enable => None,
        }
    }
}

impl Verdict {
    pub(super) fn of(changes: &[Change], checks: &[Check]) -> Self {
        let mut lives: HashMap<usize, (Vec<&Change>, Vec<&Check>)> = HashMap::new();
        for change in changes {
            lives.entry(change.question).or_default().0.push(change);
        }
        for check in checks {
            lives.entry(check.question).or_default().1.push(check);
        }
        let mut verdict = Self::default();
        for (mut changes, checks) in lives.into_values() {
            changes.sort_unstable_by_key(|change| change.sent);
            verdict.judge(&changes, &checks);
        }
        verdict.spread.sort_unstable();
        verdict
    }

    fn judge(&mut self, changes: &[&Change], checks: &[&Check]) {
        let mut spread = vec![Duration::ZERO; changes.len()];
        let mut known_revoked: HashMap<usize, Instant> = HashMap::new();
        for check in checks {
            if check.said == Said::Denied(DecisionReason::KeyRevoked) {
                let first = known_revoked.entry(check.node).or_insert(check.answered);
                *first = check.answered.min(*first);
            }
        }
        for check in checks {
            self.marked += usize::from(check.is_marked);
            match check.said {
                Said::Allowed | Said::Stale => {
                    self.allowed += 1;
                    let is_known = known_revoked.get(&check.node);
                    let is_known = is_known.is_some_and(|denied| check.sent > *denied);
                    self.judge_allowed(changes, check, is_known, &mut spread);
                }
                Said::Denied(reason) => {
                    self.denied += 1;
                    self.judge_denied(changes, check, reason);
                }
                Said::Failed(_) | Said::Nothing => {
                    *self.unanswered.entry(format!("{:?}", check.said)).or_default() += 1;
                }
            }
        }
        let taken = changes.iter().zip(spread).filter(|(change, _)| change.way != Way::Enable);
        self.spread.extend(taken.map(|(_, last)| last));
    }

    fn judge_allowed(
        &mut self,
        changes: &[&Change],
        check: &Check,
        is_known: bool,
        spread: &mut [Duration],
    ) {
        let taken = |change: &&Change| change.way != Way::Enable && change.answered < check.sent;
        let Some(at) = changes.iter().rposition(taken) else { return };
        let given = |change: &&Change| change.way == Way::Enable && change.sent <= check.answered;
        if changes[at..].iter().any(given) {
            return;
        }
        let taken = changes[at];
        let late = check.sent - taken.answered;
        let accepted = check.answered - taken.answered;
        if !check.is_marked {
            spread[at] = spread[at].max(late);
        }
        let is_late = !check.is_marked && (late > BOUND || accepted > BOUND + PATIENCE);
        if is_late || is_known || check.node == taken.node {
            self.wrongly_allowed.push((*check, *taken));
        }
    }

    fn judge_denied(&mut self, changes: &[&Change], check: &Check, reason: DecisionReason) {
        let is_why =
            |change: &&Change| change.way.reason() == Some(reason) && change.sent <= check.answered;
        let Some(at) = changes.iter().rposition(is_why) else {
            return self.wrongly_denied.push(*check);
        };
        let given = |change: &&&Change| change.way == Way::Enable && change.answered < check.sent;
        let Some(given) = changes[at..].iter().find(given) else { return };
        let late = check.sent - given.answered;
        if check.is_marked {
            return;
        }
        self.longest_denied = self.longest_denied.max(late);
        if late > BOUND || check.node == given.node {
            self.wrongly_denied.push(*check);
        }
    }
}

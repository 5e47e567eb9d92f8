//! Where a change holds, and from when on everywhere, by what the nodes say of themselves.
//!
//! Pure: `nodes` asks the store. A node is left out only when it has taken its row away, or has been silent for as
//! long as the bounds in its row let it answer by what it knew; it goes by no longer ones.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::feed::node_name;
use crate::lease::Bounds;
use crate::policy::GRACE_MAX;
use crate::revision::Position;
use crate::store::{NodeState, Nodes};

/// What stands for nodes that could not be asked about.
const UNKNOWN: &str = "*";

/// Where a change has taken effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The change.
    pub revision: Position,
    /// The nodes that reflect it.
    pub applied_nodes: Vec<String>,
    /// The nodes that may not yet.
    pub pending_nodes: Vec<String>,
    /// The instant from which no node goes by what was true before.
    pub effective_time: Timestamp,
    /// How long it is until then.
    pub effective_in: Duration,
}

/// A change, and the node that answers: its cache shows the change, whatever its row says so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) change: Position,
    pub(super) boot_id: u64,
}

/// How long a node may go by what was true before a change.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// The bounds of the policy.
    pub(super) bounds: Bounds,
    /// If no request that the keys concerned could answer was other than strict: the changes since when that is so.
    pub(super) strict_since: Option<Vec<Position>>,
}

impl Terms {
    /// What no policy goes beyond.
    pub(super) const LONGEST: Self =
        Self { bounds: Bounds { bound: GRACE_MAX, grace: GRACE_MAX }, strict_since: None };
}

/// What a node may still answer by what it knew when it renewed its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Everything.
    Fresh,
    /// What is not strict.
    Silent,
    /// Nothing.
    Gone,
}

/// What a node may still answer at an instant of the store.
pub(super) fn liveness(node: &NodeState, now: Timestamp) -> Liveness {
    let (silent, bounds) = (now.since(node.renewed), node.row.bounds);
    if silent <= whole(bounds.until_strict_end()) {
        Liveness::Fresh
    } else if silent <= whole(bounds.until_end()) {
        Liveness::Silent
    } else {
        Liveness::Gone
    }
}

/// The nodes that may still answer, by whether they have applied a change.
pub(super) struct Tally<'a> {
    now: Timestamp,
    shown: Shown,
    live: Vec<&'a NodeState>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(shown: Shown, nodes: &'a Nodes) -> Self {
        let may_answer = |node: &&NodeState| liveness(node, nodes.now) != Liveness::Gone;
        let live = nodes.nodes.iter().filter(may_answer).collect();
        Self { now: nodes.now, shown, live }
    }

    /// Whether every node that may still answer has applied it.
    pub(super) fn is_everywhere(&self) -> bool {
        self.live.iter().all(|node| self.has(node, self.shown.change))
    }

    /// What is known now. An instant that was reckoned earlier stays right, and so the earliest counts.
    pub(super) fn receipt(&self, terms: &Terms, reckoned: Option<Timestamp>) -> Receipt {
        let Shown { change, boot_id } = self.shown;
        let others = self.live.iter().filter(|node| node.row.boot_id != boot_id);
        let (applied, pending): (Vec<_>, Vec<_>) = others.partition(|node| self.has(node, change));
        let name = |node: &&NodeState| node_name(node.row.boot_id);
        let span = if self.is_everywhere() { Duration::ZERO } else { self.span(terms) };
        let effective_time = self.now.after(span);
        let effective_time = reckoned.map_or(effective_time, |it| it.min(effective_time));
        Receipt {
            revision: change,
            applied_nodes: [node_name(boot_id)]
                .into_iter()
                .chain(applied.into_iter().map(name))
                .collect(),
            pending_nodes: pending.into_iter().map(name).collect(),
            effective_time,
            effective_in: effective_time.since(self.now),
        }
    }

    /// How long it is at most until no node goes by what was true before the change. What a policy shortens counts
    /// once every node has applied it: until then the rows say what still holds.
    fn span(&self, Terms { bounds, strict_since }: &Terms) -> Duration {
        let is_known = |change: &Position| self.live.iter().all(|node| self.has(node, *change));
        let is_strict = strict_since.as_ref().is_some_and(|changes| changes.iter().all(is_known));
        let end = if is_strict { Bounds::until_strict_end } else { Bounds::until_end };
        let rows = self.live.iter().map(|node| end(node.row.bounds));
        whole(rows.fold(end(*bounds), Duration::max))
    }

    /// Whether a node has applied a change: as its row says, if what the row names is in the store; and the node that
    /// answers has applied all that came before what it shows.
    fn has(&self, node: &NodeState, change: Position) -> bool {
        let is_reached = |at: Position| at.epoch == change.epoch && at.n >= change.n;
        let is_stated = node.is_held && node.row.applied.is_some_and(is_reached);
        is_stated || (node.row.boot_id == self.shown.boot_id && is_reached(self.shown.change))
    }
}

/// When the change was made, and then the store would not say what nodes there are.
pub(super) fn without_nodes(shown: Shown, now: Timestamp) -> Receipt {
    let span = whole(Terms::LONGEST.bounds.until_end());
    Receipt {
        revision: shown.change,
        applied_nodes: vec![node_name(shown.boot_id)],
        pending_nodes: vec![UNKNOWN.to_owned()],
        effective_time: now.after(span),
        effective_in: span,
    }
}

/// Instants are in microseconds: a span that ends between two of them ends with the later.
fn whole(span: Duration) -> Duration {
    Duration::from_micros(u64::try_from(span.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;

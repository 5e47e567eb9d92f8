//! What nodes tell each other through the store that they share.

use crate::clock::Timestamp;
use crate::lease::Bounds;
use crate::policy::Policy;
use crate::revision::Position;

/// What a node says of itself whenever it renews its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Drawn at its start.
    pub boot_id: u64,
    /// The name of its machine.
    pub name: String,
    /// The version of latchkey.
    pub version: String,
    /// When it was started.
    pub started: Timestamp,
    /// What it had applied when this was sent; never what the read after it brings. `None` before its first read.
    pub applied: Option<Position>,
    /// How long it may go on by this.
    pub bounds: Bounds,
}

/// A node, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// What it says.
    pub row: NodeRow,
    /// When it said so, by the store's clock.
    pub renewed: Timestamp,
    /// Whether what it had applied is what the store holds at that number.
    pub is_held: bool,
}

/// Which nodes are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeQuery {
    /// A change that the store must show, or the answer would be of the past: of a server that is no longer the primary.
    pub shown: Option<Position>,
    /// Whether the policy is to come with them, as of the same moment.
    pub with_policy: bool,
}

/// The nodes that share a store, at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Nodes {
    /// The store's time.
    pub now: Timestamp,
    /// The last change.
    pub head: Position,
    /// Those that have not left, in order of their start.
    pub nodes: Vec<NodeState>,
    /// The policy and the change that made it what it is, if they were asked for.
    pub policy: Option<(Policy, Position)>,
}

//! The nodes: what they are asked for a receipt, how long for, and the use case of `NodeService`.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Keyring;
use super::receipt::{self, Liveness, Receipt, Shown, Tally, Terms};
use crate::authorizer::Operator;
use crate::authorizer::operator::ReadNodes;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::KeyRecord;
use crate::lease::Bounds;
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::store::{NodeQuery, NodeState, Nodes, StoreError};

/// How long the store may take to say what nodes there are. The change is made: it must not seem otherwise for long.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);
/// How many calls may wait for the nodes at once, each of which asks the store again and again.
pub(super) const WAITS_MAX: usize = 64;
/// The pauses between two questions, from the first to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A change that was made, as far as its receipt depends on it.
pub(super) struct Made {
    /// The change.
    pub(super) revision: Position,
    /// If keys were ended, and nothing else was done: they, as they were before.
    pub(super) ended: Vec<KeyRecord>,
}

/// How long a caller waits for the nodes.
pub struct Patience {
    /// For so long,
    pub wait: Duration,
    /// and no longer than somebody wants the answer.
    pub is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Patience {
    /// Waits for no node.
    #[must_use]
    pub fn none() -> Self {
        Self { wait: Duration::ZERO, is_wanted: Box::new(|| false) }
    }
}

/// A node, as it is listed.
#[derive(Debug, Clone)]
pub struct ListedNode {
    /// What it said of itself.
    pub node: NodeState,
    /// How long ago.
    pub renewed_ago: Duration,
    /// What it may still answer.
    pub liveness: Liveness,
    /// How many of the store's changes it had not applied then; `None` when it had applied none, or others.
    pub changes_behind: Option<u64>,
}

impl Keyring {
    /// Every node that the store knows of, the one started first at the head.
    pub async fn list_nodes(
        &self,
        operator: &Operator<ReadNodes>,
    ) -> Result<Vec<ListedNode>, Error> {
        operator.check_reserved()?;
        let Nodes { now, head, nodes, policy: _ } = self.nodes(NodeQuery::default()).await?;
        Ok(nodes.into_iter().map(|node| listed(node, now, head)).collect())
    }

    /// The nodes that share the store; where none can, this one.
    async fn nodes(&self, query: NodeQuery) -> Result<Nodes, StoreError> {
        if let Some(nodes) = self.store.nodes(query).await? {
            return Ok(nodes);
        }
        let (now, row) = (self.clock.now(), self.feed.row());
        let head = row.applied.unwrap_or(Position { epoch: 0, n: 0, tag: 0 });
        let is_held = row.applied.is_some();
        let nodes = vec![NodeState { row, renewed: now, is_held }];
        Ok(Nodes { now, head, nodes, policy: None })
    }

    /// Where a change holds that this node shows. It was made, so this never fails.
    pub(super) async fn receipt(&self, made: &Made, patience: &Patience) -> Receipt {
        let shown = Shown { change: made.revision, boot_id: self.feed.boot().id };
        let mut asking = Asking { keyring: self, made, shown, terms: None, reckoned: None };
        let mut receipt = asking.ask().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the nodes could not be asked for a receipt");
            receipt::without_nodes(shown, self.clock.now())
        });
        if patience.wait.is_zero() {
            return receipt;
        }
        let Ok(_place) = self.waits.try_acquire() else { return receipt };
        let mut pause = PAUSE;
        let wait = async {
            while !receipt.pending_nodes.is_empty() && (patience.is_wanted)() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                if let Ok(later) = asking.ask().await {
                    receipt = later;
                }
            }
        };
        // What was known last is the answer when the wait is over.
        let _ = timeout(patience.wait, wait).await;
        receipt
    }
}

impl Terms {
    /// By what the time is reckoned until a change holds everywhere, under this policy.
    fn of(made: &Made, policy: Policy, revision: Position) -> Self {
        let bounds = Bounds::of(&policy);
        let is_strict = !made.ended.is_empty()
            && Catalogue::compile(policy, "").is_ok_and(|catalogue| {
                let mut keys = made.ended.iter();
                keys.all(|key| catalogue.is_all_strict(&catalogue.held(&key.scopes)))
            });
        // Whoever has an earlier policy, or an earlier record, may find that the key can do more.
        let records = made.ended.iter().map(|key| key.revision);
        let strict_since = is_strict.then(|| records.chain([revision]).collect());
        Self { bounds, strict_since }
    }
}

/// What is asked for one receipt, once or again and again.
struct Asking<'a> {
    keyring: &'a Keyring,
    made: &'a Made,
    shown: Shown,
    /// Worked out when a node is pending.
    terms: Option<Terms>,
    /// The earliest instant that was found so far.
    reckoned: Option<Timestamp>,
}

impl Asking<'_> {
    /// What the nodes say now.
    async fn ask(&mut self) -> Result<Receipt, StoreError> {
        let asked = timeout(ASK_TIME_MAX, self.ask_patiently()).await;
        asked.unwrap_or_else(|_| Err(StoreError::Unavailable("it is too slow".into())))
    }

    async fn ask_patiently(&mut self) -> Result<Receipt, StoreError> {
        // An answer that does not show the change is of the past, and may lack a node.
        let query = NodeQuery { shown: Some(self.shown.change), with_policy: self.terms.is_none() };
        let mut nodes = self.keyring.nodes(query).await?;
        let policy = nodes.policy.take();
        let tally = Tally::new(self.shown, &nodes);
        if let Some((policy, revision)) = policy
            && !tally.is_everywhere()
        {
            self.terms = Some(Terms::of(self.made, policy, revision));
        }
        let receipt = tally.receipt(self.terms.as_ref().unwrap_or(&Terms::LONGEST), self.reckoned);
        self.reckoned = Some(receipt.effective_time);
        Ok(receipt)
    }
}

fn listed(node: NodeState, now: Timestamp, head: Position) -> ListedNode {
    let applied = node.row.applied.filter(|_| node.is_held);
    ListedNode {
        renewed_ago: now.since(node.renewed),
        liveness: receipt::liveness(&node, now),
        changes_behind: applied.map(|applied| head.n.saturating_sub(applied.n)),
        node,
    }
}

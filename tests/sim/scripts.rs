//! What happens on three nodes in a script: the same each time, whatever becomes of one of their calls.
//!
//! All along each node is asked about all keys in turn. Whoever changes something repeats it until it is made, as an
//! operator would. What a script demands by [`Stage::demand`] shows that it does what it is there for; that is so where
//! nothing is disturbed, and all else is for the judge.

use std::time::Duration;

use latchkey::keyring::Receipt;
use latchkey::policy::Policy;
use latchkey::scope::ScopePattern;
use tokio::time::sleep;

use crate::people::{SCOPES, Said, policy_of};
use crate::stage::Stage;
use crate::world::Shape;

/// B and M.
pub(crate) const BOUND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(3);
pub(crate) const NODES: usize = 3;
/// What is asked for: the first is not strict, the others are, for keys that may write.
pub(crate) const READ: Option<&str> = Some(SCOPES[0]);
pub(crate) const WRITE: Option<&str> = Some(SCOPES[1]);
pub(crate) const ANY: Option<&str> = None;
/// Whose token nobody has: the last of those from the beginning.
const NOBODYS: usize = 12;
/// How soon everybody knows by a push, and by a poll.
const BY_PUSH: Duration = Duration::from_millis(60);
const BY_POLL: Duration = Duration::from_millis(200);

/// What a script is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Fill,
    Poll,
    Lease,
    Push,
    Fence,
    Start,
    Drain,
}

impl Scenario {
    pub(crate) const ALL: [(Self, &str); 7] = [
        (Self::Fill, "fill"),
        (Self::Poll, "poll"),
        (Self::Lease, "lease"),
        (Self::Push, "push"),
        (Self::Fence, "fence"),
        (Self::Start, "start"),
        (Self::Drain, "drain"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(it, _)| *it == self).map_or("", |it| it.1)
    }

    pub(crate) fn shape(self) -> Shape {
        Shape {
            nodes: NODES,
            room: if self == Self::Fill { 8 } else { 1_000 },
            has_redis: self != Self::Poll,
            may_revert: false,
            is_scripted: true,
        }
    }

    pub(crate) async fn play(self, stage: &Stage) {
        match self {
            Self::Fill => fill(stage).await,
            Self::Poll => poll(stage).await,
            Self::Lease => lease(stage).await,
            Self::Push => push(stage).await,
            Self::Fence => fence(stage).await,
            Self::Start => start(stage).await,
            Self::Drain => drain(stage).await,
        }
    }
}

/// The policy of all scripts.
pub(crate) fn policy() -> Policy {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap();
    policy_of("first", [millis(BOUND), millis(GRACE)], true, true)
}

/// What all keys may do: to write, and thereby to read.
pub(crate) fn scopes() -> Vec<ScopePattern> {
    vec![ScopePattern::parse(SCOPES[1]).unwrap()]
}

// === The scripts ===

/// Caches have room for eight keys of thirteen and more: what is asked for is found in Redis, which other nodes fill, or
/// is read. Meanwhile a key is made, and one that everybody has asked for is revoked.
async fn fill(stage: &Stage) {
    for node in [1, 2] {
        for key in 0..6 {
            stage.ask(node, key, WRITE).await;
        }
    }
    stage.ask(1, NOBODYS, READ).await;
    let made = stage.create(0).await;
    let waited = stage.agree(made).await;
    stage.demand("a key that was made elsewhere is known", waited < BY_POLL);
    tokio::join!(
        stage.revoke(0, 3, Duration::ZERO),
        stage.ask(1, 3, WRITE),
        stage.ask(2, 3, WRITE)
    );
    for node in [0, 1, 2] {
        stage.ask(node, 3, WRITE).await;
    }
    stage.agree(3).await;
    for key in 6..12 {
        stage.ask(2, key, READ).await;
        stage.ask(1, key, READ).await;
    }
    stage.agree(NOBODYS).await;
    let count = |name: &str, label: &str| -> u64 {
        stage.running().iter().map(|node| node.counted(name, label)).sum()
    };
    let hits = count("latchkey_redis_lookups_total", "hit");
    let fills: u64 = stage.running().iter().map(|node| node.node.feed.fills()).sum();
    stage.demand("keys are found in Redis", hits > 0);
    stage.demand("keys are read", fills > 0);
}

/// There is no Redis: what is changed on one node the others learn by asking again and again.
async fn poll(stage: &Stage) {
    stage.revoke(0, 0, Duration::ZERO).await;
    let mut waited = vec![stage.agree(0).await];
    let made = stage.create(1).await;
    waited.push(stage.agree(made).await);
    stage.suspend(2, "cedar", true).await;
    waited.push(stage.agree(2).await);
    stage.suspend(0, "cedar", false).await;
    waited.push(stage.agree(2).await);
    stage.revoke(1, made, BOUND).await;
    waited.push(stage.agree(made).await);
    let slowest = waited.into_iter().max().unwrap();
    stage.demand("changes are polled", slowest < BY_POLL && slowest > BY_PUSH);
}

/// A node is cut off from the store for longer than it may answer at all, and keys are changed elsewhere meanwhile.
async fn lease(stage: &Stage) {
    const CUT: Duration = Duration::from_millis(4_200);
    let begun = stage.world.now();
    let changes = async {
        let receipt = stage.revoke(0, 0, Duration::from_millis(200)).await;
        let is_pending = receipt.is_some_and(|it| !it.pending_nodes.is_empty());
        stage.demand("a node that is silent is pending", is_pending);
        stage.create(2).await;
        stage.suspend(0, "douglas", true).await;
    };
    let answers = async {
        let mut said = [const { Vec::new() }; 2];
        while stage.world.now() < begun + CUT {
            for (said, scope) in said.iter_mut().zip([READ, WRITE]) {
                said.push((stage.world.now().saturating_sub(begun), stage.ask(1, 4, scope).await));
            }
            sleep(Duration::from_millis(90)).await;
        }
        said
    };
    let ((), (), [read, write]) = tokio::join!(stage.cut_off(1, CUT), changes, answers);
    let last = |said: &[(Duration, Option<Said>)], stale: bool| {
        let is_it = |said: &Option<Said>| matches!(said, Some(Said::Allowed { stale: it, .. }) if *it == stale);
        said.iter().rev().find(|(_, said)| is_it(said)).map_or(Duration::ZERO, |it| it.0)
    };
    stage.demand("what is strict ends with B", last(&write, false) <= BOUND);
    stage.demand("and is never stale", last(&write, true).is_zero());
    stage.demand("what is not is stale then", last(&read, true) > 2 * BOUND);
    stage.demand("until M", last(&read, true) <= GRACE);
    stage.suspend(1, "douglas", false).await;
    for key in [0, 3] {
        stage.agree(key).await;
    }
}

/// What is changed on one node the others hear of through Redis, and read at once; each acknowledges it.
async fn push(stage: &Stage) {
    let mut waited = Vec::new();
    let mut pending = 0;
    for node in 0..NODES {
        let receipt = stage.revoke(node, node, Duration::ZERO).await;
        waited.push(stage.agree(node).await);
        pending += receipt.map_or(0, |it| it.pending_nodes.len());
    }
    stage.demand("no node has applied it at once", pending > 0);
    let receipt = stage.revoke(1, 7, 2 * BOUND).await;
    let is_everywhere = receipt.is_some_and(|it| it.pending_nodes.is_empty());
    stage.demand("all nodes acknowledge it", is_everywhere);
    let made = stage.create(2).await;
    waited.push(stage.agree(made).await);
    let slowest = waited.into_iter().max().unwrap();
    stage.demand("changes are pushed", slowest < BY_PUSH);
}

/// The store goes back in time: by several changes that everybody has applied, and by one as soon as it is made. Numbers
/// are given out again, and what was revoked is revoked anew.
async fn fence(stage: &Stage) {
    stage.revoke(0, 0, Duration::ZERO).await;
    let before = stage.books();
    stage.revoke(0, 1, Duration::ZERO).await;
    stage.create(1).await;
    stage.agree(1).await;
    stage.world.revert(before);
    stage.suspend(2, "birch", true).await;
    sleep(Duration::from_millis(1_500)).await;
    stage.agree(1).await;
    let fences = |stage: &Stage| -> Vec<_> {
        stage.running().iter().map(|node| node.node.feed.fences()).collect()
    };
    stage.demand("each node is fenced", fences(stage).iter().all(|fences| *fences > 0));
    stage.revoke(1, 1, Duration::ZERO).await;
    stage.agree(1).await;

    let (before, earlier) = (stage.books(), fences(stage));
    let lost = async {
        let position = before.position();
        while stage.books().position() == position {
            sleep(Duration::from_millis(1)).await;
        }
        stage.world.revert(before);
    };
    tokio::join!(stage.revoke(0, 2, Duration::ZERO), lost);
    stage.demand("so is one whose commit is lost", fences(stage)[0] > earlier[0]);
    stage.suspend(1, "birch", false).await;
    stage.agree(2).await;
}

/// A node is killed and starts again while keys are changed elsewhere; then another.
async fn start(stage: &Stage) {
    stage.crash(2);
    stage.revoke(0, 0, Duration::ZERO).await;
    let changes = async {
        stage.revoke(0, 1, Duration::ZERO).await;
        stage.suspend(1, "cedar", true).await;
        stage.create(1).await
    };
    let ((), made) = tokio::join!(stage.start(2), changes);
    for key in [0, 1, 2, made] {
        stage.agree(key).await;
    }
    stage.crash(1);
    let ((), receipt) = tokio::join!(stage.start(1), stage.revoke(2, made, 2 * BOUND));
    let is_pending = receipt.is_some_and(|it| !it.pending_nodes.is_empty());
    stage.demand("a node that was killed is pending", is_pending);
    stage.agree(made).await;
}

/// A node stops: it answers what it was asked before, then others need not reckon with it. It starts again.
async fn drain(stage: &Stage) {
    let leaving = stage.cast.take(1).unwrap();
    let asked = async {
        for key in 0..3 {
            stage.ask_of(&leaving, key, WRITE).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let ((), (), receipt) = tokio::join!(leaving.stop(), asked, stage.revoke(0, 0, 2 * BOUND));
    let is_everywhere =
        |receipt: Option<Receipt>| receipt.is_some_and(|it| it.pending_nodes.is_empty());
    stage.demand("all that are left acknowledge it", is_everywhere(receipt));
    let receipt = stage.revoke(2, 1, 2 * BOUND).await;
    let nodes = receipt.as_ref().map_or(0, |it| it.applied_nodes.len());
    stage.demand("two are left", nodes == NODES - 1);
    let ((), receipt) = tokio::join!(stage.start(1), stage.revoke(2, 4, Duration::ZERO));
    stage.demand("nobody waits for it", receipt.is_some());
    for key in [0, 1, 4] {
        stage.agree(key).await;
    }
}

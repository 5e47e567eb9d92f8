//! PostgreSQL put back in time under running nodes, as by the restore of a backup: each of them notices, drops what it
//! held, and decides by what the store holds now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{DecisionReason, RevokeKeyRequest};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::log::{Check, Client, Question, Said, now};
use super::{BOUND, Operator, asked};
use crate::support::cluster::Cluster;
use crate::support::{Server, eventually, say};
use crate::telemetry::metric;

const NODES: usize = 3;
const ACCOUNT: &str = "acme";
const IN_TIME: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// The questions: a key from before the copy, one that the copy does not know, and one that was revoked after it.
const LOST: usize = 1;
const REVOKED: usize = 2;

const KEY_REVOKED: Said = Said::Denied(DecisionReason::KeyRevoked);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_notices_a_store_that_was_put_back_in_time() {
    let cluster = Cluster::start(NODES).await;
    let channels = cluster.channels().await;
    let mut operator = Operator::at(&channels[0]);
    let questions = before_and_after_a_copy(&cluster, &mut operator).await;
    until_all_say(&channels, &questions, [Said::Allowed, Said::Allowed, KEY_REVOKED]).await;

    // The last node sleeps until the store has given out again all numbers that it knows, and for longer than it may go
    // on by what it read before.
    let (sleeper, awake) = cluster.nodes.split_last().unwrap();
    sleeper.pause().await;
    let asking = channels
        .iter()
        .enumerate()
        .map(|(node, channel)| Asking::begin(Client::of(node, channel), questions.clone()));
    let asking: Vec<_> = asking.collect();
    cluster.postgres.stop().await;
    cluster.postgres.put_files_back();
    cluster.postgres.start_again().await;
    let back = now();
    let mut noticed = Vec::new();
    for node in awake {
        noticed.push((back, has_noticed(node).await));
    }
    let changes = async {
        let mut made = 0;
        while made < 10 {
            made += usize::from(operator.try_account(&format!("again-{made}")).await.is_ok());
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(IN_TIME, changes).await.expect("changes are made again");
    tokio::time::sleep_until((back + BOUND + BOUND / 4).into()).await;
    let woken = now();
    sleeper.resume();
    noticed.push((woken, has_noticed(sleeper).await));
    // The revocation is lost with the commits after the copy: nobody can know of it.
    let unknown = Said::Denied(DecisionReason::UnknownKey);
    until_all_say(&channels, &questions, [Said::Allowed, unknown, Said::Allowed]).await;

    let checks: Vec<Check> = join_all(asking.into_iter().map(Asking::end)).await.concat();
    let in_time = Duration::from_millis(asked("BACK_MS", 10_000));
    for (node, (from, noticed)) in noticed.into_iter().enumerate() {
        let took = noticed - from;
        say(format_args!("SUMMARY node {node} noticed it after {took:?}"));
        assert!(took <= in_time, "node {node}: {took:?}");
        let of_node: Vec<_> = checks.iter().filter(|check| check.node == node).copied().collect();
        demand_nothing_of_before(&of_node, back, noticed);
        let fences = metric(&cluster.nodes[node], "latchkey_feed_fences_total");
        assert!((0.5..1.5).contains(&fences), "node {node}: {fences}");
    }
}

/// Makes a copy of the store, and changes it afterwards.
async fn before_and_after_a_copy(cluster: &Cluster, operator: &mut Operator) -> [Question; 3] {
    operator.make_account(ACCOUNT).await;
    let old = operator.make_key(ACCOUNT, "memory:read").await;
    let revoked = operator.make_key(ACCOUNT, "memory:read").await;
    cluster.postgres.stop().await;
    cluster.postgres.copy_files();
    cluster.postgres.start_again().await;
    while operator.try_account("after-the-copy").await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    let lost = operator.make_key(ACCOUNT, "memory:read").await;
    let target = Some(Target::KeyId(revoked.id));
    let revoke = RevokeKeyRequest { target, ..Default::default() };
    operator.keys.revoke_key(revoke).await.unwrap();
    [old.token, lost.token, revoked.token]
        .map(|token| Question { token: token.into(), scope: "memory:read".into() })
}

async fn until_all_say(nodes: &[Channel], questions: &[Question; 3], wanted: [Said; 3]) {
    for (node, channel) in nodes.iter().enumerate() {
        let mut client = Client::of(node, channel);
        for (number, question) in questions.iter().enumerate() {
            let until = now() + IN_TIME;
            loop {
                let check = client.ask(number, question).await;
                if check.said == wanted[number] {
                    break;
                }
                assert!(now() < until, "node {node}, not {:?}: {check:?}", wanted[number]);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// When it was seen that the node has noticed.
async fn has_noticed(node: &Server) -> Instant {
    let fences = || metric(node, "latchkey_feed_fences_total");
    eventually(IN_TIME, "the node notices", || (fences() > 0.0).then_some(())).await;
    now()
}

/// After a node has noticed, it answers nothing by what it held; and before that not for longer than it may.
fn demand_nothing_of_before(checks: &[Check], back: Instant, noticed: Instant) {
    for check in checks.iter().filter(|check| check.sent > noticed) {
        let is_of_before = match check.question {
            LOST => check.said.is_allow(),
            REVOKED => check.said == KEY_REVOKED,
            _ => false,
        };
        assert!(!is_of_before, "{check:?} after the node had noticed at {noticed:?}");
    }
    let mut late = checks.iter().filter(|it| it.sent > back + BOUND && it.question == LOST);
    assert!(!late.any(|check| check.said == Said::Allowed), "allowed without a mark");
}

/// One node asked for some keys in turn, until it is ended.
struct Asking {
    is_over: Arc<AtomicBool>,
    asking: tokio::task::JoinHandle<Vec<Check>>,
}

impl Asking {
    fn begin(mut client: Client, questions: [Question; 3]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let asking = tokio::spawn(async move {
            let mut checks = Vec::new();
            while !told.load(Ordering::Relaxed) {
                for (number, question) in questions.iter().enumerate() {
                    checks.push(client.ask(number, question).await);
                }
                tokio::time::sleep(PAUSE).await;
            }
            checks
        });
        Self { is_over, asking }
    }

    async fn end(self) -> Vec<Check> {
        self.is_over.store(true, Ordering::Relaxed);
        self.asking.await.unwrap()
    }
}

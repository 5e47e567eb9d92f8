//! `RevokeKey` that waits for the nodes: when it answers.

use std::sync::Arc;
use std::time::Duration;

use latchkey::machine::uptime;
use latchkey::proto::v1::NodeState;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::SOON;
use super::cluster::{self, Cluster, request, span};
use crate::support::eventually;

const LONG: Duration = Duration::from_mins(1);
/// As many as may wait at once.
const WAITS_MAX: usize = 64;

#[tokio::test]
async fn a_wait_ends_when_every_node_has_applied_it() {
    let cluster = Cluster::start(3).await;
    for server in &cluster.servers {
        let (key_id, token) = cluster::key(server, &cluster.root, "memory:read").await;
        let revoke = cluster::revoke(server, &cluster.root, &key_id, LONG);
        let receipt = timeout(SOON, revoke).await.unwrap();
        assert_eq!((receipt.pending_nodes.len(), receipt.applied_nodes.len()), (0, 3));
        assert_eq!(span(&receipt), Duration::ZERO);
        for other in &cluster.servers {
            assert!(!other.authorize(&token, "memory:read").await.allowed);
        }
    }
}

#[tokio::test]
async fn a_wait_is_over_when_the_bounds_are_for_a_node_that_stands_still() {
    let cluster = Cluster::start(2).await;
    let (key_id, _) = cluster::key(&cluster.servers[0], &cluster.root, "memory:read").await;
    cluster.is_caught_up().await;
    cluster.servers[1].pause().await;
    // The grace is shorter than the wait.
    let revoke = cluster::revoke(&cluster.servers[0], &cluster.root, &key_id, LONG);
    let receipt = timeout(SOON, revoke).await.unwrap();
    assert_eq!((receipt.pending_nodes.len(), receipt.applied_nodes.len()), (0, 1));
    cluster.is_told(1, NodeState::Gone).await;
}

#[tokio::test]
async fn a_wait_lasts_as_long_as_it_was_asked_for_and_no_longer() {
    let cluster = Cluster::start(2).await;
    let server = &cluster.servers[0];
    let (key_id, _) = cluster::key(server, &cluster.root, "memory:read").await;
    cluster.is_caught_up().await;
    cluster.servers[1].pause().await;
    let (began, wait) = (uptime(), Duration::from_millis(400));
    let receipt = cluster::revoke(server, &cluster.root, &key_id, wait).await;
    // On a machine that is too busy the node may be gone by now.
    let is_over = receipt.pending_nodes.is_empty();
    assert!(uptime() >= began + wait || is_over, "{receipt:?}");
    assert_eq!(is_over, span(&receipt).is_zero(), "{receipt:?}");
}

#[tokio::test]
async fn a_wait_does_not_hold_up_the_end_of_the_server() {
    let mut cluster = Cluster::start(2).await;
    let (key_id, token) = cluster::key(&cluster.servers[0], &cluster.root, "memory:read").await;
    cluster.apply_grace(Duration::from_hours(1)).await;
    cluster.is_caught_up().await;
    cluster.servers[1].pause().await;
    let mut keys = cluster.servers[0].keys(&cluster.root).await;
    let waiting = tokio::spawn(async move { keys.revoke_key(request(&key_id, LONG)).await });
    while cluster.servers[0].authorize(&token, "memory:read").await.allowed {}
    assert!(!waiting.is_finished());
    assert!(cluster.servers[0].stop().await.success());
    let receipt = waiting.await.unwrap().unwrap().into_inner().receipt.unwrap();
    assert_eq!(receipt.pending_nodes, [cluster.names()[1].clone()]);
    let log = cluster.servers[0].log();
    assert!(!log.contains("still busy"), "{log}");
}

#[tokio::test]
async fn so_many_wait_at_once_and_whoever_goes_away_waits_no_more() {
    let cluster = Cluster::start(2).await;
    let server = &cluster.servers[0];
    let (key_id, _) = cluster::key(server, &cluster.root, "memory:read").await;
    cluster.apply_grace(Duration::from_hours(1)).await;
    cluster.is_caught_up().await;
    cluster.servers[1].pause().await;
    cluster::revoke(server, &cluster.root, &key_id, Duration::ZERO).await;

    let keys = server.keys(&cluster.root).await;
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut waiting = JoinSet::new();
    for _ in 0..=WAITS_MAX {
        let (mut keys, request) = (keys.clone(), request(&key_id, LONG));
        let answered = Arc::clone(&answered);
        waiting.spawn(async move {
            let answer = keys.revoke_key(request).await.unwrap().into_inner();
            answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            answer.receipt.unwrap()
        });
    }
    // One finds no place, and is told so much as is known.
    let receipt = timeout(SOON, waiting.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(receipt.pending_nodes, [cluster.names()[1].clone()]);
    let count = || answered.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(count(), 1);

    // Their places are free again: somebody else waits.
    waiting.shutdown().await;
    drop(keys);
    let wait = Duration::from_millis(300);
    let waits = async {
        loop {
            let began = uptime();
            cluster::revoke(server, &cluster.root, &key_id, wait).await;
            if uptime() >= began + wait {
                return;
            }
        }
    };
    timeout(SOON, waits).await.unwrap();
    eventually(SOON, "nobody else was answered", || (count() == 1).then_some(())).await;
}

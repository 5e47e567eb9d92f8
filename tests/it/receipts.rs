//! Receipts: where a change holds, and from when on everywhere; of one node, and of several on one PostgreSQL.
//!
//! `receipt/tests.rs` in `src` tries each clause; here are the clocks, rows and processes that they go by.

use std::time::Duration;

use latchkey::proto::v1::{CreateKeyRequest, NodeState, Receipt, RevokeKeyRequest};
use tokio::time::timeout;

use self::cluster::{BOUND, Cluster, GRACE, span};
use crate::support::Server;

mod calls;
mod cluster;
mod command_line;
mod waits;

/// Longer than anything here takes on a busy machine, and shorter than the waits that are cut short.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn where_nobody_shares_the_store_a_change_holds_at_once() {
    let server = Server::start().await;
    let root = server.root_token();
    let (key_id, _) = cluster::key(&server, &root, "memory:read").await;
    let revoke = cluster::revoke(&server, &root, &key_id, Duration::from_mins(1));
    let receipt = timeout(SOON, revoke).await.unwrap();
    assert_eq!((receipt.pending_nodes.len(), receipt.applied_nodes.len()), (0, 1));
    assert_eq!(span(&receipt), Duration::ZERO);

    let listed = cluster::list(&server, &root).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, receipt.applied_nodes[0]);
    assert_eq!((listed[0].state(), listed[0].changes_behind), (NodeState::Fresh, Some(0)));
    assert_eq!(listed[0].version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_repeat_is_about_all_that_the_first_call_did() {
    let server = Server::start().await;
    let root = server.root_token();
    let maker = CreateKeyRequest {
        scopes: vec!["latchkey:keys.write".into()],
        grantable_scopes: vec!["memory:read".into()],
        ..cluster::new_key()
    };
    let made = server.keys(&root).await.create_key(maker).await.unwrap().into_inner();
    let (made, token) = (made.key.unwrap(), made.token);
    cluster::key(&server, &token, "memory:read").await;
    let request =
        RevokeKeyRequest { revoke_created: true, ..cluster::request(&made.key_id, Duration::ZERO) };
    let mut keys = server.keys(&root).await;
    let first = keys.revoke_key(request.clone()).await.unwrap().into_inner();
    let again = keys.revoke_key(request).await.unwrap().into_inner();
    assert_eq!((first.revoked_key_ids.len(), again.revoked_key_ids.len()), (2, 0));
    assert_ne!(first.receipt.as_ref().unwrap().revision, first.key.unwrap().revision);
    assert_eq!(first.receipt.unwrap().revision, again.receipt.unwrap().revision);
}

#[tokio::test]
async fn nodes_know_of_each_other_and_of_how_far_each_has_come() {
    let cluster = Cluster::start(3).await;
    let names = cluster.names();
    for server in &cluster.servers {
        let listed = cluster::list(server, &cluster.root).await;
        assert_eq!(listed.iter().map(|node| node.name.clone()).collect::<Vec<_>>(), names);
        let is_fine = |node: &_| latchkey::proto::v1::Node::state(node) == NodeState::Fresh;
        assert!(listed.iter().all(is_fine), "{listed:?}");
    }
    cluster.is_caught_up().await;
}

#[tokio::test]
async fn a_receipt_names_every_node_once_and_is_never_early() {
    let cluster = Cluster::start(2).await;
    let (mut here, mut there) = (0, 0);
    for turn in 0..20_usize {
        let (asked, other) = (&cluster.servers[turn % 2], &cluster.servers[1 - turn % 2]);
        let (key_id, token) = cluster::key(asked, &cluster.root, "memory:read").await;
        let receipt = cluster::revoke(asked, &cluster.root, &key_id, Duration::ZERO).await;
        let mut named = [&receipt.applied_nodes[..], &receipt.pending_nodes].concat();
        named.sort();
        assert_eq!(named, cluster.sorted_names(), "{receipt:?}");
        assert_eq!(receipt.pending_nodes.is_empty(), span(&receipt).is_zero(), "{receipt:?}");
        if receipt.pending_nodes.is_empty() {
            here += 1;
            assert!(!other.authorize(&token, "memory:read").await.allowed, "{receipt:?}");
        } else {
            there += 1;
            assert!(span(&receipt) > GRACE, "{receipt:?}");
        }
    }
    assert!(there > 0, "nobody was awaited in {here} receipts");
}

#[tokio::test]
async fn a_node_that_stands_still_is_awaited_until_it_can_answer_nothing() {
    let cluster = Cluster::start(2).await;
    let [asked, other] = &cluster.servers[..] else { panic!("two nodes") };
    let made = [
        cluster::key(asked, &cluster.root, "memory:read").await,
        cluster::key(asked, &cluster.root, "bank:pay").await,
    ];
    cluster.is_caught_up().await;
    for (scope, (_, token)) in ["memory:read", "bank:pay"].into_iter().zip(&made) {
        assert!(other.authorize(token, scope).await.allowed);
    }
    other.pause().await;

    let wait = Duration::from_millis(200);
    let usual = cluster::revoke(asked, &cluster.root, &made[0].0, wait).await;
    let strict = cluster::revoke(asked, &cluster.root, &made[1].0, wait).await;
    for receipt in [&usual, &strict] {
        assert_eq!(receipt.pending_nodes, [cluster.names()[1].clone()]);
        assert_eq!(receipt.applied_nodes, [cluster.names()[0].clone()]);
    }
    let within = |receipt: &Receipt, span: Duration| cluster::span(receipt) <= span + span / 1_000;
    assert!(within(&strict, BOUND) && within(&usual, GRACE) && !within(&usual, BOUND));

    // It is reckoned with for as long as the grace has it answer, and then no more.
    cluster.is_told(1, NodeState::Silent).await;
    let again = cluster::revoke(asked, &cluster.root, &made[0].0, Duration::ZERO).await;
    let state = cluster::list(asked, &cluster.root).await[1].state();
    assert_eq!((again.pending_nodes.len(), state), (1, NodeState::Silent));
    cluster.is_told(1, NodeState::Gone).await;
    let over = cluster::revoke(asked, &cluster.root, &made[0].0, Duration::ZERO).await;
    assert_eq!((over.pending_nodes.len(), over.applied_nodes.len()), (0, 1));

    other.resume();
    for (scope, (_, token)) in ["memory:read", "bank:pay"].into_iter().zip(&made) {
        let said = cluster::ask(other, token, scope).await;
        assert!(!said.is_ok_and(|said| said.allowed), "{scope}");
    }
    cluster.is_told(1, NodeState::Fresh).await;
}

#[tokio::test]
async fn a_node_that_was_killed_is_awaited_and_one_that_stopped_in_order_is_not() {
    let mut cluster = Cluster::start(3).await;
    let (key_id, _) = cluster::key(&cluster.servers[0], &cluster.root, "memory:read").await;
    let names = cluster.names();
    assert!(cluster.servers[1].stop().await.success());
    cluster.servers[2].kill().await;

    let asked = &cluster.servers[0];
    let receipt = cluster::revoke(asked, &cluster.root, &key_id, Duration::ZERO).await;
    assert_eq!(
        (&receipt.applied_nodes[..], &receipt.pending_nodes[..]),
        (&names[..1], &names[2..])
    );
    let listed = cluster::list(asked, &cluster.root).await;
    let listed: Vec<_> = listed.into_iter().map(|node| node.name).collect();
    assert_eq!(listed, [names[0].clone(), names[2].clone()]);
}

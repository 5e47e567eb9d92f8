//! Nodes that reach PostgreSQL through a `PgBouncer`, which hands out connections for one transaction each.

use std::time::Duration;

use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{ListNodesRequest, NodeState, RevokeKeyRequest};
use tonic::Code;

use super::{Held, Operator};
use crate::support::cluster::ROOT;
use crate::support::pgbouncer::PgBouncer;
use crate::support::{Server, postgres};
use crate::telemetry::metric;

const SOON: Duration = Duration::from_secs(30);

/// Asks until it is allowed; panics when it is not in time.
async fn until_allowed(node: &Server, held: &Held) {
    let asking = async {
        let mut decisions = node.decisions().await;
        loop {
            let request = latchkey::proto::v1::AuthorizeRequest {
                token: held.token.clone(),
                required_scope: "memory:read".into(),
                ..Default::default()
            };
            if decisions.authorize(request).await.is_ok_and(|said| said.into_inner().allowed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("it is never allowed");
}

/// Revokes it, and waits until it is revoked at both nodes.
async fn revoke(operator: &mut Operator, held: &Held) {
    let request = RevokeKeyRequest {
        target: Some(Target::KeyId(held.id.clone())),
        wait: Some(SOON.try_into().unwrap()),
        ..Default::default()
    };
    let receipt = operator.keys.revoke_key(request).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((receipt.applied_nodes.len(), receipt.pending_nodes.len()), (2, 0), "{receipt:?}");
}

/// How the nodes are, as one of them tells.
async fn states(node: &Server) -> Vec<NodeState> {
    let listed = node.nodes(ROOT).await.list_nodes(ListNodesRequest {}).await;
    let listed = listed.unwrap().into_inner().nodes;
    listed.iter().map(latchkey::proto::v1::Node::state).collect()
}

#[tokio::test]
async fn nodes_work_through_a_pooler_and_find_back_when_it_was_restarted() {
    let postgres = postgres::shared().await;
    let database = postgres.database().await;
    latchkey::store::migrate(&postgres.url(&database)).await.unwrap();
    let mut pooler = PgBouncer::start(postgres).await;
    let url = format!("{}&prepared_statements=off", pooler.url(&database));
    let node = || {
        let node = Server::build().store(&url).environment("LATCHKEY__STORE__MIGRATE", "false");
        node.start()
    };
    let (first, second) = tokio::join!(node(), node());
    let mut operators =
        [Operator::at(&first.channel().await), Operator::at(&second.channel().await)];
    operators[0].make_account("acme").await;
    let warm = operators[0].make_key("acme", "memory:read").await;
    until_allowed(&second, &warm).await;
    for turn in 0..10 {
        let held = operators[turn % 2].make_key("acme", "memory:read").await;
        let others = [&second, &first][turn % 2];
        until_allowed(others, &held).await;
        revoke(&mut operators[turn % 2], &held).await;
        assert!(!others.authorize(&held.token, "memory:read").await.allowed);
    }
    assert_eq!(states(&first).await, [NodeState::Fresh; 2]);

    pooler.kill();
    let refused = operators[0].try_account("meanwhile").await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown), "{refused:?}");
    assert!(second.authorize(&warm.token, "memory:read").await.allowed);
    pooler.start_again().await;
    let back = async { while operators[1].try_account("afterwards").await.is_err() {} };
    tokio::time::timeout(SOON, back).await.expect("nothing can be changed any more");
    revoke(&mut operators[0], &warm).await;
    assert!(!second.authorize(&warm.token, "memory:read").await.allowed);
    assert_eq!(states(&second).await, [NodeState::Fresh; 2]);
    for node in [&first, &second] {
        assert!(metric(node, "latchkey_feed_fences_total") < 1.0);
    }
}

#[tokio::test]
async fn a_pooler_that_mixes_up_prepared_statements_is_told_at_the_start() {
    let postgres = postgres::shared().await;
    let database = postgres.database().await;
    let pooler = PgBouncer::start(postgres).await;
    let mut node = Server::build().store(&pooler.url(&database)).launch();
    assert!(!node.wait_for_end(SOON).await.success());
    assert!(node.log().contains("prepared_statements=off"), "{}", node.log());
}

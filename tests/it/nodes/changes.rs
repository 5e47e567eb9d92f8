//! How many changes a second there can be: keys made and revoked by one caller and by many at once, with SQLite, and with
//! PostgreSQL by one node and by three.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{CreateKeyRequest, Environment, RevokeKeyRequest};

use super::log::now;
use super::{Operator, asked, may_be_repeated};
use crate::support::cluster::{Cluster, ROOT};
use crate::support::{Server, say};

const CALLERS: [usize; 3] = [1, 8, 64];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_made_and_revoked_by_many_at_once() {
    say("SUMMARY changes a second, each answered after it was durable and read back");
    let alone = Server::build().environment("LATCHKEY__ROOT_TOKEN", ROOT).start().await;
    measure("SQLite", &[Operator::at(&alone.channel().await)]).await;
    drop(alone);
    for nodes in [1, 3] {
        let cluster = Cluster::start(nodes).await;
        let operators: Vec<_> = cluster.channels().await.iter().map(Operator::at).collect();
        measure(&format!("PostgreSQL, {nodes} nodes"), &operators).await;
    }
}

async fn measure(what: &str, nodes: &[Operator]) {
    nodes[0].clone().make_account("acme").await;
    let span = Duration::from_millis(asked("SPAN_MS", 100));
    for callers in CALLERS {
        let operators = (0..callers).map(|caller| nodes[caller % nodes.len()].clone());
        let begun = now();
        let made = join_all(operators.clone().map(|operator| make(operator, begun + span))).await;
        let creates = rate(made.iter().map(Vec::len).sum(), begun);
        let begun = now();
        let revoking = operators.zip(made);
        let ended = revoking.map(|(operator, made)| revoke(operator, made, begun + span));
        let revokes = rate(join_all(ended).await.into_iter().sum(), begun);
        say(format_args!("  {what}, {callers} callers: {creates:.0} made, {revokes:.0} revoked"));
        assert!(creates > 0.0 && revokes > 0.0);
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody makes that many")]
fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Makes keys until then; their ids.
async fn make(mut operator: Operator, until: Instant) -> Vec<String> {
    let mut made = Vec::new();
    while made.is_empty() || now() < until {
        let request = CreateKeyRequest {
            account_id: "acme".into(),
            display_name: "a key".into(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            ..Default::default()
        };
        match operator.keys.create_key(request).await {
            Ok(answer) => made.push(answer.into_inner().key.unwrap().key_id),
            Err(status) => assert!(may_be_repeated(&status), "{status:?}"),
        }
    }
    made
}

/// Revokes these until then; how many.
async fn revoke(mut operator: Operator, made: Vec<String>, until: Instant) -> usize {
    let mut revoked = 0;
    for id in made {
        if revoked > 0 && now() >= until {
            break;
        }
        let target = Some(Target::KeyId(id));
        match operator.keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await {
            Ok(_) => revoked += 1,
            Err(status) => assert!(may_be_repeated(&status), "{status:?}"),
        }
    }
    revoked
}

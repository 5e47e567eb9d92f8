//! The look from outside: it finds what the cache holds wrongly, and nothing else.

use std::time::Duration;

use latchkey::proto::v1::{CreateKeyRequest, RevokeKeyRequest};

use crate::store::support::place::{self, Place};
use crate::support::{Server, eventually};
use crate::telemetry::{IN_TIME, metric};

fn looks(server: &Server, result: &str) -> f64 {
    metric(server, &format!("latchkey_verifier_looks_total{{result=\"{result}\"}}"))
}

/// A server on such a store, with a few keys, one of them revoked.
async fn with_keys(place: &Place) -> (Server, String) {
    let server = match place {
        Place::Sqlite(_) => Server::build(),
        Place::Postgres(..) => Server::build().store(&place.url()),
    };
    let server = server.start().await;
    let root = server.root_token();
    let mut accounts = server.accounts(&root).await;
    let account = latchkey::proto::v1::CreateAccountRequest {
        account_id: "acme".into(),
        plan: "pro".into(),
        ..Default::default()
    };
    accounts.create_account(account).await.unwrap();
    let mut keys = server.keys(&root).await;
    let mut last = String::new();
    for _ in 0..3 {
        let new = CreateKeyRequest {
            account_id: "acme".into(),
            display_name: "k".into(),
            environment: 1,
            scopes: vec!["memory:read".into()],
            ..Default::default()
        };
        let revoked = std::mem::replace(
            &mut last,
            keys.create_key(new).await.unwrap().into_inner().key.unwrap().key_id,
        );
        if !revoked.is_empty() {
            let target = latchkey::proto::v1::revoke_key_request::Target::KeyId(revoked);
            let revocation = RevokeKeyRequest { target: Some(target), ..Default::default() };
            keys.revoke_key(revocation).await.unwrap();
        }
    }
    (server, last)
}

#[tokio::test]
async fn what_was_changed_is_looked_at_and_agrees() {
    for place in [place::on_sqlite().await, place::on_postgres().await] {
        let (server, _) = with_keys(&place).await;
        // Each of five changes of keys is looked at twice soon.
        let agree = || (looks(&server, "agree") >= 10.0).then_some(());
        eventually(IN_TIME, "it was looked at", agree).await;
        assert!(looks(&server, "violation") < 1.0);
    }
}

#[tokio::test]
async fn a_row_that_was_changed_behind_the_feed_is_found() {
    let place = place::on_postgres().await;
    let (server, key) = with_keys(&place).await;
    place.sql(&format!("UPDATE keys SET disabled = TRUE WHERE id = '{key}'")).await;
    let found = || (looks(&server, "violation") >= 1.0).then_some(());
    eventually(IN_TIME.max(Duration::from_secs(10)), "it is found", found).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("this is a defect")).unwrap();
    assert!(line.contains(&key) && line.contains("whether it is disabled"), "{line}");
}

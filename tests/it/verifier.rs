//! The look from outside: it finds what the cache holds wrongly, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use latchkey::clock::Clock;
use latchkey::key::Expiry;
use latchkey::proto::v1::{CreateKeyRequest, RevokeKeyRequest};
use latchkey::store::Store;
use latchkey::verifier::Verifier;

use crate::lease::Rig;
use crate::store::support::place::{self, Place};
use crate::support::{Server, eventually};
use crate::telemetry::{IN_TIME, metric};

/// After which a change is looked at, and again, and for the last time.
const BOUND: Duration = Duration::from_secs(1);
const A_MINUTE: Duration = Duration::from_mins(1);

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
async fn a_change_is_looked_at_after_the_bound_after_twice_as_long_and_after_a_minute() {
    let rig = Rig::start().await;
    let store = Arc::clone(&rig.store) as Arc<dyn Store>;
    let clock = Arc::clone(&rig.clock) as Arc<dyn Clock>;
    let verifier = Verifier::new(store, Arc::clone(&rig.node.cache), clock);
    let looks = || verifier.counts().iter().map(|(_, count)| count).sum::<u64>();
    let changed_and_passed = async {
        // It begins where the cache is.
        tokio::task::yield_now().await;
        rig.key("memory:read", Expiry::Never).await;
        for (look, span) in [BOUND, BOUND, A_MINUTE].into_iter().enumerate() {
            let is_taken = async |rig: &Rig| {
                // As often as it takes: it may not have learnt of the change yet.
                rig.pass(span / 10);
                looks() > look as u64
            };
            rig.until("it is looked at once more", is_taken).await;
        }
    };
    tokio::select! {
        () = verifier.run() => unreachable!("it goes on for ever"),
        () = changed_and_passed => {}
    }
    assert_eq!(looks(), 3, "{:?}", verifier.counts());
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

//! Acknowledged means durable: what was answered is there after the process was killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{
    CreateAccountRequest, CreateKeyRequest, DecisionReason, Environment, RevokeKeyRequest,
};

use crate::support::{Server, eventually};

const ROUNDS: u64 = 6;
const WRITERS: usize = 4;

/// What the server said it did: the token of a key, and whether it was revoked.
type Acknowledged = Arc<Mutex<Vec<(String, DecisionReason)>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_the_process_was_killed() {
    let mut server = Server::start().await;
    let root = server.root_token();
    let account = CreateAccountRequest {
        account_id: "busy".into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    server.accounts(&root).await.create_account(account).await.unwrap();
    let acknowledged = Acknowledged::default();
    for round in 1..=ROUNDS {
        let before = acknowledged.lock().unwrap().len();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..WRITERS {
            let keys = server.keys(&root).await;
            writers.spawn(write_until_it_fails(keys, Arc::clone(&acknowledged)));
        }
        // Killed amid changes, and each time at another moment of them.
        let wanted = before + usize::try_from(round * 7).unwrap();
        eventually(Duration::from_secs(30), "changes are acknowledged", || {
            (acknowledged.lock().unwrap().len() > wanted).then_some(())
        })
        .await;
        server.signal(rustix::process::Signal::KILL);
        server.wait_for_end(Duration::from_secs(10)).await;
        writers.join_all().await;

        server = server.again().start().await;
        let all = acknowledged.lock().unwrap().clone();
        for (token, reason) in &all {
            let said = server.authorize(token, "memory:read").await;
            assert_eq!(said.reason(), *reason, "round {round} of {}", all.len());
        }
        assert_order_is_whole(&server);
    }
}

/// Makes keys and revokes every other one, and notes what was answered.
async fn write_until_it_fails(
    mut keys: latchkey::proto::v1::key_service_client::KeyServiceClient<crate::support::Authed>,
    acknowledged: Acknowledged,
) {
    let new = CreateKeyRequest {
        account_id: "busy".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    };
    while let Ok(made) = keys.create_key(new.clone()).await {
        let made = made.into_inner();
        acknowledged.lock().unwrap().push((made.token.clone(), DecisionReason::Allowed));
        let Ok(made) = keys.create_key(new.clone()).await else { return };
        let made = made.into_inner();
        let target = Some(Target::KeyId(made.key.unwrap().key_id));
        let Ok(_) = keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await else {
            return;
        };
        acknowledged.lock().unwrap().push((made.token, DecisionReason::KeyRevoked));
    }
}

/// Changes are gapless, each has its audit row, and the file is sound.
fn assert_order_is_whole(server: &Server) {
    let query = "SELECT (SELECT count(*) = max(n) FROM changes), (SELECT n FROM feed) = \
                 (SELECT max(n) FROM changes), (SELECT count(*) FROM audit) = (SELECT n FROM feed); \
                 PRAGMA integrity_check";
    let output =
        std::process::Command::new("sqlite3").arg(server.database()).arg(query).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1|1|1\nok\n");
}

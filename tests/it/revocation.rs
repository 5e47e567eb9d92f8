//! Revoked means refused, from the instant it is answered, while everything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use latchkey::proto::v1::{
    AuthorizeRequest, CreateAccountRequest, CreateKeyRequest, DecisionReason, Environment,
    RevokeKeyRequest, revoke_key_request::Target,
};

use crate::support::Server;

const WORKERS: u64 = 8;
const KEYS_OF_A_WORKER: u64 = 25;
/// 8 × 25 × 500 = 100,000 tries.
const TRIES_AFTER_A_REVOCATION: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_refused_from_the_instant_its_revocation_was_answered() {
    let server = Arc::new(Server::start().await);
    let root = server.root_token();
    let account = CreateAccountRequest {
        account_id: "busy".into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    server.accounts(&root).await.create_account(account).await.unwrap();

    let is_over = Arc::new(AtomicBool::new(false));
    let noise = tokio::spawn(make_and_ask(Arc::clone(&server), Arc::clone(&is_over)));
    let allowed_late = Arc::new(AtomicU64::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(revoke_and_try(Arc::clone(&server), Arc::clone(&allowed_late)));
    }
    let mut tries = 0;
    while let Some(tried) = workers.join_next().await {
        tries += tried.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    noise.await.unwrap();
    assert_eq!((allowed_late.load(Ordering::Relaxed), tries), (0, 100_000));
}

async fn revoke_and_try(server: Arc<Server>, allowed_late: Arc<AtomicU64>) -> u64 {
    let mut keys = server.keys(&server.root_token()).await;
    let mut decisions = server.decisions().await;
    let mut tries = 0;
    for _ in 0..KEYS_OF_A_WORKER {
        let made = keys.create_key(a_key()).await.unwrap().into_inner();
        assert!(decisions.authorize(question(&made.token)).await.unwrap().into_inner().allowed);
        let target = Some(Target::KeyId(made.key.unwrap().key_id));
        keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
        for _ in 0..TRIES_AFTER_A_REVOCATION {
            let said = decisions.authorize(question(&made.token)).await.unwrap().into_inner();
            let is_refused = !said.allowed && said.reason() == DecisionReason::KeyRevoked;
            allowed_late.fetch_add(u64::from(!is_refused), Ordering::Relaxed);
            tries += 1;
        }
    }
    tries
}

/// Creates and reads beside the revocations.
async fn make_and_ask(server: Arc<Server>, is_over: Arc<AtomicBool>) {
    let mut keys = server.keys(&server.root_token()).await;
    let mut decisions = server.decisions().await;
    while !is_over.load(Ordering::Relaxed) {
        let made = keys.create_key(a_key()).await.unwrap().into_inner();
        assert!(decisions.authorize(question(&made.token)).await.unwrap().into_inner().allowed);
    }
}

fn a_key() -> CreateKeyRequest {
    CreateKeyRequest {
        account_id: "busy".into(),
        display_name: "k".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    }
}

fn question(token: &str) -> AuthorizeRequest {
    AuthorizeRequest {
        token: token.into(),
        required_scope: "memory:read".into(),
        ..Default::default()
    }
}

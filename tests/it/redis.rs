//! Redis is a hint: what it keeps is used where it is proved, and whatever it does, decisions go on.

use std::fmt::Write as _;
use std::time::Duration;

use latchkey::machine::MachineEntropy;
use latchkey::proto::v1::{
    AuthorizeResponse, CreateAccountRequest, CreateKeyRequest, DecisionReason, Environment,
    RevokeKeyRequest, revoke_key_request::Target,
};
use latchkey::token::{self, Prefix, Token};

use crate::support::redis::Redis;
use crate::support::{Builder, Server, eventually};
use crate::telemetry::metric;

mod lies;
mod outages;
mod places;
mod records;
mod together;

const IN_TIME: Duration = Duration::from_secs(20);
const KEYS: usize = 8;

/// A node that remembers two keys at a time: all others have to be found out anew.
fn forgetful(builder: Builder, url: &str) -> Builder {
    builder
        .environment("LATCHKEY__REDIS__URL", url)
        .environment("LATCHKEY__CACHE__KEYS_MAX", "2")
        .environment("LATCHKEY__LOG__LEVEL", "debug")
}

/// Waits until it uses Redis.
pub(crate) async fn uses_redis(server: &Server) {
    let is_up = || (metric(server, "latchkey_redis_up") > 0.0).then_some(());
    eventually(IN_TIME, "Redis is used", is_up).await;
}

async fn leaves_redis_alone(server: &Server) {
    let is_down = || (metric(server, "latchkey_redis_up") < 1.0).then_some(());
    eventually(IN_TIME, "Redis is left alone", is_down).await;
}

pub(crate) fn looked(server: &Server, result: &str) -> f64 {
    metric(server, &format!("latchkey_redis_lookups_total{{result=\"{result}\"}}"))
}

/// Makes keys of an account; their tokens and ids.
async fn make_keys(server: &Server, account: &str, count: usize) -> Vec<(String, String)> {
    let root = server.root_token();
    let request = CreateAccountRequest {
        account_id: account.into(),
        plan: "enterprise".into(),
        ..Default::default()
    };
    server.accounts(&root).await.create_account(request).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..count {
        made.push(make_key(server, account).await);
    }
    made
}

async fn make_key(server: &Server, account: &str) -> (String, String) {
    let request = CreateKeyRequest {
        account_id: account.into(),
        display_name: "a name for people".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    };
    let mut keys = server.keys(&server.root_token()).await;
    let made = keys.create_key(request).await.unwrap().into_inner();
    (made.token, made.key.unwrap().key_id)
}

async fn revoke(server: &Server, id: &str) {
    let target = Some(Target::KeyId(id.to_owned()));
    let mut keys = server.keys(&server.root_token()).await;
    keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
}

async fn ask(server: &Server, token: &str) -> AuthorizeResponse {
    server.authorize(token, "memory:read").await
}

/// Every key is allowed, whatever Redis does.
async fn ask_all(server: &Server, keys: &[(String, String)]) {
    for (token, id) in keys {
        let said = ask(server, token).await;
        assert!(said.allowed && said.key_id == *id, "{said:?}");
    }
}

/// Asks for all keys until so many were found in Redis since.
async fn finds_in_redis(server: &Server, keys: &[(String, String)]) {
    let before = looked(server, "hit");
    let found = async {
        while looked(server, "hit") <= before {
            ask_all(server, keys).await;
        }
    };
    tokio::time::timeout(IN_TIME, found).await.expect("keys are found in Redis");
}

/// Asks for all keys until something is kept. A write that did not come in time is not made again, save for one who
/// asks.
async fn is_kept<T>(
    server: &Server,
    keys: &[(String, String)],
    mut what: impl FnMut() -> Option<T>,
) -> T {
    let kept = async {
        loop {
            if let Some(kept) = what() {
                return kept;
            }
            ask_all(server, keys).await;
        }
    };
    tokio::time::timeout(IN_TIME, kept).await.expect("it is kept in Redis")
}

async fn all_are_kept(server: &Server, keys: &[(String, String)], redis: &Redis) {
    is_kept(server, keys, || (redis.records().len() >= keys.len()).then_some(())).await;
}

/// The name of what is kept of a token.
fn record_of(redis: &Redis, token: &str) -> Option<String> {
    let digest = Token::from_text(token).unwrap().digest();
    let mut hex = String::new();
    for byte in digest.as_bytes() {
        write!(hex, "{byte:02x}").unwrap();
    }
    redis.records().into_iter().find(|name| name.ends_with(&hex))
}

/// A well-formed token that nobody has.
fn nobodys() -> Token {
    let prefix = Prefix::parse("hm").unwrap();
    Token::generate(&prefix, token::Environment::Live, &MachineEntropy)
}

//! A running program with an account, and callers of every kind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latchkey::proto::v1::create_key_request::Expiration;
use latchkey::proto::v1::{
    Account, AuthorizeRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse,
    DecisionReason, Environment, Key, RevokeKeyRequest, UpdateAccountRequest, UpdateKeyRequest,
    revoke_key_request::Target as Revoked,
};
use prost_types::FieldMask;
use tonic::Request;
use tonic::transport::Channel;

use super::table::{Caller, ROWS};
use crate::support::Server;

/// The program, and the tokens of those who call it.
pub(super) struct Stage {
    server: Server,
    root: String,
    channel: Channel,
    tokens: BTreeMap<&'static str, String>,
    made: AtomicU64,
}

/// A key of `acme` that a request is about.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) number: u64,
    pub(super) account: String,
    pub(super) key_id: String,
    pub(super) token: String,
    pub(super) hint: String,
}

const READS: [&str; 6] = [
    "latchkey:keys.read",
    "latchkey:accounts.read",
    "latchkey:policy.read",
    "latchkey:audit.read",
    "latchkey:nodes.read",
    "latchkey:usage.read",
];
const EVERYTHING: &[&str] = &["latchkey:admin"];

impl Stage {
    /// Sets everything up. Decisions ask for a key too.
    pub(super) async fn set() -> Self {
        let server = Server::build().environment("LATCHKEY__GRPC__CALLERS", "key").start().await;
        let root = server.root_token();
        let channel = server.channel().await;
        let (tokens, made) = (BTreeMap::new(), AtomicU64::new(0));
        let mut stage = Self { server, root, channel, tokens, made };
        for account in ["acme", "other", "paused"] {
            stage.make_account(account).await;
        }
        let keys: [(_, _, &[_]); 5] = [
            ("data", "acme", &["memory:*"]),
            ("reader", "acme", &READS),
            ("foreign", "other", EVERYTHING),
            ("suspended", "paused", EVERYTHING),
            ("own", "acme", EVERYTHING),
        ];
        for (name, account, scopes) in keys {
            let made = stage.make_key(account, scopes, None).await;
            stage.tokens.insert(name, made.token);
        }
        for row in ROWS {
            let made = stage.make_key("latchkey", &[row.scope], None).await;
            stage.tokens.insert(row.scope, made.token);
        }
        stage.end_some().await;
        stage
    }

    /// The keys that do not work any more, each in its way.
    async fn end_some(&mut self) {
        let ttl = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
        let expired = self.make_key("latchkey", EVERYTHING, Some(Expiration::Ttl(ttl))).await;
        let deadline = tokio::time::timeout(Duration::from_secs(20), async {
            while self.decide(&expired.token).await.0 != DecisionReason::KeyExpired {
                tokio::task::yield_now().await;
            }
        });
        deadline.await.unwrap();
        let revoked = self.make_key("latchkey", EVERYTHING, None).await;
        let target = Some(Revoked::KeyId(revoked.key.unwrap().key_id));
        let request = RevokeKeyRequest { target, ..Default::default() };
        self.server.keys(&self.root).await.revoke_key(request).await.unwrap();
        let paused = self.make_key("latchkey", EVERYTHING, None).await;
        let key = Key { key_id: paused.key.unwrap().key_id, disabled: true, ..Key::default() };
        let request = UpdateKeyRequest {
            key: Some(key),
            update_mask: mask("disabled"),
            ..Default::default()
        };
        self.server.keys(&self.root).await.update_key(request).await.unwrap();
        let account =
            Account { account_id: "paused".into(), suspended: true, ..Account::default() };
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: mask("suspended"),
            ..Default::default()
        };
        self.server.accounts(&self.root).await.update_account(request).await.unwrap();
        let ended =
            [("expired", expired.token), ("revoked", revoked.token), ("paused", paused.token)];
        self.tokens.extend(ended);
    }

    pub(super) async fn channel(&self) -> Channel {
        self.server.channel().await
    }

    /// A key of `acme` that nobody called about yet.
    pub(super) async fn target(&self) -> Target {
        let made = self.make_key("acme", &["memory:read"], None).await;
        let key = made.key.unwrap();
        Target {
            number: self.made.fetch_add(1, Ordering::Relaxed),
            account: key.account_id,
            key_id: key.key_id,
            token: made.token,
            hint: key.token_hint,
        }
    }

    /// What a caller puts in `authorization`, for a call that needs this scope.
    pub(super) fn credential(&self, caller: Caller, scope: &str) -> Vec<String> {
        let name = match caller {
            Caller::Nobody => return Vec::new(),
            Caller::Malformed => return vec!["Bearer hm_live_x".into()],
            Caller::DataKey => "data",
            Caller::Reader => "reader",
            Caller::Foreign => "foreign",
            Caller::Expired => "expired",
            Caller::Revoked => "revoked",
            Caller::Paused => "paused",
            Caller::Suspended => "suspended",
            Caller::Own => "own",
            Caller::Reserved => scope,
        };
        vec![format!("Bearer {}", self.tokens[name])]
    }

    /// The revision of the store.
    pub(super) async fn head(&self) -> String {
        self.decide(&self.root).await.1
    }

    async fn decide(&self, token: &str) -> (DecisionReason, String) {
        use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
        let question =
            AuthorizeRequest { token: token.into(), authenticate_only: true, ..Default::default() };
        let mut request = Request::new(question);
        let bearer = format!("Bearer {}", self.root).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut client = AuthorizationServiceClient::new(self.channel.clone());
        let answer = client.authorize(request).await.unwrap().into_inner();
        (answer.reason(), answer.revision)
    }

    async fn make_account(&self, id: &str) {
        let request = CreateAccountRequest {
            account_id: id.into(),
            plan: "enterprise".into(),
            ..Default::default()
        };
        self.server.accounts(&self.root).await.create_account(request).await.unwrap();
    }

    async fn make_key(
        &self,
        account: &str,
        scopes: &[&str],
        expiration: Option<Expiration>,
    ) -> CreateKeyResponse {
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: "a key".into(),
            environment: Environment::Live.into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            grantable_scopes: vec!["memory:*".into()],
            expiration,
            ..Default::default()
        };
        self.server.keys(&self.root).await.create_key(request).await.unwrap().into_inner()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the field takes it so")]
fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}

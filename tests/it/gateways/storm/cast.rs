//! Who takes part in a storm: keys of every state, and what each of them may do.

use latchkey::proto::v1::{
    Account, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment, Key,
    Restrictions, RevokeKeyRequest, UpdateAccountRequest, UpdateKeyRequest,
    create_key_request::Expiration, revoke_key_request::Target,
};
use prost_types::FieldMask;

use super::places::Place;
use crate::support::Server;

/// The policy's rules: what stands in `deploy/envoy/scopes.yaml` as routes, and more.
pub(super) const RULES: &str = r#"
[[scopes]]
name = "billing:read"
description = "Read invoices"
implies = []
cost = 0

[[rules]]
name = "read"
hosts = ["api.example.com"]
methods = ["GET", "HEAD", "POST"]
path = "/items/{*rest}"
required_scope = "memory:read"
required_environment = "live"

[[rules]]
name = "delete"
hosts = ["api.example.com"]
methods = ["DELETE"]
path = "/items/{*rest}"
required_scope = "memory:admin"
required_environment = "live"

[[rules]]
name = "admin"
hosts = ["api.example.com"]
path = "/admin/{*rest}"
required_scope = "memory:admin"
required_environment = "live"

[[rules]]
name = "me"
hosts = ["api.example.com"]
methods = ["GET"]
path = "/me"
authenticate_only = true
required_environment = "live"
cost = 1

[[rules]]
name = "recall"
path = "/mcp"
mcp_tools = ["memory_recall"]
required_scope = "memory:read"
required_environment = "live"

[[rules]]
name = "export"
path = "/mcp"
mcp_tools = ["memory_export_subgraph"]
required_scope = "memory:admin"
required_environment = "live"

[[rules]]
name = "health"
path = "/health"
public = true
"#;
/// From where no client comes.
pub(super) const ELSEWHERE: &str = "192.0.2.7";
/// Accounts and their plans.
const ACME: (&str, &str) = ("acme", "pro");
const GLOBEX: (&str, &str) = ("globex", "free");
const BANKRUPT: (&str, &str) = ("bankrupt", "developer");
/// Well-formed, and nobody's.
const UNKNOWN: &str = "hm_live_0000000000000000000000000000002dlYSp";

/// Whose key it is, or in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Reader,
    /// Of another account.
    Writer,
    Admin,
    /// May do as much as [`Who::Admin`], with what is not live.
    Test,
    /// May do all that, from where no client is.
    Elsewhere,
    Revoked,
    Disabled,
    Expired,
    /// Of an account that is suspended.
    Suspended,
    /// May do something else.
    Foreign,
    Unknown,
    /// What is no key at all.
    Nobody,
}

/// How the gateway finds out what a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Scopes,
    Rules,
}

pub(super) struct Actor {
    pub(super) who: Who,
    pub(super) token: String,
    /// What the upstream is to be told: account, key, environment, scopes, plan, whether it is billed.
    pub(super) identity: [String; 6],
}

pub(super) struct Cast(Vec<Actor>);

impl Who {
    /// Whether a request that brings this key, and nothing else, may get to this place.
    pub(super) fn may(self, by: By, place: Place) -> bool {
        match (self, place) {
            (Self::Reader | Self::Writer, Place::Read | Place::Known)
            | (Self::Admin, Place::Read | Place::Admin | Place::Known)
            | (Self::Foreign, Place::Known) => true,
            // Only the rules ask for an environment.
            (Self::Test, Place::Read | Place::Admin | Place::Known) => by == By::Scopes,
            _ => false,
        }
    }
}

impl Cast {
    pub(super) async fn gather(server: &Server) -> Self {
        let troupe = Troupe { server };
        for account in [ACME, GLOBEX, BANKRUPT] {
            troupe.account(account).await;
        }
        let of = |who, account, scope| troupe.actor(who, account, scope);
        let mut cast = vec![
            of(Who::Reader, ACME, "memory:read").await,
            of(Who::Writer, GLOBEX, "memory:write").await,
            of(Who::Admin, ACME, "memory:admin").await,
            of(Who::Test, ACME, "memory:admin").await,
            of(Who::Elsewhere, ACME, "memory:admin").await,
            of(Who::Revoked, ACME, "memory:admin").await,
            of(Who::Disabled, ACME, "memory:admin").await,
            of(Who::Expired, ACME, "memory:admin").await,
            of(Who::Suspended, BANKRUPT, "memory:admin").await,
            of(Who::Foreign, ACME, "billing:read").await,
        ];
        troupe.suspend(BANKRUPT.0).await;
        cast.push(Actor { who: Who::Unknown, token: UNKNOWN.into(), identity: <_>::default() });
        Self(cast)
    }

    pub(super) fn actors(&self) -> &[Actor] {
        &self.0
    }

    pub(super) fn of(&self, who: Who) -> &Actor {
        self.0.iter().find(|actor| actor.who == who).unwrap()
    }
}

struct Troupe<'a> {
    server: &'a Server,
}

impl Troupe<'_> {
    async fn account(&self, (account_id, plan): (&str, &str)) {
        let request = CreateAccountRequest {
            account_id: account_id.into(),
            display_name: account_id.into(),
            plan: plan.into(),
            ..Default::default()
        };
        let mut accounts = self.server.accounts(&self.server.root_token()).await;
        accounts.create_account(request).await.unwrap();
    }

    async fn suspend(&self, account_id: &str) {
        let account =
            Account { account_id: account_id.into(), suspended: true, ..Default::default() };
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: Some(FieldMask { paths: vec!["suspended".into()] }),
            ..Default::default()
        };
        let mut accounts = self.server.accounts(&self.server.root_token()).await;
        accounts.update_account(request).await.unwrap();
    }

    async fn actor(&self, who: Who, (account, plan): (&str, &str), scope: &str) -> Actor {
        let environment = if who == Who::Test { Environment::Test } else { Environment::Live };
        let restrictions = (who == Who::Elsewhere)
            .then(|| Restrictions { allowed_cidrs: vec![format!("{ELSEWHERE}/32")] });
        let expiration = (who == Who::Expired)
            .then_some(Expiration::Ttl(prost_types::Duration { seconds: 0, nanos: 1_000 }));
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: format!("{who:?}"),
            environment: environment.into(),
            scopes: vec![scope.into()],
            restrictions,
            expiration,
            ..Default::default()
        };
        let mut keys = self.server.keys(&self.server.root_token()).await;
        let created = keys.create_key(request).await.unwrap().into_inner();
        let CreateKeyResponse { key, token, .. } = created;
        let key_id = key.unwrap().key_id;
        if who == Who::Revoked {
            let target = Some(Target::KeyId(key_id.clone()));
            keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
        }
        if who == Who::Disabled {
            let key = Key { key_id: key_id.clone(), disabled: true, ..Default::default() };
            let update_mask = Some(FieldMask { paths: vec!["disabled".into()] });
            let pause = UpdateKeyRequest { key: Some(key), update_mask, ..Default::default() };
            keys.update_key(pause).await.unwrap();
        }
        let is_test = who == Who::Test;
        let environment = if is_test { "test" } else { "live" };
        let billable = if is_test { "false" } else { "true" };
        let identity = [account, &key_id, environment, scope, plan, billable];
        Actor { who, token, identity: identity.map(str::to_owned) }
    }
}

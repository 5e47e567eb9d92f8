//! Many nodes on one PostgreSQL: real processes, faults from outside, and clients that note what they are answered. By
//! their notes alone it is judged whether what was promised was kept.
//!
//! Each test is the short form of a demonstration that `tests/nodes/run` runs at length, set by its environment.

use std::time::Duration;

use latchkey::metrics::Stopwatch;
use latchkey::proto::v1::account_service_client::AccountServiceClient;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::policy_service_client::PolicyServiceClient;
use latchkey::proto::v1::{
    ApplyPolicyRequest, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment,
    GetPolicyRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::cluster::ROOT;
use crate::support::{Authed, Caller};

/// Does it again until it is done.
macro_rules! until_done {
    ($call:expr) => {{
        let tries = crate::nodes::Tries::begin();
        loop {
            match $call {
                Ok(done) => break done,
                Err(status) => tries.again(&status).await,
            }
        }
    }};
}

mod apart;
mod beyond_room;
mod change;
mod changes;
mod counts;
mod crash_loop;
mod failover;
mod fills;
mod flood;
mod liar;
mod log;
mod maker;
mod many_keys;
mod plot;
mod pooled;
mod put_back;
mod revoke;
pub(crate) mod rolling;
mod soak;
mod stale_fill;
mod stood_still;
mod store_down;
mod taking;
mod verdict;
mod wall_clock;

/// B of the policy that a new store has.
const BOUND: Duration = Duration::from_secs(1);

/// Between an answer and the next try.
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// Longer than anything takes on a busy machine, a store that is away for a while included.
const DONE_IN: Duration = Duration::from_mins(1);

/// A number from the environment, by which a demonstration is longer than its short form.
#[expect(clippy::disallowed_methods, reason = "how long to go on is chosen from outside")]
fn asked(name: &str, otherwise: u64) -> u64 {
    let asked = std::env::var(format!("LATCHKEY_NODES_{name}")).ok();
    asked.map_or(otherwise, |number| number.parse().unwrap())
}

/// The most of something that may be, where the environment says so. The one that a busy machine is to blame for may be.
fn asked_at_most(name: &str) -> usize {
    usize::try_from(asked(name, u64::MAX)).unwrap()
}

/// Who may do everything, at one node.
#[derive(Clone)]
struct Operator {
    keys: KeyServiceClient<Authed>,
    accounts: AccountServiceClient<Authed>,
    policies: PolicyServiceClient<Authed>,
}

/// A busy machine may be too slow for the store; whoever asks may ask again.
fn may_be_repeated(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// For how long something is said again.
struct Tries {
    began: Stopwatch,
}

impl Tries {
    fn begin() -> Self {
        Self { began: Stopwatch::start() }
    }

    /// It was not done; demands that this may be.
    async fn again(&self, status: &Status) {
        assert!(may_be_repeated(status), "{status:?}");
        assert!(self.began.elapsed() < DONE_IN, "it is not done in the end: {status:?}");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// A key whose token is known.
#[derive(Debug, Clone)]
struct Held {
    id: String,
    account: String,
    token: String,
}

impl Operator {
    fn at(node: &Channel) -> Self {
        Self::of(node, ROOT)
    }

    fn of(node: &Channel, token: &str) -> Self {
        let root = || Caller::new(token);
        Self {
            keys: KeyServiceClient::with_interceptor(node.clone(), root()),
            accounts: AccountServiceClient::with_interceptor(node.clone(), root()),
            policies: PolicyServiceClient::with_interceptor(node.clone(), root()),
        }
    }

    async fn make_account(&mut self, account: &str) {
        until_done!(match self.try_account(account).await {
            // It was made, and nobody could say so.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            made => made,
        });
    }

    async fn try_account(&mut self, account: &str) -> Result<(), Status> {
        let request = CreateAccountRequest {
            account_id: account.into(),
            display_name: account.into(),
            plan: "enterprise".into(),
            ..Default::default()
        };
        self.accounts.create_account(request).await.map(drop)
    }

    async fn make_key(&mut self, account: &str, scope: &str) -> Held {
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: "a key".into(),
            environment: Environment::Live.into(),
            scopes: vec![scope.into()],
            ..Default::default()
        };
        let made = self.try_often(request).await;
        Held { id: made.key.unwrap().key_id, account: account.into(), token: made.token }
    }

    /// A key; there may be another of which nobody knows the token.
    async fn try_often(&mut self, request: CreateKeyRequest) -> CreateKeyResponse {
        until_done!(self.keys.create_key(request.clone()).await).into_inner()
    }

    /// M.
    async fn set_grace(&mut self, grace: Duration) {
        until_done!(self.try_grace(grace).await);
    }

    async fn try_grace(&mut self, grace: Duration) -> Result<(), Status> {
        let policy = self.policies.get_policy(GetPolicyRequest {}).await?.into_inner();
        let mut policy = policy.policy.unwrap();
        policy.grace = Some(grace.try_into().unwrap());
        let request = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
        self.policies.apply_policy(request).await.map(drop)
    }
}

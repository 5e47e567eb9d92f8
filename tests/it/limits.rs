//! Promise 8: plan limits hold, whoever asks at once and in whatever order.

use std::collections::BTreeMap;

use latchkey::proto::v1::create_key_request::Expiration;
use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::{
    Account, CreateAccountRequest, CreateKeyRequest, CreateKeyResponse, Environment,
    GetAccountRequest, Key, KeyState, ListKeysRequest, RevokeKeyRequest, RotateKeyRequest,
    UpdateAccountRequest, UpdateKeyRequest, revoke_key_request::Target,
};
use prost_types::{Duration, FieldMask, Timestamp};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Authed, Server, reason_of};

const AT_ONCE: usize = 100;
const ROUNDS: usize = 50;
const CHANNELS: usize = 10;
/// 2100-01-01, in seconds since the epoch.
const FAR: i64 = 4_102_444_800;

type Keys = KeyServiceClient<Authed>;
type Answer = Result<CreateKeyResponse, Status>;

/// A server with clients on several connections.
struct Crowd {
    server: Server,
    root: String,
    clients: Vec<Keys>,
}

impl Crowd {
    async fn gather() -> Self {
        let server = Server::start().await;
        let root = server.root_token();
        let mut clients = Vec::new();
        for _ in 0..CHANNELS {
            clients.push(server.keys(&root).await);
        }
        Self { server, root, clients }
    }

    async fn account(&self, id: &str, plan: &str) {
        let request = CreateAccountRequest {
            account_id: id.into(),
            display_name: id.into(),
            plan: plan.into(),
            ..Default::default()
        };
        self.server.accounts(&self.root).await.create_account(request).await.unwrap();
    }

    async fn get(&self, account: &str) -> Account {
        let request = GetAccountRequest { account_id: account.into() };
        let answer = self.server.accounts(&self.root).await.get_account(request).await.unwrap();
        answer.into_inner().account.unwrap()
    }

    async fn keys_of(&self, account: &str) -> Vec<Key> {
        let request =
            ListKeysRequest { account_id: account.into(), page_size: 1_000, ..Default::default() };
        self.clients[0].clone().list_keys(request).await.unwrap().into_inner().keys
    }

    /// Sends all of them at once, over all connections.
    async fn create_at_once(&self, requests: Vec<CreateKeyRequest>) -> Vec<Answer> {
        let calls = requests.into_iter().enumerate().map(|(index, request)| {
            let mut client = self.clients[index % CHANNELS].clone();
            tokio::spawn(async move {
                client.create_key(request).await.map(tonic::Response::into_inner)
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.unwrap());
        }
        answers
    }
}

fn new_key(account: &str) -> CreateKeyRequest {
    CreateKeyRequest {
        account_id: account.into(),
        display_name: "a key".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    }
}

fn operator_key(account: &str) -> CreateKeyRequest {
    CreateKeyRequest { scopes: vec!["latchkey:keys.read".into()], ..new_key(account) }
}

/// How many were made; all others must have been refused for the plan.
fn made(answers: &[Answer]) -> usize {
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(reason_of(refused), "PLAN_LIMIT_REACHED");
        assert!(refused.get_error_details().quota_failure().is_some());
    }
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test]
async fn a_hundred_keys_asked_for_at_once_on_a_plan_of_five_make_five() {
    let crowd = Crowd::gather().await;
    for round in 0..ROUNDS {
        let account = format!("round-{round}");
        crowd.account(&account, "developer").await;
        let answers = crowd.create_at_once(vec![new_key(&account); AT_ONCE]).await;
        assert_eq!(made(&answers), 5, "round {round}");
        assert_eq!(crowd.keys_of(&account).await.len(), 5, "round {round}");
        assert_eq!(crowd.get(&account).await.counted_keys, 5, "round {round}");
    }
}

#[tokio::test]
async fn one_request_sent_a_hundred_times_at_once_makes_one_key() {
    let crowd = Crowd::gather().await;
    // A plan of one key: a repeat is recognised before the plan is looked at.
    crowd.account("acme", "free").await;
    let request = CreateKeyRequest {
        request_id: "c0ffee00-1234-4abc-8def-0123456789ab".into(),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..new_key("acme")
    };
    let answers = crowd.create_at_once(vec![request.clone(); AT_ONCE]).await;
    let made: Vec<_> = answers.iter().flatten().collect();
    assert_eq!(made.len(), 1);
    let key_id = &made[0].key.as_ref().unwrap().key_id;
    for repeat in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(repeat.code(), Code::AlreadyExists, "{repeat:?}");
        assert_eq!(reason_of(repeat), "ALREADY_CREATED");
        let details = repeat.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["key_id"], *key_id);
        assert!(repeat.message().contains(key_id.as_str()));
    }
    assert_eq!(crowd.keys_of("acme").await.len(), 1);

    let other = CreateKeyRequest { display_name: "another".into(), ..request.clone() };
    let refused = crowd.clients[0].clone().create_key(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(reason_of(&refused), "REQUEST_ID_REUSED");
    // Another account, another request.
    crowd.account("other", "free").await;
    let elsewhere = CreateKeyRequest { account_id: "other".into(), ..request };
    crowd.clients[0].clone().create_key(elsewhere).await.unwrap();
}

#[tokio::test]
async fn five_operator_keys_stand_beside_the_plan() {
    let crowd = Crowd::gather().await;
    crowd.account("acme", "developer").await;
    let wishes = [vec![operator_key("acme"); 30], vec![new_key("acme"); 30]].concat();
    assert_eq!(made(&crowd.create_at_once(wishes).await), 10);
    let keys = crowd.keys_of("acme").await;
    let is_operator = |key: &&Key| key.scopes == ["latchkey:keys.read"];
    assert_eq!(keys.iter().filter(is_operator).count(), 5);
    assert_eq!(crowd.get("acme").await.counted_keys, 5);

    // One that turns into the other kind is one more of that kind.
    let operator = keys.iter().find(is_operator).unwrap();
    let change = UpdateKeyRequest {
        key: Some(Key {
            key_id: operator.key_id.clone(),
            scopes: vec!["latchkey:keys.read".into(), "memory:read".into()],
            ..Default::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["scopes".into()] }),
        ..Default::default()
    };
    let refused = crowd.clients[0].clone().update_key(change).await.unwrap_err();
    assert_eq!(reason_of(&refused), "PLAN_LIMIT_REACHED");
}

#[tokio::test]
async fn keys_brought_back_at_once_stay_within_the_plan() {
    let crowd = Crowd::gather().await;
    crowd.account("acme", "developer").await;
    let short = CreateKeyRequest { expiration: Some(a_moment()), ..new_key("acme") };
    let mut calls = Vec::new();
    for index in 0..20 {
        let made = crowd.clients[0].clone().create_key(short.clone()).await.unwrap().into_inner();
        let mut client = crowd.clients[index % CHANNELS].clone();
        let change = expiry_of(&made.key.unwrap().key_id, FAR);
        calls.push(async move { client.update_key(change).await });
    }
    assert_eq!(crowd.get("acme").await.counted_keys, 0);
    let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut brought_back = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => brought_back += 1,
            Err(refused) => assert_eq!(reason_of(&refused), "PLAN_LIMIT_REACHED"),
        }
    }
    assert_eq!((brought_back, crowd.get("acme").await.counted_keys), (5, 5));
}

#[tokio::test]
async fn a_key_rotated_twenty_times_at_once_has_one_successor() {
    let crowd = Crowd::gather().await;
    crowd.account("acme", "free").await;
    for overlap in [0, 60] {
        let made = crowd.clients[0].clone().create_key(new_key("acme")).await.unwrap();
        let key_id = made.into_inner().key.unwrap().key_id;
        let calls: Vec<_> = (0..20)
            .map(|index| {
                let mut client = crowd.clients[index % CHANNELS].clone();
                let overlap = Some(Duration { seconds: overlap, nanos: 0 });
                let request =
                    RotateKeyRequest { key_id: key_id.clone(), overlap, ..Default::default() };
                tokio::spawn(async move { client.rotate_key(request).await })
            })
            .collect();
        let mut successors = Vec::new();
        for call in calls {
            match call.await.unwrap() {
                Ok(rotated) => successors.push(rotated.into_inner().key.unwrap().key_id),
                Err(refused) => assert_eq!(refused.code(), Code::FailedPrecondition),
            }
        }
        assert_eq!((successors.len(), crowd.get("acme").await.counted_keys), (1, 1));
        let target = Some(Target::KeyId(successors[0].clone()));
        let end = RevokeKeyRequest { target, ..Default::default() };
        crowd.clients[0].clone().revoke_key(end).await.unwrap();
        // A predecessor that still works counts once nothing stands in its place.
        let still_working = u32::from(overlap > 0);
        assert_eq!(crowd.get("acme").await.counted_keys, still_working);
    }
}

// === Any order of changes, against a count ===

fn a_moment() -> Expiration {
    Expiration::Ttl(Duration { seconds: 0, nanos: 1_000 })
}

fn expiry_of(key_id: &str, seconds: i64) -> UpdateKeyRequest {
    UpdateKeyRequest {
        key: Some(Key {
            key_id: key_id.into(),
            expire_time: Some(Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["expire_time".into()] }),
        ..Default::default()
    }
}

/// An account that is changed at random, and what is known of it.
struct Walk<'a> {
    crowd: &'a Crowd,
    account: String,
    limit: u32,
    keys: Vec<Key>,
    random: u64,
}

/// The count that the plan is about, written down once more and naively.
fn counted(keys: &[Key]) -> u32 {
    let is_alive = |key: &Key| matches!(key.state(), KeyState::Active | KeyState::Disabled);
    let is_counted = |key: &&Key| {
        let successor = keys.iter().find(|other| other.key_id == key.rotated_to);
        is_alive(key) && !successor.is_some_and(is_alive)
    };
    u32::try_from(keys.iter().filter(is_counted).count()).unwrap()
}

impl Walk<'_> {
    /// A number below `below` (xorshift).
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below as u64).unwrap()
    }

    fn any_key(&mut self) -> Option<Key> {
        let at = self.draw(self.keys.len().max(1));
        self.keys.get(at).cloned()
    }

    /// Makes one change; says which, and whether it was made.
    async fn step(&mut self) -> (&'static str, Result<(), Status>) {
        let channel = self.draw(CHANNELS);
        let mut client = self.crowd.clients[channel].clone();
        let what = self.draw(8);
        let Some(key) = self.any_key() else {
            return ("create", client.create_key(new_key(&self.account)).await.map(drop));
        };
        let key_id = key.key_id;
        match what {
            0 | 1 => ("create", client.create_key(new_key(&self.account)).await.map(drop)),
            2 => {
                let short =
                    CreateKeyRequest { expiration: Some(a_moment()), ..new_key(&self.account) };
                ("create for a moment", client.create_key(short).await.map(drop))
            }
            3 => ("bring back", client.update_key(expiry_of(&key_id, FAR)).await.map(drop)),
            4 | 5 => {
                let seconds = if what == 4 { 0 } else { 60 };
                let overlap = Some(Duration { seconds, nanos: 0 });
                let request = RotateKeyRequest { key_id, overlap, ..Default::default() };
                ("rotate", client.rotate_key(request).await.map(drop))
            }
            6 => {
                let target = Some(Target::KeyId(key_id));
                let request = RevokeKeyRequest { target, ..Default::default() };
                ("revoke", client.revoke_key(request).await.map(drop))
            }
            _ => {
                let (plan, limit) = [("free", 1), ("developer", 5), ("pro", 20)][self.draw(3)];
                self.limit = limit;
                ("change the plan", self.change_plan(plan).await)
            }
        }
    }

    async fn change_plan(&self, plan: &str) -> Result<(), Status> {
        let request = UpdateAccountRequest {
            account: Some(Account {
                account_id: self.account.clone(),
                plan: plan.into(),
                ..Default::default()
            }),
            update_mask: Some(FieldMask { paths: vec!["plan".into()] }),
            ..Default::default()
        };
        let mut client = self.crowd.server.accounts(&self.crowd.root).await;
        client.update_account(request).await.map(drop)
    }

    /// Makes one change and compares.
    async fn step_and_compare(&mut self) {
        let before = counted(&self.keys);
        let (what, outcome) = self.step().await;
        self.keys = self.crowd.keys_of(&self.account).await;
        let after = counted(&self.keys);
        assert_eq!(self.crowd.get(&self.account).await.counted_keys, after, "{what}");
        // Only a smaller plan leaves an account above it, and then no change adds to that.
        assert!(after <= before.max(self.limit), "{what}: {before}, {after} of {}", self.limit);
        match outcome {
            Ok(()) if what.starts_with("create") => assert!(before < self.limit, "{what}"),
            Ok(()) => {}
            Err(refused) if refused.code() == Code::ResourceExhausted => {
                assert!(before >= self.limit, "{what}: {before} of {}", self.limit);
                assert!(what.starts_with("create") || what == "bring back", "{what}");
                assert_eq!(after, before, "{what}");
            }
            Err(refused) => {
                assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused:?}");
                assert_eq!(after, before, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn rotating_with_overlap_and_revoking_the_successor_gains_no_key() {
    let crowd = Crowd::gather().await;
    crowd.account("acme", "free").await;
    let mut client = crowd.clients[0].clone();
    let made = client.create_key(new_key("acme")).await.unwrap().into_inner().key.unwrap();
    let overlap = Some(Duration { seconds: 3_600, nanos: 0 });
    let request = RotateKeyRequest { key_id: made.key_id, overlap, ..Default::default() };
    let successor = client.rotate_key(request).await.unwrap().into_inner().key.unwrap();
    let target = Some(Target::KeyId(successor.key_id));
    client.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
    // The predecessor works on for an hour: it is the one key that the plan allows.
    let refused = client.create_key(new_key("acme")).await.unwrap_err();
    assert_eq!(reason_of(&refused), "PLAN_LIMIT_REACHED");
}

#[tokio::test]
async fn no_order_of_changes_gets_an_account_past_its_plan() {
    let crowd = Crowd::gather().await;
    for seed in 1..=8 {
        let account = format!("walk-{seed}");
        crowd.account(&account, "developer").await;
        let random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
        let mut walk = Walk { crowd: &crowd, account, limit: 5, keys: Vec::new(), random };
        for _ in 0..80 {
            walk.step_and_compare().await;
        }
    }
}

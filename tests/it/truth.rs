//! One truth: the cache follows the store through the one reader, and nothing else changes it.
//!
//! These run the parts of the program in this process, over the real store, so that a read can be held
//! up between the store's answer and its use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use latchkey::account::{AccountId, NewAccount};
use latchkey::app::Node;
use latchkey::authorizer::operator::WriteKeys;
use latchkey::authorizer::{Credential, Operator, Question, Required};
use latchkey::clock::{Entropy, Timestamp};
use latchkey::decision::Denial;
use latchkey::error::{Error, Reason};
use latchkey::key::{Expiry, KeyChange, KeyId, NewKey, RevokeReason};
use latchkey::machine::{self, MachineEntropy};
use latchkey::policy::Policy;
use latchkey::scope::ScopePattern;
use latchkey::store::{self, Command, KeyTarget, Maker, Mutation, NewSecret, Store};
use latchkey::token::{Environment, Prefix, Token};

use crate::support::{FaultyStore, Folder};

const READ_TIME_MAX: Duration = Duration::from_millis(250);

/// A node over the real store, with a hand on its reads.
struct Rig {
    node: Node,
    store: Arc<FaultyStore>,
    reader: tokio::task::JoinHandle<()>,
    folder: Folder,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Rig {
    async fn with_room_for(keys_max: usize) -> Self {
        let folder = Folder::new();
        let url = format!("sqlite://{}/latchkey.db", folder.path().display());
        let inner = store::open(&url).await.unwrap();
        let store = FaultyStore::new(inner);
        let as_store: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
        let prefix = Prefix::parse("hm").unwrap();
        let node = Node::wire(
            &as_store,
            clock,
            Arc::new(MachineEntropy),
            &prefix,
            keys_max,
            READ_TIME_MAX,
            None,
        );
        let (_, secret) = node.keyring.new_token(Environment::Live);
        let rig_seed = Command::Seed { policy: Policy::default(), secret };
        mutate(&*store, rig_seed).await;
        let demo = Command::SeedDemo { account: an_account(), keys: Vec::new(), policy: None };
        mutate(&*store, demo).await;
        let feed = node.feed.clone();
        let reader = tokio::spawn(async move { feed.run().await });
        node.feed.show(None).await.unwrap();
        Self { node, store, reader, folder }
    }

    /// Makes a key by the store alone, past the keyring of this node.
    async fn key(&self) -> (KeyId, Token) {
        let (token, secret) = self.node.keyring.new_token(Environment::Live);
        (create(&*self.store, secret).await, token)
    }

    async fn ask(&self, token: &Token) -> Result<Option<Denial>, Error> {
        self.ask_with(token, Required::Scope("memory:read")).await
    }

    async fn ask_with(
        &self,
        token: &Token,
        required: Required<'_>,
    ) -> Result<Option<Denial>, Error> {
        ask(&self.node, token, required).await
    }

    /// Many keys by the store alone, in one step.
    async fn keys(&self, number: usize) -> Vec<Token> {
        let (tokens, keys): (Vec<_>, Vec<_>) = (0..number)
            .map(|_| {
                let (token, secret) = self.node.keyring.new_token(Environment::Live);
                (token, (a_key(), secret))
            })
            .unzip();
        let demo = Command::SeedDemo { account: an_account(), keys, policy: None };
        mutate(&*self.store, demo).await;
        tokens
    }

    /// Waits until a read has its answer from the store and stands still.
    async fn a_held_read(&self) {
        let held = self.store.a_read_is_held.notified();
        tokio::time::timeout(Duration::from_secs(10), held).await.expect("a read is sent");
    }

    /// Whoever may do everything.
    async fn operator(&self) -> Operator<WriteKeys> {
        let (token, secret) = self.node.keyring.new_token(Environment::Live);
        let new = NewKey {
            account: AccountId::parse("latchkey").unwrap(),
            scopes: vec![ScopePattern::parse("latchkey:admin").unwrap()],
            ..a_key()
        };
        mutate(&*self.store, Command::CreateKey { new, secret, request: None }).await;
        self.node.feed.show(None).await.unwrap();
        let credential = Credential::Token(token.expose().as_bytes());
        self.node.authorizer.operator(credential, None, String::new()).await.unwrap()
    }

    async fn revoke(&self, id: KeyId) {
        let keyring = &self.node.keyring;
        keyring.mutate_as_system("test", revocation(id)).await.unwrap();
    }
}

async fn ask(node: &Node, token: &Token, required: Required<'_>) -> Result<Option<Denial>, Error> {
    let question = Question {
        credential: Credential::Token(token.expose().as_bytes()),
        required,
        client_address: None,
        environment: None,
        cost: None,
        min_revision: None,
    };
    node.authorizer.authorize(&question).await.map(|decision| decision.denial)
}

async fn create(store: &dyn Store, secret: NewSecret) -> KeyId {
    mutate(store, Command::CreateKey { new: a_key(), secret, request: None }).await.unwrap()
}

pub(crate) fn an_account() -> NewAccount {
    NewAccount {
        id: AccountId::parse("a"),
        display_name: String::new(),
        plan: "enterprise".into(),
        labels: BTreeMap::new(),
    }
}

pub(crate) fn a_key() -> NewKey {
    NewKey {
        account: AccountId::parse("a").unwrap(),
        display_name: "k".into(),
        environment: Environment::Live,
        scopes: vec![ScopePattern::parse("memory:read").unwrap()],
        grantable_scopes: Vec::new(),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: BTreeMap::new(),
    }
}

fn revocation(id: KeyId) -> Command {
    Command::RevokeKey {
        target: KeyTarget::Id(id),
        reason: RevokeReason::Compromised,
        comment: String::new(),
        with_created: false,
    }
}

/// A change by another handle on the store: no keyring, no cache knows of it.
pub(crate) async fn mutate(store: &dyn Store, command: Command) -> Option<KeyId> {
    let mut seed = [0; 32];
    MachineEntropy.fill(&mut seed);
    let now = machine::wall_clock();
    let maker = Maker::System("test");
    let mutation = Mutation { maker, peer: String::new(), now, seed, command };
    let done = store.mutate(mutation).await.unwrap().unwrap();
    done.keys.first().map(|key| key.id)
}

async fn until<T: PartialEq + std::fmt::Debug>(wanted: T, mut ask: impl AsyncFnMut() -> T) {
    let reached = tokio::time::timeout(Duration::from_secs(10), async {
        while ask().await != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("never {wanted:?}"));
}

#[tokio::test]
async fn a_change_by_another_handle_on_the_store_takes_effect() {
    let rig = Rig::with_room_for(100).await;
    let (id, token) = rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    mutate(&*rig.store, revocation(id)).await;
    until(Some(Some(Denial::KeyRevoked)), async || rig.ask(&token).await.ok()).await;
}

#[tokio::test]
async fn a_read_that_was_given_up_brings_nothing_when_it_ends_late() {
    // Room for one key, so that the others are read when they are asked for.
    let rig = Rig::with_room_for(1).await;
    let (id, token) = rig.key().await;
    rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    rig.key().await;
    rig.node.feed.show(None).await.unwrap();

    // This read sees the key as it is before its revocation, and is given up.
    rig.store.hold_reads();
    assert!(rig.ask(&token).await.is_err(), "the read does not come in time");
    until(1, async || rig.node.feed.reads_given_up().min(1)).await;
    rig.store.pass_reads();
    rig.revoke(id).await;
    assert_eq!(rig.ask(&token).await.unwrap(), Some(Denial::KeyRevoked));

    rig.store.let_go();
    for _ in 0..200 {
        tokio::task::yield_now().await;
        assert_eq!(rig.ask(&token).await.unwrap(), Some(Denial::KeyRevoked));
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

#[tokio::test]
async fn a_mutation_is_answered_only_after_a_read_sent_after_its_commit() {
    let rig = Rig::with_room_for(100).await;
    let (id, token) = rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    rig.store.hold_reads();
    let keyring = rig.node.keyring.clone();
    let mut revoking =
        tokio::spawn(async move { keyring.mutate_as_system("test", revocation(id)).await });
    rig.a_held_read().await;
    // The commit is durable and its read is on its way: the key still works here, so nobody may be
    // told that it does not.
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut revoking).await.is_err());
    rig.store.pass_reads();
    rig.store.let_go();
    revoking.await.unwrap().unwrap();
    assert_eq!(rig.ask(&token).await.unwrap(), Some(Denial::KeyRevoked));
}

#[tokio::test]
async fn after_an_unknown_outcome_nothing_of_the_subject_is_used_until_it_was_read_again() {
    let rig = Rig::with_room_for(100).await;
    let (id, token) = rig.key().await;
    let (_, other) = rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    until(Some(None), async || rig.ask(&other).await.ok()).await;
    rig.store.hold_reads();
    rig.store.forget_outcome.store(true, Ordering::SeqCst);
    let told = rig.node.keyring.mutate_as_system("test", revocation(id)).await.unwrap_err();
    assert_eq!(told.reason, Reason::OutcomeUnknown);
    assert!(rig.ask(&token).await.is_err(), "it may be revoked");
    assert_eq!(rig.ask(&other).await.unwrap(), None);
    rig.store.forget_outcome.store(false, Ordering::SeqCst);
    rig.store.pass_reads();
    rig.store.let_go();
    until(Some(Some(Denial::KeyRevoked)), async || rig.ask(&token).await.ok()).await;
}

#[tokio::test]
async fn a_rotation_of_unknown_outcome_puts_its_own_keys_in_doubt_and_no_others() {
    let rig = Rig::with_room_for(100).await;
    let overlap = Duration::from_hours(1);
    let (id, first) = rig.key().await;
    let (_, other) = rig.key().await;
    let (one, two) = (rig.operator().await, rig.operator().await);
    let second = rig.node.keyring.rotate_key(one, id, overlap, None).await.ok().unwrap();
    for token in [&first, &second.token, &other] {
        assert_eq!(rig.ask(token).await.unwrap(), None);
    }
    rig.store.hold_reads();
    rig.store.forget_outcome.store(true, Ordering::SeqCst);
    let told = rig.node.keyring.rotate_key(two, second.key.id, overlap, None).await.err().unwrap();
    assert_eq!(told.reason, Reason::OutcomeUnknown);
    assert!(rig.ask(&first).await.is_err(), "it may be revoked");
    assert!(rig.ask(&second.token).await.is_err(), "its time may be over sooner");
    assert_eq!(rig.ask(&other).await.unwrap(), None);
}

#[tokio::test]
async fn a_decision_on_a_key_that_is_held_waits_for_nothing() {
    use futures_util::FutureExt as _;
    let rig = Rig::with_room_for(100).await;
    let (_, token) = rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    // The store stands still, and a read of it is on its way.
    rig.store.hold_reads();
    rig.key().await;
    rig.a_held_read().await;
    assert_eq!(rig.ask(&token).now_or_never().unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_store_whose_order_was_tampered_with_is_refused() {
    for tamper in [
        // The tag of the last applied change is another: the store went back, and forward another way.
        "DROP TRIGGER changes_are_not_rewritten; UPDATE changes SET tag = tag + 1 WHERE n = (SELECT max(n) FROM changes)",
        // A change is gone.
        "DROP TRIGGER changes_stay; DELETE FROM changes WHERE n = (SELECT max(n) FROM changes)",
    ] {
        let rig = Rig::with_room_for(100).await;
        let (_, token) = rig.key().await;
        until(Some(None), async || rig.ask(&token).await.ok()).await;
        rig.node.feed.show(None).await.unwrap();
        let database = rig.folder.path().join("latchkey.db");
        let done =
            std::process::Command::new("sqlite3").arg(database).arg(tamper).status().unwrap();
        assert!(done.success());
        let asked = rig.node.feed.clone();
        tokio::spawn(async move { asked.show(None).await });
        until(true, async || rig.node.feed.fences() > 0).await;
        assert!(rig.ask(&token).await.is_err(), "nothing is allowed after: {tamper}");
    }
}

#[tokio::test]
async fn a_revocation_counts_at_once_while_the_first_load_goes_on() {
    let rig = Rig::with_room_for(100_000).await;
    let tokens = rig.keys(8_000).await;

    // A node that starts now loads those keys page by page.
    let store: Arc<dyn Store> = Arc::clone(&rig.store) as Arc<dyn Store>;
    let prefix = Prefix::parse("hm").unwrap();
    let clock = machine::clock(machine::wall_clock(), Timestamp::EPOCH);
    let late =
        Node::wire(&store, clock, Arc::new(MachineEntropy), &prefix, 100_000, READ_TIME_MAX, None);
    let feed = late.feed.clone();
    let reader = tokio::spawn(async move { feed.run().await });
    late.feed.show(None).await.unwrap();
    let scope = Required::Scope("memory:read");
    let mut revoked_during_load = 0;
    for token in tokens.iter().step_by(97) {
        revoked_during_load += u32::from(late.cache.is_loading());
        let command = Command::RevokeKey {
            target: KeyTarget::Digest(token.digest()),
            reason: RevokeReason::Compromised,
            comment: String::new(),
            with_created: false,
        };
        late.keyring.mutate_as_system("test", command).await.unwrap();
        assert_eq!(ask(&late, token, scope).await.unwrap(), Some(Denial::KeyRevoked));
    }
    assert!(revoked_during_load > 3, "the load was over too soon: {revoked_during_load}");
    until(true, async || late.cache.is_complete()).await;
    for token in tokens.iter().step_by(97) {
        assert_eq!(ask(&late, token, scope).await.unwrap(), Some(Denial::KeyRevoked));
    }
    reader.abort();
}

#[tokio::test]
async fn a_key_of_a_cache_too_small_is_read_when_it_is_asked_for() {
    let rig = Rig::with_room_for(2).await;
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(rig.key().await.1);
    }
    for token in tokens.iter().chain(&tokens) {
        until(Some(None), async || rig.ask(token).await.ok()).await;
    }
    let (unknown, _) = rig.node.keyring.new_token(Environment::Live);
    assert_eq!(rig.ask(&unknown).await.unwrap(), Some(Denial::UnknownKey));
}

#[tokio::test]
async fn an_unknown_key_costs_the_store_nothing_while_every_key_is_held() {
    let rig = Rig::with_room_for(100).await;
    rig.key().await;
    until(true, async || rig.node.cache.is_complete()).await;
    rig.node.feed.show(None).await.unwrap();
    let before = rig.store.reads.load(Ordering::SeqCst);
    for _ in 0..1_000 {
        let (unknown, _) = rig.node.keyring.new_token(Environment::Live);
        assert_eq!(rig.ask(&unknown).await.unwrap(), Some(Denial::UnknownKey));
    }
    assert_eq!(rig.store.reads.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_new_policy_counts_from_the_moment_it_is_answered() {
    let rig = Rig::with_room_for(100).await;
    let (id, token) = rig.key().await;
    until(Some(None), async || rig.ask(&token).await.ok()).await;
    let asked = rig.ask_with(&token, Required::Scope("orders:read")).await.unwrap_err();
    assert_eq!(asked.reason, Reason::InvalidField);
    let mut policy = Policy::default();
    policy.scopes.push(latchkey::policy::ScopeDefinition {
        name: "orders:read".into(),
        description: String::new(),
        implies: Vec::new(),
        strict: false,
        cost: 1,
    });
    let apply =
        Command::ApplyPolicy { policy, expected: None, is_dry_run: false, allow_orphans: false };
    rig.node.keyring.mutate_as_system("test", apply).await.unwrap();
    let orders = Required::Scope("orders:read");
    assert_eq!(rig.ask_with(&token, orders).await.unwrap(), Some(Denial::InsufficientScope));
    let scopes = Some(vec![ScopePattern::parse("orders:*").unwrap()]);
    let change = KeyChange { scopes, ..KeyChange::default() };
    let update = Command::UpdateKey { id, change, expected: None };
    rig.node.keyring.mutate_as_system("test", update).await.unwrap();
    assert_eq!(rig.ask_with(&token, orders).await.unwrap(), None);
}

#[tokio::test]
async fn all_who_wait_for_a_key_join_one_flight_that_nobody_ends_by_going_away() {
    let rig = Rig::with_room_for(1).await;
    let is_shared = async || {
        let (token, before) =
            (rig.node.keyring.new_token(Environment::Live).0, rig.node.feed.fills());
        rig.store.hold_reads();
        let wait = || {
            let (filling, digest) = (rig.node.filling.clone(), token.digest());
            tokio::spawn(async move { filling.fetch(digest).await })
        };
        let first = wait();
        rig.a_held_read().await;
        let others: Vec<_> = (0..99).map(|_| wait()).collect();
        // They have to be waiting before it ends.
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        rig.store.pass_reads();
        rig.store.let_one_go();
        let mut answered = true;
        for other in others {
            answered &= other.await.unwrap().is_ok();
        }
        answered && rig.node.feed.fills() == before + 1
    };
    // A machine that stands still for too long makes them give up: then once more.
    let try_often = async { while !is_shared().await {} };
    tokio::time::timeout(Duration::from_secs(20), try_often).await.expect("one read for all");
}

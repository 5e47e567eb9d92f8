//! What the cases are written with: mutations, records and the few questions that all ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latchkey::account::{Account, AccountId, NewAccount};
use latchkey::clock::Timestamp;
use latchkey::error::{Error, Reason};
use latchkey::key::{Expiry, KeyChange, KeyId, KeyRecord, NewKey, RevokeReason};
use latchkey::policy::Policy;
use latchkey::scope::ScopePattern;
use latchkey::store::{
    Command, Done, KeyTarget, Lost, Maker, Mutation, NewSecret, ReadAsk, ReadBatch, RequestMark,
    Store,
};
use latchkey::token::{Digest, Environment};

pub(crate) mod place;

pub(crate) type Shared = Arc<dyn Store>;

/// When the tests take place; a change may move on from it.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// Draws what nobody drew before.
fn draw() -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    DRAWN.fetch_add(1, Ordering::Relaxed)
}

/// So long after [`NOW`].
pub(crate) fn later(span: Duration) -> Timestamp {
    NOW.after(span)
}

pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// A mutation that latchkey itself makes.
pub(crate) fn mutation(command: Command) -> Mutation {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&draw().to_be_bytes());
    Mutation { maker: Maker::System("test"), peer: "192.0.2.1:5".into(), now: NOW, seed, command }
}

/// A mutation that a key makes, by the scope that its call needs.
pub(crate) fn by(maker: &KeyRecord, command: Command) -> Mutation {
    by_id(maker.id, command)
}

pub(crate) fn by_id(id: KeyId, command: Command) -> Mutation {
    let scope = match command {
        Command::CreateAccount { .. } | Command::UpdateAccount { .. } => "latchkey:accounts.write",
        Command::ApplyPolicy { .. } => "latchkey:policy.write",
        _ => "latchkey:keys.write",
    };
    Mutation { maker: Maker::Key { id, scope }, ..mutation(command) }
}

/// The same at another time.
pub(crate) fn at(now: Timestamp, mutation: Mutation) -> Mutation {
    Mutation { now, ..mutation }
}

/// Carries out what has to succeed.
pub(crate) async fn done(store: &Shared, mutation: Mutation) -> Done {
    store.mutate(mutation).await.unwrap().unwrap()
}

/// Carries out what has to be refused.
pub(crate) async fn refused(store: &Shared, mutation: Mutation) -> Error {
    store.mutate(mutation).await.unwrap().unwrap_err()
}

/// Why something that has to be refused is.
pub(crate) async fn reason(store: &Shared, mutation: Mutation) -> Reason {
    refused(store, mutation).await.reason
}

/// Carries out what makes or changes a key, and gives it.
pub(crate) async fn key(store: &Shared, mutation: Mutation) -> KeyRecord {
    done(store, mutation).await.keys.remove(0)
}

// === The first contents ===

/// Seeds an empty store with the default policy and gives the root key.
pub(crate) async fn seeded(store: &Shared) -> KeyRecord {
    key(store, seed()).await
}

pub(crate) fn seed() -> Mutation {
    let command = Command::Seed { policy: Policy::default(), secret: secret() };
    Mutation { maker: Maker::System("root"), ..mutation(command) }
}

/// A seeded store with an account `acme` on a plan; gives the root key.
pub(crate) async fn with_account(store: &Shared, plan: &str) -> KeyRecord {
    let root = seeded(store).await;
    done(store, create_account("acme", plan)).await;
    root
}

/// A key of `acme` that may make keys which read and write.
pub(crate) async fn operator(store: &Shared) -> KeyRecord {
    let new = NewKey {
        grantable_scopes: scopes(&["memory:read", "memory:write", "latchkey:keys.write"]),
        ..new_key("acme", &["latchkey:keys.write"])
    };
    key(store, create(new)).await
}

// === Accounts ===

pub(crate) fn id(text: &str) -> AccountId {
    AccountId::parse(text).unwrap()
}

pub(crate) fn new_account(id: &str, plan: &str) -> NewAccount {
    NewAccount {
        id: AccountId::parse(id),
        display_name: String::new(),
        plan: plan.into(),
        labels: BTreeMap::new(),
    }
}

pub(crate) fn create_account(id: &str, plan: &str) -> Mutation {
    mutation(Command::CreateAccount { new: new_account(id, plan), request: None })
}

pub(crate) async fn suspend(store: &Shared, account: &str) -> Account {
    let change = latchkey::account::AccountChange {
        suspended: Some(true),
        suspend_reason: Some("unpaid".into()),
        ..Default::default()
    };
    let command = Command::UpdateAccount { id: id(account), change, expected: None };
    done(store, mutation(command)).await.account.unwrap().0
}

// === Keys ===

pub(crate) fn scopes(names: &[&str]) -> Vec<ScopePattern> {
    names.iter().map(|name| ScopePattern::parse(name).unwrap()).collect()
}

pub(crate) fn new_key(account: &str, names: &[&str]) -> NewKey {
    NewKey {
        account: id(account),
        display_name: "a key".into(),
        environment: Environment::Live,
        scopes: scopes(names),
        grantable_scopes: Vec::new(),
        expiry: Expiry::Never,
        allowed_cidrs: Vec::new(),
        labels: BTreeMap::new(),
    }
}

/// A secret that no other key has.
pub(crate) fn secret() -> NewSecret {
    let token = format!("token {}", draw());
    NewSecret { digest: Digest::of(token.as_bytes()), hint: "hm_live_abcd..wxyz".into() }
}

pub(crate) fn create_command(new: NewKey) -> Command {
    Command::CreateKey { new, secret: secret(), request: None }
}

pub(crate) fn create(new: NewKey) -> Mutation {
    mutation(create_command(new))
}

/// A key of `acme` that reads, as most cases need it.
pub(crate) fn create_reader() -> Mutation {
    create(new_key("acme", &["memory:read"]))
}

pub(crate) fn update_command(id: KeyId, change: KeyChange) -> Command {
    Command::UpdateKey { id, change, expected: None }
}

pub(crate) fn update(id: KeyId, change: KeyChange) -> Mutation {
    mutation(update_command(id, change))
}

pub(crate) fn disable() -> KeyChange {
    KeyChange { disabled: Some(true), ..KeyChange::default() }
}

pub(crate) fn rename(name: &str) -> KeyChange {
    KeyChange { display_name: Some(name.into()), ..KeyChange::default() }
}

pub(crate) fn rotate_command(id: KeyId, overlap: Duration) -> Command {
    Command::RotateKey { id, secret: secret(), overlap, request: None }
}

pub(crate) fn rotate(id: KeyId, overlap: Duration) -> Mutation {
    mutation(rotate_command(id, overlap))
}

pub(crate) fn revoke_command(id: KeyId) -> Command {
    Command::RevokeKey {
        target: KeyTarget::Id(id),
        reason: RevokeReason::Compromised,
        comment: "seen in a log".into(),
        with_created: false,
    }
}

pub(crate) fn revoke(id: KeyId) -> Mutation {
    mutation(revoke_command(id))
}

pub(crate) fn revoke_created(id: KeyId) -> Command {
    Command::RevokeKey {
        target: KeyTarget::Id(id),
        reason: RevokeReason::Compromised,
        comment: String::new(),
        with_created: true,
    }
}

pub(crate) fn mark(id: &str, content: u8) -> RequestMark {
    RequestMark { id: id.into(), content: [content; 32] }
}

/// A key that has to be there.
pub(crate) async fn found(store: &Shared, id: KeyId) -> KeyRecord {
    store.key(id).await.unwrap().unwrap()
}

/// How many keys of `acme` count at [`NOW`].
pub(crate) async fn counted(store: &Shared) -> u32 {
    store.account(&id("acme"), NOW).await.unwrap().unwrap().1
}

// === Reading ===

pub(crate) async fn first_read(store: &Shared) -> ReadBatch {
    store.read(&ReadAsk { changes_max: 1_000, ..ReadAsk::default() }).await.unwrap()
}

/// The number of the last change.
pub(crate) async fn tip(store: &Shared) -> u64 {
    first_read(store).await.position.n
}

/// Whether a row could not be read that should have told of this.
pub(crate) fn is_lost(batch: &ReadBatch, what: &Lost) -> bool {
    batch.unreadable.iter().any(|row| row.of == *what)
}

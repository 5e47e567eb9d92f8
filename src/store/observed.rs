//! A store that is watched: how long each operation takes and how it ends, its span, a line for each change.
//!
//! Around any backend, so that none has to do it itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, Maker, Mutation, NodeQuery, Nodes,
    ReadAsk, ReadBatch, Store, StoreError, door,
};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{KeyId, KeyRecord};
use crate::metrics::{Metrics, Snapshot, Value, table};
use crate::policy::Policy;
use crate::revision::Position;
use crate::telemetry;
use crate::token::Digest;

/// A store that is watched.
pub struct Observed {
    store: Arc<dyn Store>,
    /// What kind of store it is, as `db.system.name` has it.
    system: &'static str,
    metrics: Arc<Metrics>,
    is_up: AtomicBool,
    caveat: Mutex<Option<String>>,
}

impl Observed {
    /// Watches this store, of this kind (`sqlite`).
    #[must_use]
    pub fn new(store: Arc<dyn Store>, system: &'static str, metrics: Arc<Metrics>) -> Self {
        Self { store, system, metrics, is_up: AtomicBool::new(true), caveat: Mutex::default() }
    }

    /// Whether it did its part when it was last asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// What [`Store::caveat`] said when it was last asked.
    #[must_use]
    pub fn last_caveat(&self) -> Option<String> {
        self.caveat.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was measured.
    pub fn collect(&self, into: &mut Snapshot) {
        into.add(&table::STORE_UP, [self.system], Value::Count(self.is_up().into()));
        self.metrics.store.collect(&table::STORE_OPERATION_DURATION, &[self.system], into);
    }

    /// Watches one operation. Dropped half-way, it was cancelled, and the store did not do its part: nobody but a
    /// limit of time cuts one off.
    async fn watch<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
        outcome: impl FnOnce(&T) -> &'static str,
    ) -> Result<T, StoreError> {
        let timing = self.metrics.store.begin(operation, "cancelled");
        let mut span = telemetry::child(operation);
        if let Some(span) = &mut span {
            span.note("db.system.name", self.system);
            span.note("db.operation.name", operation);
        }
        let mut part = Part { is_up: &self.is_up, was_done: false };
        let result = work.await;
        let ended = result.as_ref().map_or_else(failure, outcome);
        timing.end(ended);
        if let (Some(span), Err(_)) = (&mut span, &result) {
            span.fail(ended);
        }
        // A row that makes no sense is that row's fault; the store itself answered.
        part.was_done = matches!(result, Ok(_) | Err(StoreError::Corrupt { .. }));
        result
    }
}

/// What the store has to do of an operation.
struct Part<'a> {
    is_up: &'a AtomicBool,
    was_done: bool,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.is_up.store(self.was_done, Ordering::Relaxed);
    }
}

fn ok<T>(_: &T) -> &'static str {
    "ok"
}

const fn failure(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::OutcomeUnknown(_) => "outcome_unknown",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::Unusable(_) | StoreError::Outgrown(_) => "unusable",
    }
}

#[async_trait]
impl Store for Observed {
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        self.watch("read", self.store.read(ask), ok).await
    }

    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError> {
        let (action, maker) = (door::action(&mutation.command), mutation.maker.clone());
        let outcome = |done: &Result<Done, Error>| if done.is_ok() { "ok" } else { "refused" };
        let done = self.watch("mutate", self.store.mutate(mutation), outcome).await;
        if let Ok(Ok(done)) = &done {
            tell(action, &maker, done);
        }
        done
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        self.watch("changed", self.store.changed(after, most), ok).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.watch("key", self.store.key(id), ok).await
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        self.watch("key_by_digest", self.store.key_by_digest(digest), ok).await
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        self.watch("list_keys", self.store.list_keys(query), ok).await
    }

    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        self.watch("account", self.store.account(id, now), ok).await
    }

    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        self.watch("list_accounts", self.store.list_accounts(query), ok).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.watch("audit", self.store.audit(query), ok).await
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        self.watch("policy", self.store.policy(), ok).await
    }

    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        self.watch("keep_time", self.store.keep_time(now), ok).await
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        self.watch("kept_time", self.store.kept_time(), ok).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.watch("now", self.store.now(), ok).await
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    async fn connect(&self) -> Result<(), StoreError> {
        self.store.connect().await
    }

    async fn nodes(&self, query: NodeQuery) -> Result<Option<Nodes>, StoreError> {
        self.watch("nodes", self.store.nodes(query), ok).await
    }

    async fn leave(&self, boot_id: u64) -> Result<(), StoreError> {
        self.watch("leave", self.store.leave(boot_id), ok).await
    }

    async fn caveat(&self) -> Result<Option<String>, StoreError> {
        let caveat = self.watch("caveat", self.store.caveat(), ok).await?;
        self.caveat.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&caveat);
        Ok(caveat)
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.store.commits()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// A change that was made is an event that matters. What changed nothing is none.
fn tell(action: &'static str, maker: &Maker, done: &Done) {
    let Some(position) = done.position else { return };
    let key = done.keys.first();
    let account = done.account.as_ref().map(|(account, _)| &account.id);
    let account = account.or(key.map(|key| &key.account));
    let actor = match maker {
        Maker::Key { id, scope: _ } => format!("key:{id}"),
        Maker::System(what) => format!("system:{what}"),
    };
    tracing::info!(
        action,
        actor,
        key_id = key.map(|key| tracing::field::display(key.id)),
        account_id = account.map(tracing::field::display),
        change = position.n,
        "changed"
    );
}

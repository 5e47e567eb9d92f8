//! A store that is the real one, save that reads of it and changes can be held up, and any call disturbed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use latchkey::account::{Account, AccountId};
use latchkey::clock::Timestamp;
use latchkey::error::Error;
use latchkey::key::{KeyId, KeyRecord};
use latchkey::policy::Policy;
use latchkey::revision::Position;
use latchkey::store::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, Maker, Mutation, NodeQuery, Nodes,
    ReadAsk, ReadBatch, Store, StoreError,
};
use latchkey::token::Digest;
use tokio::sync::{Notify, Semaphore, watch};

use self::calls::Calls;

mod calls;

pub(crate) use calls::Fault;

/// The store, and what is done to its calls.
pub(crate) struct FaultyStore {
    calls: Calls,
    /// Reads take a permit *after* the store answered, so that what they bring is old by then.
    gate: Semaphore,
    held: AtomicBool,
    /// How many reads wait at the gate, or waited.
    pub(crate) reads_held: AtomicU64,
    pub(crate) a_read_is_held: Notify,
    /// Commits that shall end without saying whether they were made: they were.
    pub(crate) forget_outcome: AtomicBool,
    pub(crate) reads: AtomicU64,
    /// Whose changes stand still before the store sees them.
    held_maker: Mutex<Option<KeyId>>,
    changes: Semaphore,
    pub(crate) a_change_is_held: Notify,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            calls: Calls::of(inner),
            gate: Semaphore::new(0),
            held: AtomicBool::new(false),
            reads_held: AtomicU64::new(0),
            a_read_is_held: Notify::new(),
            forget_outcome: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            held_maker: Mutex::new(None),
            changes: Semaphore::new(0),
            a_change_is_held: Notify::new(),
        })
    }

    /// From now on reads get their answer from the store and then stand still.
    pub(crate) fn hold_reads(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Later reads pass; those that stand still stay until they are let go.
    pub(crate) fn pass_reads(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// Lets reads that stand still go on, with the answer that they got before.
    pub(crate) fn let_go(&self) {
        self.gate.add_permits(1_000_000);
    }

    /// Lets one read go on, that stands still or will.
    pub(crate) fn let_one_go(&self) {
        self.gate.add_permits(1);
    }

    /// From now on what this key wants changed stands still on its way to the store.
    pub(crate) fn hold_changes_by(&self, maker: KeyId) {
        *self.held_maker.lock().unwrap() = Some(maker);
    }

    /// Lets one change that stands still go on.
    pub(crate) fn let_a_change_go(&self) {
        self.changes.add_permits(1);
    }

    /// The call of this number, counted from now, is disturbed.
    pub(crate) fn disturb(&self, at: u64, fault: Fault) {
        self.calls.disturb(at, fault);
    }

    /// The call that was disturbed, if it came.
    pub(crate) fn disturbed(&self) -> Option<&'static str> {
        self.calls.disturbed()
    }

    /// Nothing is disturbed any more, and what hangs goes on.
    pub(crate) fn recover(&self) {
        self.calls.recover();
    }

    /// Waits until a call hangs.
    pub(crate) async fn a_call_hangs(&self) {
        self.calls.one_hangs().await;
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let batch = self.calls.call("read", |store| store.read(ask)).await;
        if self.held.load(Ordering::SeqCst) {
            self.reads_held.fetch_add(1, Ordering::SeqCst);
            self.a_read_is_held.notify_one();
            self.gate.acquire().await.unwrap().forget();
        }
        batch
    }

    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError> {
        let held = *self.held_maker.lock().unwrap();
        if let Maker::Key { id, .. } = mutation.maker
            && held == Some(id)
        {
            self.a_change_is_held.notify_one();
            self.changes.acquire().await.unwrap().forget();
        }
        let done = self.calls.call("mutate", move |store| store.mutate(mutation)).await;
        if self.forget_outcome.load(Ordering::SeqCst) {
            return Err(StoreError::OutcomeUnknown("the connection broke".into()));
        }
        done
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        self.calls.call("changed", move |store| store.changed(after, most)).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.calls.call("key", |store| store.key(id)).await
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        self.calls.call("key_by_digest", |store| store.key_by_digest(digest)).await
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        self.calls.call("list_keys", |store| store.list_keys(query)).await
    }

    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        self.calls.call("account", |store| store.account(id, now)).await
    }

    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        self.calls.call("list_accounts", |store| store.list_accounts(query)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        self.calls.call("audit", |store| store.audit(query)).await
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        self.calls.call("policy", |store| store.policy()).await
    }

    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        self.calls.call("keep_time", |store| store.keep_time(now)).await
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        self.calls.call("kept_time", |store| store.kept_time()).await
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        self.calls.call("now", |store| store.now()).await
    }

    fn is_shared(&self) -> bool {
        self.calls.is_shared()
    }

    async fn nodes(&self, query: NodeQuery) -> Result<Option<Nodes>, StoreError> {
        self.calls.call("nodes", move |store| store.nodes(query)).await
    }

    async fn leave(&self, boot_id: u64) -> Result<(), StoreError> {
        self.calls.call("leave", |store| store.leave(boot_id)).await
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.calls.commits()
    }

    /// It answers nothing, so all that can happen to it is that it hangs.
    async fn close(&self) {
        let closed = self.calls.call("close", |store| {
            Box::pin(async {
                store.close().await;
                Ok(())
            })
        });
        drop(closed.await);
    }
}

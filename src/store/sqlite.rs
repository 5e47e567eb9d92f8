//! The embedded store: one SQLite file, one process.
//!
//! One connection writes, in a task of its own; one is the reader's; a few serve look-ups. Only the
//! writer ever checkpoints. Not supported on purpose: a database in memory, and a second process.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::failure::failed;
use self::open::Opened;
use self::writer::{Job, Writer};
use super::door::Rows as _;
use super::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, MacKey, Mutation, ReadAsk,
    ReadBatch, Store, StoreError,
};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{KeyId, KeyRecord};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::Digest;

mod open;

mod writer;

mod rows;

mod read;

mod query;

mod trail;

pub(super) mod verify;

mod failure;

/// How many jobs may wait for the writer; who comes after waits before the queue.
const QUEUE_MAX: usize = 256;
const LOOKUP_CONNECTIONS_MAX: u32 = 4;
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// The store in one SQLite file.
pub(super) struct SqliteStore {
    path: PathBuf,
    reading: SqliteConnectOptions,
    /// The reader's connection, when no read is under way. A read takes it out and puts it back when
    /// it came to its end, so that one given up half-way takes the connection with it.
    reader: Mutex<ReaderSlot>,
    lookups: SqlitePool,
    /// `None` when the store is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    commits: watch::Receiver<u64>,
}

enum ReaderSlot {
    Idle(Box<SqliteConnection>),
    Empty,
    Closed,
}

/// Puts another key in the place of the one by which nodes authenticate what they keep elsewhere.
pub(super) async fn new_mac_key(path: &str, key: &MacKey) -> Result<(), StoreError> {
    let Opened { mut writer, writing: _, reading: _, lock } = open::open(path).await?;
    let renew = sqlx::query("UPDATE feed SET mac_key_before = mac_key, mac_key = ?1");
    renew.bind(key.expose().to_vec()).execute(&mut writer).await.map_err(failed)?;
    writer.close().await.map_err(failed)?;
    drop(lock);
    Ok(())
}

impl SqliteStore {
    /// Opens the database of this path; see [`super::open`].
    pub(super) async fn open(path: &str) -> Result<Self, StoreError> {
        let Opened { mut writer, writing, reading, lock } = open::open(path).await?;
        let head = rows::SqliteRows { connection: &mut writer }.head().await?;
        let (commits, watched) = watch::channel(head.position.n);
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer::new(writer, writing, commits, lock);
        let lookups = SqlitePoolOptions::new()
            .max_connections(LOOKUP_CONNECTIONS_MAX)
            .acquire_timeout(LOOKUP_WAIT)
            .test_before_acquire(false)
            .connect_lazy_with(reading.clone());
        Ok(Self {
            path: path.into(),
            reading,
            reader: Mutex::new(ReaderSlot::Empty),
            lookups,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(tokio::spawn(writer.run(queue)))),
            commits: watched,
        })
    }

    /// Hands a job to the writer and waits for what comes of it.
    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (waiter, outcome) = oneshot::channel();
        let jobs = lock(&self.jobs).clone().ok_or_else(|| self.closed())?;
        jobs.send(job(waiter)).await.map_err(|_| self.closed())?;
        // The writer answers every job; when it does not, it has come to a bad end with the job in hand.
        outcome.await.unwrap_or_else(|_| {
            Err(StoreError::OutcomeUnknown("the store's writer has ended".into()))
        })
    }

    async fn take_reader(&self) -> Result<Box<SqliteConnection>, StoreError> {
        let slot = {
            let mut slot = lock(&self.reader);
            match &*slot {
                ReaderSlot::Closed => return Err(self.closed()),
                ReaderSlot::Idle(_) | ReaderSlot::Empty => {
                    std::mem::replace(&mut *slot, ReaderSlot::Empty)
                }
            }
        };
        match slot {
            ReaderSlot::Idle(connection) => Ok(connection),
            ReaderSlot::Empty | ReaderSlot::Closed => {
                self.reading.connect().await.map(Box::new).map_err(failed)
            }
        }
    }

    fn put_reader(&self, connection: Box<SqliteConnection>) {
        let mut slot = lock(&self.reader);
        if matches!(*slot, ReaderSlot::Empty) {
            *slot = ReaderSlot::Idle(connection);
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Unavailable(format!("`{}` is closed", self.path.display()).into())
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        let mut connection = self.take_reader().await?;
        let batch = read::read(&mut connection, ask).await?;
        self.put_reader(connection);
        Ok(batch)
    }

    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError> {
        self.write(|waiter| Job::Mutate(Box::new(mutation), waiter)).await
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        query::changed(&self.lookups, after, most).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        query::key(&self.lookups, id).await
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        query::key_by_digest(&self.lookups, digest).await
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        query::list_keys(&self.lookups, query).await
    }

    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        query::account(&self.lookups, id, now).await
    }

    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        query::list_accounts(&self.lookups, query).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let mut connection = self.lookups.acquire().await.map_err(failed)?;
        trail::page(&mut connection, query).await
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        let mut connection = self.lookups.acquire().await.map_err(failed)?;
        rows::read_policy(&mut connection).await?.ok_or_else(|| {
            StoreError::Unusable("the store is empty: it has to be seeded first".into())
        })
    }

    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(|waiter| Job::KeepTime(now, waiter)).await
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        query::kept_time(&self.lookups).await
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    async fn close(&self) {
        // The readers first: the last checkpoint wants the file for itself.
        let reader = std::mem::replace(&mut *lock(&self.reader), ReaderSlot::Closed);
        if let ReaderSlot::Idle(connection) = reader
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "the reader's connection was not closed in order");
        }
        self.lookups.close().await;
        drop(lock(&self.jobs).take());
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the store's writer came to a bad end");
        }
    }
}

/// What is locked here is only ever replaced as a whole, so a panic elsewhere leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

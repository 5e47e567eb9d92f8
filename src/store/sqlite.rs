//! The embedded store: one SQLite file, one process.
//!
//! One connection writes, in a task of its own; one is the reader's; a few serve look-ups. Only the
//! writer ever checkpoints. Not supported on purpose: a database in memory, and a second process.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;

use self::open::Opened;
use self::writer::Writer;
use super::database::{Database as _, failed};
use super::queue::{Queue, closed, lock};
use super::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, MacKey, Mutation, ReadAsk,
    ReadBatch, Store, StoreError, query, trail,
};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{KeyId, KeyRecord};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::Digest;

mod open;

mod link;

mod writer;

mod read;

pub(super) mod verify;

mod failure;

const LOOKUP_CONNECTIONS_MAX: u32 = 4;
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// The store in one SQLite file.
pub(super) struct SqliteStore {
    /// The path, for people.
    place: String,
    reading: SqliteConnectOptions,
    /// The reader's connection, when no read is under way. A read takes it out and puts it back when
    /// it came to its end, so that one given up half-way takes the connection with it.
    reader: Mutex<ReaderSlot>,
    lookups: SqlitePool,
    queue: Queue,
    commits: watch::Receiver<u64>,
}

/// One look-up, of one statement: an expression of the connection.
macro_rules! look_up {
    ($store:expr, $connection:ident => $work:expr) => {{
        let mut lent = $store.lookups.acquire().await.map_err(failed)?;
        let $connection: &mut SqliteConnection = &mut lent;
        $work.await
    }};
}

enum ReaderSlot {
    Idle(Box<SqliteConnection>),
    Empty,
    Closed,
}

/// Puts another key in the place of the one by which nodes authenticate what they keep elsewhere.
pub(super) async fn new_mac_key(path: &str, key: &MacKey) -> Result<(), StoreError> {
    let Opened { mut writer, writing: _, reading: _, lock } = open::open(path).await?;
    writer.run(key.renewal()).await?;
    writer.close().await.map_err(failed)?;
    drop(lock);
    Ok(())
}

impl SqliteStore {
    /// Opens the database of this path; see [`super::open`].
    pub(super) async fn open(path: &str) -> Result<Self, StoreError> {
        let Opened { mut writer, writing, reading, lock } = open::open(path).await?;
        let (n, _) = writer::read_tip(&mut writer).await?;
        let (commits, watched) = watch::channel(n.cast_unsigned());
        let writer = Writer::new(writer, writing, commits, lock);
        let lookups = SqlitePoolOptions::new()
            .max_connections(LOOKUP_CONNECTIONS_MAX)
            .acquire_timeout(LOOKUP_WAIT)
            .test_before_acquire(false)
            .connect_lazy_with(reading.clone());
        let place = format!("`{path}`");
        Ok(Self {
            queue: Queue::start(place.clone(), |jobs| writer.run(jobs)),
            place,
            reading,
            reader: Mutex::new(ReaderSlot::Empty),
            lookups,
            commits: watched,
        })
    }

    async fn take_reader(&self) -> Result<Box<SqliteConnection>, StoreError> {
        let slot = {
            let mut slot = lock(&self.reader);
            match &*slot {
                ReaderSlot::Closed => return Err(closed(&self.place)),
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
        self.queue.mutate(mutation).await
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        look_up!(self, connection => query::changed(connection, after, most))
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        look_up!(self, connection => query::key(connection, id))
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        look_up!(self, connection => query::key_by_digest(connection, digest))
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        look_up!(self, connection => query::list_keys(connection, query))
    }

    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        look_up!(self, connection => query::account(connection, id, now))
    }

    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        look_up!(self, connection => query::list_accounts(connection, query))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        look_up!(self, connection => trail::page(connection, query))
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        look_up!(self, connection => query::seeded_policy(connection))
    }

    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        self.queue.keep_time(now).await
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        look_up!(self, connection => query::kept_time(connection))
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
        self.queue.close().await;
    }
}

//! The store for many nodes: one PostgreSQL database, of version 12 or newer.
//!
//! One connection writes, in a task of its own; one is the reader's; a few serve look-ups. Absent on purpose:
//! LISTEN, session locks and anything else that a session would have to keep; reading from standbys.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use self::failure::too_slow;
use self::link::{Link, Pool, ReaderLink};
use self::settings::Settings;
use self::writer::{ANSWER_TIME_MAX, Writer};
use super::queue::Queue;
use super::{
    AccountQuery, AuditPage, AuditQuery, Change, Done, KeyQuery, Mutation, NodeQuery, Nodes,
    ReadAsk, ReadBatch, Store, StoreError, query, trail,
};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{KeyId, KeyRecord};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::Digest;

mod settings;

mod open;

mod link;

mod writer;

mod read;

mod nodes;

pub(super) mod verify;

mod failure;

pub(super) use open::{migrate, new_mac_key};

/// Whether this URL is right, as far as it tells.
pub(super) fn check(url: &str) -> Result<(), StoreError> {
    Settings::parse(url).map(drop)
}

const LOOKUP_CONNECTIONS_MAX: usize = 4;
/// How long a look-up may take, with the wait for a connection.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// The transaction of a look-up; the server gives up for itself what was given up here.
const LOOK_UP: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '5s'; \
     SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// The store in a PostgreSQL database.
pub(super) struct PostgresStore {
    reader: ReaderLink,
    lookups: Pool,
    queue: Queue,
    commits: watch::Receiver<u64>,
}

/// One look-up, in a transaction of its own: an expression of the connection.
macro_rules! look_up {
    ($store:expr, $link:ident => $work:expr) => {
        $store
            .in_time(async {
                let (mut lent, _) = $store.lookups.begin(LOOK_UP).await?;
                let $link: &mut Link = &mut lent.link;
                let found = $work.await?;
                lent.end().await?;
                Ok(found)
            })
            .await
    };
}

impl PostgresStore {
    /// Opens the database of this URL; see [`super::open`].
    pub(super) async fn open(url: &str, schema: super::Schema) -> Result<Self, StoreError> {
        let settings = Settings::parse(url)?;
        let n = open::open(&settings, schema).await?;
        let (commits, watched) = watch::channel(n);
        let writer = Writer::new(Pool::new(settings.clone(), 1, ANSWER_TIME_MAX), commits);
        Ok(Self {
            reader: ReaderLink::new(settings.clone()),
            queue: Queue::start(settings.place.clone(), |jobs| writer.run(jobs)),
            lookups: Pool::new(settings, LOOKUP_CONNECTIONS_MAX, LOOKUP_TIME_MAX),
            commits: watched,
        })
    }

    async fn in_time<T>(
        &self,
        look_up: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(LOOKUP_TIME_MAX, look_up).await.unwrap_or_else(|_| Err(too_slow("a look-up")))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn read(&self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        read::read(&self.reader, ask).await
    }

    async fn mutate(&self, mutation: Mutation) -> Result<Result<Done, Error>, StoreError> {
        self.queue.mutate(mutation).await
    }

    async fn changed(&self, after: u64, most: u32) -> Result<Vec<Change>, StoreError> {
        look_up!(self, link => query::changed(link, after, most))
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        look_up!(self, link => query::key(link, id))
    }

    async fn key_by_digest(&self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        look_up!(self, link => query::key_by_digest(link, digest))
    }

    async fn list_keys(&self, query: &KeyQuery) -> Result<Vec<KeyRecord>, StoreError> {
        look_up!(self, link => query::list_keys(link, query))
    }

    async fn account(
        &self,
        id: &AccountId,
        now: Timestamp,
    ) -> Result<Option<(Account, u32)>, StoreError> {
        look_up!(self, link => query::account(link, id, now))
    }

    async fn list_accounts(&self, query: &AccountQuery) -> Result<Vec<(Account, u32)>, StoreError> {
        look_up!(self, link => query::list_accounts(link, query))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        look_up!(self, link => trail::page(link, query))
    }

    async fn policy(&self) -> Result<(Policy, Position), StoreError> {
        look_up!(self, link => query::seeded_policy(link))
    }

    async fn keep_time(&self, now: Timestamp) -> Result<(), StoreError> {
        self.queue.keep_time(now).await
    }

    async fn kept_time(&self) -> Result<Timestamp, StoreError> {
        look_up!(self, link => query::kept_time(link))
    }

    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        look_up!(self, link => nodes::now(link)).map(Some)
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn connect(&self) -> Result<(), StoreError> {
        self.reader.open().await
    }

    /// A connection to a server that is no longer the primary answers as if nothing were wrong. It is dropped, and the
    /// next is asked.
    async fn nodes(&self, query: NodeQuery) -> Result<Option<Nodes>, StoreError> {
        let mut tries = 0..=LOOKUP_CONNECTIONS_MAX;
        let asking = Box::pin(async {
            loop {
                match look_up!(self, link => nodes::all(link, query)) {
                    Err(StoreError::Unavailable(_)) if tries.next().is_some() => {}
                    nodes => return nodes.map(Some),
                }
            }
        });
        // All tries together: a server that stands still costs no more than any other look-up.
        self.in_time(asking).await
    }

    async fn leave(&self, boot_id: u64) -> Result<(), StoreError> {
        self.queue.run(nodes::leave(boot_id)).await
    }

    async fn caveat(&self) -> Result<Option<String>, StoreError> {
        look_up!(self, link => open::caveat(link))
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    async fn close(&self) {
        self.reader.close().await;
        self.lookups.close().await;
        self.queue.close().await;
    }
}

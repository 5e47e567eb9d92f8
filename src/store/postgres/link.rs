//! Connections. Every statement goes through one of these, inside a transaction that was begun explicitly.
//!
//! No state is kept in a session: what has to be set is set for the transaction. So a pooler may hand out another
//! connection for each transaction, if it keeps track of prepared statements, or none are prepared.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::failure::ended_session;
use super::settings::Settings;
use crate::store::StoreError;
use crate::store::database::{Database, Each, Statement, Value, failed};
use crate::store::queue::{closed, lock};
use crate::store::row::no_feed;

/// How long a statement may take that looks at every key, or at all that one key made.
const SCAN_TIME_MAX: Duration = Duration::from_secs(30);

/// A connection.
pub(super) struct Link {
    pub(super) connection: PgConnection,
    prepares: bool,
    /// How long one answer is waited for.
    pub(super) patience: Duration,
}

impl Link {
    pub(super) async fn open(settings: &Settings, patience: Duration) -> Result<Self, sqlx::Error> {
        let connection = in_time(patience, settings.options.connect()).await?;
        Ok(Self { connection, prepares: settings.prepares, patience })
    }

    /// Runs statements without arguments, in one message, and gives the last row of all that they bring.
    pub(super) async fn command(&mut self, sql: String) -> Result<Option<PgRow>, sqlx::Error> {
        let rows = self.connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql)));
        Ok(in_time(self.patience, rows).await?.pop())
    }

    fn query<'q>(&self, statement: Statement) -> sqlx::query::Query<'q, Postgres, PgArguments> {
        let Statement { sql, values } = statement;
        let query = sqlx::query(sql).persistent(self.prepares);
        values.into_iter().fold(query, |query, value| match value {
            Value::Number(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
            Value::Flag(flag) => query.bind(flag),
            Value::Texts(texts) => query.bind(texts),
            Value::ManyBytes(many) => query.bind(many),
        })
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "a connection was not closed in order");
        }
    }
}

#[async_trait]
impl Database for Link {
    type Row = PgRow;

    fn own<T>(each: Each<T>) -> T {
        each.postgres
    }

    async fn run(&mut self, statement: Statement) -> Result<u64, StoreError> {
        let done = self.query(statement).execute(&mut self.connection);
        Ok(in_time(self.patience, done).await.map_err(failed)?.rows_affected())
    }

    async fn one(&mut self, statement: Statement) -> Result<Option<PgRow>, StoreError> {
        let row = self.query(statement).fetch_optional(&mut self.connection);
        in_time(self.patience, row).await.map_err(failed)
    }

    async fn all(&mut self, statement: Statement) -> Result<Vec<PgRow>, StoreError> {
        let rows = self.query(statement).fetch_all(&mut self.connection);
        in_time(self.patience, rows).await.map_err(failed)
    }

    async fn scan(&mut self, statement: Statement) -> Result<Vec<PgRow>, StoreError> {
        let patience = std::mem::replace(&mut self.patience, SCAN_TIME_MAX);
        let rows = self.all(statement).await;
        self.patience = patience;
        rows
    }

    /// Whoever takes the rows waits for each as long as it likes.
    fn rows(&mut self, statement: Statement) -> BoxStream<'_, Result<PgRow, StoreError>> {
        self.query(statement).fetch(&mut self.connection).map_err(failed).boxed()
    }
}

async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = |_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()));
    timeout(patience, answer).await.unwrap_or_else(late)
}

/// A bounded number of connections, opened when they are needed.
pub(super) struct Pool {
    settings: Settings,
    patience: Duration,
    idle: Mutex<Vec<Link>>,
    permits: Semaphore,
}

impl Pool {
    /// So many, on which each answer is waited for as long as this.
    pub(super) fn new(settings: Settings, links_max: usize, patience: Duration) -> Self {
        Self { settings, patience, idle: Mutex::default(), permits: Semaphore::new(links_max) }
    }

    /// Begins a transaction by these statements, and gives the row that they bring. An idle connection may have
    /// died since; nothing was begun on it then, so it is begun on a new one.
    pub(super) async fn begin(&self, sql: &str) -> Result<(Lent<'_>, Option<PgRow>), StoreError> {
        let permit = self.permits.acquire().await.map_err(|_| closed(&self.settings.place))?;
        let idle = lock(&self.idle).pop();
        if let Some(mut link) = idle {
            match link.command(sql.to_owned()).await {
                Ok(row) => return Ok((Lent { link, pool: self, _permit: permit }, row)),
                Err(error) if ended_session(&error) => {
                    tracing::debug!(%error, "an idle connection was lost");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let mut link = Link::open(&self.settings, self.patience).await.map_err(failed)?;
        let row = link.command(sql.to_owned()).await.map_err(failed)?;
        Ok((Lent { link, pool: self, _permit: permit }, row))
    }

    /// Closes all that are idle; what is under way ends with its transaction.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *lock(&self.idle));
        for link in idle {
            link.close().await;
        }
    }
}

/// A connection with a transaction. Dropped, it is closed, and the transaction with it.
pub(super) struct Lent<'a> {
    pub(super) link: Link,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// Gives the connection back, its transaction at an end.
    pub(super) fn give_back(self) {
        if !self.pool.permits.is_closed() {
            lock(&self.pool.idle).push(self.link);
        }
    }

    /// Ends a transaction that wrote nothing, and gives the connection back.
    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        self.link.command("COMMIT".to_owned()).await.map_err(failed)?;
        self.give_back();
        Ok(())
    }
}

/// The one connection of the reader. Taken out for each read: what is given up is closed, and with it whatever the
/// server still does for it.
pub(super) struct ReaderLink {
    settings: Settings,
    /// And whether it is new: nothing was read on it yet.
    kept: Mutex<Option<(Link, bool)>>,
    is_closed: AtomicBool,
}

impl ReaderLink {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, kept: Mutex::default(), is_closed: AtomicBool::new(false) }
    }

    /// Begins by these statements, made for a connection that was read on before or for a new one; gives the row that
    /// they bring. Whoever reads gives up for itself.
    pub(super) async fn begin(
        &self,
        sql: impl Fn(bool) -> String,
    ) -> Result<(Link, bool, PgRow), StoreError> {
        let kept = lock(&self.kept).take();
        if let Some((mut link, is_new)) = kept {
            match link.command(sql(is_new)).await {
                Ok(row) => return Ok((link, is_new, row.ok_or_else(no_feed)?)),
                Err(error) if ended_session(&error) => {
                    tracing::debug!(%error, "the reader's connection was lost");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let mut link = self.opened().await?;
        let row = link.command(sql(true)).await.map_err(failed)?;
        Ok((link, true, row.ok_or_else(no_feed)?))
    }

    /// Opens it, if it is not.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        if lock(&self.kept).is_none() {
            let link = self.opened().await?;
            *lock(&self.kept) = Some((link, true));
        }
        Ok(())
    }

    async fn opened(&self) -> Result<Link, StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(closed(&self.settings.place));
        }
        Link::open(&self.settings, Duration::MAX).await.map_err(failed)
    }

    /// Ends the transaction, which wrote nothing, and keeps the connection.
    pub(super) async fn end(&self, mut link: Link) -> Result<(), StoreError> {
        link.command("COMMIT".to_owned()).await.map_err(failed)?;
        *lock(&self.kept) = Some((link, false));
        Ok(())
    }

    /// Lets go of the connection.
    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let kept = lock(&self.kept).take();
        if let Some((link, _)) = kept {
            link.close().await;
        }
    }
}

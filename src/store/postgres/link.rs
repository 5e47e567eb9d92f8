//! Connections. Every statement goes through one of these, inside a transaction that was begun explicitly.
//!
//! No state is kept in a session: what has to be set is set for the transaction. So a pooler may hand out another
//! connection for each transaction, if it keeps track of prepared statements, or none are prepared.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::failure::{ended_session, failed};
use super::rows::no_feed;
use super::settings::Settings;
use crate::store::StoreError;

pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

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

    /// Runs a statement and tells how many rows it wrote.
    pub(super) async fn run(&mut self, query: Query<'_>) -> Result<u64, StoreError> {
        let done = query.persistent(self.prepares).execute(&mut self.connection);
        Ok(in_time(self.patience, done).await.map_err(failed)?.rows_affected())
    }

    /// The one row, or none.
    pub(super) async fn one(&mut self, query: Query<'_>) -> Result<Option<PgRow>, StoreError> {
        let row = query.persistent(self.prepares).fetch_optional(&mut self.connection);
        in_time(self.patience, row).await.map_err(failed)
    }

    /// All rows.
    pub(super) async fn all(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, StoreError> {
        let rows = query.persistent(self.prepares).fetch_all(&mut self.connection);
        in_time(self.patience, rows).await.map_err(failed)
    }

    /// The rows, one after the other, however many.
    pub(super) fn rows<'a>(
        &'a mut self,
        query: Query<'a>,
    ) -> impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin + Send + 'a {
        query.persistent(self.prepares).fetch(&mut self.connection)
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "a connection was not closed in order");
        }
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
        let permit = self.permits.acquire().await.map_err(|_| self.closed())?;
        let idle = self.idle().pop();
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
        let idle = std::mem::take(&mut *self.idle());
        for link in idle {
            link.close().await;
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> StoreError {
        StoreError::Unavailable(format!("the database {} is closed", self.settings.place).into())
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
            self.pool.idle().push(self.link);
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
        let kept = self.kept().take();
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
        if self.kept().is_none() {
            let link = self.opened().await?;
            *self.kept() = Some((link, true));
        }
        Ok(())
    }

    async fn opened(&self) -> Result<Link, StoreError> {
        if self.is_closed.load(Ordering::Relaxed) {
            let closed = format!("the database {} is closed", self.settings.place);
            return Err(StoreError::Unavailable(closed.into()));
        }
        Link::open(&self.settings, Duration::MAX).await.map_err(failed)
    }

    /// Ends the transaction, which wrote nothing, and keeps the connection.
    pub(super) async fn end(&self, mut link: Link) -> Result<(), StoreError> {
        link.command("COMMIT".to_owned()).await.map_err(failed)?;
        *self.kept() = Some((link, false));
        Ok(())
    }

    /// Lets go of the connection.
    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let kept = self.kept().take();
        if let Some((link, _)) = kept {
            link.close().await;
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<(Link, bool)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

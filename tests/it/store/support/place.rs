//! Where a store is kept for one test: a fresh place, removed afterwards.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Database, Row};

use super::Shared;
use crate::support::postgres::{self, Postgres};

/// A fresh place for a store.
pub(crate) enum Place {
    /// A folder, with a file in it.
    Sqlite(PathBuf),
    /// A database of a server that all tests share.
    Postgres(&'static Postgres, String),
}

/// A folder for an SQLite store.
pub(crate) async fn on_sqlite() -> Place {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("store-{}-{number}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Place::Sqlite(folder)
}

/// A database for a PostgreSQL store.
pub(crate) async fn on_postgres() -> Place {
    let server = postgres::shared().await;
    Place::Postgres(server, server.database().await)
}

impl Place {
    /// The URL to open it by.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite://{}", self.file().display()),
            Self::Postgres(server, database) => server.url(database),
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(..))
    }

    /// The database's file.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(folder) => folder.join("latchkey.db"),
            Self::Postgres(..) => panic!("it is in no file"),
        }
    }

    /// A fresh one of the same kind.
    pub(crate) async fn another(&self) -> Self {
        match self {
            Self::Sqlite(_) => on_sqlite().await,
            Self::Postgres(..) => on_postgres().await,
        }
    }

    /// One with the same contents; the store must be closed.
    pub(crate) async fn copy(&self) -> Self {
        match self {
            Self::Sqlite(_) => {
                let copy = on_sqlite().await;
                std::fs::copy(self.file(), copy.file()).unwrap();
                copy
            }
            Self::Postgres(server, database) => {
                Self::Postgres(server, server.database_like(database).await)
            }
        }
    }

    /// What is in it, to be compared with itself later.
    pub(crate) async fn contents(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(_) => std::fs::read(self.file()).unwrap(),
            Self::Postgres(..) => {
                let rows = "SELECT (SELECT json_agg(t ORDER BY id)::text FROM keys AS t), \
                            (SELECT json_agg(t ORDER BY n)::text FROM audit AS t), \
                            (SELECT json_agg(t ORDER BY n)::text FROM changes AS t), \
                            (SELECT json_agg(t)::text FROM feed AS t), \
                            (SELECT count(*)::text FROM pg_class), (SELECT count(*)::text FROM pg_proc)";
                self.sql(rows).await.concat().concat().into_bytes()
            }
        }
    }

    /// Opens the store, as often as it was closed before.
    pub(crate) async fn open(&self) -> Shared {
        latchkey::store::open(&self.url()).await.unwrap()
    }

    /// Runs SQL below the store, and gives what it selects as text.
    pub(crate) async fn sql(&self, text: &str) -> Vec<Vec<String>> {
        self.try_sql(text).await.unwrap()
    }

    /// Runs SQL below the store that may fail.
    pub(crate) async fn try_sql(&self, text: &str) -> Result<Vec<Vec<String>>, sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(text.to_owned()));
        match self {
            Self::Sqlite(_) => {
                let options = SqliteConnectOptions::new().filename(self.file());
                let rows = query.fetch_all(&mut options.connect().await?).await?;
                Ok(rows.iter().map(cells::<SqliteRow>).collect())
            }
            Self::Postgres(server, database) => {
                let rows = query.fetch_all(&mut server.connect(database).await).await?;
                Ok(rows.iter().map(cells::<PgRow>).collect())
            }
        }
    }
}

fn cells<R: Row>(row: &R) -> Vec<String>
where
    usize: sqlx::ColumnIndex<R>,
    String: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    R::Database: Database,
{
    let text = |column| row.try_get_unchecked::<String, _>(column).unwrap_or_default();
    (0..row.len()).map(text).collect()
}

impl Drop for Place {
    fn drop(&mut self) {
        match self {
            // What cannot be removed is below the build's folder, and goes with it.
            Self::Sqlite(folder) => drop(std::fs::remove_dir_all(folder)),
            Self::Postgres(server, database) => server.leave(database),
        }
    }
}

//! Where a store is kept for one test: a fresh place, removed afterwards.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _, SqlSafeStr as _};

use super::Shared;

/// A fresh place for a store.
pub(crate) struct Place {
    folder: PathBuf,
}

/// A folder for an SQLite store.
pub(crate) fn on_sqlite() -> Place {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("store-{}-{number}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Place { folder }
}

impl Place {
    /// The URL to open it by.
    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.file().display())
    }

    /// The database's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("latchkey.db")
    }

    /// Opens the store, as often as it was closed before.
    pub(crate) async fn open(&self) -> Shared {
        latchkey::store::open(&self.url()).await.unwrap()
    }

    /// Runs SQL below the store, and gives what it selects as text.
    pub(crate) async fn sql(&self, text: &'static str) -> Vec<Vec<String>> {
        self.try_sql(text).await.unwrap()
    }

    /// Runs SQL below the store that may fail.
    pub(crate) async fn try_sql(
        &self,
        text: &'static str,
    ) -> Result<Vec<Vec<String>>, sqlx::Error> {
        let options = SqliteConnectOptions::new().filename(self.file());
        let mut connection = options.connect().await?;
        let rows = sqlx::raw_sql(text.into_sql_str()).fetch_all(&mut connection).await?;
        let text = |row: &SqliteRow, column| {
            row.try_get_unchecked::<String, _>(column).unwrap_or_default()
        };
        let cells = |row: &SqliteRow| (0..row.len()).map(|column| text(row, column)).collect();
        Ok(rows.iter().map(cells).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is below the build's folder, and goes with it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

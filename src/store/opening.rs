//! Which store a URL names: the one place where a backend is chosen.

use std::sync::Arc;

use super::{Checked, Fault, MacKey, Store, StoreError, postgres, sqlite};

/// What opening does about a schema that is not up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Brings it up to date.
    BringUpToDate,
    /// Refuses it: somebody else brings it up to date, by [`migrate`]. A file is always brought up to date.
    LeaveAsItIs,
}

/// Opens the store that a URL names (`sqlite://PATH`, `postgres://…`) and brings its schema up to date. A file is
/// locked, so that no other process uses it.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    open_with(url, Schema::BringUpToDate).await
}

/// Opens the store that a URL names, its schema up to date.
pub async fn open_with(url: &str, schema: Schema) -> Result<Arc<dyn Store>, StoreError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => Ok(Arc::new(sqlite::SqliteStore::open(path).await?)),
        Some(("postgres" | "postgresql", _)) => {
            Ok(Arc::new(postgres::PostgresStore::open(url, schema).await?))
        }
        _ => Err(unknown_scheme()),
    }
}

/// Whether a URL is one that a store can be opened by, as far as can be seen without opening it. Nothing that could
/// be a password is repeated.
pub fn check(url: &str) -> Result<(), StoreError> {
    match url.split_once("://") {
        Some(("sqlite", _)) => Ok(()),
        Some(("postgres" | "postgresql", _)) => postgres::check(url),
        _ => Err(unknown_scheme()),
    }
}

/// Brings the schema of the store that a URL names up to date; no more is done when it is.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => {
            sqlite::SqliteStore::open(path).await?.close().await;
            Ok(())
        }
        Some(("postgres" | "postgresql", _)) => postgres::migrate(url).await,
        _ => Err(unknown_scheme()),
    }
}

/// Gives the store that a URL names another key for what nodes keep elsewhere. What the one of now authenticated
/// counts until it is called again. Nodes learn of it by their next read.
pub async fn new_mac_key(url: &str, key: &MacKey) -> Result<(), StoreError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => sqlite::new_mac_key(path, key).await,
        Some(("postgres" | "postgresql", _)) => postgres::new_mac_key(url, key).await,
        _ => Err(unknown_scheme()),
    }
}

/// Checks that audit trail, feed and records of the store that a URL names agree, and tells each fault. The
/// store may be in use; it is only read, as one snapshot, and nothing of it is changed.
pub async fn verify(url: &str, mut tell: impl FnMut(Fault) + Send) -> Result<Checked, StoreError> {
    match url.split_once("://") {
        Some(("sqlite", path)) => sqlite::verify::verify(path.as_ref(), &mut tell).await,
        Some(("postgres" | "postgresql", _)) => postgres::verify::verify(url, &mut tell).await,
        _ => Err(unknown_scheme()),
    }
}

/// The URL is not repeated: whatever it is, a password may stand in it.
fn unknown_scheme() -> StoreError {
    StoreError::Unusable(
        "store.url must be `sqlite://PATH`, as in `sqlite://latchkey.db`, or \
         `postgres://USER:PASSWORD@HOST/DATABASE`"
            .into(),
    )
}

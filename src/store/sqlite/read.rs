//! The reader's read in SQLite: one transaction, on one connection that is used for nothing else.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::Executor as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failure::failed;
use super::rows::{Query, no_feed, read_policy};
use crate::policy::Policy;
use crate::revision::Position;
use crate::store::reading::{self, Snapshot};
use crate::store::row::json;
use crate::store::sql::{Columns as _, position, select_accounts, select_changes, select_keys};
use crate::store::{MacKeys, ReadAsk, ReadBatch, StoreError};
use crate::token::Digest;

/// Brings what is asked for, in one transaction. After an error the connection is in an unknown state.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    ask: &ReadAsk,
) -> Result<ReadBatch, StoreError> {
    // Its first statement takes the snapshot, and all that follow see the same one.
    connection.execute("BEGIN DEFERRED").await.map_err(failed)?;
    let batch = reading::read(&mut Reading { connection }, ask).await?;
    connection.execute("COMMIT").await.map_err(failed)?;
    Ok(batch)
}

struct Reading<'a> {
    connection: &'a mut SqliteConnection,
}

impl Reading<'_> {
    async fn all(&mut self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&mut *self.connection).await.map_err(failed)
    }

    async fn one(&mut self, query: Query<'_>) -> Result<Option<SqliteRow>, StoreError> {
        query.fetch_optional(&mut *self.connection).await.map_err(failed)
    }
}

#[async_trait]
impl Snapshot for Reading<'_> {
    type Row = SqliteRow;

    async fn head(&mut self) -> Result<(Position, MacKeys), StoreError> {
        let query = sqlx::query("SELECT epoch, n, tag, mac_key, mac_key_before FROM feed");
        let row = self.one(query).await?.ok_or_else(no_feed)?;
        Ok((position(&row, 0)?, MacKeys::read(&row, 3)?))
    }

    async fn tag_at(&mut self, n: u64) -> Result<Option<u64>, StoreError> {
        let query = sqlx::query("SELECT tag FROM changes WHERE n = ?1").bind(n.cast_signed());
        self.one(query).await?.map(|row| Ok(row.number(0)?.cast_unsigned())).transpose()
    }

    async fn changes(&mut self, after: u64, most: u64) -> Result<Vec<SqliteRow>, StoreError> {
        let query = sqlx::query(select_changes!("WHERE n > ?1 ORDER BY n LIMIT ?2"));
        self.all(query.bind(after.cast_signed()).bind(most.cast_signed())).await
    }

    async fn policy(&mut self) -> Result<Option<Policy>, StoreError> {
        Ok(read_policy(&mut *self.connection).await?.map(|(policy, _)| policy))
    }

    async fn keys(&mut self, ids: &BTreeSet<String>) -> Result<Vec<SqliteRow>, StoreError> {
        let query = sqlx::query(select_keys!("WHERE id IN (SELECT value FROM json_each(?1))"));
        self.all(query.bind(json(ids))).await
    }

    async fn wanted(&mut self, digests: &[Digest]) -> Result<Vec<SqliteRow>, StoreError> {
        let digests: Vec<_> = digests.iter().map(|digest| hex(digest.as_bytes())).collect();
        let query =
            sqlx::query(select_keys!("WHERE digest IN (SELECT unhex(value) FROM json_each(?1))"));
        self.all(query.bind(json(&digests))).await
    }

    async fn page(&mut self, after: Option<&str>, most: u64) -> Result<Vec<SqliteRow>, StoreError> {
        let query = match after {
            None => sqlx::query(select_keys!("ORDER BY id LIMIT ?1")),
            Some(_) => sqlx::query(select_keys!("WHERE id > ?2 ORDER BY id LIMIT ?1")),
        };
        let query = query.bind(most.cast_signed());
        self.all(after.into_iter().fold(query, Query::bind)).await
    }

    async fn digests(
        &mut self,
        after: Option<&str>,
        most: u64,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let query = sqlx::query(match after {
            None => "SELECT id, digest FROM keys ORDER BY id LIMIT ?1",
            Some(_) => "SELECT id, digest FROM keys WHERE id > ?2 ORDER BY id LIMIT ?1",
        });
        let query = query.bind(most.cast_signed());
        self.all(after.into_iter().fold(query, Query::bind)).await
    }

    async fn accounts(&mut self, ids: &BTreeSet<String>) -> Result<Vec<SqliteRow>, StoreError> {
        let query = sqlx::query(select_accounts!("WHERE id IN (SELECT value FROM json_each(?1))"));
        self.all(query.bind(json(ids))).await
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

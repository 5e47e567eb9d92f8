//! The reader's read in PostgreSQL: one transaction of REPEATABLE READ, whose first statement takes the snapshot
//! that all of it sees.
//!
//! One statement would see one snapshot too, but would have to bring changes, keys, accounts and the policy in one
//! form, and to be planned as one. When nothing has changed and nobody waits, this comes to two messages,
//! the one that renews the lease included.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::link::{Link, Query, ReaderLink};
use super::nodes;
use super::open::newer;
use super::rows::{no_feed, read_policy};
use crate::policy::Policy;
use crate::revision::Position;
use crate::store::reading::{self, Snapshot};
use crate::store::sql::{Columns as _, position, select_accounts, select_changes, select_keys};
use crate::store::{MacKeys, ReadAsk, ReadBatch, StoreError};
use crate::token::Digest;

/// Brings what is asked for. A reader that gives up drops this, and the connection with it.
pub(super) async fn read(reader: &ReaderLink, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
    let sql = |is_new| begin(ask, ask.must_renew || is_new);
    let (mut link, is_new, row) = reader.begin(sql).await?;
    if row.flag(4)? {
        return Err(StoreError::Unavailable(
            "this server is a standby, and may be behind: store.url has to name the primary".into(),
        ));
    }
    if let Some(why) = newer(&row, LEAST_COLUMN)? {
        return Err(StoreError::Outgrown(why));
    }
    let mut reading = Reading {
        link: &mut link,
        head: Some((position(&row, 0)?, MacKeys::read(&row, 5)?)),
        tag: row.maybe_number(3)?.map(i64::cast_unsigned),
    };
    let mut batch = reading::read(&mut reading, ask).await?;
    batch.is_renewed = ask.node.is_some() && (ask.must_renew || is_new);
    reader.end(link).await?;
    Ok(batch)
}

/// From which column on the head says what must be known.
const LEAST_COLUMN: usize = 7;

/// How long a statement may take where nobody said when the read is given up.
const TIME_MAX: Duration = Duration::from_secs(15);

/// Writes the node's row and commits it, where it has to be; then begins the transaction, with the head, what stands at
/// a number, and whether this is a standby: there a read would be of the past. All in one message, so that a pooler
/// cannot send the row to one server and the read to another. The server gives up for itself what the reader has long
/// given up.
fn begin(ask: &ReadAsk, renews: bool) -> String {
    let after = ask.after.map_or(0, |position| position.n);
    let renewal = ask.node.as_ref().filter(|_| renews).map(nodes::renewal).unwrap_or_default();
    let time_max = if ask.time_max.is_zero() { TIME_MAX } else { ask.time_max }.as_millis();
    format!(
        "{renewal}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {time_max}; \
         SET LOCAL lock_timeout = {time_max}; SET LOCAL idle_in_transaction_session_timeout = '15s'; \
         SELECT epoch, n, tag, (SELECT tag FROM changes WHERE changes.n = {after}), pg_is_in_recovery(), \
         mac_key, mac_key_before, least_format, least_schema FROM feed"
    )
}

struct Reading<'a> {
    link: &'a mut Link,
    /// Until it is asked for.
    head: Option<(Position, MacKeys)>,
    /// The tag at the number that was asked after.
    tag: Option<u64>,
}

#[async_trait]
impl Snapshot for Reading<'_> {
    type Row = PgRow;

    async fn head(&mut self) -> Result<(Position, MacKeys), StoreError> {
        self.head.take().ok_or_else(no_feed)
    }

    async fn tag_at(&mut self, _n: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.tag)
    }

    async fn changes(&mut self, after: u64, most: u64) -> Result<Vec<PgRow>, StoreError> {
        let query = sqlx::query(select_changes!("WHERE n > $1 ORDER BY n LIMIT $2"));
        self.link.all(query.bind(after.cast_signed()).bind(most.cast_signed())).await
    }

    async fn policy(&mut self) -> Result<Option<Policy>, StoreError> {
        Ok(read_policy(self.link).await?.map(|(policy, _)| policy))
    }

    async fn keys(&mut self, ids: &BTreeSet<String>) -> Result<Vec<PgRow>, StoreError> {
        let ids: Vec<_> = ids.iter().cloned().collect();
        self.link.all(sqlx::query(select_keys!("WHERE id = ANY($1)")).bind(ids)).await
    }

    async fn wanted(&mut self, digests: &[Digest]) -> Result<Vec<PgRow>, StoreError> {
        let digests: Vec<_> = digests.iter().map(|digest| digest.as_bytes().to_vec()).collect();
        self.link.all(sqlx::query(select_keys!("WHERE digest = ANY($1)")).bind(digests)).await
    }

    async fn page(&mut self, after: Option<&str>, most: u64) -> Result<Vec<PgRow>, StoreError> {
        let query = match after {
            None => sqlx::query(select_keys!("ORDER BY id LIMIT $1")),
            Some(_) => sqlx::query(select_keys!("WHERE id > $2 ORDER BY id LIMIT $1")),
        };
        let query = query.bind(most.cast_signed());
        self.link.all(after.into_iter().fold(query, Query::bind)).await
    }

    async fn digests(&mut self, after: Option<&str>, most: u64) -> Result<Vec<PgRow>, StoreError> {
        let query = sqlx::query(match after {
            None => "SELECT id, digest FROM keys ORDER BY id LIMIT $1",
            Some(_) => "SELECT id, digest FROM keys WHERE id > $2 ORDER BY id LIMIT $1",
        });
        let query = query.bind(most.cast_signed());
        self.link.all(after.into_iter().fold(query, Query::bind)).await
    }

    async fn accounts(&mut self, ids: &BTreeSet<String>) -> Result<Vec<PgRow>, StoreError> {
        let ids: Vec<_> = ids.iter().cloned().collect();
        self.link
            .all(sqlx::query(select_accounts!("WHERE id = ANY($1) ORDER BY id")).bind(ids))
            .await
    }
}

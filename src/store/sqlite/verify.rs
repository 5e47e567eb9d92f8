//! Verification of a file, beside a server that uses it or without one: opened for reading alone, past the
//! lock, as one snapshot.
//!
//! Costs: one pass over all changes by number and one over all entries by record, in memory that does not
//! grow with them. While it goes on, the server's log cannot be cut back, and so grows with what is written.

use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Executor as _};

use super::failure::{failed, unusable};
use super::open;
use super::rows::{get, no_feed};
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::door::forgotten_before;
use crate::store::sql::{Columns as _, account_row, key_row, select_accounts, select_keys};
use crate::store::verify::rows::{
    feed_row, head_row, page, policy_standing, request_row, step_row, trail_row,
};
use crate::store::verify::{Checked, History, SchemaRow, Standing, Tell, Verifier};

/// How many records are held at once while their entries are gone through.
const PAGE: u32 = 500;
/// After every id.
const PAST_ALL: &str = "\u{10ffff}";

/// A kind of record: which there are, and the entries about them, both after one id and up to another.
struct Table {
    name: &'static str,
    records: &'static str,
    entries: &'static str,
    read: fn(&SqliteRow) -> Result<Standing, StoreError>,
}

const KEYS: Table = Table {
    name: "key",
    records: select_keys!("WHERE id > ?1 ORDER BY id LIMIT ?2"),
    entries: "SELECT key_id, audit.n, tag, audit.at, account_id, change, digest FROM audit \
              LEFT JOIN changes ON changes.n = audit.n \
              WHERE key_id > ?1 AND key_id <= ?2 ORDER BY key_id, audit.n",
    read: |row| Ok(key_row(row)?.into_record()?.into()),
};

const ACCOUNTS: Table = Table {
    name: "account",
    records: select_accounts!("WHERE id > ?1 ORDER BY id LIMIT ?2"),
    entries: "SELECT account_id, audit.n, tag, audit.at, NULL, change, NULL FROM audit \
              LEFT JOIN changes ON changes.n = audit.n \
              WHERE account_id > ?1 AND account_id <= ?2 AND key_id IS NULL ORDER BY account_id, audit.n",
    read: |row| Ok(account_row(row)?.into_record()?.into()),
};

const POLICY_ENTRIES: &str = "SELECT '', audit.n, tag, audit.at, NULL, change, NULL FROM audit \
     LEFT JOIN changes ON changes.n = audit.n \
     WHERE account_id IS NULL AND key_id IS NULL ORDER BY audit.n";

const FEED: &str = "SELECT changes.n, changes.tag, kind, subject, changes.at, audit.at, actor, action, audit.account_id, \
     audit.key_id, change, peer, request_id, actors.account_id, actors.revoke_time, \
     (SELECT min(made.n) FROM audit AS made WHERE made.key_id = actors.id) \
     FROM changes LEFT JOIN audit ON audit.n = changes.n \
     LEFT JOIN keys AS actors ON actors.id = substr(actor, 5) AND actor GLOB 'key:*' ORDER BY changes.n";

const ENTRIES_WITHOUT_CHANGE: &str =
    "SELECT n FROM audit WHERE NOT EXISTS (SELECT 1 FROM changes WHERE changes.n = audit.n)";

/// Requests that were made since an instant; the door has forgotten earlier ones.
const FORGOTTEN_REQUESTS: &str = "SELECT action, request_id, at FROM audit WHERE at >= ?1 AND request_id IS NOT NULL \
     AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.at = audit.at AND rpc = action \
     AND requests.request_id = audit.request_id AND made_account_id = audit.account_id)";

const REQUESTS_WITHOUT_ENTRY: &str = "SELECT rpc, request_id, at FROM requests \
     WHERE NOT EXISTS (SELECT 1 FROM audit WHERE audit.at = requests.at AND action = rpc \
     AND audit.request_id = requests.request_id AND audit.account_id = made_account_id \
     AND audit.key_id IS made_key_id)";

/// The parts of the schema that are latchkey's own.
const SCHEMA: &str = "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema \
     WHERE name NOT GLOB 'sqlite_*' AND name <> '_sqlx_migrations' ORDER BY type, name";

/// Verifies the database of this path, and tells each fault.
pub(in crate::store) async fn verify(path: &Path, tell: Tell<'_>) -> Result<Checked, StoreError> {
    let mut connection = open::open_to_read(path).await?;
    let pass = Pass { connection: &mut connection, verifier: Verifier::new(tell), head_at: 0 };
    let checked = pass.run().await;
    let closed = connection.close().await;
    let checked = checked?;
    closed.map_err(|error| unusable(path, &error))?;
    Ok(checked)
}

struct Pass<'a> {
    connection: &'a mut SqliteConnection,
    verifier: Verifier<'a>,
    /// The time of the last change.
    head_at: i64,
}

impl Pass<'_> {
    async fn run(mut self) -> Result<Checked, StoreError> {
        // The first statement takes the snapshot, and all that follow see the same one.
        self.connection.execute("BEGIN DEFERRED").await.map_err(failed)?;
        self.feed().await?;
        self.verifier.checked.keys = self.records(&KEYS).await?;
        self.verifier.checked.accounts = self.records(&ACCOUNTS).await?;
        self.verifier.checked.policies = self.policy().await?;
        self.requests().await?;
        self.schema().await?;
        self.connection.execute("COMMIT").await.map_err(failed)?;
        Ok(self.verifier.checked)
    }

    async fn feed(&mut self) -> Result<(), StoreError> {
        let head = sqlx::query("SELECT epoch, n, tag, at, seeded FROM feed")
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(failed)?
            .ok_or_else(no_feed)?;
        let head = head_row(&head)?;
        self.verifier.head(&head);
        let mut rows = sqlx::query(FEED).fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.change(feed_row(&row)?, trail_row(&row)?.as_ref());
        }
        drop(rows);
        self.verifier.end_of_feed(&head);
        let mut rows = sqlx::query(ENTRIES_WITHOUT_CHANGE).fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.entry_without_change(get(&row, 0)?);
        }
        self.head_at = head.at;
        Ok(())
    }

    /// All records of a kind, page by page, and between them the entries about records that are not there.
    async fn records(&mut self, table: &Table) -> Result<u64, StoreError> {
        let mut count = 0;
        let mut after = String::new();
        loop {
            let rows = sqlx::query(table.records)
                .bind(&after)
                .bind(PAGE)
                .fetch_all(&mut *self.connection)
                .await
                .map_err(failed)?;
            let mut page = Vec::with_capacity(rows.len());
            for row in &rows {
                page.push((get::<String>(row, 0)?, (table.read)(row)));
            }
            count += page.len() as u64;
            let last =
                page.last().map(|(id, _)| id.clone()).filter(|_| page.len() == PAGE as usize);
            let up_to = last.clone().unwrap_or_else(|| PAST_ALL.to_owned());
            self.entries(table, &after, &up_to, page).await?;
            match last {
                Some(last) => after = last,
                None => return Ok(count),
            }
        }
    }

    /// The records of a page, in order, with the entries about them.
    async fn entries(
        &mut self,
        table: &Table,
        after: &str,
        up_to: &str,
        records: Vec<(String, Result<Standing, StoreError>)>,
    ) -> Result<(), StoreError> {
        let entries =
            sqlx::query(table.entries).bind(after).bind(up_to).fetch(&mut *self.connection).map(
                |row| {
                    let row = row.map_err(failed)?;
                    Ok((row.text(0)?, step_row(&row)?))
                },
            );
        page(&mut self.verifier, table.name, records, entries).await
    }

    async fn policy(&mut self) -> Result<u64, StoreError> {
        let mut history = History::of("policy".to_owned());
        let mut is_told = false;
        let mut rows = sqlx::query(POLICY_ENTRIES).fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            history.step(step_row(&row)?);
            is_told = true;
        }
        drop(rows);
        let row = sqlx::query("SELECT epoch, n, tag, format, document, version, at FROM policy")
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(failed)?;
        // A store that was not seeded has neither.
        if row.is_some() || is_told {
            self.verifier.record(history, row.as_ref().map(policy_standing));
        }
        Ok(u64::from(row.is_some()))
    }

    /// Those that the door still remembers, against the trail.
    async fn requests(&mut self) -> Result<(), StoreError> {
        let since = forgotten_before(Timestamp::from_micros(self.head_at)).micros();
        let mut rows = sqlx::query(FORGOTTEN_REQUESTS).bind(since).fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.forgotten_request(&request_row(&row)?);
        }
        drop(rows);
        let mut rows = sqlx::query(REQUESTS_WITHOUT_ENTRY).fetch(&mut *self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.request_without_entry(&request_row(&row)?);
        }
        Ok(())
    }

    async fn schema(&mut self) -> Result<(), StoreError> {
        let found = schema_of(self.connection).await?;
        let mut released = open::released(self.connection).await?;
        let released = schema_of(&mut released).await?;
        self.verifier.schema(&released, &found);
        Ok(())
    }
}

async fn schema_of(connection: &mut SqliteConnection) -> Result<Vec<SchemaRow>, StoreError> {
    let rows = sqlx::query(SCHEMA).fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(|row| Ok(SchemaRow { name: get(row, 0)?, sql: get(row, 1)? })).collect()
}

//! The pass of a verification over one snapshot, for all databases alike.
//!
//! Costs: one pass over all changes by number and one over all entries by record, in memory that does not
//! grow with them.

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::rows::{feed_row, head_row, page, policy_standing, request_row, step_row, trail_row};
use super::{History, Standing, Verifier};
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::database::{Database, Statement};
use crate::store::door::forgotten_before;
use crate::store::row::no_feed;
use crate::store::sql::{Columns, account_row, key_row, select_accounts, select_keys};

/// How many records are held at once while their entries are gone through.
const PAGE: u32 = 500;
/// After every id.
const PAST_ALL: &str = "\u{10ffff}";

/// A kind of record: which there are, and the entries about them, both after one id and up to another.
struct Table<R> {
    name: &'static str,
    records: &'static str,
    entries: &'static str,
    read: fn(&R) -> Result<Standing, StoreError>,
}

impl<R: Columns> Table<R> {
    const KEYS: Self = Self {
        name: "key",
        records: select_keys!("WHERE id > $1 ORDER BY id LIMIT $2"),
        entries: "SELECT key_id, audit.n, tag, audit.at, account_id, change, digest FROM audit \
                  LEFT JOIN changes ON changes.n = audit.n \
                  WHERE key_id > $1 AND key_id <= $2 ORDER BY key_id, audit.n",
        read: |row| Ok(key_row(row)?.into_record()?.into()),
    };

    const ACCOUNTS: Self = Self {
        name: "account",
        records: select_accounts!("WHERE id > $1 ORDER BY id LIMIT $2"),
        entries: "SELECT account_id, audit.n, tag, audit.at, CAST(NULL AS TEXT), change, CAST(NULL AS BYTEA) FROM audit \
                  LEFT JOIN changes ON changes.n = audit.n \
                  WHERE account_id > $1 AND account_id <= $2 AND key_id IS NULL ORDER BY account_id, audit.n",
        read: |row| Ok(account_row(row)?.into_record()?.into()),
    };
}

const POLICY_ENTRIES: &str = "SELECT '', audit.n, tag, audit.at, CAST(NULL AS TEXT), change, CAST(NULL AS BYTEA) FROM audit \
     LEFT JOIN changes ON changes.n = audit.n \
     WHERE account_id IS NULL AND key_id IS NULL ORDER BY audit.n";

const FEED: &str = "SELECT changes.n, changes.tag, kind, subject, changes.at, audit.at, actor, action, audit.account_id, \
     audit.key_id, change, peer, request_id, actors.account_id, actors.revoke_time, \
     (SELECT min(made.n) FROM audit AS made WHERE made.key_id = actors.id) \
     FROM changes LEFT JOIN audit ON audit.n = changes.n \
     LEFT JOIN keys AS actors ON actors.id = substr(actor, 5) AND actor LIKE 'key:%' ORDER BY changes.n";

const ENTRIES_WITHOUT_CHANGE: &str =
    "SELECT n FROM audit WHERE NOT EXISTS (SELECT 1 FROM changes WHERE changes.n = audit.n)";

/// Requests that were made since an instant; the door has forgotten earlier ones.
const FORGOTTEN_REQUESTS: &str = "SELECT action, request_id, at FROM audit WHERE at >= $1 AND request_id IS NOT NULL \
     AND NOT EXISTS (SELECT 1 FROM requests WHERE requests.at = audit.at AND rpc = action \
     AND requests.request_id = audit.request_id AND made_account_id = audit.account_id)";

const REQUESTS_WITHOUT_ENTRY: &str = "SELECT rpc, request_id, at FROM requests \
     WHERE NOT EXISTS (SELECT 1 FROM audit WHERE audit.at = requests.at AND action = rpc \
     AND audit.request_id = requests.request_id AND audit.account_id = made_account_id \
     AND audit.key_id IS NOT DISTINCT FROM made_key_id)";

/// Goes through a snapshot that was taken: the feed with the trail, then each record with its entries.
pub(in crate::store) async fn run<D: Database>(
    database: &mut D,
    verifier: &mut Verifier<'_>,
) -> Result<(), StoreError> {
    let mut pass = Pass { database, verifier };
    let head_at = pass.feed().await?;
    pass.verifier.checked.keys = pass.records(&Table::KEYS).await?;
    pass.verifier.checked.accounts = pass.records(&Table::ACCOUNTS).await?;
    pass.verifier.checked.policies = pass.policy().await?;
    pass.requests(head_at).await
}

struct Pass<'a, 'b, D> {
    database: &'a mut D,
    verifier: &'a mut Verifier<'b>,
}

impl<D: Database> Pass<'_, '_, D> {
    /// Gives the time of the last change.
    async fn feed(&mut self) -> Result<Timestamp, StoreError> {
        let head = Statement::new("SELECT epoch, n, tag, at, seeded FROM feed");
        let head = head_row(&self.database.one(head).await?.ok_or_else(no_feed)?)?;
        self.verifier.head(&head);
        let mut rows = self.database.rows(Statement::new(FEED));
        while let Some(row) = rows.try_next().await? {
            self.verifier.change(feed_row(&row)?, trail_row(&row)?.as_ref());
        }
        drop(rows);
        self.verifier.end_of_feed(&head);
        let mut rows = self.database.rows(Statement::new(ENTRIES_WITHOUT_CHANGE));
        while let Some(row) = rows.try_next().await? {
            self.verifier.entry_without_change(row.number(0)?);
        }
        Ok(Timestamp::from_micros(head.at))
    }

    /// All records of a kind, page by page, and between them the entries about records that are not there.
    async fn records(&mut self, table: &Table<D::Row>) -> Result<u64, StoreError> {
        let mut count = 0;
        let mut after = String::new();
        loop {
            let records = Statement::new(table.records).bind(after.as_str()).bind(i64::from(PAGE));
            let rows = self.database.all(records).await?;
            let mut page = Vec::with_capacity(rows.len());
            for row in &rows {
                page.push((row.text(0)?, (table.read)(row)));
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
        table: &Table<D::Row>,
        after: &str,
        up_to: &str,
        records: Vec<(String, Result<Standing, StoreError>)>,
    ) -> Result<(), StoreError> {
        let entries = self.database.rows(Statement::new(table.entries).bind(after).bind(up_to));
        let entries = entries.map(|row| {
            let row = row?;
            Ok((row.text(0)?, step_row(&row)?))
        });
        page(self.verifier, table.name, records, entries).await
    }

    async fn policy(&mut self) -> Result<u64, StoreError> {
        let mut history = History::of("policy".to_owned());
        let mut is_told = false;
        let mut rows = self.database.rows(Statement::new(POLICY_ENTRIES));
        while let Some(row) = rows.try_next().await? {
            history.step(step_row(&row)?);
            is_told = true;
        }
        drop(rows);
        let row = "SELECT epoch, n, tag, format, document, version, at FROM policy";
        let row = self.database.one(Statement::new(row)).await?;
        // A store that was not seeded has neither.
        if row.is_some() || is_told {
            self.verifier.record(history, row.as_ref().map(policy_standing));
        }
        Ok(u64::from(row.is_some()))
    }

    /// Those that the door still remembers, against the trail.
    async fn requests(&mut self, head_at: Timestamp) -> Result<(), StoreError> {
        let since = forgotten_before(head_at).micros();
        let mut rows = self.database.rows(Statement::new(FORGOTTEN_REQUESTS).bind(since));
        while let Some(row) = rows.try_next().await? {
            self.verifier.forgotten_request(&request_row(&row)?);
        }
        drop(rows);
        let mut rows = self.database.rows(Statement::new(REQUESTS_WITHOUT_ENTRY));
        while let Some(row) = rows.try_next().await? {
            self.verifier.request_without_entry(&request_row(&row)?);
        }
        Ok(())
    }
}

//! Verification of a database, beside the servers that use it: one snapshot, which is only read.
//!
//! Costs: one pass over all changes by number and one over all entries by record, in memory that does not
//! grow with them. While it goes on, nothing that was replaced since can be cleared away by VACUUM.

use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::PgRow;

use super::failure::failed;
use super::link::Link;
use super::open;
use super::rows::no_feed;
use super::settings::Settings;
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::door::forgotten_before;
use crate::store::sql::{Columns as _, account_row, key_row, select_accounts, select_keys};
use crate::store::verify::rows::{
    feed_row, head_row, page, policy_standing, request_row, step_row, trail_row,
};
use crate::store::verify::{Checked, History, SchemaRow, Standing, Tell, Verifier};

/// How many records are held at once while their entries are gone through.
const PAGE: i64 = 500;
/// After every id.
const PAST_ALL: &str = "\u{10ffff}";

/// A kind of record: which there are, and the entries about them, both after one id and up to another.
struct Table {
    name: &'static str,
    records: &'static str,
    entries: &'static str,
    read: fn(&PgRow) -> Result<Standing, StoreError>,
}

const KEYS: Table = Table {
    name: "key",
    records: select_keys!("WHERE id > $1 ORDER BY id LIMIT $2"),
    entries: "SELECT key_id, audit.n, tag, audit.at, account_id, change, digest FROM audit \
              LEFT JOIN changes ON changes.n = audit.n \
              WHERE key_id > $1 AND key_id <= $2 ORDER BY key_id, audit.n",
    read: |row| Ok(key_row(row)?.into_record()?.into()),
};

const ACCOUNTS: Table = Table {
    name: "account",
    records: select_accounts!("WHERE id > $1 ORDER BY id LIMIT $2"),
    entries: "SELECT account_id, audit.n, tag, audit.at, NULL::text, change, NULL::bytea FROM audit \
              LEFT JOIN changes ON changes.n = audit.n \
              WHERE account_id > $1 AND account_id <= $2 AND key_id IS NULL ORDER BY account_id, audit.n",
    read: |row| Ok(account_row(row)?.into_record()?.into()),
};

const POLICY_ENTRIES: &str = "SELECT '', audit.n, tag, audit.at, NULL::text, change, NULL::bytea FROM audit \
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

/// The parts of the schema of one namespace that are latchkey's own: its tables with their columns, and what hangs
/// on them. What PostgreSQL tells of them names the namespace, which is cut off.
const SCHEMA: &str = "WITH space AS (SELECT oid, quote_ident(nspname) || '.' AS dot FROM pg_namespace WHERE nspname = $1), \
     own AS (SELECT c.oid, c.relname FROM pg_class AS c, space WHERE c.relnamespace = space.oid AND c.relkind = 'r' \
         AND c.relname = ANY($2)) \
     SELECT 'table ' || relname, (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), \
         attnotnull, (SELECT collname FROM pg_collation WHERE oid = attcollation)), ', ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = own.oid AND attnum > 0 AND NOT attisdropped) FROM own \
     UNION ALL SELECT 'constraint ' || relname || ' ' || conname, replace(pg_get_constraintdef(o.oid), dot, '') \
         FROM pg_constraint AS o JOIN own ON conrelid = own.oid, space WHERE contype <> 'n' \
     UNION ALL SELECT 'index ' || i.relname, replace(pg_get_indexdef(i.oid), dot, '') \
         FROM pg_index JOIN own ON indrelid = own.oid JOIN pg_class AS i ON i.oid = indexrelid, space \
     UNION ALL SELECT 'trigger ' || tgname, concat_ws(' ', tgenabled, replace(pg_get_triggerdef(t.oid), dot, '')) \
         FROM pg_trigger AS t JOIN own ON tgrelid = own.oid, space WHERE NOT tgisinternal \
     UNION ALL SELECT 'rule ' || rulename, replace(pg_get_ruledef(r.oid), dot, '') \
         FROM pg_rewrite AS r JOIN own ON ev_class = own.oid, space \
     UNION ALL SELECT 'function ' || proname, prosrc FROM pg_proc, space \
         WHERE pronamespace = space.oid AND proname LIKE 'latchkey%' \
     ORDER BY 1";

const TABLES: [&str; 7] = ["accounts", "keys", "policy", "audit", "requests", "changes", "feed"];

/// A snapshot; what it brings may take long.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
     SET LOCAL idle_in_transaction_session_timeout = 0";

/// The namespace in which the schema is made as it was released, to be compared with. The transaction that makes it
/// is rolled back.
const RELEASED: &str = "latchkey_as_released";

/// Verifies the database of this URL, and tells each fault.
pub(in crate::store) async fn verify(url: &str, tell: Tell<'_>) -> Result<Checked, StoreError> {
    let settings = Settings::parse(url)?;
    let mut link = open::open_to_read(&settings).await?;
    let pass = Pass { link: &mut link, verifier: Verifier::new(tell), head_at: 0 };
    let checked = pass.run().await?;
    link.close().await;
    Ok(checked)
}

struct Pass<'a> {
    link: &'a mut Link,
    verifier: Verifier<'a>,
    /// The time of the last change.
    head_at: i64,
}

impl Pass<'_> {
    async fn run(mut self) -> Result<Checked, StoreError> {
        // The first statement takes the snapshot, and all that follow see the same one.
        self.command(BEGIN.to_owned()).await?;
        self.feed().await?;
        self.verifier.checked.keys = self.records(&KEYS).await?;
        self.verifier.checked.accounts = self.records(&ACCOUNTS).await?;
        self.verifier.checked.policies = self.policy().await?;
        self.requests().await?;
        self.schema().await?;
        Ok(self.verifier.checked)
    }

    async fn command(&mut self, sql: String) -> Result<Option<PgRow>, StoreError> {
        self.link.command(sql).await.map_err(failed)
    }

    async fn feed(&mut self) -> Result<(), StoreError> {
        let head = sqlx::query("SELECT epoch, n, tag, at, seeded FROM feed");
        let head = self.link.one(head).await?.ok_or_else(no_feed)?;
        let head = head_row(&head)?;
        self.verifier.head(&head);
        let mut rows = self.link.rows(sqlx::query(FEED));
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.change(feed_row(&row)?, trail_row(&row)?.as_ref());
        }
        drop(rows);
        self.verifier.end_of_feed(&head);
        let mut rows = self.link.rows(sqlx::query(ENTRIES_WITHOUT_CHANGE));
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.entry_without_change(row.number(0)?);
        }
        self.head_at = head.at;
        Ok(())
    }

    /// All records of a kind, page by page, and between them the entries about records that are not there.
    async fn records(&mut self, table: &Table) -> Result<u64, StoreError> {
        let mut count = 0;
        let mut after = String::new();
        loop {
            let records = sqlx::query(table.records).bind(&after).bind(PAGE);
            let rows = self.link.all(records).await?;
            let mut page = Vec::with_capacity(rows.len());
            for row in &rows {
                page.push((row.text(0)?, (table.read)(row)));
            }
            count += page.len() as u64;
            let is_full = rows.len() as u64 == PAGE.cast_unsigned();
            let last = page.last().map(|(id, _)| id.clone()).filter(|_| is_full);
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
        let entries = sqlx::query(table.entries).bind(after).bind(up_to);
        let entries = self.link.rows(entries).map(|row| {
            let row = row.map_err(failed)?;
            Ok((row.text(0)?, step_row(&row)?))
        });
        page(&mut self.verifier, table.name, records, entries).await
    }

    async fn policy(&mut self) -> Result<u64, StoreError> {
        let mut history = History::of("policy".to_owned());
        let mut is_told = false;
        let mut rows = self.link.rows(sqlx::query(POLICY_ENTRIES));
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            history.step(step_row(&row)?);
            is_told = true;
        }
        drop(rows);
        let row = sqlx::query("SELECT epoch, n, tag, format, document, version, at FROM policy");
        let row = self.link.one(row).await?;
        // A store that was not seeded has neither.
        if row.is_some() || is_told {
            self.verifier.record(history, row.as_ref().map(policy_standing));
        }
        Ok(u64::from(row.is_some()))
    }

    /// Those that the door still remembers, against the trail.
    async fn requests(&mut self) -> Result<(), StoreError> {
        let since = forgotten_before(Timestamp::from_micros(self.head_at)).micros();
        let mut rows = self.link.rows(sqlx::query(FORGOTTEN_REQUESTS).bind(since));
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.forgotten_request(&request_row(&row)?);
        }
        drop(rows);
        let mut rows = self.link.rows(sqlx::query(REQUESTS_WITHOUT_ENTRY));
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            self.verifier.request_without_entry(&request_row(&row)?);
        }
        Ok(())
    }

    /// Compares the schema with that of the same version as it was released, which the same server is asked to make.
    async fn schema(&mut self) -> Result<(), StoreError> {
        let space =
            self.command("SELECT current_schema()::text".to_owned()).await?.ok_or_else(no_feed)?;
        let found = self.schema_of(&space.text(0)?).await?;
        let version = self.command("SELECT max(version) FROM _sqlx_migrations".to_owned()).await?;
        let version = version.ok_or_else(no_feed)?.number(0)?;
        self.command(format!(
            "COMMIT; BEGIN READ WRITE; CREATE SCHEMA {RELEASED}; SET LOCAL search_path = {RELEASED}"
        ))
        .await?;
        for (_, _, sql) in open::MIGRATIONS.iter().filter(|(step, ..)| *step <= version) {
            self.command((*sql).to_owned()).await?;
        }
        let released = self.schema_of(RELEASED).await?;
        self.command("ROLLBACK".to_owned()).await?;
        self.verifier.schema(&released, &found);
        Ok(())
    }

    async fn schema_of(&mut self, space: &str) -> Result<Vec<SchemaRow>, StoreError> {
        let tables: Vec<_> = TABLES.map(str::to_owned).into();
        let rows = self.link.all(sqlx::query(SCHEMA).bind(space).bind(tables)).await?;
        rows.iter().map(|row| Ok(SchemaRow { name: row.text(0)?, sql: row.text(1)? })).collect()
    }
}

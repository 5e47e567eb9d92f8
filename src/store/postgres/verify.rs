//! Verification of a database, beside the servers that use it: one snapshot, which is only read. While it goes on,
//! nothing that was replaced since can be cleared away by VACUUM.

use sqlx::postgres::PgRow;

use super::link::Link;
use super::open;
use super::settings::Settings;
use crate::store::StoreError;
use crate::store::database::{Database as _, Statement, failed};
use crate::store::row::no_feed;
use crate::store::sql::Columns as _;
use crate::store::verify::{Checked, SchemaRow, Tell, Verifier, pass, schema_row};

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
    let mut verifier = Verifier::new(tell);
    // The first statement takes the snapshot, and all that follow see the same one.
    link.command(BEGIN.to_owned()).await.map_err(failed)?;
    pass::run(&mut link, &mut verifier).await?;
    let space = one(&mut link, "SELECT current_schema()::text").await?.text(0)?;
    let found = schema_of(&mut link, &space).await?;
    let released = released(&mut link).await?;
    verifier.schema(&released, &found);
    link.close().await;
    Ok(verifier.checked)
}

/// The schema of the same version as it was released, which the same server is asked to make.
async fn released(link: &mut Link) -> Result<Vec<SchemaRow>, StoreError> {
    let version = one(link, "SELECT max(version) FROM _sqlx_migrations").await?.number(0)?;
    let make = format!(
        "COMMIT; BEGIN READ WRITE; CREATE SCHEMA {RELEASED}; SET LOCAL search_path = {RELEASED}"
    );
    link.command(make).await.map_err(failed)?;
    for (_, _, sql) in open::MIGRATIONS.iter().filter(|(step, ..)| *step <= version) {
        link.command((*sql).to_owned()).await.map_err(failed)?;
    }
    let released = schema_of(link, RELEASED).await?;
    link.command("ROLLBACK".to_owned()).await.map_err(failed)?;
    Ok(released)
}

async fn schema_of(link: &mut Link, space: &str) -> Result<Vec<SchemaRow>, StoreError> {
    let tables: Vec<_> = TABLES.map(str::to_owned).into();
    let rows = link.all(Statement::new(SCHEMA).bind(space).bind(tables)).await?;
    rows.iter().map(schema_row).collect()
}

async fn one(link: &mut Link, sql: &str) -> Result<PgRow, StoreError> {
    link.command(sql.to_owned()).await.map_err(failed)?.ok_or_else(no_feed)
}

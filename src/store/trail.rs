//! The audit trail: its pages, the latest entry first.
//!
//! As with all lists, there is a query for each condition that one may be led by, each with an index of
//! its own. A span of time is a span of numbers, since times never go back along the changes.

use futures_util::TryStreamExt as _;

use super::database::{Database, Each, Statement};
use super::sql::{entry_row, select_entries};
use super::{AUDIT_PAGE_BYTES, AuditPage, AuditQuery, StoreError};
use crate::account::AccountId;
use crate::audit::Kind;
use crate::clock::Timestamp;

/// The number of the first entry at an instant or later; NULL when there is none.
macro_rules! first_at {
    ($instant:literal) => {
        concat!("(SELECT n FROM audit WHERE at >= ", $instant, " ORDER BY at, n LIMIT 1)")
    };
}

/// What is led by one condition; the others are looked at row by row. Of two bounds on the numbers
/// SQLite would use one alone, so the lesser is taken.
macro_rules! led_by {
    ($lead:literal) => {
        select_entries!(
            "WHERE ",
            $lead,
            " AND n < CASE WHEN ",
            first_at!("$3"),
            " < $1 THEN ",
            first_at!("$3"),
            " ELSE $1 END AND n >= coalesce(",
            first_at!("$2"),
            ", $1)",
            " AND ($4 IS NULL OR account_id = $4 OR account_id IS NULL)",
            " AND ($5 IS NULL OR account_id = $5)",
            " AND ($6 IS NULL OR key_id = $6)",
            " AND ($7 IS NULL OR actor = $7)",
            " AND ($8 IS NULL OR $8 = CASE WHEN key_id IS NOT NULL THEN 'key'",
            " WHEN account_id IS NOT NULL THEN 'account' ELSE 'policy' END)"
        )
    };
}

macro_rules! latest_first {
    ($($list:expr),+) => {
        concat!($($list),+, " ORDER BY n DESC LIMIT $9")
    };
}

const OF_KEY: &str = latest_first!(led_by!("key_id = $6"));
const OF_ACCOUNT_ITSELF: &str = latest_first!(led_by!("account_id = $5 AND key_id IS NULL"));
const OF_ACCOUNT: &str = latest_first!(led_by!("account_id = $5"));
const OF_POLICY: &str = latest_first!(led_by!("account_id IS NULL AND key_id IS NULL"));
const IN_REACH: Each = Each {
    // Two lists, each as long as the page at most, which are put in order together.
    postgres: latest_first!(
        "(",
        latest_first!(led_by!("account_id = $4")),
        ") UNION ALL (",
        latest_first!(led_by!("account_id IS NULL AND key_id IS NULL")),
        ")"
    ),
    // Two lists, each in order, which SQLite merges.
    sqlite: latest_first!(
        led_by!("account_id = $4"),
        " UNION ALL ",
        led_by!("account_id IS NULL AND key_id IS NULL")
    ),
};
const OF_ACTOR: &str = latest_first!(led_by!("actor = $7"));
const OF_ALL: &str = latest_first!(led_by!("TRUE"));

/// The query by what it is led best.
fn lead<D: Database>(query: &AuditQuery) -> &'static str {
    match query {
        AuditQuery { key: Some(_), .. } => OF_KEY,
        AuditQuery { account: Some(_), kind: Some(Kind::Account), .. } => OF_ACCOUNT_ITSELF,
        AuditQuery { account: Some(_), .. } => OF_ACCOUNT,
        AuditQuery { kind: Some(Kind::Policy), .. } => OF_POLICY,
        AuditQuery { reach: Some(_), .. } => D::own(IN_REACH),
        AuditQuery { actor: Some(_), .. } => OF_ACTOR,
        AuditQuery { .. } => OF_ALL,
    }
}

/// A page of entries. What is read beyond it is thrown away with the rest of the answer.
pub(super) async fn page<D: Database>(
    database: &mut D,
    query: &AuditQuery,
) -> Result<AuditPage, StoreError> {
    let AuditQuery { reach, account, key, kind, actor, start, end, before, limit } = query;
    let statement = Statement::new(lead::<D>(query))
        .bind(before.map_or(i64::MAX, u64::cast_signed))
        .bind(start.map_or(i64::MIN, Timestamp::micros))
        .bind(end.map_or(i64::MAX, Timestamp::micros))
        .bind(reach.as_ref().map(AccountId::as_str))
        .bind(account.as_ref().map(AccountId::as_str))
        .bind(key.map(|key| key.to_string()))
        .bind(actor.as_ref().map(ToString::to_string))
        .bind(kind.map(Kind::as_str))
        .bind(i64::from(*limit) + 1);
    let mut rows = database.rows(statement);
    let mut page = AuditPage { entries: Vec::new(), has_more: false };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let row = entry_row(&row)?;
        bytes += row.change.len();
        let is_full = page.entries.len() >= *limit as usize || bytes > AUDIT_PAGE_BYTES;
        if is_full && !page.entries.is_empty() {
            page.has_more = true;
            break;
        }
        page.entries.push(row.into_entry()?);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteConnection;
    use sqlx::{Connection as _, Row as _};

    use super::*;

    const SCHEMA: [&str; 2] = [
        include_str!("migrations/sqlite/0001_init.sql"),
        include_str!("migrations/sqlite/0002_audit.sql"),
    ];

    #[tokio::test]
    async fn each_list_is_led_by_an_index_and_sorts_nothing() {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for sql in SCHEMA {
            sqlx::raw_sql(sql).execute(&mut database).await.unwrap();
        }
        for (list, index) in [
            (OF_KEY, "audit_by_key (key_id=? AND n>? AND n<?)"),
            (OF_ACCOUNT_ITSELF, "audit_of_accounts (account_id=? AND n>? AND n<?)"),
            (OF_ACCOUNT, "audit_by_account (account_id=? AND n>? AND n<?)"),
            (OF_POLICY, "audit_of_accounts (account_id=? AND n>? AND n<?)"),
            (IN_REACH.sqlite, "audit_by_account (account_id=? AND n>? AND n<?)"),
            (OF_ACTOR, "audit_by_actor (actor=? AND n>? AND n<?)"),
            (OF_ALL, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ] {
            let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {list}"));
            let plan = sqlx::query(sql).fetch_all(&mut database).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let looks = |step: &String| {
                step.contains("audit") && !step.contains("COVERING INDEX audit_by_time")
            };
            assert!(plan.iter().any(|step| step.contains(index)), "{index}: {plan:#?}");
            assert!(
                plan.iter().filter(|step| looks(step)).all(|step| step.contains("SEARCH")),
                "{plan:#?}"
            );
            assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{plan:#?}");
        }
    }
}

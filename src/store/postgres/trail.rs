//! The audit trail: its pages, the latest entry first.
//!
//! As with all lists, there is a query for each condition that one may be led by, each with an index of
//! its own. A span of time is a span of numbers, since times never go back along the changes.

use futures_util::TryStreamExt as _;

use super::failure::failed;
use super::link::Link;
use crate::account::AccountId;
use crate::audit::Kind;
use crate::clock::Timestamp;
use crate::store::sql::{entry_row, select_entries};
use crate::store::{AUDIT_PAGE_BYTES, AuditPage, AuditQuery, StoreError};

/// What is led by one condition; the others are looked at row by row.
macro_rules! led_by {
    ($lead:literal) => {
        select_entries!(
            "WHERE ",
            $lead,
            " AND n < least($1, coalesce((SELECT n FROM audit WHERE at >= $3 ORDER BY at, n LIMIT 1), $1))",
            " AND n >= coalesce((SELECT n FROM audit WHERE at >= $2 ORDER BY at, n LIMIT 1), $1)",
            " AND ($4 IS NULL OR account_id = $4 OR account_id IS NULL)",
            " AND ($5 IS NULL OR account_id = $5)",
            " AND ($6 IS NULL OR key_id = $6)",
            " AND ($7 IS NULL OR actor = $7)",
            " AND ($8 IS NULL OR $8 = CASE WHEN key_id IS NOT NULL THEN 'key'",
            " WHEN account_id IS NOT NULL THEN 'account' ELSE 'policy' END)",
            " ORDER BY n DESC LIMIT $9"
        )
    };
}

const OF_KEY: &str = led_by!("key_id = $6");
const OF_ACCOUNT_ITSELF: &str = led_by!("account_id = $5 AND key_id IS NULL");
const OF_ACCOUNT: &str = led_by!("account_id = $5");
const OF_POLICY: &str = led_by!("account_id IS NULL AND key_id IS NULL");
/// Two lists, each as long as the page at most, which are put in order together.
const IN_REACH: &str = concat!(
    "(",
    led_by!("account_id = $4"),
    ") UNION ALL (",
    led_by!("account_id IS NULL AND key_id IS NULL"),
    ") ORDER BY n DESC LIMIT $9"
);
const OF_ACTOR: &str = led_by!("actor = $7");
const OF_ALL: &str = led_by!("TRUE");

/// The query by what it is led best.
const fn lead(query: &AuditQuery) -> &'static str {
    match query {
        AuditQuery { key: Some(_), .. } => OF_KEY,
        AuditQuery { account: Some(_), kind: Some(Kind::Account), .. } => OF_ACCOUNT_ITSELF,
        AuditQuery { account: Some(_), .. } => OF_ACCOUNT,
        AuditQuery { kind: Some(Kind::Policy), .. } => OF_POLICY,
        AuditQuery { reach: Some(_), .. } => IN_REACH,
        AuditQuery { actor: Some(_), .. } => OF_ACTOR,
        AuditQuery { .. } => OF_ALL,
    }
}

/// A page of entries. What is read beyond it is thrown away with the rest of the answer.
pub(super) async fn page(link: &mut Link, query: &AuditQuery) -> Result<AuditPage, StoreError> {
    let AuditQuery { reach, account, key, kind, actor, start, end, before, limit } = query;
    let query = sqlx::query(lead(query))
        .bind(before.map_or(i64::MAX, u64::cast_signed))
        .bind(start.map_or(i64::MIN, Timestamp::micros))
        .bind(end.map_or(i64::MAX, Timestamp::micros))
        .bind(reach.as_ref().map(AccountId::as_str))
        .bind(account.as_ref().map(AccountId::as_str))
        .bind(key.map(|key| key.to_string()))
        .bind(actor.as_ref().map(ToString::to_string))
        .bind(kind.map(Kind::as_str))
        .bind(i64::from(*limit) + 1);
    let mut rows = link.rows(query);
    let mut page = AuditPage { entries: Vec::new(), has_more: false };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await.map_err(failed)? {
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

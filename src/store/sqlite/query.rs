//! Look-ups for administration.
//!
//! Each list has a query of its own for what it is led by, because SQLite plans once: a condition that
//! may be left out cannot use an index.

use sqlx::Row as _;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::failure::failed;
use super::rows::{counted, get, no_feed};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord, KeyState};
use crate::store::row::json;
use crate::store::sql::{account_row, bounded, key_row, select_keys};
use crate::store::{AccountQuery, Change, KeyQuery, StoreError, reading};
use crate::token::{Digest, Environment};

/// A list of keys that is led by one condition; the others are looked at row by row. The state is told
/// in the order of `KeyRecord::state`.
macro_rules! list_keys {
    ($lead:literal) => {
        select_keys!(
            "WHERE ",
            $lead,
            " AND id > ?1",
            " AND (?2 IS NULL OR account_id = ?2)",
            " AND (?3 IS NULL OR created_by = ?3)",
            " AND (?4 IS NULL OR hint = ?4)",
            " AND (?5 IS NULL OR environment = ?5)",
            " AND (?6 IS NULL OR CASE",
            " WHEN revoke_time IS NOT NULL THEN 'revoked'",
            " WHEN disabled = 1 THEN 'disabled'",
            " WHEN expire_time <= ?7 THEN 'expired'",
            " ELSE 'active' END IN (SELECT value FROM json_each(?6)))",
            " ORDER BY id LIMIT ?8"
        )
    };
}

/// An account with the keys that count at `?2` as its last column.
macro_rules! select_counted {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, format, version, epoch, n, tag, display_name, plan, suspended, suspend_reason, ",
            "labels, create_time, update_time, ", counted!("accounts.id", "'data'"), " FROM accounts ",
            $($rest),+
        )
    };
}

/// A list of accounts that is led by one condition.
macro_rules! list_accounts {
    ($lead:literal) => {
        select_counted!(
            "WHERE ",
            $lead,
            " AND id > ?1",
            " AND (?3 IS NULL OR id = ?3)",
            " AND (?4 IS NULL OR plan = ?4)",
            " ORDER BY id LIMIT ?5"
        )
    };
}

pub(super) async fn changed(
    pool: &SqlitePool,
    after: u64,
    most: u32,
) -> Result<Vec<Change>, StoreError> {
    let query = sqlx::query(concat!(
        "SELECT changes.n, changes.tag, ",
        bounded!("kind"),
        ", ",
        bounded!("subject"),
        ", ",
        bounded!("digest"),
        ", epoch FROM changes, feed WHERE changes.n > ?1 ORDER BY changes.n DESC LIMIT ?2"
    ));
    let query = query.bind(after.cast_signed()).bind(i64::from(most));
    let rows = query.fetch_all(pool).await.map_err(failed)?;
    Ok(reading::changed(&rows))
}

pub(super) async fn key(pool: &SqlitePool, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
    let query = sqlx::query(select_keys!("WHERE id = ?1")).bind(id.to_string());
    let row = query.fetch_optional(pool).await.map_err(failed)?;
    row.map(|row| key_row(&row)?.into_record()).transpose()
}

pub(super) async fn key_by_digest(
    pool: &SqlitePool,
    digest: &Digest,
) -> Result<Option<KeyRecord>, StoreError> {
    let query = sqlx::query(select_keys!("WHERE digest = ?1")).bind(digest.as_bytes().to_vec());
    let row = query.fetch_optional(pool).await.map_err(failed)?;
    row.map(|row| key_row(&row)?.into_record()).transpose()
}

pub(super) async fn list_keys(
    pool: &SqlitePool,
    query: &KeyQuery,
) -> Result<Vec<KeyRecord>, StoreError> {
    let KeyQuery { account, created_by, environment, hint, states, now, after, limit } = query;
    let sql = if hint.is_some() {
        list_keys!("hint = ?4")
    } else if created_by.is_some() {
        list_keys!("created_by = ?3")
    } else if account.is_some() {
        list_keys!("account_id = ?2")
    } else {
        list_keys!("TRUE")
    };
    let states: Vec<_> = states.iter().map(|state| word(*state)).collect();
    sqlx::query(sql)
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(account.as_ref().map(AccountId::as_str))
        .bind(created_by.as_ref())
        .bind(hint.as_ref())
        .bind(environment.map(Environment::as_str))
        .bind((!states.is_empty()).then(|| json(&states)))
        .bind(now.micros())
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| key_row(row)?.into_record())
        .collect()
}

pub(super) async fn account(
    pool: &SqlitePool,
    id: &AccountId,
    now: Timestamp,
) -> Result<Option<(Account, u32)>, StoreError> {
    let sql = select_counted!("WHERE id = ?1");
    let query = sqlx::query(sql).bind(id.as_str()).bind(now.micros());
    query.fetch_optional(pool).await.map_err(failed)?.as_ref().map(counted_account).transpose()
}

pub(super) async fn list_accounts(
    pool: &SqlitePool,
    query: &AccountQuery,
) -> Result<Vec<(Account, u32)>, StoreError> {
    let AccountQuery { only, plan, now, after, limit } = query;
    let sql = if only.is_some() {
        list_accounts!("id = ?3")
    } else if plan.is_some() {
        list_accounts!("plan = ?4")
    } else {
        list_accounts!("TRUE")
    };
    sqlx::query(sql)
        .bind(after.as_ref().map(AccountId::as_str).unwrap_or_default())
        .bind(now.micros())
        .bind(only.as_ref().map(AccountId::as_str))
        .bind(plan.as_ref())
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(failed)?
        .iter()
        .map(counted_account)
        .collect()
}

pub(super) async fn kept_time(pool: &SqlitePool) -> Result<Timestamp, StoreError> {
    let query = sqlx::query("SELECT max(at, kept_time) FROM feed");
    let row = query.fetch_optional(pool).await.map_err(failed)?.ok_or_else(no_feed)?;
    row.try_get(0).map(Timestamp::from_micros).map_err(failed)
}

fn counted_account(row: &SqliteRow) -> Result<(Account, u32), StoreError> {
    Ok((account_row(row)?.into_record()?, get(row, 13)?))
}

const fn word(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Disabled => "disabled",
        KeyState::Expired => "expired",
        KeyState::Revoked => "revoked",
    }
}

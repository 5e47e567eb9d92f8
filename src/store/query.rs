//! Look-ups, for administration and of single rows, for all databases alike.
//!
//! Each list has a query of its own for what it is led by, because SQLite plans once: a condition that may be left out
//! cannot use an index.

use super::database::{Database, Statement};
use super::row::{no_feed, policy as read_policy};
use super::sql::{
    Columns, SELECT_POLICY, account_row, count, counted, key_row, position, select_changes,
    select_keys,
};
use super::{AccountQuery, Change, KeyQuery, StoreError, reading};
use crate::account::{Account, AccountId};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord, KeyState};
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::{Digest, Environment};

/// A list of keys that is led by one condition; the others are looked at row by row. Which states are asked for is told
/// in the order of `KeyRecord::state`.
macro_rules! list_keys {
    ($lead:literal) => {
        select_keys!(
            "WHERE ",
            $lead,
            " AND id > $1",
            " AND ($2 IS NULL OR account_id = $2)",
            " AND ($3 IS NULL OR created_by = $3)",
            " AND ($4 IS NULL OR hint = $4)",
            " AND ($5 IS NULL OR environment = $5)",
            " AND CASE WHEN revoke_time IS NOT NULL THEN $6",
            " WHEN disabled THEN $7",
            " WHEN expire_time <= $10 THEN $8",
            " ELSE $9 END",
            " ORDER BY id LIMIT $11"
        )
    };
}

/// An account with the keys that count at `$2` as its last column.
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
            " AND id > $1",
            " AND ($3 IS NULL OR id = $3)",
            " AND ($4 IS NULL OR plan = $4)",
            " ORDER BY id LIMIT $5"
        )
    };
}

pub(super) async fn changed<D: Database>(
    database: &mut D,
    after: u64,
    most: u32,
) -> Result<Vec<Change>, StoreError> {
    let sql = select_changes!(
        ", epoch FROM changes, feed WHERE changes.n > $1 ORDER BY changes.n DESC LIMIT $2"
    );
    let statement = Statement::new(sql).bind(after.cast_signed()).bind(i64::from(most));
    Ok(reading::changed(&database.all(statement).await?))
}

pub(super) async fn key<D: Database>(
    database: &mut D,
    id: KeyId,
) -> Result<Option<KeyRecord>, StoreError> {
    let statement = Statement::new(select_keys!("WHERE id = $1")).bind(id.to_string());
    database.one(statement).await?.map(|row| key_row(&row)?.into_record()).transpose()
}

pub(super) async fn key_by_digest<D: Database>(
    database: &mut D,
    digest: &Digest,
) -> Result<Option<KeyRecord>, StoreError> {
    let sql = select_keys!("WHERE digest = $1");
    let statement = Statement::new(sql).bind(digest.as_bytes().to_vec());
    database.one(statement).await?.map(|row| key_row(&row)?.into_record()).transpose()
}

pub(super) async fn list_keys<D: Database>(
    database: &mut D,
    query: &KeyQuery,
) -> Result<Vec<KeyRecord>, StoreError> {
    let KeyQuery { account, created_by, environment, hint, states, now, after, limit } = query;
    let sql = if hint.is_some() {
        list_keys!("hint = $4")
    } else if created_by.is_some() {
        list_keys!("created_by = $3")
    } else if account.is_some() {
        list_keys!("account_id = $2")
    } else {
        list_keys!("TRUE")
    };
    let is_asked_for = |state| states.is_empty() || states.contains(&state);
    let statement = Statement::new(sql)
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(account.as_ref().map(AccountId::as_str))
        .bind(created_by.as_deref())
        .bind(hint.as_deref())
        .bind(environment.map(Environment::as_str))
        .bind(is_asked_for(KeyState::Revoked))
        .bind(is_asked_for(KeyState::Disabled))
        .bind(is_asked_for(KeyState::Expired))
        .bind(is_asked_for(KeyState::Active))
        .bind(now.micros())
        .bind(i64::from(*limit));
    database.all(statement).await?.iter().map(|row| key_row(row)?.into_record()).collect()
}

pub(super) async fn account<D: Database>(
    database: &mut D,
    id: &AccountId,
    now: Timestamp,
) -> Result<Option<(Account, u32)>, StoreError> {
    let sql = select_counted!("WHERE id = $1");
    let statement = Statement::new(sql).bind(id.as_str()).bind(now.micros());
    database.one(statement).await?.as_ref().map(counted_account).transpose()
}

pub(super) async fn list_accounts<D: Database>(
    database: &mut D,
    query: &AccountQuery,
) -> Result<Vec<(Account, u32)>, StoreError> {
    let AccountQuery { only, plan, now, after, limit } = query;
    let sql = if only.is_some() {
        list_accounts!("id = $3")
    } else if plan.is_some() {
        list_accounts!("plan = $4")
    } else {
        list_accounts!("TRUE")
    };
    let statement = Statement::new(sql)
        .bind(after.as_ref().map(AccountId::as_str).unwrap_or_default())
        .bind(now.micros())
        .bind(only.as_ref().map(AccountId::as_str))
        .bind(plan.as_deref())
        .bind(i64::from(*limit));
    database.all(statement).await?.iter().map(counted_account).collect()
}

/// The policy and its revision; `None` before the store was seeded.
pub(super) async fn policy<D: Database>(
    database: &mut D,
) -> Result<Option<(Policy, Position)>, StoreError> {
    let Some(row) = database.one(Statement::new(SELECT_POLICY)).await? else { return Ok(None) };
    Ok(Some((read_policy(row.number(3)?, &row.text(4)?)?, position(&row, 0)?)))
}

/// The policy of a store that was seeded.
pub(super) async fn seeded_policy<D: Database>(
    database: &mut D,
) -> Result<(Policy, Position), StoreError> {
    policy(database)
        .await?
        .ok_or_else(|| StoreError::Unusable("the store is empty: it has to be seeded first".into()))
}

pub(super) async fn kept_time<D: Database>(database: &mut D) -> Result<Timestamp, StoreError> {
    let sql = "SELECT CASE WHEN at > kept_time THEN at ELSE kept_time END FROM feed";
    let row = database.one(Statement::new(sql)).await?;
    row.ok_or_else(no_feed)?.number(0).map(Timestamp::from_micros)
}

fn counted_account(row: &impl Columns) -> Result<(Account, u32), StoreError> {
    Ok((account_row(row)?.into_record()?, count(row, 13)?))
}

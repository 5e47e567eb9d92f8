//! What both databases are asked for in the same words, and how their rows are read.

use sqlx::{ColumnIndex, Decode, Row, Type};

use super::StoreError;
use super::database::failed;
use super::row::{AccountRow, EntryRow, KeyRow, Named, PositionRow};
use crate::revision::Position;

/// A column of text, or of bytes, that counts as missing when it is far longer than anything that was written to it: of a
/// row that makes no sense no more is brought than of others.
macro_rules! bounded {
    ($column:literal) => {
        concat!("CASE WHEN octet_length(", $column, ") <= 65536 THEN ", $column, " END")
    };
}
pub(super) use bounded;

/// A `SELECT` of keys; its columns are those that [`key_row`] reads, in that order.
macro_rules! select_keys {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, format, version, epoch, n, tag, ",
            $crate::store::sql::bounded!("account_id"), ", ",
            $crate::store::sql::bounded!("display_name"), ", ",
            $crate::store::sql::bounded!("environment"), ", ",
            $crate::store::sql::bounded!("class"), ", ",
            $crate::store::sql::bounded!("scopes"), ", ",
            $crate::store::sql::bounded!("grantable_scopes"), ", ",
            $crate::store::sql::bounded!("digest"), ", ",
            $crate::store::sql::bounded!("digest_algorithm"), ", ",
            $crate::store::sql::bounded!("hint"), ", create_time, update_time, expire_time, revoke_time, ",
            $crate::store::sql::bounded!("revoke_reason"), ", ",
            $crate::store::sql::bounded!("revoke_comment"), ", disabled, ",
            $crate::store::sql::bounded!("allowed_cidrs"), ", ",
            $crate::store::sql::bounded!("labels"), ", rotated_from, rotated_to, ",
            $crate::store::sql::bounded!("created_by"), " FROM keys ",
            $($rest),+
        )
    };
}
pub(super) use select_keys;

/// A `SELECT` of changes: `n, tag, kind, subject, digest`, and what else the rest names.
macro_rules! select_changes {
    ($rest:literal) => {
        concat!(
            "SELECT changes.n, changes.tag, ",
            $crate::store::sql::bounded!("kind"),
            ", ",
            $crate::store::sql::bounded!("subject"),
            ", ",
            $crate::store::sql::bounded!("digest"),
            $rest
        )
    };
}
pub(super) use select_changes;

/// A `SELECT` of accounts; its columns are those that [`account_row`] reads, in that order.
macro_rules! select_accounts {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, format, version, epoch, n, tag, ",
            $crate::store::sql::bounded!("display_name"), ", ",
            $crate::store::sql::bounded!("plan"), ", suspended, ",
            $crate::store::sql::bounded!("suspend_reason"), ", ",
            $crate::store::sql::bounded!("labels"), ", create_time, update_time FROM accounts ",
            $($rest),+
        )
    };
}
pub(super) use select_accounts;

/// A `SELECT` of entries; its columns are those that [`entry_row`] reads, in that order.
macro_rules! select_entries {
    ($($rest:expr),+) => {
        concat!(
            "SELECT (SELECT epoch FROM feed), n, ",
            "(SELECT tag FROM changes WHERE changes.n = audit.n), at, actor, action, account_id, ",
            "key_id, change, peer, request_id FROM audit ",
            $($rest),+
        )
    };
}
pub(super) use select_entries;

/// What counts against a limit at `$2`, after the account and the class. A predecessor in overlap is not counted as long
/// as its successor counts in its place.
macro_rules! counted {
    ($account:literal, $class:literal) => {
        concat!(
            "(SELECT count(*) FROM keys WHERE account_id = ",
            $account,
            " AND class = ",
            $class,
            " AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $2)",
            " AND (rotated_to IS NULL OR NOT EXISTS (SELECT 1 FROM keys AS heir",
            " WHERE heir.id = keys.rotated_to AND heir.class = keys.class",
            " AND heir.revoke_time IS NULL AND (heir.expire_time IS NULL OR heir.expire_time > $2))))"
        )
    };
}
pub(super) use counted;

/// The policy's row; what no policy can be counts as missing, as in [`bounded`].
pub(super) const SELECT_POLICY: &str = "SELECT epoch, n, tag, format, \
     CASE WHEN octet_length(document) <= 16777216 THEN document END FROM policy";

/// The columns of a row, by their places.
pub(super) trait Columns {
    fn number(&self, column: usize) -> Result<i64, StoreError>;
    fn maybe_number(&self, column: usize) -> Result<Option<i64>, StoreError>;
    fn text(&self, column: usize) -> Result<String, StoreError>;
    fn maybe_text(&self, column: usize) -> Result<Option<String>, StoreError>;
    fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError>;
    fn maybe_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError>;
    fn flag(&self, column: usize) -> Result<bool, StoreError>;
}

impl<R> Columns for R
where
    R: Row,
    usize: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn number(&self, column: usize) -> Result<i64, StoreError> {
        need(get(self, column)?, column)
    }

    fn maybe_number(&self, column: usize) -> Result<Option<i64>, StoreError> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<String, StoreError> {
        need(get(self, column)?, column)
    }

    fn maybe_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        get(self, column)
    }

    fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError> {
        need(get(self, column)?, column)
    }

    fn maybe_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError> {
        get(self, column)
    }

    fn flag(&self, column: usize) -> Result<bool, StoreError> {
        need(get(self, column)?, column)
    }
}

fn get<'r, R, T>(row: &'r R, column: usize) -> Result<T, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get(column).map_err(failed)
}

/// A column that must not be NULL. Not each database says so: to SQLite's driver that is zero, or empty, or false.
fn need<T>(value: Option<T>, column: usize) -> Result<T, StoreError> {
    let missing = || StoreError::Corrupt {
        table: "?",
        row: "?".into(),
        what: format!("column {column} is missing"),
    };
    value.ok_or_else(missing)
}

/// A count, which is of 64 bits.
pub(super) fn count(row: &impl Columns, column: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.number(column)?).unwrap_or(u32::MAX))
}

/// The position in three columns from this one on.
pub(super) fn position(row: &impl Columns, column: usize) -> Result<Position, StoreError> {
    position_row(row, column).map(Position::from)
}

fn position_row(row: &impl Columns, column: usize) -> Result<PositionRow, StoreError> {
    Ok(PositionRow {
        epoch: row.number(column)?,
        n: row.number(column + 1)?,
        tag: row.number(column + 2)?,
    })
}

/// Where the digest stands in what [`select_keys`] selects.
pub(super) const DIGEST_COLUMN: usize = 12;

/// A row of [`select_keys`].
pub(super) fn key_row(row: &impl Columns) -> Result<KeyRow, StoreError> {
    read_key(row).map_err(|error| Named::of_key(&row.text(0).unwrap_or_default()).locate(error))
}

/// A row of [`select_accounts`]; more columns may follow.
pub(super) fn account_row(row: &impl Columns) -> Result<AccountRow, StoreError> {
    read_account(row)
        .map_err(|error| Named::of_account(&row.text(0).unwrap_or_default()).locate(error))
}

fn read_key(row: &impl Columns) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        id: row.text(0)?,
        format: row.number(1)?,
        version: row.number(2)?,
        revision: position_row(row, 3)?,
        account_id: row.text(6)?,
        display_name: row.text(7)?,
        environment: row.text(8)?,
        class: row.text(9)?,
        scopes: row.text(10)?,
        grantable_scopes: row.text(11)?,
        digest: row.bytes(DIGEST_COLUMN)?,
        digest_algorithm: row.text(13)?,
        hint: row.text(14)?,
        create_time: row.number(15)?,
        update_time: row.number(16)?,
        expire_time: row.maybe_number(17)?,
        revoke_time: row.maybe_number(18)?,
        revoke_reason: row.maybe_text(19)?,
        revoke_comment: row.maybe_text(20)?,
        disabled: row.flag(21)?,
        allowed_cidrs: row.text(22)?,
        labels: row.text(23)?,
        rotated_from: row.maybe_text(24)?,
        rotated_to: row.maybe_text(25)?,
        created_by: row.text(26)?,
    })
}

fn read_account(row: &impl Columns) -> Result<AccountRow, StoreError> {
    Ok(AccountRow {
        id: row.text(0)?,
        format: row.number(1)?,
        version: row.number(2)?,
        revision: position_row(row, 3)?,
        display_name: row.text(6)?,
        plan: row.text(7)?,
        suspended: row.flag(8)?,
        suspend_reason: row.text(9)?,
        labels: row.text(10)?,
        create_time: row.number(11)?,
        update_time: row.number(12)?,
    })
}

/// A row of [`select_entries`].
pub(super) fn entry_row(row: &impl Columns) -> Result<EntryRow, StoreError> {
    Ok(EntryRow {
        epoch: row.number(0)?,
        n: row.number(1)?,
        tag: row.maybe_number(2)?,
        at: row.number(3)?,
        actor: row.text(4)?,
        action: row.text(5)?,
        account_id: row.maybe_text(6)?,
        key_id: row.maybe_text(7)?,
        change: row.text(8)?,
        peer: row.text(9)?,
        request_id: row.maybe_text(10)?,
    })
}

//! What SQLite's errors say; see [`failed`](crate::store::database::failed) for what they become.

use std::path::Path;

use crate::store::StoreError;

/// SQLite's primary result codes that are told apart here.
const SQLITE_BUSY: i64 = 5;
const SQLITE_READONLY: i64 = 8;
const SQLITE_IOERR: i64 = 10;
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_FULL: i64 = 13;
const SQLITE_CANTOPEN: i64 = 14;
const SQLITE_NOTADB: i64 = 26;

/// Whether the operating system failed to write or sync, after which what is on the disk is anyone's
/// guess. A full disk is not that: it refuses before the commit's last page is written.
pub(super) fn is_io_error(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_IOERR)
}

/// The database cannot be opened: what to say of it.
pub(super) fn unusable(path: &Path, error: &sqlx::Error) -> StoreError {
    let remedy = match primary_code(error) {
        Some(SQLITE_NOTADB) => "it is not an SQLite database; name another file, or move it away",
        Some(SQLITE_CORRUPT) => DAMAGED,
        Some(SQLITE_BUSY) => "another program has it open; end that program",
        Some(SQLITE_READONLY) => "it cannot be written; give this user the right to write the file",
        Some(SQLITE_CANTOPEN) => {
            "it cannot be opened; give this user the right to write the file and its folder"
        }
        Some(SQLITE_FULL) => "the disk is full; make room and start again",
        Some(SQLITE_IOERR) => "the disk does not read or write; see the system's log",
        Some(_) | None => "see the cause",
    };
    StoreError::Unusable(format!("the database `{}`: {remedy} ({error})", path.display()))
}

/// What to do about a damaged file.
pub(super) const DAMAGED: &str = "it is damaged; move it away and put a backup in its place (latchkey repairs nothing by guessing)";

fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

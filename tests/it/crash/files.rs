//! The files of a store whose process is gone, as the `sqlite3` tool reads them. It reads a copy: what
//! it finds must still have to be recovered by the program itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use latchkey::revision::Position;
use latchkey::store;
use serde::Deserialize;

use super::ledger::Key;
use crate::support::Folder;

/// What must be 0 or `ok`, and what it says when it is not.
const CHECKS: [(&str, &str); 9] = [
    ("PRAGMA integrity_check", "the file is damaged"),
    ("SELECT count(*) FROM pragma_foreign_key_check", "a reference leads nowhere"),
    ("SELECT count(*) <> ifnull(max(n), 0) OR min(n) <> 1 FROM changes", "the changes have a gap"),
    (
        "SELECT count(*) <> 1 FROM feed JOIN changes USING (n, tag) WHERE n = (SELECT max(n) FROM changes)",
        "the head is not the last change",
    ),
    (
        "SELECT count(*) FROM changes LEFT JOIN audit USING (n) WHERE audit.at IS NOT changes.at",
        "a change has no audit row",
    ),
    (
        "SELECT count(*) FROM audit LEFT JOIN changes USING (n) WHERE changes.at IS NULL",
        "an audit row has no change",
    ),
    (
        "SELECT count(*) FROM keys LEFT JOIN (SELECT subject, max(n) AS n FROM changes GROUP BY subject) AS last ON last.subject = id LEFT JOIN changes ON changes.n = last.n WHERE keys.n IS NOT last.n OR keys.tag IS NOT changes.tag OR keys.update_time IS NOT changes.at",
        "a key is not as its last change made it",
    ),
    (
        "SELECT count(*) FROM (SELECT request_id FROM audit WHERE request_id IS NOT NULL EXCEPT SELECT request_id FROM requests)",
        "a request was carried out and is not remembered",
    ),
    (
        "SELECT count(*) FROM (SELECT request_id FROM requests EXCEPT SELECT request_id FROM audit)",
        "a request is remembered and was not carried out",
    ),
];

const KEYS: &str = "SELECT id, account_id, display_name, disabled, revoke_time, expire_time, \
                    rotated_from, rotated_to, epoch, n, tag FROM keys";

/// The records of a store.
pub(super) struct Files {
    pub(super) keys: BTreeMap<String, Key>,
    /// Which accounts are suspended.
    pub(super) accounts: BTreeMap<String, bool>,
}

#[derive(Deserialize)]
struct KeyRow {
    id: String,
    account_id: String,
    display_name: String,
    disabled: i64,
    revoke_time: Option<i64>,
    expire_time: Option<i64>,
    rotated_from: Option<String>,
    rotated_to: Option<String>,
    epoch: i64,
    n: i64,
    tag: i64,
}

#[derive(Deserialize)]
struct AccountRow {
    id: String,
    suspended: i64,
}

impl Files {
    /// Reads the store in this folder and demands that it is whole; what is not, otherwise.
    pub(super) async fn of(folder: &Path) -> Result<Self, String> {
        let copy = Folder::new();
        for name in ["latchkey.db", "latchkey.db-wal"] {
            if folder.join(name).exists() {
                std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
            }
        }
        let database = copy.path().join("latchkey.db");
        let queries: Vec<_> = CHECKS.iter().map(|(query, _)| *query).collect();
        let found = sqlite3(&database, &["-batch"], &queries.join(";\n"))?;
        let found: Vec<_> = found.lines().collect();
        if found.len() != CHECKS.len() {
            return Err(format!("the checks say {found:?}"));
        }
        for (found, (_, complaint)) in found.into_iter().zip(CHECKS) {
            if found != "0" && found != "ok" {
                return Err(format!("{complaint} ({found})"));
            }
        }
        verify(&database).await?;
        let keys: Vec<KeyRow> = rows(&database, KEYS)?;
        let accounts: Vec<AccountRow> = rows(&database, "SELECT id, suspended FROM accounts")?;
        Ok(Self {
            keys: keys.into_iter().map(|row| (row.id.clone(), key(row))).collect(),
            accounts: accounts.into_iter().map(|row| (row.id, row.suspended == 1)).collect(),
        })
    }
}

/// As `latchkey audit verify` does.
async fn verify(database: &Path) -> Result<(), String> {
    let mut faults = Vec::new();
    let url = format!("sqlite://{}", database.display());
    let checked = store::verify(&url, |fault| faults.push(fault.to_string())).await;
    checked.map_err(|error| error.to_string())?;
    if faults.is_empty() { Ok(()) } else { Err(format!("audit verify: {faults:?}")) }
}

fn key(row: KeyRow) -> Key {
    let KeyRow { epoch, n, tag, .. } = row;
    let revision =
        Position { epoch: epoch.cast_unsigned(), n: n.cast_unsigned(), tag: tag.cast_unsigned() };
    Key {
        id: row.id,
        account: row.account_id,
        name: row.display_name,
        is_disabled: row.disabled == 1,
        is_revoked: row.revoke_time.is_some(),
        revoked_at: row.revoke_time,
        ends: row.expire_time.is_some(),
        rotated_from: row.rotated_from,
        rotated_to: row.rotated_to,
        revision: Some(revision.to_revision()),
        token: None,
    }
}

fn rows<T: for<'de> Deserialize<'de>>(database: &Path, query: &str) -> Result<Vec<T>, String> {
    let found = sqlite3(database, &["-json"], query)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&found).map_err(|error| format!("{query}: {error}"))
}

fn sqlite3(database: &Path, arguments: &[&str], query: &str) -> Result<String, String> {
    let output = Command::new("sqlite3").args(arguments).arg(database).arg(query).output();
    let output = output.unwrap_or_else(|error| {
        panic!("sqlite3 cannot be started ({error}); `./check` installs it")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !errors.is_empty() {
        return Err(format!("sqlite3: {errors}"));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

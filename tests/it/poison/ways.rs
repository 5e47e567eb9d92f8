//! In which ways a row can make no sense. What is not NULL, empty, far too long or of another version holds [`MARK`],
//! which must not be found again in any log.

use crate::store::support::place::Place;

pub(super) const MARK: &str = "P0IS0N";

pub(super) const KEYS: &[&str] = &[
    "id = 'P0IS0N'",
    "id = 'key_P0IS0N'",
    "id = ''",
    "id = '~P0IS0N'",
    "format = 2",
    "format = 0",
    "format = NULL",
    "version = -1",
    "version = NULL",
    "epoch = NULL",
    "n = NULL",
    "tag = NULL",
    "account_id = NULL",
    "account_id = ''",
    "account_id = 'P0IS0N/P0IS0N'",
    "display_name = NULL",
    "display_name = 'HUGE'",
    "environment = NULL",
    "environment = ''",
    "environment = 'P0IS0N'",
    "class = NULL",
    "class = ''",
    "class = 'P0IS0N'",
    "class = 'operator'",
    "scopes = NULL",
    "scopes = ''",
    "scopes = 'P0IS0N'",
    "scopes = '{\"P0IS0N\":1}'",
    "scopes = '[1]'",
    "scopes = '[\"no P0IS0N\"]'",
    "scopes = '[\"HUGE\"]'",
    "grantable_scopes = NULL",
    "grantable_scopes = '[\"no P0IS0N\"]'",
    "digest_algorithm = NULL",
    "digest_algorithm = 'P0IS0N'",
    "hint = NULL",
    "hint = 'HUGE'",
    "create_time = NULL",
    "update_time = NULL",
    "revoke_time = 5",
    "revoke_reason = 'P0IS0N'",
    "revoke_comment = 'P0IS0N'",
    "revoke_time = 5, revoke_reason = 'P0IS0N', revoke_comment = ''",
    "revoke_time = 5, revoke_reason = 'unused', revoke_comment = 'HUGE'",
    "disabled = NULL",
    "allowed_cidrs = NULL",
    "allowed_cidrs = ''",
    "allowed_cidrs = '[\"P0IS0N\"]'",
    "labels = NULL",
    "labels = '[]'",
    "labels = '{\"a\":1}'",
    "rotated_from = 'P0IS0N'",
    "rotated_to = ''",
    "created_by = NULL",
    "created_by = ''",
    "created_by = 'P0IS0N'",
];

pub(super) const ACCOUNTS: &[&str] = &[
    "format = 2",
    "format = NULL",
    "version = -1",
    "n = NULL",
    "display_name = NULL",
    "display_name = 'HUGE'",
    "plan = NULL",
    "plan = 'HUGE'",
    "suspended = NULL",
    "suspend_reason = NULL",
    "labels = NULL",
    "labels = ''",
    "labels = '{\"P0IS0N\":[]}'",
    "create_time = NULL",
    "update_time = NULL",
];

/// By these, no token leads to the key any more.
pub(super) const KEYS_WITHOUT_DIGEST: [&str; 2] = ["NULL", "SHORT"];

/// Kind, subject and digest.
pub(super) const CHANGES: &[(&str, &str, &str)] = &[
    ("'P0IS0N'", "'P0IS0N'", "NULL"),
    ("NULL", "''", "NULL"),
    ("''", "''", "NULL"),
    ("'key'", "'P0IS0N'", "NULL"),
    ("'key'", "NULL", "NULL"),
    ("'key'", "'key_00000000000000000000000000'", "NULL"),
    ("'key'", "'key_00000000000000000000000000'", "SHORT"),
    ("'account'", "'P0IS0N/P0IS0N'", "NULL"),
    ("'account'", "NULL", "NULL"),
];

/// Has the tables take anything.
pub(super) fn loosen(place: &Place) -> &'static str {
    if place.is_postgres() {
        "DO $$ DECLARE it record; BEGIN \
         FOR it IN SELECT conrelid::regclass AS place, conname FROM pg_constraint WHERE contype IN ('c', 'f') \
         AND conrelid IN ('keys'::regclass, 'accounts'::regclass, 'changes'::regclass, 'policy'::regclass) \
         LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.place, it.conname); END LOOP; \
         FOR it IN SELECT attrelid::regclass AS place, attname FROM pg_attribute WHERE attnum > 0 AND attnotnull \
         AND attrelid IN ('keys'::regclass, 'accounts'::regclass, 'changes'::regclass, 'policy'::regclass) \
         AND attname <> 'id' AND attname <> 'one' AND (attname <> 'n' OR attrelid <> 'changes'::regclass) \
         LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', it.place, it.attname); END LOOP; \
         END $$"
    } else {
        "PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = replace(replace(replace(sql, 'TEXT    NOT NULL', 'TEXT'), \
         'TEXT   NOT NULL', 'TEXT'), 'BLOB    NOT NULL', 'BLOB') WHERE type = 'table'; \
         UPDATE sqlite_schema SET sql = replace(sql, 'INTEGER NOT NULL', 'INTEGER') WHERE type = 'table'; \
         PRAGMA writable_schema = RESET"
    }
}

/// Begins what breaks rules that cannot be taken off.
pub(super) fn careless(place: &Place) -> &'static str {
    if place.is_postgres() {
        "SELECT 1"
    } else {
        "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON"
    }
}

pub(super) fn digest(place: &Place, way: &str) -> &'static str {
    match (way, place.is_postgres()) {
        ("NULL", _) => "digest = NULL",
        (_, true) => "digest = '\\x00'",
        (_, false) => "digest = x'00'",
    }
}

pub(super) fn digest_value(place: &Place, way: &str) -> &'static str {
    match (way, place.is_postgres()) {
        ("NULL", _) => "NULL",
        (_, true) => "'\\x00'::bytea",
        (_, false) => "x'00'",
    }
}

//! Records as rows: what both databases hold of them, and back again.
//!
//! A row that makes no sense, or was written by a newer version, is told as [`StoreError::Corrupt`] and
//! never guessed at.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, Subject};
use crate::account::{Account, AccountId, Labels};
use crate::audit::Entry;
use crate::clock::Timestamp;
use crate::key::{
    Actor, DIGEST_ALGORITHM, KeyId, KeyRecord, RECORD_FORMAT, Revocation, RevokeReason,
};
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::token::{Digest, Environment};

/// A row of `keys`, as the database has it. The fields are its columns.
pub(super) struct KeyRow {
    pub(super) id: String,
    pub(super) format: i64,
    pub(super) version: i64,
    pub(super) revision: PositionRow,
    pub(super) account_id: String,
    pub(super) display_name: String,
    pub(super) environment: String,
    pub(super) class: String,
    pub(super) scopes: String,
    pub(super) grantable_scopes: String,
    pub(super) digest: Vec<u8>,
    pub(super) digest_algorithm: String,
    pub(super) hint: String,
    pub(super) create_time: i64,
    pub(super) update_time: i64,
    pub(super) expire_time: Option<i64>,
    pub(super) revoke_time: Option<i64>,
    pub(super) revoke_reason: Option<String>,
    pub(super) revoke_comment: Option<String>,
    pub(super) disabled: bool,
    pub(super) allowed_cidrs: String,
    pub(super) labels: String,
    pub(super) rotated_from: Option<String>,
    pub(super) rotated_to: Option<String>,
    pub(super) created_by: String,
}

/// A row of `accounts`.
pub(super) struct AccountRow {
    pub(super) id: String,
    pub(super) format: i64,
    pub(super) version: i64,
    pub(super) revision: PositionRow,
    pub(super) display_name: String,
    pub(super) plan: String,
    pub(super) suspended: bool,
    pub(super) suspend_reason: String,
    pub(super) labels: String,
    pub(super) create_time: i64,
    pub(super) update_time: i64,
}

/// A row of `audit`, with the tag of its change.
pub(super) struct EntryRow {
    pub(super) epoch: i64,
    pub(super) n: i64,
    /// `None` when there is no such change.
    pub(super) tag: Option<i64>,
    pub(super) at: i64,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) account_id: Option<String>,
    pub(super) key_id: Option<String>,
    pub(super) change: String,
    pub(super) peer: String,
    pub(super) request_id: Option<String>,
}

/// The columns `epoch`, `n` and `tag`; the databases have no unsigned numbers, so the bits are kept.
#[derive(Clone, Copy)]
pub(super) struct PositionRow {
    pub(super) epoch: i64,
    pub(super) n: i64,
    pub(super) tag: i64,
}

impl From<Position> for PositionRow {
    fn from(Position { epoch, n, tag }: Position) -> Self {
        Self { epoch: epoch.cast_signed(), n: n.cast_signed(), tag: tag.cast_signed() }
    }
}

impl From<PositionRow> for Position {
    fn from(PositionRow { epoch, n, tag }: PositionRow) -> Self {
        Self { epoch: epoch.cast_unsigned(), n: n.cast_unsigned(), tag: tag.cast_unsigned() }
    }
}

impl KeyRow {
    /// The record of this row.
    pub(super) fn into_record(self) -> Result<KeyRecord, StoreError> {
        let row = Named::of_key(&self.id);
        let Self {
            id,
            format,
            version,
            revision,
            account_id,
            display_name,
            environment,
            class,
            scopes,
            grantable_scopes,
            digest,
            digest_algorithm,
            hint,
            create_time,
            update_time,
            expire_time,
            revoke_time,
            revoke_reason,
            revoke_comment,
            disabled,
            allowed_cidrs,
            labels,
            rotated_from,
            rotated_to,
            created_by,
        } = self;
        row.check_format(format)?;
        if digest_algorithm != DIGEST_ALGORITHM {
            return Err(row.corrupt("digest_algorithm makes no sense"));
        }
        let record = KeyRecord {
            id: row.need("id", KeyId::parse(&id))?,
            account: row.need("account_id", AccountId::parse(&account_id))?,
            display_name,
            environment: row.need("environment", Environment::parse(&environment))?,
            scopes: row.patterns("scopes", &scopes)?,
            grantable_scopes: row.patterns("grantable_scopes", &grantable_scopes)?,
            digest: row.need("digest", Digest::from_bytes(&digest))?,
            hint,
            create_time: Timestamp::from_micros(create_time),
            update_time: Timestamp::from_micros(update_time),
            expire_time: expire_time.map(Timestamp::from_micros),
            revocation: row.revocation(revoke_time, revoke_reason, revoke_comment)?,
            disabled,
            allowed_cidrs: row
                .json::<Vec<String>>("allowed_cidrs", &allowed_cidrs)?
                .iter()
                .map(|cidr| row.need("allowed_cidrs", cidr.parse().ok()))
                .collect::<Result<_, _>>()?,
            labels: row.json::<Labels>("labels", &labels)?,
            rotated_from: row.key("rotated_from", rotated_from)?,
            rotated_to: row.key("rotated_to", rotated_to)?,
            created_by: row.need("created_by", Actor::parse(&created_by))?,
            revision: revision.into(),
            version: row.need("version", u64::try_from(version).ok())?,
        };
        if record.class().as_str() != class {
            return Err(row.corrupt("class is not what its scopes say"));
        }
        Ok(record)
    }
}

impl AccountRow {
    /// The record of this row.
    pub(super) fn into_record(self) -> Result<Account, StoreError> {
        let row = Named::of_account(&self.id);
        let Self {
            id,
            format,
            version,
            revision,
            display_name,
            plan,
            suspended,
            suspend_reason,
            labels,
            create_time,
            update_time,
        } = self;
        row.check_format(format)?;
        Ok(Account {
            id: row.need("id", AccountId::parse(&id))?,
            display_name,
            plan,
            suspended,
            suspend_reason,
            labels: row.json::<Labels>("labels", &labels)?,
            create_time: Timestamp::from_micros(create_time),
            update_time: Timestamp::from_micros(update_time),
            revision: revision.into(),
            version: row.need("version", u64::try_from(version).ok())?,
        })
    }
}

impl EntryRow {
    /// The entry of this row.
    pub(super) fn into_entry(self) -> Result<Entry, StoreError> {
        let row = Named { table: "audit", row: self.n.to_string() };
        let Self { epoch, n, tag, at, actor, action, account_id, key_id, change, peer, request_id } =
            self;
        let tag = tag.ok_or_else(|| row.corrupt("tells of a change that is not there"))?;
        let account = account_id.map(|id| row.need("account_id", AccountId::parse(&id)));
        Ok(Entry {
            revision: PositionRow { epoch, n, tag }.into(),
            time: Timestamp::from_micros(at),
            actor: row.need("actor", Actor::parse(&actor))?,
            action,
            account: account.transpose()?,
            key: row.key("key_id", key_id)?,
            change: row.json("change", &change)?,
            peer,
            request_id,
        })
    }
}

/// The policy of its row.
pub(super) fn policy(format: i64, document: &str) -> Result<Policy, StoreError> {
    let row = Named { table: "policy", row: "1".into() };
    row.check_format(format)?;
    row.json("document", document)
}

impl Subject {
    /// As the columns `kind` and `subject` have it.
    pub(super) fn columns(&self) -> (&'static str, String) {
        match self {
            Self::Key(id) => ("key", id.to_string()),
            Self::Account(id) => ("account", id.to_string()),
            Self::Policy => ("policy", String::new()),
        }
    }
}

/// What a policy amounts to.
pub(super) fn compile(policy: Policy) -> Result<Arc<Catalogue>, StoreError> {
    let row = Named { table: "policy", row: "1".into() };
    Catalogue::compile(policy, "").map(Arc::new).map_err(|error| row.corrupt(error.message))
}

/// A value as the JSON text of a column.
pub(super) fn json(value: &impl Serialize) -> String {
    // Strings, lists and maps by string cannot fail to be written.
    serde_json::to_string(value).unwrap_or_default()
}

/// Scopes by their names.
pub(super) fn names(scopes: &[ScopePattern]) -> Vec<&str> {
    scopes.iter().map(ScopePattern::as_str).collect()
}

/// What a row is called whose id is none.
const NO_ID: &str = "(its id makes no sense)";

/// The feed's one row is written when the schema is.
pub(super) fn no_feed() -> StoreError {
    Named { table: "feed", row: "1".into() }.corrupt("is not there")
}

/// A row by its table and key, for saying what is wrong with it. What stands in it is not said.
pub(super) struct Named {
    pub(super) table: &'static str,
    pub(super) row: String,
}

impl Named {
    /// A key's, by its id if that is one.
    pub(super) fn of_key(id: &str) -> Self {
        Self { table: "keys", row: KeyId::parse(id).map_or(NO_ID.to_owned(), |id| id.to_string()) }
    }

    /// An account's, by its id if that is one.
    pub(super) fn of_account(id: &str) -> Self {
        let row = AccountId::parse(id).map_or(NO_ID.to_owned(), |id| id.to_string());
        Self { table: "accounts", row }
    }

    /// The same error, with the row that it was found in where it tells none.
    pub(super) fn locate(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Corrupt { table: "?", what, .. } => self.corrupt(what),
            other => other,
        }
    }

    /// It makes no sense, and why.
    pub(super) fn corrupt(&self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { table: self.table, row: self.row.clone(), what: what.into() }
    }

    /// What was read of a column, which had to be readable.
    pub(super) fn need<T>(&self, column: &str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.corrupt(format!("{column} makes no sense")))
    }

    fn check_format(&self, format: i64) -> Result<(), StoreError> {
        if format == i64::from(RECORD_FORMAT) {
            return Ok(());
        }
        Err(self.corrupt(format!(
            "has format {format}, and this version knows {RECORD_FORMAT} only: a newer one wrote it"
        )))
    }

    fn json<T: DeserializeOwned>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        // What serde says repeats what it found.
        serde_json::from_str(text).map_err(|error| {
            let (line, at) = (error.line(), error.column());
            self.corrupt(format!("{column} makes no sense from line {line}, column {at} on"))
        })
    }

    fn patterns(&self, column: &str, text: &str) -> Result<Vec<ScopePattern>, StoreError> {
        self.json::<Vec<String>>(column, text)?
            .iter()
            .map(|name| self.need(column, ScopePattern::parse(name).ok()))
            .collect()
    }

    fn key(&self, column: &str, id: Option<String>) -> Result<Option<KeyId>, StoreError> {
        id.map(|id| self.need(column, KeyId::parse(&id))).transpose()
    }

    fn revocation(
        &self,
        time: Option<i64>,
        reason: Option<String>,
        comment: Option<String>,
    ) -> Result<Option<Revocation>, StoreError> {
        match (time, reason, comment) {
            (None, None, None) => Ok(None),
            (Some(time), Some(reason), Some(comment)) => Ok(Some(Revocation {
                time: Timestamp::from_micros(time),
                reason: self.need("revoke_reason", RevokeReason::parse(&reason))?,
                comment,
            })),
            _ => Err(self.corrupt("is revoked by half")),
        }
    }
}

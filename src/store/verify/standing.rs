//! A record as it stands in the store, whatever it is of.

use crate::account::Account;
use crate::audit::{self, Fields};
use crate::clock::Timestamp;
use crate::key::KeyRecord;
use crate::policy::Policy;
use crate::revision::Position;

/// A record as it stands in the store.
pub(in crate::store) struct Standing {
    pub(super) fields: Fields,
    pub(super) revision: Position,
    pub(super) version: u64,
    pub(super) create_time: Option<Timestamp>,
    pub(super) update_time: Timestamp,
    pub(super) account: Option<String>,
    pub(super) digest: Option<Vec<u8>>,
}

impl From<KeyRecord> for Standing {
    fn from(key: KeyRecord) -> Self {
        Self {
            fields: audit::of_key(&key),
            revision: key.revision,
            version: key.version,
            create_time: Some(key.create_time),
            update_time: key.update_time,
            account: Some(key.account.to_string()),
            digest: Some(key.digest.as_bytes().to_vec()),
        }
    }
}

impl From<Account> for Standing {
    fn from(account: Account) -> Self {
        Self {
            fields: audit::of_account(&account),
            revision: account.revision,
            version: account.version,
            create_time: Some(account.create_time),
            update_time: account.update_time,
            account: None,
            digest: None,
        }
    }
}

impl Standing {
    /// Of the policy, which was written so often.
    pub(in crate::store) fn policy(
        policy: &Policy,
        revision: Position,
        version: u64,
        at: Timestamp,
    ) -> Self {
        Self {
            fields: audit::of_policy(policy),
            revision,
            version,
            create_time: None,
            update_time: at,
            account: None,
            digest: None,
        }
    }
}

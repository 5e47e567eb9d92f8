//! Ending keys for good. Taking away is always allowed, so no grant is asked for.

use std::collections::HashSet;

use super::ground::Ground;
use super::{Door, Halt, Rows};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{Actor, KeyId, KeyRecord, Revocation, RevokeReason};
use crate::store::{Done, KeyTarget, StoreError};

/// Why a key is revoked, and with what words.
pub(super) struct Words<'a> {
    pub(super) reason: RevokeReason,
    pub(super) comment: &'a str,
}

impl Words<'_> {
    /// What the record says of it.
    pub(super) fn at(&self, time: Timestamp) -> Revocation {
        Revocation { time, reason: self.reason, comment: self.comment.to_owned() }
    }
}

impl<R: Rows> Door<'_, R> {
    /// Of a key that is revoked already, the first date and reason stay; what it made may still go.
    pub(super) async fn revoke_key(
        &mut self,
        ground: &Ground,
        target: KeyTarget,
        words: &Words<'_>,
        with_created: bool,
    ) -> Result<Done, Halt> {
        let target = match target {
            KeyTarget::Id(id) => self.rows.key(id).await?,
            KeyTarget::Digest(digest) => self.rows.key_by_digest(&digest).await?,
        }
        .ok_or_else(Error::not_found)?;
        ground.authority.check_reach(&target.account)?;
        let account = self.account_of(&target).await?;
        let made = if with_created { self.made_by(ground, target.id).await? } else { Vec::new() };
        let (mut keys, mut ended) = (Vec::new(), Vec::new());
        for key in std::iter::once(target).chain(made) {
            if key.revocation.is_some() {
                keys.push(key);
            } else {
                keys.push(self.end_key(&key, words).await?);
                ended.push(key);
            }
        }
        Ok(Done { account: Some(self.counted(account).await?), keys, ended, ..self.done() })
    }

    /// Revokes a key that is not revoked yet.
    pub(super) async fn end_key(
        &mut self,
        key: &KeyRecord,
        words: &Words<'_>,
    ) -> Result<KeyRecord, StoreError> {
        let after = KeyRecord { revocation: Some(words.at(self.at)), ..key.clone() };
        self.update_row(key, after).await
    }

    /// Every key that this one made, and they made, within the maker's reach. A revoked key is followed
    /// too: it may have made others while it worked.
    async fn made_by(
        &mut self,
        ground: &Ground,
        root: KeyId,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let mut seen = HashSet::from([root]);
        let mut found: Vec<KeyRecord> = Vec::new();
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            for key in self.rows.keys_made_by(&Actor::Key(id)).await? {
                if ground.authority.check_reach(&key.account).is_ok() && seen.insert(key.id) {
                    open.push(key.id);
                    found.push(key);
                }
            }
        }
        Ok(found)
    }
}

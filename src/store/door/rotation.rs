//! Putting another key in a key's place.

use std::time::Duration;

use super::ground::Ground;
use super::keys::{check_not_suspended, revoked, rotated};
use super::revocation::Words;
use super::{Door, Halt, Made, Rows};
use crate::error::{Error, Reason};
use crate::key::{KeyId, KeyRecord, RevokeReason, is_expired};
use crate::store::{Done, NewSecret, RequestMark};

const RPC: &str = "RotateKey";
const SUPERSEDED: Words<'static> = Words { reason: RevokeReason::Superseded, comment: "" };

impl<R: Rows> Door<'_, R> {
    /// The plan is not asked: of the two keys only the new one counts.
    pub(super) async fn rotate_key(
        &mut self,
        ground: &Ground,
        id: KeyId,
        secret: &NewSecret,
        overlap: Duration,
        request: Option<&RequestMark>,
    ) -> Result<Done, Halt> {
        let old = self.find_key(ground, id).await?;
        self.check_request(&old.account, RPC, request).await?;
        self.check_rotatable(&old)?;
        let account = self.account_of(&old).await?;
        check_not_suspended(&account)?;
        // The new key is a copy in everything that a grant is about, so this is asked once.
        ground.authority.check_grant(&old, &ground.catalogue)?;
        self.check_token(&secret.digest).await?;

        let new = self.successor(&old, secret);
        let new = self.insert_key(new).await?;
        let mut after = KeyRecord { rotated_to: Some(new.id), ..old.clone() };
        if overlap.is_zero() {
            after.revocation = Some(SUPERSEDED.at(self.at));
        } else {
            let end = self.at.after(overlap);
            after.expire_time = Some(old.expire_time.map_or(end, |before| before.min(end)));
        }
        let after = self.update_row(&old, after).await?;
        let mut ended: Vec<_> = self.end_predecessor(&old).await?.into_iter().collect();
        if overlap.is_zero() {
            ended.push(old);
        }

        let made = Made { account: account.id.clone(), key: Some(new.id) };
        self.remember(&account.id, RPC, request, &made).await?;
        Ok(Done {
            account: Some(self.counted(account).await?),
            keys: vec![new, after],
            ended,
            ..self.done()
        })
    }

    fn check_rotatable(&self, key: &KeyRecord) -> Result<(), Error> {
        if key.revocation.is_some() {
            return Err(revoked(key));
        }
        if let Some(successor) = key.rotated_to {
            return Err(rotated(key.id, successor));
        }
        if is_expired(key.expire_time, self.at) {
            return Err(Error::new(
                Reason::KeyExpired,
                format!("`{}` has expired; make a new key, or move its expiry first", key.id),
            )
            .with("key_id", key.id.to_string()));
        }
        Ok(())
    }

    fn successor(&mut self, old: &KeyRecord, secret: &NewSecret) -> KeyRecord {
        let NewSecret { digest, hint } = secret.clone();
        KeyRecord {
            id: self.draw_key_id(),
            digest,
            hint,
            rotated_from: Some(old.id),
            rotated_to: None,
            created_by: self.actor(),
            ..old.clone()
        }
    }

    /// One predecessor per key: the one before the one just rotated ends now. Given as it was before.
    async fn end_predecessor(&mut self, old: &KeyRecord) -> Result<Option<KeyRecord>, Halt> {
        let Some(id) = old.rotated_from else { return Ok(None) };
        if let Some(key) = self.rows.key(id).await?
            && key.revocation.is_none()
            && !is_expired(key.expire_time, self.at)
        {
            self.end_key(&key, &SUPERSEDED).await?;
            return Ok(Some(key));
        }
        Ok(None)
    }
}

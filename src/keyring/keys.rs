//! Keys: the use cases of `KeyService`.

use std::time::Duration;

use tokio::time::timeout;

use super::nodes::{Made, Patience};
use super::{Keyring, Page, Receipt, missing, page, request_mark};
use crate::account::{AccountId, Labels};
use crate::authorizer::Operator;
use crate::authorizer::operator::{ReadKeys, WriteKeys};
use crate::cache::Doubt;
use crate::error::Error;
use crate::key::{Expiry, KeyChange, KeyId, KeyRecord, KeyState, NewKey, RevokeReason};
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::store::{Command, KeyQuery, KeyTarget, StoreError};
use crate::token::{Digest, Environment, Token};

/// How long what is looked at before a change may take: who can change nothing is to hear of it within a second.
const BEFORE_CHANGE_TIME_MAX: Duration = Duration::from_millis(500);
/// How many keys may have the same hint and be shown for it.
const LOOKUP_KEYS_MAX: u32 = 100;

/// A key that was made, with its token: shown once.
pub struct Created {
    /// The record.
    pub key: KeyRecord,
    /// The secret.
    pub token: Token,
}

/// A key that another took the place of.
pub struct Rotated {
    /// The new one.
    pub key: KeyRecord,
    /// Its secret: shown once.
    pub token: Token,
    /// The old one.
    pub previous: KeyRecord,
    /// Where it has taken effect.
    pub receipt: Receipt,
}

/// A key to be revoked.
pub struct Revoke {
    /// Which.
    pub target: KeyTarget,
    /// Why.
    pub reason: RevokeReason,
    /// With what words.
    pub comment: String,
    /// Whether every key that it made, and they made, goes with it.
    pub with_created: bool,
}

/// Keys that were revoked.
pub struct Revoked {
    /// The target.
    pub key: KeyRecord,
    /// Those that this very call revoked: the target, unless it was revoked before, and what went with it.
    pub revoked: Vec<KeyId>,
    /// Where it has taken effect.
    pub receipt: Receipt,
}

/// A change to a key.
pub struct KeyUpdate {
    /// Which.
    pub id: KeyId,
    /// What shall change.
    pub change: KeyChange,
    /// The revision it must have.
    pub expected: Option<Position>,
}

/// By what a key is looked up.
pub enum LookupBy {
    /// By its token's digest.
    Digest(Digest),
    /// By what people are shown of its token.
    Hint(String),
}

/// Which keys are listed.
pub struct KeyList {
    /// Of this account; `None` means of all that the caller reaches.
    pub account: Option<AccountId>,
    /// Made by this, as in `key:ID`.
    pub created_by: Option<String>,
    /// Of this environment.
    pub environment: Option<Environment>,
    /// In one of these states; empty means any.
    pub states: Vec<KeyState>,
    /// At most so many on a page.
    pub page_size: u32,
    /// What the page before gave; empty for the first.
    pub page_token: String,
}

impl Keyring {
    /// Makes a key.
    pub async fn create_key(
        &self,
        operator: Operator<WriteKeys>,
        new: NewKey,
        request_id: Option<String>,
    ) -> Result<Created, Error> {
        let (token, secret) = self.new_token(new.environment);
        let request = request_mark(request_id, &content(&new).each_ref().map(String::as_str));
        let command = Command::CreateKey { new, secret, request };
        let mut done = self.mutate_as(operator, command).await?;
        let key = done.keys.pop().ok_or_else(|| missing("key"))?;
        Ok(Created { key, token })
    }

    /// The key of this id.
    pub async fn get_key(
        &self,
        operator: &Operator<ReadKeys>,
        id: KeyId,
    ) -> Result<KeyRecord, Error> {
        let key = self.store.key(id).await?;
        key.filter(|key| operator.reaches(&key.account)).ok_or_else(Error::not_found)
    }

    /// The keys with this token, or this hint, that the caller reaches; there may be none.
    pub async fn lookup_key(
        &self,
        operator: &Operator<ReadKeys>,
        by: LookupBy,
    ) -> Result<Vec<KeyRecord>, Error> {
        let mut keys = match by {
            LookupBy::Digest(digest) => {
                self.store.key_by_digest(&digest).await?.into_iter().collect()
            }
            LookupBy::Hint(hint) => {
                let account = operator.only();
                let query = KeyQuery {
                    account,
                    created_by: None,
                    environment: None,
                    hint: Some(hint),
                    states: Vec::new(),
                    now: self.now(),
                    after: None,
                    limit: LOOKUP_KEYS_MAX,
                };
                self.store.list_keys(&query).await?
            }
        };
        keys.retain(|key: &KeyRecord| operator.reaches(&key.account));
        Ok(keys)
    }

    /// One page of keys, in order of creation.
    pub async fn list_keys(
        &self,
        operator: &Operator<ReadKeys>,
        list: KeyList,
    ) -> Result<Page<KeyRecord>, Error> {
        let KeyList { account, created_by, environment, states, page_size, page_token } = list;
        let account = match account {
            Some(account) => {
                self.check_account(operator, &account).await?;
                Some(account)
            }
            None => operator.only(),
        };
        let binding = format!(
            "keys {} {account:?} {created_by:?} {environment:?} {states:?}",
            operator.account
        );
        let after = page::read(&page_token, &binding, KeyId::parse)?;
        let limit = page_size + 1;
        let query = KeyQuery {
            account,
            created_by,
            environment,
            hint: None,
            states,
            now: self.now(),
            after,
            limit,
        };
        let keys = self.store.list_keys(&query).await?;
        Ok(page::cut(keys, page_size, &binding, |key| key.id.to_string()))
    }

    /// Changes a key.
    pub async fn update_key(
        &self,
        operator: Operator<WriteKeys>,
        update: KeyUpdate,
    ) -> Result<(KeyRecord, Receipt), Error> {
        let KeyUpdate { id, change, expected } = update;
        let command = Command::UpdateKey { id, change, expected };
        let mut done = self.mutate_as(operator, command).await?;
        let key = done.keys.pop().ok_or_else(|| missing("key"))?;
        let revision = done.position.unwrap_or(key.revision);
        let made = Made { revision, ended: done.ended };
        let receipt = self.receipt(&made, &Patience::none()).await;
        Ok((key, receipt))
    }

    /// Ends a key for good, and then waits for the nodes. Repeating it changes nothing and gives the first date
    /// and reason.
    pub async fn revoke_key(
        &self,
        operator: Operator<WriteKeys>,
        revoke: Revoke,
        patience: &Patience,
    ) -> Result<Revoked, Error> {
        let Revoke { target, reason, comment, with_created } = revoke;
        let command = Command::RevokeKey { target, reason, comment, with_created };
        let done = self.mutate_as(operator, command).await?;
        let revoked = done.ended.iter().map(|key| key.id).collect();
        // Of keys that had ended before it is not known here what they could do until then.
        let is_all = done.ended.len() == done.keys.len();
        let last = done.keys.iter().map(|key| key.revision).max_by_key(|revision| revision.n);
        let (Some(key), Some(revision)) = (done.keys.into_iter().next(), done.position.or(last))
        else {
            return Err(missing("key"));
        };
        let ended = if is_all { done.ended } else { Vec::new() };
        let receipt = self.receipt(&Made { revision, ended }, patience).await;
        Ok(Revoked { key, revoked, receipt })
    }

    /// Puts another key in a key's place.
    pub async fn rotate_key(
        &self,
        operator: Operator<WriteKeys>,
        id: KeyId,
        overlap: Duration,
        request_id: Option<String>,
    ) -> Result<Rotated, Error> {
        // The new token says the environment, so the key is looked at first; the door checks the rest.
        let look = timeout(BEFORE_CHANGE_TIME_MAX, self.store.key(id)).await;
        let key = look.unwrap_or_else(|_| Err(StoreError::Unavailable("it is too slow".into())));
        let key = key?.filter(|key| operator.reaches(&key.account));
        let old = key.ok_or_else(Error::not_found)?;
        let (token, secret) = self.new_token(old.environment);
        // The one before it ends as well, and which that is never changes.
        let predecessor = old.rotated_from.map(Doubt::Key);
        let mut doubts = vec![Doubt::Key(id), Doubt::Digest(secret.digest)];
        doubts.extend(predecessor);
        let overlap_text = overlap.as_micros().to_string();
        let request = request_mark(request_id, &["RotateKey", &id.to_string(), &overlap_text]);
        let command = Command::RotateKey { id, secret, overlap, request };
        let maker = operator.maker();
        let done = self.mutate_doubting(maker, operator.peer, command, doubts).await?;
        let mut keys = done.keys.into_iter();
        let (Some(key), Some(previous)) = (keys.next(), keys.next()) else {
            return Err(missing("key"));
        };
        let ended = if overlap.is_zero() { done.ended } else { Vec::new() };
        let made = Made { revision: done.position.unwrap_or(key.revision), ended };
        let receipt = self.receipt(&made, &Patience::none()).await;
        Ok(Rotated { key, token, previous, receipt })
    }
}

/// What was asked of a new key, field by field.
fn content(new: &NewKey) -> [String; 9] {
    let NewKey {
        account,
        display_name,
        environment,
        scopes,
        grantable_scopes,
        expiry,
        allowed_cidrs,
        labels,
    } = new;
    [
        "CreateKey".to_owned(),
        account.to_string(),
        display_name.clone(),
        environment.as_str().to_owned(),
        joined(scopes),
        joined(grantable_scopes),
        match expiry {
            Expiry::Never => String::new(),
            Expiry::At(time) => format!("at {}", time.micros()),
            Expiry::In(span) => format!("in {}", span.as_micros()),
        },
        allowed_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        labels_text(labels),
    ]
}

fn joined(scopes: &[ScopePattern]) -> String {
    scopes.iter().map(ScopePattern::as_str).collect::<Vec<_>>().join(" ")
}

/// Labels with a separator that they cannot hold themselves.
pub(super) fn labels_text(labels: &Labels) -> String {
    labels.iter().flat_map(|(name, value)| [name.as_str(), "\n", value.as_str(), "\n"]).collect()
}

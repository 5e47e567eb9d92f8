//! What was true at some position, as somebody else kept it: used if its position proves that it still is.
//!
//! Whoever kept it may be late, or have gone back in time. So a hint is judged by this node's own knowledge alone,
//! and judged and installed in one step under the lock by which reads are applied: between the two nothing can
//! change.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use thiserror::Error;

use super::entry::CachedAccount;
use super::recent::Mark;
use super::{Cache, Doubt, Known, State};
use crate::account::{Account, AccountId, Labels};
use crate::clock::Timestamp;
use crate::key::{KeyId, KeyRecord};
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::store::{ReadAsk, ReadBatch, Subject};
use crate::token::{Digest, Environment};

/// What was true of a digest at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The digest.
    pub digest: Digest,
    /// When it was true.
    pub position: Position,
    /// What was true.
    pub said: Said,
}

/// What was true of a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It was the digest of this key, and the account is the key's.
    Key(Box<(KeyEntry, AccountEntry)>),
    /// It was nobody's.
    Absent,
}

/// What a decision needs of a key, and no more: neither a name nor any part of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its id.
    pub id: KeyId,
    /// As its token says.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Vec<ScopePattern>,
    /// When its time is over; `None` means never.
    pub expire_time: Option<Timestamp>,
    /// Whether it is gone for good.
    pub is_revoked: bool,
    /// Whether it is paused.
    pub is_disabled: bool,
    /// From where it may be used; empty means anywhere.
    pub allowed_cidrs: Vec<ipnet::IpNet>,
    /// What the owner attached.
    pub labels: Labels,
}

/// What a decision needs of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEntry {
    /// Its id.
    pub id: AccountId,
    /// The name of its plan.
    pub plan: String,
    /// Whether its keys are refused.
    pub is_suspended: bool,
}

/// Why a hint counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It is of another store, or this node knows nothing of its own.
    #[error("another epoch")]
    AnotherEpoch,
    /// It is of a change that this node has not applied.
    #[error("ahead of this node")]
    Ahead,
    /// It is of a time that this node does not remember.
    #[error("too old to be judged")]
    TooOld,
    /// It is of a history that the store has left.
    #[error("another history")]
    AnotherTag,
    /// Its key, its account or its digest was changed since.
    #[error("changed since")]
    Changed,
    /// What is known of its subject has to be read.
    #[error("in doubt")]
    Doubted,
}

impl Hint {
    /// What a read showed of the keys that were wanted, or have changed since the one before. What a page of the
    /// first load brought nobody has asked for. Nothing when the read is behind: its records are later than its
    /// position.
    #[must_use]
    pub fn of_read(ask: &ReadAsk, batch: &ReadBatch) -> Vec<Self> {
        if batch.is_behind {
            return Vec::new();
        }
        let accounts: HashMap<_, _> =
            batch.accounts.iter().map(|account| (&account.id, account)).collect();
        let wanted: HashSet<_> = ask.wanted.iter().collect();
        // Those that a first read brings are of the past.
        let later = batch.changes.iter().filter(|_| ask.after.is_some());
        let changed: HashSet<_> = later.map(|change| &change.subject).collect();
        let is_of_interest = |key: &KeyRecord| {
            wanted.contains(&key.digest) || changed.contains(&Subject::Key(key.id))
        };
        let keys = batch.keys.iter().filter(|key| is_of_interest(key)).filter_map(|key| {
            let account = AccountEntry::from(*accounts.get(&key.account)?);
            Some((key.digest, Said::Key(Box::new((key.clone().into(), account)))))
        });
        let absent = batch.absent.iter().map(|digest| (*digest, Said::Absent));
        let position = batch.position;
        keys.chain(absent).map(|(digest, said)| Self { digest, position, said }).collect()
    }
}

impl From<KeyRecord> for KeyEntry {
    fn from(record: KeyRecord) -> Self {
        Self {
            id: record.id,
            environment: record.environment,
            scopes: record.scopes,
            expire_time: record.expire_time,
            is_revoked: record.revocation.is_some(),
            is_disabled: record.disabled,
            allowed_cidrs: record.allowed_cidrs,
            labels: record.labels,
        }
    }
}

impl From<&Account> for AccountEntry {
    fn from(account: &Account) -> Self {
        Self { id: account.id.clone(), plan: account.plan.clone(), is_suspended: account.suspended }
    }
}

impl Cache {
    /// Judges a hint, and installs it if it is usable: one step. What the reader has brought stands.
    pub fn install_hint(&self, hint: Hint) -> Result<(), Unusable> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { known, doubts, .. } = &mut *state;
        let known = known.as_mut().ok_or(Unusable::AnotherEpoch)?;
        known.judge(&hint)?;
        if known.is_in_doubt(&hint, doubts) {
            return Err(Unusable::Doubted);
        }
        known.install_usable(hint, self.keys_max);
        Ok(())
    }
}

impl Known {
    /// Whether what was true at its position still is: the tag is the one that was applied there, and nothing that
    /// it speaks of was changed since.
    fn judge(&self, hint: &Hint) -> Result<(), Unusable> {
        let Position { epoch, n, tag } = hint.position;
        if epoch != self.applied.epoch {
            return Err(Unusable::AnotherEpoch);
        }
        if n > self.applied.n {
            return Err(Unusable::Ahead);
        }
        let applied_there =
            if n == self.applied.n { Some(self.applied.tag) } else { self.recent.tag_at(n) };
        match applied_there {
            None => return Err(Unusable::TooOld),
            Some(applied) if applied != tag => return Err(Unusable::AnotherTag),
            Some(_) => {}
        }
        let is_changed = |mark| self.recent.is_changed_after(n, &mark);
        let is_subject_changed = match &hint.said {
            Said::Key(of) => is_changed(Mark::Key(of.0.id)) || is_changed(Mark::Account(&of.1.id)),
            Said::Absent => false,
        };
        if is_subject_changed || is_changed(Mark::Digest(&hint.digest)) {
            return Err(Unusable::Changed);
        }
        Ok(())
    }

    /// Whether only the reader can tell: after a commit whose outcome is not known, or of what could not be read.
    fn is_in_doubt(&self, hint: &Hint, doubts: &[(u64, Doubt)]) -> bool {
        let key = match &hint.said {
            Said::Key(of) => Some((of.0.id, &of.1.id)),
            Said::Absent => None,
        };
        let is_unreadable =
            key.and_then(|(_, id)| self.accounts.find(id)).is_some_and(|it| it.is_unreadable);
        is_unreadable
            || self.must_fetch.contains(&hint.digest)
            || doubts.iter().any(|(_, doubt)| doubt.is_about(&hint.digest, key))
    }

    fn install_usable(&mut self, hint: Hint, keys_max: usize) {
        let digest = hint.digest;
        if self.keys.contains_key(&digest) || self.absent.contains(&digest) {
            return;
        }
        match hint.said {
            Said::Absent => self.remember_absent(vec![digest]),
            Said::Key(of) => {
                let (key, account) = *of;
                // An account that is here is as it is now, and so is the hint's: it was not changed since.
                let make = || CachedAccount::from(&account);
                self.install(digest, key, &account.id, make, keys_max);
            }
        }
    }
}

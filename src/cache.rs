//! What this process knows of the store: one cache, changed only by what the one reader brings.
//!
//! It is true as of one position. A request looks up and judges in one step, under the lock under
//! which reads are applied. Records are kept, verdicts never. Absent on purpose: a way to put a
//! record in, or to take one out, other than [`Cache::apply`], and [`Cache::install_hint`] for what is
//! proved by its position.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hashbrown::DefaultHashBuilder;
use indexmap::{IndexMap, IndexSet};

use crate::account::AccountId;
use crate::clock::Timestamp;
use crate::decision::{Facts, Identity};
use crate::key::KeyId;
use crate::lease::{Bounds, Freshness, Lease, Standing};
use crate::policy::Catalogue;
use crate::revision::Position;
use crate::store::{ReadAsk, ReadBatch, Subject};
use crate::token::Digest;

mod apply;
mod entry;
mod extent;
mod fence;
mod hint;
mod recent;
mod roll;

pub mod redis;

pub use fence::Fence;
pub use hint::{AccountEntry, Hint, KeyEntry, Said, Unusable};

use entry::{CachedAccount, CachedKey, Grant, Shared};
use extent::Extent;
use recent::Recent;
use roll::Roll;

/// How many absent digests are remembered. They have a memory of their own: an unknown key never
/// pushes a known one out.
const ABSENT_MAX: usize = 65_536;
/// How many keys of the store are listed for each that is held at most.
const LISTED_PER_KEY: usize = 16;
/// Changes that one read brings.
const CHANGES_MAX: usize = 1_000;
/// How many subjects are doubted one by one; beyond, everything is.
const DOUBTS_MAX: usize = 1_000;
/// How many keys are compared when one must go.
const VICTIMS_COMPARED: usize = 8;

/// The cache; see the module.
pub struct Cache {
    state: RwLock<State>,
    keys_max: usize,
}

/// What is behind the lock.
struct State {
    /// `None` until the first read is applied, and after a fence: then nothing is answered.
    known: Option<Known>,
    /// How many reads were sent.
    sent: u64,
    /// How many keys were dropped for want of room, before what is known now was learned.
    evicted: u64,
    /// Subjects of commits whose outcome is not known. Kept apart from all that can be dropped.
    doubts: Vec<(u64, Doubt)>,
}

/// What was learned since the first read.
struct Known {
    applied: Position,
    /// By what a request may still be answered from all this.
    lease: Lease,
    /// The latest changes, up to `applied`.
    recent: Recent,
    catalogue: Catalogue,
    /// A map with a randomly keyed hasher: the bits of a digest can be ground.
    keys: IndexMap<Digest, CachedKey, DefaultHashBuilder>,
    accounts: Shared<AccountId, CachedAccount>,
    grants: Shared<Arc<[crate::scope::ScopePattern]>, Grant>,
    absent: IndexSet<Digest, DefaultHashBuilder>,
    /// Keys of which is known only that what was known of them no longer holds.
    must_fetch: HashSet<Digest>,
    /// The digests of all keys, also of those that there is no room for.
    roll: Roll,
    extent: Extent,
    /// How many keys were dropped for want of room.
    evicted: u64,
    /// Draws victims; where it starts does not matter.
    draws: u64,
}

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// Keys.
    pub keys: usize,
    /// Accounts that they belong to.
    pub accounts: usize,
    /// Digests that were read and are nobody's.
    pub absent: usize,
    /// Keys of the store that are known to be there, held or not.
    pub listed: usize,
    /// Keys dropped for want of room, since the start.
    pub evicted: u64,
}

/// The subject of a commit whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The key of this id.
    Key(KeyId),
    /// The key of this digest, if there is one now.
    Digest(Digest),
    /// All keys of this account.
    Account(AccountId),
    /// Everything: a policy, or keys that were not named.
    Everything,
}

/// The cache as one request sees it, for one step.
pub struct View<'a> {
    known: &'a Known,
    doubts: &'a [(u64, Doubt)],
    now: Timestamp,
}

/// What is known of a digest.
pub enum Found<'a> {
    /// A key, and this is what is known of it.
    Key(KeyView<'a>),
    /// No key has it: final.
    Absent,
    /// Not known here; the reader can find it out.
    Miss,
    /// What was known of it may not hold: it was changed since, or by a commit whose outcome is not known, or its row
    /// cannot be read. Only the reader can tell.
    Doubtful,
}

/// A cached key beside what it refers to.
pub struct KeyView<'a> {
    key: &'a CachedKey,
    account: &'a CachedAccount,
    grant: &'a Grant,
}

impl Cache {
    /// An empty cache for at most so many keys.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        let state = State { known: None, sent: 0, evicted: 0, doubts: Vec::new() };
        Self { state: RwLock::new(state), keys_max: keys_max.max(1) }
    }

    /// Lets `judge` look at the cache in one step; `None` when nothing is known yet. Takes no other
    /// lock for long and never waits for the store.
    pub fn view<R>(&self, now: Timestamp, judge: impl FnOnce(&View<'_>) -> R) -> Option<R> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let known = state.known.as_ref()?;
        Some(judge(&View { known, doubts: &state.doubts, now }))
    }

    /// The position up to which every change is reflected.
    #[must_use]
    pub fn applied(&self) -> Option<Position> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().map(|known| known.applied)
    }

    /// What was applied, under what bounds, and by what lease; `None` when nothing is known.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().map(|known| Standing {
            applied: known.applied,
            bounds: Bounds::of(known.catalogue.policy()),
            lease: known.lease,
        })
    }

    /// Whether every key of the store is in.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().is_some_and(|known| known.extent == Extent::Complete)
    }

    /// Whether the first load is under way, of keys or of what is told of those that do not fit.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().is_some_and(|known| known.extent.is_loading())
    }

    /// Whether this digest is somebody's, as far as was read; hardly ever said of one that is not. A hint on who is to be
    /// looked for first, never an answer.
    #[must_use]
    pub fn is_listed(&self, digest: &Digest) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().is_some_and(|known| known.roll.holds(digest))
    }

    /// How many keys are in.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().map_or(0, |known| known.keys.len())
    }

    /// How much is held.
    #[must_use]
    pub fn holding(&self) -> Holding {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = state.known.as_ref() else {
            return Holding { evicted: state.evicted, ..Holding::default() };
        };
        Holding {
            keys: known.keys.len(),
            accounts: known.accounts.len(),
            absent: known.absent.len(),
            listed: known.roll.len(),
            evicted: state.evicted + known.evicted,
        }
    }

    /// Whether no key is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the change at this position was applied, by its tag. A number that lies before what is
    /// kept in mind counts as shown: it was applied with a gapless order above it.
    #[must_use]
    pub fn shows(&self, position: Position) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.as_ref().is_some_and(|known| known.shows(position))
    }

    /// Nothing of this subject is used until a read that is sent from now on, and renews the lease, has been applied.
    pub fn doubt(&self, doubt: Doubt) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let sent = state.sent;
        state.doubts.retain(|(_, known)| *known != doubt);
        if state.doubts.len() >= DOUBTS_MAX {
            state.doubts = vec![(sent, Doubt::Everything)];
        }
        state.doubts.push((sent, doubt));
    }

    /// What the next read has to ask; it counts as sent from here. Pages and changes are halved so
    /// often: for a store that did not answer in time.
    pub fn begin_read(&self, wanted: Vec<Digest>, halvings: u32) -> ReadAsk {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.sent += 1;
        let extent = state.known.as_ref().map_or(Extent::Loading(None), |known| known.extent);
        ReadAsk {
            node: None,
            must_renew: false,
            time_max: Duration::ZERO,
            after: state.known.as_ref().map(|known| known.applied),
            wanted,
            page: extent.next_page(halvings),
            changes_max: (CHANGES_MAX >> halvings).max(1),
        }
    }

    /// Applies what the last read brought, whole and in one step; `own` are commits of this node that
    /// it must show, `lease` is what it goes on by from now on, if the read renewed it. What cannot be trusted drops
    /// everything, in the same step: nothing is answered from it any more, and the next read starts over.
    pub fn apply(
        &self,
        mut batch: ReadBatch,
        own: &[Position],
        lease: Option<Lease>,
    ) -> Result<(), Fence> {
        let policy = batch.policy.take().map(|policy| self.compile(policy));
        let mut policy = policy.transpose();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let is_behind = batch.is_behind;
        let applied = match (state.known.as_mut(), &mut policy) {
            (_, Err(fence)) => Err(fence.clone()),
            (None, Ok(policy)) => {
                let known = Known::begin(batch, policy.take(), self.keys_max);
                known.map(|known| state.known = Some(known))
            }
            (Some(known), Ok(policy)) => known.advance(batch, policy.as_mut(), self.keys_max),
        };
        // There are changes that a read which is behind saw and did not bring: nothing is fresh by it.
        if let (false, Some(lease)) = (is_behind, lease) {
            // The read that was just applied is number `sent`; it settles what was doubted before it.
            let sent = state.sent;
            state.doubts.retain(|(since, _)| *since >= sent);
            if let Some(known) = state.known.as_mut() {
                known.lease = lease;
            }
        }
        let shown = applied.and_then(|()| state.check_own(own, is_behind));
        let dropped = if shown.is_err() { state.forget() } else { None };
        // Letting go of millions of keys takes its time, as does what another policy took the place of.
        drop(state);
        drop((dropped, policy));
        shown
    }

    /// Drops everything: the store says that it must not be used.
    pub fn fence(&self, why: String) -> Fence {
        let dropped = self.state.write().unwrap_or_else(PoisonError::into_inner).forget();
        drop(dropped);
        Fence::Outgrown(why)
    }
}

impl State {
    fn forget(&mut self) -> Option<Known> {
        let known = self.known.take()?;
        self.evicted += known.evicted;
        Some(known)
    }

    fn check_own(&self, own: &[Position], is_behind: bool) -> Result<(), Fence> {
        let Some(known) = self.known.as_ref().filter(|_| !is_behind) else { return Ok(()) };
        match own.iter().find(|position| !known.shows(**position)) {
            None => Ok(()),
            Some(position) => Err(Fence::OwnCommitMissing { n: position.n }),
        }
    }
}

impl View<'_> {
    /// The policy to judge by.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.known.catalogue
    }

    /// The position as of which all of this is true.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.known.applied
    }

    /// How good all of this is. The time is asked for after the lease was looked at, so whoever asks for it last, once
    /// all is decided, can be held up in between and answers nothing that is too old.
    #[must_use]
    pub fn freshness(&self, now: impl FnOnce() -> Timestamp) -> Freshness {
        match self.known.lease {
            Lease::Held => Freshness::Fresh,
            lease @ Lease::Since { .. } => {
                lease.freshness(Bounds::of(self.known.catalogue.policy()), now())
            }
        }
    }

    /// By what it goes on.
    #[must_use]
    pub const fn lease(&self) -> Lease {
        self.known.lease
    }

    /// Whether the change at this position is reflected, by its tag: see [`Cache::shows`].
    #[must_use]
    pub fn shows(&self, position: Position) -> bool {
        self.known.shows(position)
    }

    /// What is known of a digest.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Found<'_> {
        let found = self.known.keys.get(digest);
        if !self.doubts.is_empty() && self.is_doubtful(digest, found) {
            return Found::Doubtful;
        }
        let Some(key) = found else {
            return self.known.find_absent(digest);
        };
        let account = self.known.accounts.get(key.account);
        if account.is_unreadable {
            return Found::Doubtful;
        }
        key.touch(self.now);
        Found::Key(KeyView { key, account, grant: self.known.grants.get(key.grant) })
    }

    fn is_doubtful(&self, digest: &Digest, found: Option<&CachedKey>) -> bool {
        let key = found.map(|key| (key.id, &self.known.accounts.get(key.account).id));
        self.doubts.iter().any(|(_, doubt)| doubt.is_about(digest, key))
    }
}

impl Doubt {
    /// Whether it is about this digest, which is that of this key of this account, where that is known.
    fn is_about(&self, digest: &Digest, key: Option<(KeyId, &AccountId)>) -> bool {
        match self {
            Self::Everything => true,
            Self::Digest(doubted) => doubted == digest,
            Self::Key(doubted) => key.is_some_and(|(id, _)| id == *doubted),
            Self::Account(doubted) => key.is_some_and(|(_, account)| account == doubted),
        }
    }
}

impl KeyView<'_> {
    /// Whether it holds a scope that is strict.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        self.grant.is_strict
    }

    /// What the decision looks at.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            revoked: self.key.is_revoked,
            disabled: self.key.is_disabled,
            expire_time: self.key.expire_time,
            suspended: self.account.is_suspended,
            allowed_cidrs: &self.key.allowed_cidrs,
            environment: self.key.environment,
            held: &self.grant.held,
        }
    }

    /// Whose key it is; cheap to make, it shares what it holds.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            key_id: self.key.id,
            account: self.account.id.clone(),
            environment: self.key.environment,
            scopes: Arc::clone(&self.grant.names),
            plan: Arc::clone(&self.account.plan),
            labels: self.key.labels.clone(),
            expire_time: self.key.expire_time,
        }
    }
}

impl Known {
    /// A digest that no cached key has: absence is final when everything is here, or when it was read.
    fn find_absent(&self, digest: &Digest) -> Found<'static> {
        if self.must_fetch.contains(digest) {
            return Found::Doubtful;
        }
        let is_absent = self.extent == Extent::Complete || self.absent.contains(digest);
        if is_absent { Found::Absent } else { Found::Miss }
    }

    fn shows(&self, position: Position) -> bool {
        if position.epoch != self.applied.epoch || position.n > self.applied.n {
            return false;
        }
        self.recent.tag_at(position.n).is_none_or(|tag| tag == position.tag)
    }
}

#[cfg(test)]
mod tests;

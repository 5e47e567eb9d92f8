//! What the cache keeps of a key: only what decides, and as little of it as can be.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

use super::{AccountEntry, KeyEntry};
use crate::account::{Account, AccountId, Labels};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::policy::Catalogue;
use crate::scope::{ScopePattern, ScopeSet};
use crate::token::Environment;

/// A key.
pub(super) struct CachedKey {
    pub id: KeyId,
    pub expire_time: Option<Timestamp>,
    pub allowed_cidrs: Box<[IpNet]>,
    pub labels: Option<Arc<Labels>>,
    /// Its place among the accounts.
    pub account: u32,
    /// Its place among the grants.
    pub grant: u32,
    /// When it was used last, in seconds since the epoch: what a victim is chosen by.
    last_used: AtomicU32,
    pub environment: Environment,
    pub is_revoked: bool,
    pub is_disabled: bool,
}

/// An account that cached keys belong to.
#[derive(Clone)]
pub(super) struct CachedAccount {
    pub id: AccountId,
    pub plan: Arc<str>,
    pub is_suspended: bool,
    /// Its row makes no sense: nothing can be said of its keys.
    pub is_unreadable: bool,
}

/// A list of scopes that cached keys hold, beside what it amounts to under the policy of now. Many
/// keys have the same list, so a new policy is worked out once for each list and not for each key.
pub(super) struct Grant {
    pub names: Arc<[ScopePattern]>,
    pub held: ScopeSet,
    /// Whether any scope in it is strict.
    pub is_strict: bool,
}

impl CachedKey {
    pub(super) fn new(key: KeyEntry, account: u32, grant: u32) -> Self {
        let KeyEntry {
            id,
            environment,
            scopes: _,
            expire_time,
            is_revoked,
            is_disabled,
            allowed_cidrs,
            labels,
        } = key;
        Self {
            id,
            expire_time,
            allowed_cidrs: allowed_cidrs.into(),
            labels: (!labels.is_empty()).then(|| Arc::new(labels)),
            account,
            grant,
            last_used: AtomicU32::new(0),
            environment,
            is_revoked,
            is_disabled,
        }
    }

    /// Notes that it was used. Written once a second at most, so that threads that share a busy key
    /// do not take its cache line from each other.
    pub(super) fn touch(&self, now: Timestamp) {
        let second = u32::try_from(now.seconds_and_nanos().0).unwrap_or(u32::MAX);
        if self.last_used() != second {
            self.used_at(second);
        }
    }

    pub(super) fn last_used(&self) -> u32 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Takes it for used at this second.
    pub(super) fn used_at(&self, second: u32) {
        self.last_used.store(second, Ordering::Relaxed);
    }
}

impl From<&Account> for CachedAccount {
    fn from(account: &Account) -> Self {
        Self {
            id: account.id.clone(),
            plan: account.plan.as_str().into(),
            is_suspended: account.suspended,
            is_unreadable: false,
        }
    }
}

impl From<&AccountEntry> for CachedAccount {
    fn from(account: &AccountEntry) -> Self {
        let AccountEntry { id, plan, is_suspended } = account;
        let plan = plan.as_str().into();
        Self { id: id.clone(), plan, is_suspended: *is_suspended, is_unreadable: false }
    }
}

impl Grant {
    pub(super) fn new(names: Arc<[ScopePattern]>, catalogue: &Catalogue) -> Self {
        let held = catalogue.held(names.iter());
        let is_strict = catalogue.is_any_strict(&held);
        Self { names, held, is_strict }
    }

    pub(super) fn renew(&mut self, catalogue: &Catalogue) {
        self.held = catalogue.held(self.names.iter());
        self.is_strict = catalogue.is_any_strict(&self.held);
    }
}

/// Values that many keys share, each kept once and as long as a key refers to it.
pub(super) struct Shared<K, V> {
    places: HashMap<K, u32>,
    slots: Vec<Slot<K, V>>,
    free: Vec<u32>,
}

struct Slot<K, V> {
    key: K,
    value: V,
    users: u32,
}

impl<K: Hash + Eq + Clone, V> Shared<K, V> {
    pub(super) fn new() -> Self {
        Self { places: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, place: u32) -> &V {
        &self.slots[place as usize].value
    }

    pub(super) fn find<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.places.get(key).map(|place| self.get(*place))
    }

    pub(super) fn find_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = *self.places.get(key)?;
        Some(&mut self.slots[place as usize].value)
    }

    /// By their places; some may be nobody's any more.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().map(|slot| &slot.value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().map(|slot| &mut slot.value)
    }

    /// One more key refers to this value; it is made when it is not there.
    pub(super) fn take(&mut self, key: &K, make: impl FnOnce() -> V) -> u32 {
        if let Some(place) = self.places.get(key) {
            self.slots[*place as usize].users += 1;
            return *place;
        }
        let slot = Slot { key: key.clone(), value: make(), users: 1 };
        let place =
            self.free.pop().unwrap_or_else(|| u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        match self.slots.get_mut(place as usize) {
            Some(freed) => *freed = slot,
            None => self.slots.push(slot),
        }
        self.places.insert(key.clone(), place);
        place
    }

    /// One key fewer refers to it; the last one lets it go.
    pub(super) fn give_back(&mut self, place: u32) {
        let slot = &mut self.slots[place as usize];
        slot.users -= 1;
        if slot.users == 0 {
            self.places.remove(&slot.key);
            self.free.push(place);
        }
    }
}

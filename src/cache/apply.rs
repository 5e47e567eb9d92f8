//! How the cache takes in what a read brought: checked first, then changes, records and position.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::entry::{CachedAccount, CachedKey, Grant, Shared};
use super::{
    ABSENT_MAX, AccountId, Cache, Catalogue, DefaultHashBuilder, Digest, Extent, Fence, HashSet,
    IndexMap, IndexSet, KeyEntry, Known, LISTED_PER_KEY, Position, ReadBatch, Recent, Roll,
    Subject, VICTIMS_COMPARED,
};
use crate::lease::Lease;
use crate::policy::Policy;
use crate::store::Lost;

/// A policy, worked out before the lock is taken: with many lists of scopes that takes its time.
pub(super) struct Compiled {
    catalogue: Catalogue,
    /// What it makes of each list of scopes that was cached then, by its place.
    grants: Vec<Grant>,
}

impl Cache {
    pub(super) fn compile(&self, policy: Policy) -> Result<Compiled, Fence> {
        let catalogue =
            Catalogue::compile(policy, "").map_err(|error| Fence::BadPolicy(error.to_string()))?;
        let names: Vec<_> = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let grants = state.known.iter().flat_map(|known| known.grants.values());
            grants.map(|grant| Arc::clone(&grant.names)).collect()
        };
        let grants = names.into_iter().map(|names| Grant::new(names, &catalogue)).collect();
        Ok(Compiled { catalogue, grants })
    }
}

impl Known {
    /// From the first read.
    pub(super) fn begin(
        batch: ReadBatch,
        policy: Option<Compiled>,
        keys_max: usize,
    ) -> Result<Self, Fence> {
        let Compiled { catalogue, grants: _ } =
            policy.ok_or_else(|| Fence::BadPolicy("there is none, or it makes no sense".into()))?;
        // What the first read brings of changes is the window before it; it ends where the read stands.
        let before = batch.changes.first().map(|first| first.position.n.saturating_sub(1));
        check_order(before.unwrap_or(batch.position.n), &batch)?;
        let hasher = DefaultHashBuilder::default();
        let mut known = Self {
            applied: batch.position,
            lease: Lease::NONE,
            recent: Recent::default(),
            catalogue,
            keys: IndexMap::with_hasher(hasher.clone()),
            accounts: Shared::new(),
            grants: Shared::new(),
            absent: IndexSet::with_hasher(hasher.clone()),
            must_fetch: HashSet::new(),
            roll: Roll::new(hasher.clone(), keys_max.saturating_mul(LISTED_PER_KEY)),
            extent: Extent::Loading(None),
            evicted: 0,
            draws: batch.position.tag,
        };
        known.recent.remember(&batch.changes);
        known.set_unreadable_aside(&batch);
        known.install_records(batch, keys_max);
        Ok(known)
    }

    /// From a later read. Everything is checked before anything is changed.
    pub(super) fn advance(
        &mut self,
        batch: ReadBatch,
        policy: Option<&mut Compiled>,
        keys_max: usize,
    ) -> Result<(), Fence> {
        if batch.position.epoch != self.applied.epoch {
            return Err(Fence::AnotherEpoch);
        }
        // Before the first change there is nothing to be found, and nothing to differ.
        if self.applied.n > 0 && batch.found != Some(self.applied) {
            return Err(Fence::WentBack { n: self.applied.n });
        }
        let is_lost = |what| batch.unreadable.iter().any(|row| row.of == what);
        if is_lost(Lost::Change) {
            return Err(Fence::Unreadable { n: self.applied.n });
        }
        check_order(self.applied.n, &batch)?;
        if is_lost(Lost::Policy) {
            return Err(Fence::BadPolicy(
                "it makes no sense, or a newer version wrote it".to_owned(),
            ));
        }

        self.forget_changed(&batch);
        self.set_unreadable_aside(&batch);
        self.recent.remember(&batch.changes);
        if let Some(policy) = policy {
            // One that comes with a read that is behind is of a later time than the records, and could judge them less
            // strictly.
            if batch.is_behind && self.lease != Lease::Held {
                self.lease = Lease::NONE;
            }
            self.install_policy(policy);
        }
        let position = batch.position;
        self.install_records(batch, keys_max);
        self.applied = position;
        Ok(())
    }

    /// What was changed is not what it was. When its record is not in the batch, what remains of a key is a mark, and of
    /// an account that nothing can be said of its keys.
    fn forget_changed(&mut self, batch: &ReadBatch) {
        if batch.changes.is_empty() {
            return;
        }
        let keys: HashSet<_> = batch.keys.iter().map(|key| key.digest).collect();
        let accounts: HashSet<_> = batch.accounts.iter().map(|account| &account.id).collect();
        for change in &batch.changes {
            match (&change.subject, change.digest) {
                (Subject::Key(_), Some(digest)) if keys.contains(&digest) => {}
                (Subject::Key(_), Some(digest)) => self.must_fetch(digest),
                // It cannot be told which key it is, so nothing that is not here is known to be absent.
                (Subject::Key(_), None) => self.end_completeness(),
                (Subject::Account(id), _) if accounts.contains(id) => {}
                (Subject::Account(id), _) => self.lose_account(id),
                (Subject::Policy, _) => {}
            }
        }
    }

    /// What cannot be read is neither there nor absent: nothing is answered about it.
    fn set_unreadable_aside(&mut self, batch: &ReadBatch) {
        for row in &batch.unreadable {
            match &row.of {
                Lost::Key(Some(digest)) => self.must_fetch(*digest),
                Lost::Account(id) => self.lose_account(id),
                // No token leads to a key without a digest. What becomes of the others was decided before.
                Lost::Key(None) | Lost::Policy | Lost::Change => {}
            }
        }
    }

    fn lose_account(&mut self, id: &AccountId) {
        if let Some(account) = self.accounts.find_mut(id) {
            account.is_unreadable = true;
        }
    }

    fn must_fetch(&mut self, digest: Digest) {
        self.roll.add(&digest);
        self.remove(&digest);
        self.must_fetch.insert(digest);
    }

    /// What was in force before is left in its place, to be let go of once the lock is.
    pub(super) fn install_policy(&mut self, policy: &mut Compiled) {
        std::mem::swap(&mut self.catalogue, &mut policy.catalogue);
        let mut worked_out = policy.grants.iter_mut();
        for grant in self.grants.values_mut() {
            match worked_out.next() {
                Some(new) if Arc::ptr_eq(&new.names, &grant.names) => std::mem::swap(grant, new),
                // It came with a hint since.
                Some(_) | None => grant.renew(&self.catalogue),
            }
        }
    }

    fn install_records(&mut self, batch: ReadBatch, keys_max: usize) {
        let accounts: HashMap<_, _> =
            batch.accounts.iter().map(|account| (&account.id, account)).collect();
        for account in &batch.accounts {
            if let Some(cached) = self.accounts.find_mut(&account.id) {
                *cached = CachedAccount::from(account);
            }
        }
        for record in batch.keys {
            let digest = record.digest;
            // A key whose account did not come with it cannot be judged.
            let Some(account) = accounts.get(&record.account) else {
                self.must_fetch(digest);
                continue;
            };
            let make = || CachedAccount::from(*account);
            self.install(digest, record.into(), &account.id, make, keys_max);
        }
        self.remember_absent(batch.absent);
        for digest in &batch.listed {
            self.roll.add(digest);
        }
        if let Some(end) = batch.page {
            self.extent = self.extent.after_page(end, !self.roll.is_full());
        }
    }

    fn end_completeness(&mut self) {
        self.extent = self.extent.without_completeness();
    }

    /// Puts a key in, and its account unless that is here.
    pub(super) fn install(
        &mut self,
        digest: Digest,
        key: KeyEntry,
        account: &AccountId,
        make: impl FnOnce() -> CachedAccount,
        keys_max: usize,
    ) {
        self.roll.add(&digest);
        self.must_fetch.remove(&digest);
        self.absent.swap_remove(&digest);
        let account = self.accounts.take(account, make);
        let names: Arc<[_]> = key.scopes.as_slice().into();
        let grant = self.grants.take(&names, || Grant::new(names.clone(), &self.catalogue));
        let key = CachedKey::new(key, account, grant);
        if let Some(earlier) = self.keys.get(&digest) {
            key.used_at(earlier.last_used());
        } else if self.keys.len() >= keys_max {
            // Whoever waits for it has to find it: what makes room next for another is not this one.
            key.used_at(self.drop_a_victim());
        }
        if let Some(earlier) = self.keys.insert(digest, key) {
            self.give_back(&earlier);
        }
    }

    /// Makes room: of a few keys drawn at random, the one that was used longest ago goes. Completeness,
    /// and a first load under way, end before anything is dropped. Tells when the latest of them was used.
    fn drop_a_victim(&mut self) -> u32 {
        self.end_completeness();
        let below = self.keys.len();
        let drawn: [usize; VICTIMS_COMPARED] = std::array::from_fn(|_| self.draw(below));
        let latest = drawn.iter().map(|at| self.keys[*at].last_used()).max();
        let victim = drawn.into_iter().min_by_key(|at| self.keys[*at].last_used());
        if let Some((_, key)) = victim.and_then(|at| self.keys.swap_remove_index(at)) {
            self.evicted += 1;
            self.give_back(&key);
        }
        latest.unwrap_or(0)
    }

    /// A place below `below`, by Knuth's multiplicative generator.
    fn draw(&mut self, below: usize) -> usize {
        self.draws = self
            .draws
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.draws >> 33).unwrap_or(0) % below
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(key) = self.keys.swap_remove(digest) {
            self.give_back(&key);
        }
    }

    fn give_back(&mut self, key: &CachedKey) {
        self.accounts.give_back(key.account);
        self.grants.give_back(key.grant);
    }

    pub(super) fn remember_absent(&mut self, absent: Vec<Digest>) {
        for digest in absent {
            self.must_fetch.remove(&digest);
            if self.extent == Extent::Complete {
                continue;
            }
            if self.absent.len() >= ABSENT_MAX {
                let at = self.draw(self.absent.len());
                self.absent.swap_remove_index(at);
            }
            self.absent.insert(digest);
        }
    }
}

/// Changes follow `before` without a gap, and end where the batch stands.
fn check_order(before: u64, batch: &ReadBatch) -> Result<(), Fence> {
    let mut last = Position { n: before, ..batch.position };
    for change in &batch.changes {
        if change.position.epoch != batch.position.epoch {
            return Err(Fence::AnotherEpoch);
        }
        if change.position.n != last.n + 1 {
            return Err(Fence::Gap { n: last.n, next: change.position.n });
        }
        last = change.position;
    }
    let is_whole =
        last.n == batch.position.n && (batch.changes.is_empty() || last.tag == batch.position.tag);
    if is_whole { Ok(()) } else { Err(Fence::Gap { n: last.n, next: batch.position.n }) }
}

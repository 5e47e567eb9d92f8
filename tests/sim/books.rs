//! What stands in the store: rows as they are after one commit, and the one door by which they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use latchkey::account::{Account, AccountId};
use latchkey::audit::Entry;
use latchkey::clock::Timestamp;
use latchkey::key::{Actor, KeyClass, KeyId, KeyRecord};
use latchkey::policy::{Catalogue, Policy};
use latchkey::revision::Position;
use latchkey::store::door::{Head, Made, Remembered, Rows};
use latchkey::store::{
    Change, MacKeys, NodeRow, PageEnd, RECENT_CHANGES_MAX, ReadAsk, ReadBatch, RequestMark,
    StoreError, Subject,
};
use latchkey::token::Digest;

/// All rows, as of one commit.
#[derive(Clone)]
pub(crate) struct Books {
    pub(crate) epoch: u64,
    pub(crate) at: Timestamp,
    is_seeded: bool,
    pub(crate) changes: Vec<Change>,
    pub(crate) policy: Option<(Policy, Position)>,
    pub(crate) accounts: BTreeMap<AccountId, Account>,
    pub(crate) keys: BTreeMap<KeyId, KeyRecord>,
    requests: BTreeMap<(String, String), (Vec<u8>, Made)>,
    pub(crate) mac_keys: MacKeys,
    /// What nodes said of themselves, and when. Not of the commit, but kept with what it is kept with.
    pub(crate) nodes: BTreeMap<u64, (NodeRow, Timestamp)>,
}

impl Books {
    pub(crate) fn new(epoch: u64, mac_keys: MacKeys) -> Self {
        Self {
            epoch,
            at: Timestamp::EPOCH,
            is_seeded: false,
            changes: Vec::new(),
            policy: None,
            accounts: BTreeMap::new(),
            keys: BTreeMap::new(),
            requests: BTreeMap::new(),
            mac_keys,
            nodes: BTreeMap::new(),
        }
    }

    pub(crate) fn position(&self) -> Position {
        let empty = Position { epoch: self.epoch, n: 0, tag: 0 };
        self.changes.last().map_or(empty, |change| change.position)
    }

    /// Whether this change stands in them.
    pub(crate) fn shows(&self, position: Position) -> bool {
        let at = usize::try_from(position.n).unwrap();
        at == 0 || self.changes.get(at - 1).is_some_and(|change| change.position == position)
    }

    pub(crate) fn key_of(&self, digest: &Digest) -> Option<&KeyRecord> {
        self.keys.values().find(|key| key.digest == *digest)
    }

    /// The reader's read.
    pub(crate) fn read(&self, ask: &ReadAsk) -> ReadBatch {
        let mut batch = ReadBatch {
            is_renewed: false,
            position: self.position(),
            is_behind: false,
            found: None,
            changes: Vec::new(),
            keys: Vec::new(),
            accounts: Vec::new(),
            policy: None,
            absent: Vec::new(),
            listed: Vec::new(),
            unreadable: Vec::new(),
            page: None,
            mac_keys: self.mac_keys.clone(),
        };
        let policy = || self.policy.as_ref().map(|(policy, _)| policy.clone());
        if let Some(after) = ask.after {
            let n = usize::try_from(after.n).unwrap();
            let empty = Position { epoch: self.epoch, n: 0, tag: 0 };
            batch.found = match n {
                0 => Some(empty),
                n => self.changes.get(n - 1).map(|change| change.position),
            };
            let later = self.changes.get(n..).unwrap_or_default();
            batch.is_behind = later.len() > ask.changes_max;
            batch.changes = later[..later.len().min(ask.changes_max)].to_vec();
            if batch.is_behind {
                batch.position = batch.changes.last().map_or(after, |change| change.position);
            }
            if batch.changes.iter().any(|change| change.subject == Subject::Policy) {
                batch.policy = policy();
            }
        } else {
            let first = self.changes.len().saturating_sub(RECENT_CHANGES_MAX);
            batch.changes = self.changes[first..].to_vec();
            batch.policy = policy();
        }
        self.bring_records(ask, &mut batch);
        batch
    }

    fn bring_records(&self, ask: &ReadAsk, batch: &mut ReadBatch) {
        let mut ids = std::collections::BTreeSet::new();
        let mut accounts = std::collections::BTreeSet::new();
        if ask.after.is_some() {
            for change in &batch.changes {
                match &change.subject {
                    Subject::Key(id) => drop(ids.insert(*id)),
                    Subject::Account(id) => drop(accounts.insert(id.clone())),
                    Subject::Policy => {}
                }
            }
        }
        if !batch.is_behind {
            for digest in &ask.wanted {
                match self.key_of(digest) {
                    Some(key) => drop(ids.insert(key.id)),
                    None => batch.absent.push(*digest),
                }
            }
            if let Some(page) = ask.page {
                let after = self.keys.keys().filter(|id| page.after.is_none_or(|last| **id > last));
                let on_page: Vec<_> = after.take(page.keys_max).copied().collect();
                batch.page = Some(match on_page.last() {
                    Some(last) if on_page.len() == page.keys_max => PageEnd::At(*last),
                    Some(_) | None => PageEnd::Last,
                });
                if page.of_digests {
                    batch.listed = on_page.iter().map(|id| self.keys[id].digest).collect();
                } else {
                    ids.extend(on_page);
                }
            }
        }
        batch.keys = ids.iter().filter_map(|id| self.keys.get(id).cloned()).collect();
        accounts.extend(batch.keys.iter().map(|key| key.account.clone()));
        batch.accounts = accounts.iter().filter_map(|id| self.accounts.get(id).cloned()).collect();
    }
}

/// The rows of one transaction.
pub(crate) struct Transaction<'a>(pub(crate) &'a mut Books);

#[async_trait]
impl Rows for Transaction<'_> {
    async fn head(&mut self) -> Result<Head, StoreError> {
        let Books { at, is_seeded, .. } = *self.0;
        Ok(Head { position: self.0.position(), at, is_seeded })
    }

    async fn set_seeded(&mut self) -> Result<(), StoreError> {
        self.0.is_seeded = true;
        Ok(())
    }

    async fn append(&mut self, entry: &Entry, change: &Change) -> Result<(), StoreError> {
        assert_eq!(change.position.n, self.0.position().n + 1, "numbers are gapless");
        self.0.changes.push(change.clone());
        self.0.at = entry.time;
        Ok(())
    }

    async fn catalogue(&mut self) -> Result<Option<(Arc<Catalogue>, Position)>, StoreError> {
        let Some((policy, at)) = self.0.policy.clone() else { return Ok(None) };
        let catalogue = Catalogue::compile(policy, "").expect("it was found right before");
        Ok(Some((Arc::new(catalogue), at)))
    }

    async fn put_policy(
        &mut self,
        policy: &Policy,
        revision: Position,
        _: Timestamp,
    ) -> Result<(), StoreError> {
        self.0.policy = Some((policy.clone(), revision));
        Ok(())
    }

    async fn account(&mut self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        Ok(self.0.accounts.get(id).cloned())
    }

    async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError> {
        self.0.accounts.insert(account.id.clone(), account.clone());
        Ok(())
    }

    async fn update_account(&mut self, account: &Account) -> Result<(), StoreError> {
        self.insert_account(account).await
    }

    async fn plans_used(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        let mut plans = BTreeMap::new();
        for account in self.0.accounts.values().filter(|account| !account.id.is_reserved()) {
            *plans.entry(account.plan.clone()).or_default() += 1;
        }
        Ok(plans.into_iter().collect())
    }

    async fn key(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.0.keys.get(&id).cloned())
    }

    async fn key_by_digest(&mut self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self.0.key_of(digest).cloned())
    }

    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        self.0.keys.insert(key.id, key.clone());
        Ok(())
    }

    async fn update_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        self.insert_key(key).await
    }

    async fn count_keys(
        &mut self,
        account: &AccountId,
        class: KeyClass,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        let counts = |key: &&KeyRecord| {
            key.account == *account && key.class() == class && key.is_counted(at)
        };
        Ok(u32::try_from(self.0.keys.values().filter(counts).count()).unwrap())
    }

    async fn keys_made_by(&mut self, maker: &Actor) -> Result<Vec<KeyRecord>, StoreError> {
        Ok(self.0.keys.values().filter(|key| key.created_by == *maker).cloned().collect())
    }

    async fn scopes_held(&mut self, _: Timestamp) -> Result<Vec<(String, u64)>, StoreError> {
        let mut held = BTreeMap::new();
        for key in self.0.keys.values().filter(|key| key.revocation.is_none()) {
            for scope in key.scopes.iter().chain(&key.grantable_scopes) {
                *held.entry(scope.as_str().to_owned()).or_default() += 1;
            }
        }
        Ok(held.into_iter().collect())
    }

    async fn request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Remembered>, StoreError> {
        let found = self.0.requests.get(&(format!("{account} {rpc}"), id.to_owned()));
        Ok(found.map(|(content, made)| Remembered { content: content.clone(), made: made.clone() }))
    }

    async fn insert_request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        mark: &RequestMark,
        made: &Made,
        _: Timestamp,
    ) -> Result<(), StoreError> {
        let key = (format!("{account} {rpc}"), mark.id.clone());
        self.0.requests.insert(key, (mark.content.to_vec(), made.clone()));
        Ok(())
    }

    async fn forget_requests(&mut self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}

//! The reader's read, for all databases alike: one snapshot, and what is brought of it.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;

use super::row::{AccountRow, KeyRow, Named};
use super::sql::{Columns, DIGEST_COLUMN, account_row, key_row};
use super::{
    Change, MacKeys, PageAsk, PageEnd, RECENT_CHANGES_MAX, ReadAsk, ReadBatch, StoreError, Subject,
};
use crate::account::AccountId;
use crate::key::KeyId;
use crate::policy::Policy;
use crate::revision::Position;
use crate::token::Digest;

/// One snapshot: whatever is asked for, and in whatever order, it is as of the same position.
#[async_trait]
pub(super) trait Snapshot: Send {
    type Row: Columns + Send + Sync;

    /// The head of the feed, and the keys that stand beside it.
    async fn head(&mut self) -> Result<(Position, MacKeys), StoreError>;
    /// The tag of the change of this number.
    async fn tag_at(&mut self, n: u64) -> Result<Option<u64>, StoreError>;
    /// `n, tag, kind, subject, digest` of changes after a number, in order.
    async fn changes(&mut self, after: u64, most: u64) -> Result<Vec<Self::Row>, StoreError>;
    /// The policy, if there is one yet.
    async fn policy(&mut self) -> Result<Option<Policy>, StoreError>;
    /// The keys of these ids.
    async fn keys(&mut self, ids: &BTreeSet<String>) -> Result<Vec<Self::Row>, StoreError>;
    /// The keys of these digests.
    async fn wanted(&mut self, digests: &[Digest]) -> Result<Vec<Self::Row>, StoreError>;
    /// The keys after this id, in order.
    async fn page(&mut self, after: &str, most: u64) -> Result<Vec<Self::Row>, StoreError>;
    /// The accounts of these ids.
    async fn accounts(&mut self, ids: &BTreeSet<String>) -> Result<Vec<Self::Row>, StoreError>;
}

/// Brings what is asked for.
pub(super) async fn read<S: Snapshot>(
    snapshot: &mut S,
    ask: &ReadAsk,
) -> Result<ReadBatch, StoreError> {
    let (position, mac_keys) = snapshot.head().await?;
    let batch = empty(position, mac_keys);
    Reading { snapshot, batch, keys: HashSet::new() }.bring(ask).await
}

struct Reading<'a, S> {
    snapshot: &'a mut S,
    batch: ReadBatch,
    /// Keys that were looked at, so that none is brought twice.
    keys: HashSet<KeyId>,
}

impl<S: Snapshot> Reading<'_, S> {
    async fn bring(mut self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        match ask.after {
            None => self.bring_recent().await?,
            Some(after) => self.bring_changes(after, ask.changes_max).await?,
        }
        if !self.batch.is_behind {
            self.bring_wanted(&ask.wanted).await?;
            if let Some(page) = ask.page {
                self.bring_page(page).await?;
            }
        }
        self.bring_accounts(ask.after.is_none()).await?;
        Ok(self.batch)
    }

    /// The first read: the window of recent changes, and the policy.
    async fn bring_recent(&mut self) -> Result<(), StoreError> {
        let recent = RECENT_CHANGES_MAX as u64;
        let first = self.batch.position.n.saturating_sub(recent);
        self.batch.changes = self.changes(first, recent).await?;
        self.bring_policy().await
    }

    /// A later read: the changes since, and what they changed as it is now.
    async fn bring_changes(&mut self, after: Position, most: usize) -> Result<(), StoreError> {
        self.batch.found = self.change_at(after.n).await?;
        let mut changes = self.changes(after.n, most as u64 + 1).await?;
        if changes.len() > most {
            changes.truncate(most);
            self.batch.is_behind = true;
            self.batch.position = changes.last().map_or(after, |change| change.position);
        }
        let mut keys = BTreeSet::new();
        for change in &changes {
            match &change.subject {
                Subject::Key(id) => drop(keys.insert(id.to_string())),
                // Brought with the accounts of the keys.
                Subject::Account(_) | Subject::Policy => {}
            }
        }
        self.bring_keys(&keys).await?;
        if changes.iter().any(|change| change.subject == Subject::Policy) {
            self.bring_policy().await?;
        }
        self.batch.changes = changes;
        Ok(())
    }

    async fn bring_policy(&mut self) -> Result<(), StoreError> {
        match self.snapshot.policy().await {
            Ok(policy) => self.batch.policy = policy,
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, "the policy cannot be read");
                self.batch.unreadable.push((Subject::Policy, None));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What stands at this number; at zero, the empty store.
    async fn change_at(&mut self, n: u64) -> Result<Option<Position>, StoreError> {
        let epoch = self.batch.position.epoch;
        if n == 0 {
            return Ok(Some(Position { epoch, n: 0, tag: 0 }));
        }
        let tag = self.snapshot.tag_at(n).await?;
        Ok(tag.map(|tag| Position { epoch, n, tag }))
    }

    async fn changes(&mut self, after: u64, most: u64) -> Result<Vec<Change>, StoreError> {
        // Nothing stands behind the head.
        if self.batch.position.n <= after {
            return Ok(Vec::new());
        }
        let epoch = self.batch.position.epoch;
        let rows = self.snapshot.changes(after, most).await?;
        rows.iter().map(|row| change(row, epoch)).collect()
    }

    async fn bring_keys(&mut self, ids: &BTreeSet<String>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let rows = self.snapshot.keys(ids).await?;
        rows.iter().try_for_each(|row| self.take_key(row).map(drop))
    }

    async fn bring_wanted(&mut self, wanted: &[Digest]) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let rows = self.snapshot.wanted(wanted).await?;
        let mut absent: BTreeSet<Digest> = wanted.iter().copied().collect();
        for row in &rows {
            let (_, digest) = self.take_key(row)?;
            digest.map(|digest| absent.remove(&digest));
        }
        self.batch.absent = absent.into_iter().collect();
        Ok(())
    }

    async fn bring_page(&mut self, page: PageAsk) -> Result<(), StoreError> {
        let PageAsk { after, keys_max } = page;
        let from = after.map(|id| id.to_string()).unwrap_or_default();
        let rows = self.snapshot.page(&from, keys_max as u64).await?;
        let mut last = after;
        for row in &rows {
            last = Some(self.take_key(row)?.0);
        }
        self.batch.page = Some(match last {
            Some(last) if rows.len() == keys_max => PageEnd::At(last),
            Some(_) | None => PageEnd::Last,
        });
        Ok(())
    }

    /// Takes a key into the batch. One that cannot be read must not stop all others, so it is told apart.
    fn take_key(&mut self, row: &S::Row) -> Result<(KeyId, Option<Digest>), StoreError> {
        let text = row.text(0)?;
        let id = KeyId::parse(&text);
        let id = Named { table: "keys", row: text }.need("id", id)?;
        let digest = row.bytes(DIGEST_COLUMN).ok().and_then(|bytes| Digest::from_bytes(&bytes));
        if self.keys.insert(id) {
            match key_row(row).and_then(KeyRow::into_record) {
                Ok(key) => self.batch.keys.push(key),
                Err(error) => {
                    tracing::error!(%error, "a key cannot be read, and is refused");
                    self.batch.unreadable.push((Subject::Key(id), digest));
                }
            }
        }
        Ok((id, digest))
    }

    /// The accounts that changed, and those of the keys. The first read's changes come without records.
    async fn bring_accounts(&mut self, is_first: bool) -> Result<(), StoreError> {
        let mut ids: BTreeSet<String> =
            self.batch.keys.iter().map(|key| key.account.to_string()).collect();
        if !is_first {
            ids.extend(self.batch.changes.iter().filter_map(|change| match &change.subject {
                Subject::Account(id) => Some(id.to_string()),
                Subject::Key(_) | Subject::Policy => None,
            }));
        }
        if ids.is_empty() {
            return Ok(());
        }
        for row in &self.snapshot.accounts(&ids).await? {
            let text = row.text(0)?;
            let id = AccountId::parse(&text);
            let id = Named { table: "accounts", row: text }.need("id", id)?;
            match account_row(row).and_then(AccountRow::into_record) {
                Ok(account) => self.batch.accounts.push(account),
                Err(error) => {
                    tracing::error!(%error, "an account cannot be read, and its keys are refused");
                    self.batch.unreadable.push((Subject::Account(id), None));
                }
            }
        }
        Ok(())
    }
}

/// A row of `n, tag, kind, subject, digest, epoch`.
pub(super) fn changed(row: &impl Columns) -> Result<Change, StoreError> {
    change(row, row.number(5)?.cast_unsigned())
}

fn subject(named: &Named, kind: &str, subject: &str) -> Result<Subject, StoreError> {
    match kind {
        "key" => Ok(Subject::Key(named.need("subject", KeyId::parse(subject))?)),
        "account" => Ok(Subject::Account(named.need("subject", AccountId::parse(subject))?)),
        "policy" => Ok(Subject::Policy),
        kind => Err(named.corrupt(format!("kind is `{kind}`"))),
    }
}

fn change(row: &impl Columns, epoch: u64) -> Result<Change, StoreError> {
    let n = row.number(0)?;
    let named = Named { table: "changes", row: n.to_string() };
    let subject = subject(&named, &row.text(2)?, &row.text(3)?)?;
    let digest = row.maybe_bytes(4)?;
    let digest =
        digest.map(|bytes| named.need("digest", Digest::from_bytes(&bytes))).transpose()?;
    let tag = row.number(1)?.cast_unsigned();
    Ok(Change { position: Position { epoch, n: n.cast_unsigned(), tag }, subject, digest })
}

const fn empty(position: Position, mac_keys: MacKeys) -> ReadBatch {
    ReadBatch {
        is_renewed: false,
        position,
        is_behind: false,
        found: None,
        changes: Vec::new(),
        keys: Vec::new(),
        accounts: Vec::new(),
        policy: None,
        absent: Vec::new(),
        unreadable: Vec::new(),
        page: None,
        mac_keys,
    }
}

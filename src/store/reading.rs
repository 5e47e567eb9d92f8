//! The reader's read, for all databases alike: one snapshot, and what is brought of it.

use std::collections::{BTreeSet, HashSet};

use super::database::{Database, Each, Statement};
use super::row::{AccountRow, KeyRow, Named};
use super::sql::{
    Columns, DIGEST_COLUMN, account_row, key_row, position, select_accounts, select_changes,
    select_keys,
};
use super::{
    Change, Lost, MacKeys, PageAsk, PageEnd, RECENT_CHANGES_MAX, ReadAsk, ReadBatch, StoreError,
    Subject, Unreadable, query,
};
use crate::account::AccountId;
use crate::key::KeyId;
use crate::revision::Position;
use crate::token::Digest;

const CHANGES: &str = select_changes!(" FROM changes WHERE n > $1 ORDER BY n LIMIT $2");

const KEYS: Each = Each {
    postgres: select_keys!("WHERE id = ANY($1)"),
    sqlite: select_keys!("WHERE id IN (SELECT value FROM json_each($1))"),
};
const KEYS_OF_DIGESTS: Each = Each {
    postgres: select_keys!("WHERE digest = ANY($1)"),
    sqlite: select_keys!("WHERE digest IN (SELECT unhex(value) FROM json_each($1))"),
};
const ACCOUNTS: Each = Each {
    postgres: select_accounts!("WHERE id = ANY($1) ORDER BY id"),
    sqlite: select_accounts!("WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id"),
};

const FIRST_KEYS: &str = select_keys!("ORDER BY id LIMIT $1");
const NEXT_KEYS: &str = select_keys!("WHERE id > $2 ORDER BY id LIMIT $1");
const FIRST_DIGESTS: &str = "SELECT id, digest FROM keys ORDER BY id LIMIT $1";
const NEXT_DIGESTS: &str = "SELECT id, digest FROM keys WHERE id > $2 ORDER BY id LIMIT $1";

/// Brings what is asked for, in a transaction that was begun: whatever is asked, and in whatever order, all of it is as of
/// the same position. Its head was read: `epoch, n, tag`, the tag of the change that is asked after, and the two keys.
pub(super) async fn read<D: Database>(
    database: &mut D,
    head: &D::Row,
    ask: &ReadAsk,
) -> Result<ReadBatch, StoreError> {
    let batch = empty(position(head, 0)?, MacKeys::read(head, 4)?);
    let found = head.maybe_number(3)?.map(i64::cast_unsigned);
    Reading { database, found, batch, keys: HashSet::new() }.bring(ask).await
}

struct Reading<'a, D> {
    database: &'a mut D,
    /// The tag at the number that is asked after.
    found: Option<u64>,
    batch: ReadBatch,
    /// Keys that were taken, so that none is brought twice.
    keys: HashSet<KeyId>,
}

impl<D: Database> Reading<'_, D> {
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

    /// The first read: the window of recent changes, and the policy. By the window is judged what was true earlier, so it
    /// begins after a change of which is not known what it changed.
    async fn bring_recent(&mut self) -> Result<(), StoreError> {
        let recent = RECENT_CHANGES_MAX as u64;
        let first = self.batch.position.n.saturating_sub(recent);
        for change in self.changes(first, recent).await? {
            match change {
                Ok(change) => self.batch.changes.push(change),
                Err(error) => {
                    self.set_aside(Lost::Change, &error);
                    self.batch.changes.clear();
                }
            }
        }
        self.bring_policy().await
    }

    /// A later read: the changes since, and what they changed as it is now. When it is not known of one what it changed,
    /// it can be anything.
    async fn bring_changes(&mut self, after: Position, most: usize) -> Result<(), StoreError> {
        self.batch.found = self.change_at(after.n);
        let changes = self.changes(after.n, most as u64 + 1).await?;
        let mut changes: Vec<_> = match changes.into_iter().collect() {
            Ok(changes) => changes,
            Err(error) => {
                self.set_aside(Lost::Change, &error);
                return Ok(());
            }
        };
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
        match query::policy(self.database).await {
            Ok(policy) => self.batch.policy = policy.map(|(policy, _)| policy),
            Err(error @ StoreError::Corrupt { .. }) => {
                let row = Named { table: "policy", row: "1".into() };
                self.set_aside(Lost::Policy, &row.locate(error));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What stands at this number; at zero, the empty store.
    fn change_at(&self, n: u64) -> Option<Position> {
        let tag = if n == 0 { Some(0) } else { self.found };
        tag.map(|tag| Position { epoch: self.batch.position.epoch, n, tag })
    }

    /// The changes after a number, those that cannot be read in their places.
    async fn changes(
        &mut self,
        after: u64,
        most: u64,
    ) -> Result<Vec<Result<Change, StoreError>>, StoreError> {
        // Nothing stands behind the head.
        if self.batch.position.n <= after {
            return Ok(Vec::new());
        }
        let epoch = self.batch.position.epoch;
        let statement = Statement::new(CHANGES).bind(after.cast_signed()).bind(most.cast_signed());
        let rows = self.database.all(statement).await?;
        Ok(rows.iter().map(|row| change(row, epoch)).collect())
    }

    async fn bring_keys(&mut self, ids: &BTreeSet<String>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = ids.iter().cloned().collect();
        let rows = self.database.all(Statement::new(D::own(KEYS)).bind(ids)).await?;
        for row in &rows {
            self.take_key(row);
        }
        Ok(())
    }

    async fn bring_wanted(&mut self, wanted: &[Digest]) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = wanted.iter().map(|digest| digest.as_bytes().to_vec()).collect();
        let statement = Statement::new(D::own(KEYS_OF_DIGESTS)).bind(digests);
        let rows = self.database.all(statement).await?;
        let mut absent: BTreeSet<Digest> = wanted.iter().copied().collect();
        for row in &rows {
            self.take_key(row).map(|digest| absent.remove(&digest));
        }
        self.batch.absent = absent.into_iter().collect();
        Ok(())
    }

    /// The next page goes on after the last id that makes sense.
    async fn bring_page(&mut self, page: PageAsk) -> Result<(), StoreError> {
        let from = page.after.map(|id| id.to_string());
        let mut keys_max = page.keys_max;
        loop {
            let statement = Statement::new(match (page.of_digests, &from) {
                (false, None) => FIRST_KEYS,
                (false, Some(_)) => NEXT_KEYS,
                (true, None) => FIRST_DIGESTS,
                (true, Some(_)) => NEXT_DIGESTS,
            });
            let statement = statement.bind((keys_max as u64).cast_signed());
            let statement = from.as_deref().into_iter().fold(statement, Statement::bind);
            let rows = self.database.all(statement).await?;
            for row in &rows {
                if page.of_digests {
                    self.take_digest(row);
                } else {
                    self.take_key(row);
                }
            }
            let last = rows.iter().rev().find_map(|row| KeyId::parse(&row.text(0).ok()?));
            self.batch.page = match last {
                _ if rows.len() < keys_max => Some(PageEnd::Last),
                Some(last) => Some(PageEnd::At(last)),
                None => {
                    keys_max *= 2;
                    continue;
                }
            };
            return Ok(());
        }
    }

    /// Takes what a page of digests tells of a key; one that makes no sense tells nothing.
    fn take_digest(&mut self, row: &D::Row) {
        let digest = row.bytes(1).ok().and_then(|bytes| Digest::from_bytes(&bytes));
        self.batch.listed.extend(digest);
    }

    /// Takes a key into the batch; its digest, where it has one. A key that cannot be read must not stop all others.
    fn take_key(&mut self, row: &D::Row) -> Option<Digest> {
        let digest = row.bytes(DIGEST_COLUMN).ok().and_then(|bytes| Digest::from_bytes(&bytes));
        match key_row(row).and_then(KeyRow::into_record) {
            Ok(key) if self.keys.insert(key.id) => self.batch.keys.push(key),
            Ok(_) => {}
            Err(error) => self.set_aside(Lost::Key(digest), &error),
        }
        digest
    }

    fn set_aside(&mut self, of: Lost, error: &StoreError) {
        self.batch.unreadable.push(Unreadable { of, why: error.to_string() });
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
        let ids: Vec<_> = ids.into_iter().collect();
        for row in &self.database.all(Statement::new(D::own(ACCOUNTS)).bind(ids)).await? {
            match account_row(row).and_then(AccountRow::into_record) {
                Ok(account) => self.batch.accounts.push(account),
                Err(error) => {
                    // It was found by an id that makes sense.
                    if let Some(id) = AccountId::parse(&row.text(0)?) {
                        self.set_aside(Lost::Account(id), &error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Rows of `n, tag, kind, subject, digest, epoch`, without those that cannot be read.
pub(super) fn changed(rows: &[impl Columns]) -> Vec<Change> {
    let read = |row| Columns::number(row, 5).and_then(|epoch| change(row, epoch.cast_unsigned()));
    rows.iter().filter_map(|row| read(row).ok()).collect()
}

fn subject(named: &Named, kind: &str, subject: &str) -> Result<Subject, StoreError> {
    match kind {
        "key" => Ok(Subject::Key(named.need("subject", KeyId::parse(subject))?)),
        "account" => Ok(Subject::Account(named.need("subject", AccountId::parse(subject))?)),
        "policy" => Ok(Subject::Policy),
        _ => Err(named.corrupt("kind makes no sense")),
    }
}

fn change(row: &impl Columns, epoch: u64) -> Result<Change, StoreError> {
    let n = row.number(0)?;
    let named = Named { table: "changes", row: n.to_string() };
    read_change(row, &named, n, epoch).map_err(|error| named.locate(error))
}

fn read_change(
    row: &impl Columns,
    named: &Named,
    n: i64,
    epoch: u64,
) -> Result<Change, StoreError> {
    let subject = subject(named, &row.text(2)?, &row.text(3)?)?;
    let digest = row.maybe_bytes(4)?;
    let digest =
        digest.map(|bytes| named.need("digest", Digest::from_bytes(&bytes))).transpose()?;
    // By it a key is known that is not brought.
    if matches!(subject, Subject::Key(_)) && digest.is_none() {
        return Err(named.corrupt("digest is missing"));
    }
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
        listed: Vec::new(),
        unreadable: Vec::new(),
        page: None,
        mac_keys,
    }
}

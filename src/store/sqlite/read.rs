//! The reader's read: one snapshot, brought by one connection that is used for nothing else.

use std::collections::{BTreeSet, HashSet};

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Executor as _, Row as _};

use super::failure::failed;
use super::rows::{
    DIGEST_COLUMN, account_row, get, key_row, no_feed, position, read_policy, select_accounts,
    select_keys,
};
use crate::account::AccountId;
use crate::key::KeyId;
use crate::revision::Position;
use crate::store::row::{AccountRow, KeyRow, Named, json};
use crate::store::{
    Change, PageAsk, PageEnd, RECENT_CHANGES_MAX, ReadAsk, ReadBatch, StoreError, Subject,
};
use crate::token::Digest;

/// Brings what is asked for, in one transaction. After an error the connection is in an unknown state.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    ask: &ReadAsk,
) -> Result<ReadBatch, StoreError> {
    connection.execute("BEGIN DEFERRED").await.map_err(failed)?;
    let batch = Reading { connection, batch: empty(), keys: HashSet::new() }.bring(ask).await?;
    connection.execute("COMMIT").await.map_err(failed)?;
    Ok(batch)
}

struct Reading<'a> {
    connection: &'a mut SqliteConnection,
    batch: ReadBatch,
    /// Keys that were looked at, so that none is brought twice.
    keys: HashSet<KeyId>,
}

impl Reading<'_> {
    async fn bring(mut self, ask: &ReadAsk) -> Result<ReadBatch, StoreError> {
        // The first statement takes the snapshot, and all that follow see the same one.
        self.batch.position = self.head().await?;
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

    async fn head(&mut self) -> Result<Position, StoreError> {
        let row = sqlx::query("SELECT epoch, n, tag FROM feed")
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(failed)?;
        position(&row.ok_or_else(no_feed)?, 0)
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
        match read_policy(&mut *self.connection).await {
            Ok(policy) => self.batch.policy = policy.map(|(policy, _)| policy),
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
        let row = sqlx::query("SELECT tag FROM changes WHERE n = ?1")
            .bind(n.cast_signed())
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(failed)?;
        row.map(|row| Ok(Position { epoch, n, tag: get::<i64>(&row, 0)?.cast_unsigned() }))
            .transpose()
    }

    async fn changes(&mut self, after: u64, most: u64) -> Result<Vec<Change>, StoreError> {
        let epoch = self.batch.position.epoch;
        sqlx::query(
            "SELECT n, tag, kind, subject, digest FROM changes WHERE n > ?1 ORDER BY n LIMIT ?2",
        )
        .bind(after.cast_signed())
        .bind(most.cast_signed())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(failed)?
        .iter()
        .map(|row| change(row, epoch))
        .collect()
    }

    async fn bring_keys(&mut self, ids: &BTreeSet<String>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(select_keys!("WHERE id IN (SELECT value FROM json_each(?1))"))
            .bind(json(ids))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(failed)?;
        rows.iter().try_for_each(|row| self.take_key(row).map(drop))
    }

    async fn bring_wanted(&mut self, wanted: &[Digest]) -> Result<(), StoreError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = wanted.iter().map(|digest| hex(digest.as_bytes())).collect();
        let rows =
            sqlx::query(select_keys!("WHERE digest IN (SELECT unhex(value) FROM json_each(?1))"))
                .bind(json(&digests))
                .fetch_all(&mut *self.connection)
                .await
                .map_err(failed)?;
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
        let rows = sqlx::query(select_keys!("WHERE id > ?1 ORDER BY id LIMIT ?2"))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind((keys_max as u64).cast_signed())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(failed)?;
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
    fn take_key(&mut self, row: &SqliteRow) -> Result<(KeyId, Option<Digest>), StoreError> {
        let text: &str = get(row, 0)?;
        let id = Named { table: "keys", row: text.to_owned() }.need("id", KeyId::parse(text))?;
        let digest = get::<&[u8]>(row, DIGEST_COLUMN).ok().and_then(Digest::from_bytes);
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
        let query = select_accounts!("WHERE id IN (SELECT value FROM json_each(?1))");
        let rows = sqlx::query(query)
            .bind(json(&ids))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(failed)?;
        for row in &rows {
            let text: &str = get(row, 0)?;
            let named = Named { table: "accounts", row: text.to_owned() };
            let id = named.need("id", AccountId::parse(text))?;
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

fn change(row: &SqliteRow, epoch: u64) -> Result<Change, StoreError> {
    let n = get::<i64>(row, 0)?;
    let named = Named { table: "changes", row: n.to_string() };
    let subject: &str = row.try_get(3).map_err(failed)?;
    let subject = match row.try_get(2).map_err(failed)? {
        "key" => Subject::Key(named.need("subject", KeyId::parse(subject))?),
        "account" => Subject::Account(named.need("subject", AccountId::parse(subject))?),
        "policy" => Subject::Policy,
        kind => return Err(named.corrupt(format!("kind is `{kind}`"))),
    };
    let digest: Option<&[u8]> = row.try_get(4).map_err(failed)?;
    Ok(Change {
        position: Position {
            epoch,
            n: n.cast_unsigned(),
            tag: get::<i64>(row, 1)?.cast_unsigned(),
        },
        subject,
        digest: digest.map(|bytes| named.need("digest", Digest::from_bytes(bytes))).transpose()?,
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const fn empty() -> ReadBatch {
    ReadBatch {
        position: Position { epoch: 0, n: 0, tag: 0 },
        is_behind: false,
        found: None,
        changes: Vec::new(),
        keys: Vec::new(),
        accounts: Vec::new(),
        policy: None,
        absent: Vec::new(),
        unreadable: Vec::new(),
        page: None,
    }
}

//! The rows of one transaction, for all databases alike: what the door asks for, as statements.

use std::sync::Arc;

use async_trait::async_trait;

use super::database::{Database, Each, Statement, Value};
use super::door::{Head, Made, Remembered, Rows};
use super::row::{Named, PositionRow, compile, json, names, no_feed};
use super::sql::{
    Columns, account_row, count, counted, key_row, position, select_accounts, select_keys,
};
use super::{Change, RequestMark, StoreError, query};
use crate::account::{Account, AccountId, RESERVED_ACCOUNT};
use crate::audit::Entry;
use crate::clock::Timestamp;
use crate::key::{Actor, DIGEST_ALGORITHM, KeyClass, KeyId, KeyRecord, RECORD_FORMAT};
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::token::Digest;

/// How many old requests one mutation forgets at most.
const FORGOTTEN_MAX: i64 = 100;

/// The head of the feed, and which change made the policy.
pub(super) const HEAD: &str = "SELECT feed.epoch, feed.n, feed.tag, feed.at, seeded, policy.n, policy.tag FROM feed LEFT JOIN policy ON TRUE";

/// An entry, its change, and the head moved to it, by statements with the same values. Each writes one row.
const APPEND: Each<&[&str]> = Each {
    // One message for all: the others are written if the head moved.
    postgres: &[
        "WITH head AS (UPDATE feed SET n = $1, tag = $2, at = $6 WHERE n = $1 - 1 RETURNING n), \
         entry AS (INSERT INTO audit (n, at, actor, action, account_id, key_id, change, peer, request_id) \
                   SELECT n, $6, $7, $8, $9, $10, $11, $12, $13 FROM head) \
         INSERT INTO changes (n, tag, kind, subject, digest, at) \
         SELECT n, $2, $3, $4, $5, $6 FROM head",
    ],
    sqlite: &[
        "INSERT INTO audit (n, at, actor, action, account_id, key_id, change, peer, request_id) \
         VALUES ($1, $6, $7, $8, $9, $10, $11, $12, $13)",
        "UPDATE feed SET n = $1, tag = $2, at = $6 WHERE n = $1 - 1",
        "INSERT INTO changes (n, tag, kind, subject, digest, at) VALUES ($1, $2, $3, $4, $5, $6)",
    ],
};

/// The scopes that keys hold or may hand out at `$1`, and how many keys do.
const SCOPES_HELD: Each = Each {
    postgres: "SELECT scope COLLATE \"C\", count(*) FROM ( \
             SELECT id, json_array_elements_text(scopes::json) AS scope FROM keys \
             WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
             UNION \
             SELECT id, json_array_elements_text(grantable_scopes::json) FROM keys \
             WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
         ) AS held GROUP BY 1 ORDER BY 1",
    sqlite: "SELECT scope, count(*) FROM ( \
             SELECT keys.id AS id, held.value AS scope FROM keys, json_each(keys.scopes) AS held \
             WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
             UNION \
             SELECT keys.id, held.value FROM keys, json_each(keys.grantable_scopes) AS held \
             WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
         ) GROUP BY scope ORDER BY scope",
};

/// A policy, worked out, and the change that made it.
pub(super) type Known = Option<(Arc<Catalogue>, Position)>;

/// The rows of the transaction that is open on a connection, in which nobody else writes.
pub(super) struct Transaction<'a, D: Database> {
    database: &'a mut D,
    /// What [`HEAD`] brought.
    head: Option<D::Row>,
    /// The number and the tag of the change that made the policy.
    policy_at: Option<(u64, u64)>,
    /// The policy that was read last, by whichever mutation.
    catalogue: &'a mut Known,
}

impl<'a, D: Database> Transaction<'a, D> {
    pub(super) const fn new(
        database: &'a mut D,
        head: Option<D::Row>,
        catalogue: &'a mut Known,
    ) -> Self {
        Self { database, head, policy_at: None, catalogue }
    }

    /// Writes to one row, which has to be there.
    async fn run_on_one(
        &mut self,
        statement: Statement,
        table: &'static str,
        row: impl ToString,
    ) -> Result<(), StoreError> {
        match self.database.run(statement).await? {
            1 => Ok(()),
            rows => {
                let row = row.to_string();
                Err(Named { table, row }.corrupt(format!("{rows} rows were written, not one")))
            }
        }
    }
}

#[async_trait]
impl<D: Database> Rows for Transaction<'_, D> {
    async fn head(&mut self) -> Result<Head, StoreError> {
        let row = self.head.take().ok_or_else(no_feed)?;
        let policy_at = row.maybe_number(5)?.zip(row.maybe_number(6)?);
        self.policy_at = policy_at.map(|(n, tag)| (n.cast_unsigned(), tag.cast_unsigned()));
        Ok(Head {
            position: position(&row, 0)?,
            at: Timestamp::from_micros(row.number(3)?),
            is_seeded: row.flag(4)?,
        })
    }

    async fn set_seeded(&mut self) -> Result<(), StoreError> {
        let statement = Statement::new("UPDATE feed SET seeded = TRUE WHERE NOT seeded");
        self.run_on_one(statement, "feed", 1).await
    }

    async fn append(&mut self, entry: &Entry, change: &Change) -> Result<(), StoreError> {
        let values = appended(entry, change);
        for &sql in D::own(APPEND) {
            let statement = Statement { sql, values: values.clone() };
            self.run_on_one(statement, "feed", 1).await?;
        }
        Ok(())
    }

    async fn catalogue(&mut self) -> Result<Known, StoreError> {
        if let Some((catalogue, at)) = &*self.catalogue
            && self.policy_at == Some((at.n, at.tag))
        {
            return Ok(Some((Arc::clone(catalogue), *at)));
        }
        let Some((policy, at)) = query::policy(self.database).await? else { return Ok(None) };
        let catalogue = compile(policy)?;
        *self.catalogue = Some((Arc::clone(&catalogue), at));
        Ok(Some((catalogue, at)))
    }

    async fn put_policy(
        &mut self,
        policy: &Policy,
        revision: Position,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.policy_at = None;
        let PositionRow { epoch, n, tag } = revision.into();
        let statement = Statement::new(
            "INSERT INTO policy (one, format, version, epoch, n, tag, at, document) \
             VALUES (1, $1, 1, $2, $3, $4, $5, $6) \
             ON CONFLICT (one) DO UPDATE SET format = excluded.format, version = policy.version + 1, \
             epoch = excluded.epoch, n = excluded.n, tag = excluded.tag, at = excluded.at, \
             document = excluded.document",
        )
        .bind(i64::from(RECORD_FORMAT))
        .bind(epoch)
        .bind(n)
        .bind(tag)
        .bind(at.micros())
        .bind(json(policy));
        self.run_on_one(statement, "policy", 1).await
    }

    async fn account(&mut self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let statement = Statement::new(select_accounts!("WHERE id = $1")).bind(id.as_str());
        self.database.one(statement).await?.map(|row| account_row(&row)?.into_record()).transpose()
    }

    async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let sql = "INSERT INTO accounts (id, format, version, epoch, n, tag, display_name, plan, suspended, \
             suspend_reason, labels, create_time, update_time) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        self.run_on_one(Statement { sql, values: account_values(account) }, "accounts", &account.id)
            .await
    }

    async fn update_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let sql = "UPDATE accounts SET format = $2, version = $3, epoch = $4, n = $5, tag = $6, \
             display_name = $7, plan = $8, suspended = $9, suspend_reason = $10, labels = $11, \
             create_time = $12, update_time = $13 WHERE id = $1";
        self.run_on_one(Statement { sql, values: account_values(account) }, "accounts", &account.id)
            .await
    }

    async fn plans_used(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        let statement = Statement::new(
            "SELECT plan, count(*) FROM accounts WHERE id <> $1 GROUP BY plan ORDER BY plan",
        )
        .bind(RESERVED_ACCOUNT);
        self.database.all(statement).await?.iter().map(name_and_count).collect()
    }

    async fn key(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        query::key(self.database, id).await
    }

    async fn key_by_digest(&mut self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        query::key_by_digest(self.database, digest).await
    }

    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let sql = "INSERT INTO keys (id, format, version, epoch, n, tag, account_id, display_name, \
             environment, class, scopes, grantable_scopes, digest, digest_algorithm, hint, create_time, \
             update_time, expire_time, revoke_time, revoke_reason, revoke_comment, disabled, \
             allowed_cidrs, labels, rotated_from, rotated_to, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21, $22, $23, $24, $25, $26, $27)";
        self.run_on_one(Statement { sql, values: key_values(key) }, "keys", key.id).await
    }

    async fn update_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let sql = "UPDATE keys SET format = $2, version = $3, epoch = $4, n = $5, tag = $6, account_id = $7, \
             display_name = $8, environment = $9, class = $10, scopes = $11, grantable_scopes = $12, \
             digest = $13, digest_algorithm = $14, hint = $15, create_time = $16, update_time = $17, \
             expire_time = $18, revoke_time = $19, revoke_reason = $20, revoke_comment = $21, \
             disabled = $22, allowed_cidrs = $23, labels = $24, rotated_from = $25, rotated_to = $26, \
             created_by = $27 WHERE id = $1";
        self.run_on_one(Statement { sql, values: key_values(key) }, "keys", key.id).await
    }

    async fn count_keys(
        &mut self,
        account: &AccountId,
        class: KeyClass,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        let statement = Statement::new(concat!("SELECT ", counted!("$1", "$3")))
            .bind(account.as_str())
            .bind(at.micros())
            .bind(class.as_str());
        self.database.one(statement).await?.map_or(Ok(0), |row| count(&row, 0))
    }

    async fn keys_made_by(&mut self, maker: &Actor) -> Result<Vec<KeyRecord>, StoreError> {
        let statement = Statement::new(select_keys!("WHERE created_by = $1 ORDER BY id"))
            .bind(maker.to_string());
        self.database.scan(statement).await?.iter().map(|row| key_row(row)?.into_record()).collect()
    }

    async fn scopes_held(&mut self, at: Timestamp) -> Result<Vec<(String, u64)>, StoreError> {
        let statement = Statement::new(D::own(SCOPES_HELD)).bind(at.micros());
        self.database.scan(statement).await?.iter().map(name_and_count).collect()
    }

    async fn request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Remembered>, StoreError> {
        let statement = Statement::new(
            "SELECT content, made_account_id, made_key_id FROM requests \
             WHERE account_id = $1 AND rpc = $2 AND request_id = $3",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(id);
        let Some(row) = self.database.one(statement).await? else { return Ok(None) };
        let named = Named { table: "requests", row: id.to_owned() };
        let key = row.maybe_text(2)?;
        let made = Made {
            account: named.need("made_account_id", AccountId::parse(&row.text(1)?))?,
            key: key.map(|id| named.need("made_key_id", KeyId::parse(&id))).transpose()?,
        };
        Ok(Some(Remembered { content: row.bytes(0)?, made }))
    }

    async fn insert_request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        mark: &RequestMark,
        made: &Made,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let statement = Statement::new(
            "INSERT INTO requests \
             (account_id, rpc, request_id, content, made_account_id, made_key_id, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(mark.id.as_str())
        .bind(mark.content.to_vec())
        .bind(made.account.as_str())
        .bind(made.key.map(|key| key.to_string()))
        .bind(at.micros());
        self.database.run(statement).await.map(drop)
    }

    async fn forget_requests(&mut self, before: Timestamp) -> Result<(), StoreError> {
        let statement = Statement::new(
            "DELETE FROM requests WHERE (account_id, rpc, request_id) IN ( \
                 SELECT account_id, rpc, request_id FROM requests WHERE at < $1 ORDER BY at LIMIT $2)",
        )
        .bind(before.micros())
        .bind(FORGOTTEN_MAX);
        self.database.run(statement).await.map(drop)
    }
}

/// The values of [`APPEND`].
fn appended(entry: &Entry, change: &Change) -> Vec<Value> {
    let Change { position, subject, digest } = change;
    let PositionRow { epoch: _, n, tag } = (*position).into();
    let (kind, id) = subject.columns();
    let Entry { revision: _, time, actor, action, account, key, change, peer, request_id } = entry;
    vec![
        n.into(),
        tag.into(),
        kind.into(),
        id.into(),
        digest.map(|digest| digest.as_bytes().to_vec()).into(),
        time.micros().into(),
        actor.to_string().into(),
        action.as_str().into(),
        account.as_ref().map(AccountId::as_str).into(),
        key.map(|key| key.to_string()).into(),
        json(change).into(),
        peer.as_str().into(),
        request_id.as_deref().into(),
    ]
}

fn name_and_count(row: &impl Columns) -> Result<(String, u64), StoreError> {
    Ok((row.text(0)?, row.number(1)?.cast_unsigned()))
}

/// The columns of a key, in the order in which they are written.
fn key_values(key: &KeyRecord) -> Vec<Value> {
    let KeyRecord {
        id,
        account,
        display_name,
        environment,
        scopes,
        grantable_scopes,
        digest,
        hint,
        create_time,
        update_time,
        expire_time,
        revocation,
        disabled,
        allowed_cidrs,
        labels,
        rotated_from,
        rotated_to,
        created_by,
        revision,
        version,
    } = key;
    let PositionRow { epoch, n, tag } = (*revision).into();
    let cidrs: Vec<_> = allowed_cidrs.iter().map(ToString::to_string).collect();
    let revocation = revocation.as_ref();
    vec![
        id.to_string().into(),
        i64::from(RECORD_FORMAT).into(),
        version.cast_signed().into(),
        epoch.into(),
        n.into(),
        tag.into(),
        account.as_str().into(),
        display_name.as_str().into(),
        environment.as_str().into(),
        key.class().as_str().into(),
        json(&names(scopes)).into(),
        json(&names(grantable_scopes)).into(),
        digest.as_bytes().to_vec().into(),
        DIGEST_ALGORITHM.into(),
        hint.as_str().into(),
        create_time.micros().into(),
        update_time.micros().into(),
        expire_time.map(Timestamp::micros).into(),
        revocation.map(|it| it.time.micros()).into(),
        revocation.map(|it| it.reason.as_str()).into(),
        revocation.map(|it| it.comment.as_str()).into(),
        (*disabled).into(),
        json(&cidrs).into(),
        json(labels).into(),
        rotated_from.map(|id| id.to_string()).into(),
        rotated_to.map(|id| id.to_string()).into(),
        created_by.to_string().into(),
    ]
}

/// The columns of an account, in the order in which they are written.
fn account_values(account: &Account) -> Vec<Value> {
    let Account {
        id,
        display_name,
        plan,
        suspended,
        suspend_reason,
        labels,
        create_time,
        update_time,
        revision,
        version,
    } = account;
    let PositionRow { epoch, n, tag } = (*revision).into();
    vec![
        id.as_str().into(),
        i64::from(RECORD_FORMAT).into(),
        version.cast_signed().into(),
        epoch.into(),
        n.into(),
        tag.into(),
        display_name.as_str().into(),
        plan.as_str().into(),
        (*suspended).into(),
        suspend_reason.as_str().into(),
        json(labels).into(),
        create_time.micros().into(),
        update_time.micros().into(),
    ]
}

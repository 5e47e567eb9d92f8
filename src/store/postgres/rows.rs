//! The rows of one transaction, in PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Postgres;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::failure::failed;
use super::link::{Link, Query};
use crate::account::{Account, AccountId, RESERVED_ACCOUNT};
use crate::audit::Entry;
use crate::clock::Timestamp;
use crate::key::{Actor, KeyClass, KeyId, KeyRecord, RECORD_FORMAT};
use crate::policy::{Catalogue, Policy};
use crate::revision::Position;
use crate::store::door::{Head, Made, Remembered, Rows};
use crate::store::row::{AccountRow, KeyRow, Named, PositionRow, compile, json, policy};
use crate::store::sql::{
    Columns as _, SELECT_POLICY, account_row, columns_of, key_row, position, select_accounts,
    select_keys,
};
use crate::store::{Change, RequestMark, StoreError};
use crate::token::Digest;

/// How long a statement may take that looks at every key, or at all that one key made.
const SCAN_TIME_MAX: Duration = Duration::from_secs(30);
/// How many old requests one mutation forgets at most.
const FORGOTTEN_MAX: i64 = 100;

/// What counts against a limit at `$2`, after the account and the class. A predecessor in overlap is not
/// counted as long as its successor counts in its place.
macro_rules! counted {
    ($account:literal, $class:literal) => {
        concat!(
            "(SELECT count(*) FROM keys WHERE account_id = ",
            $account,
            " AND class = ",
            $class,
            " AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $2)",
            " AND (rotated_to IS NULL OR NOT EXISTS (SELECT 1 FROM keys AS heir",
            " WHERE heir.id = keys.rotated_to AND heir.class = keys.class",
            " AND heir.revoke_time IS NULL AND (heir.expire_time IS NULL OR heir.expire_time > $2))))"
        )
    };
}
pub(super) use counted;

/// The lock of the feed's one row; then what stands in it, and which change made the policy. Whoever waited for the lock
/// sees with every later statement, and with none before, all as the one before committed it.
pub(super) const HEAD: &str = "SELECT one FROM feed FOR UPDATE; \
     SELECT feed.epoch, feed.n, feed.tag, feed.at, seeded, policy.n, policy.tag FROM feed LEFT JOIN policy ON TRUE";

/// The rows of the transaction that is open on a connection, which holds the lock of the feed's row.
pub(super) struct PgRows<'a> {
    pub(super) link: &'a mut Link,
    /// What [`HEAD`] brought, in the message that began the mutation.
    pub(super) head: Option<PgRow>,
    /// The number and the tag of the change that made the policy.
    policy_at: Option<(u64, u64)>,
    /// The policy that was read last, by whichever mutation.
    catalogue: &'a mut Option<(Arc<Catalogue>, Position)>,
}

impl<'a> PgRows<'a> {
    pub(super) const fn new(
        link: &'a mut Link,
        head: Option<PgRow>,
        catalogue: &'a mut Option<(Arc<Catalogue>, Position)>,
    ) -> Self {
        Self { link, head, policy_at: None, catalogue }
    }

    /// All rows of what may take long.
    async fn scan(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, StoreError> {
        let patience = std::mem::replace(&mut self.link.patience, SCAN_TIME_MAX);
        let rows = self.link.all(query).await;
        self.link.patience = patience;
        rows
    }

    /// Writes to one row, which has to be there.
    async fn run_on_one(
        &mut self,
        query: Query<'_>,
        table: &'static str,
        row: impl ToString,
    ) -> Result<(), StoreError> {
        match self.link.run(query).await? {
            1 => Ok(()),
            rows => {
                let row = row.to_string();
                Err(Named { table, row }.corrupt(format!("{rows} rows were written, not one")))
            }
        }
    }
}

#[async_trait]
impl Rows for PgRows<'_> {
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
        let query = sqlx::query("UPDATE feed SET seeded = TRUE WHERE NOT seeded");
        self.run_on_one(query, "feed", 1).await
    }

    async fn append(&mut self, entry: &Entry, change: &Change) -> Result<(), StoreError> {
        let Change { position, subject, digest } = change;
        let PositionRow { epoch: _, n, tag } = (*position).into();
        let (kind, id) = subject.columns();
        // One message for all: the others are written if the head moved.
        let query = sqlx::query(
            "WITH head AS (UPDATE feed SET n = $1, tag = $2, at = $6 WHERE n = $1 - 1 RETURNING n), \
             entry AS (INSERT INTO audit (n, at, actor, action, account_id, key_id, change, peer, request_id) \
                       SELECT n, $6, $7, $8, $9, $10, $11, $12, $13 FROM head) \
             INSERT INTO changes (n, tag, kind, subject, digest, at) \
             SELECT n, $2, $3, $4, $5, $6 FROM head",
        )
        .bind(n)
        .bind(tag)
        .bind(kind)
        .bind(id)
        .bind(digest.map(|digest| digest.as_bytes().to_vec()));
        let Entry { revision: _, time, actor, action, account, key, change, peer, request_id } =
            entry;
        let query = query
            .bind(time.micros())
            .bind(actor.to_string())
            .bind(action)
            .bind(account.as_ref().map(ToString::to_string))
            .bind(key.map(|key| key.to_string()))
            .bind(json(change))
            .bind(peer)
            .bind(request_id.as_ref());
        self.run_on_one(query, "feed", 1).await
    }

    async fn catalogue(&mut self) -> Result<Option<(Arc<Catalogue>, Position)>, StoreError> {
        if let Some((catalogue, at)) = &*self.catalogue
            && self.policy_at == Some((at.n, at.tag))
        {
            return Ok(Some((Arc::clone(catalogue), *at)));
        }
        let Some((policy, at)) = read_policy(self.link).await? else { return Ok(None) };
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
        let query = sqlx::query(
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
        self.run_on_one(query, "policy", 1).await
    }

    async fn account(&mut self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let query = sqlx::query(select_accounts!("WHERE id = $1")).bind(id.as_str());
        self.link.one(query).await?.map(|row| account_row(&row)?.into_record()).transpose()
    }

    async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO accounts (id, format, version, epoch, n, tag, display_name, plan, suspended, \
             suspend_reason, labels, create_time, update_time) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        );
        self.run_on_one(bind_account(query, account), "accounts", &account.id).await
    }

    async fn update_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE accounts SET format = $2, version = $3, epoch = $4, n = $5, tag = $6, \
             display_name = $7, plan = $8, suspended = $9, suspend_reason = $10, labels = $11, \
             create_time = $12, update_time = $13 WHERE id = $1",
        );
        self.run_on_one(bind_account(query, account), "accounts", &account.id).await
    }

    async fn plans_used(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT plan, count(*) FROM accounts WHERE id <> $1 GROUP BY plan ORDER BY plan",
        )
        .bind(RESERVED_ACCOUNT);
        self.link.all(query).await?.iter().map(name_and_count).collect()
    }

    async fn key(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query(select_keys!("WHERE id = $1")).bind(id.to_string());
        self.link.one(query).await?.map(|row| key_row(&row)?.into_record()).transpose()
    }

    async fn key_by_digest(&mut self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query(select_keys!("WHERE digest = $1")).bind(digest.as_bytes().to_vec());
        self.link.one(query).await?.map(|row| key_row(&row)?.into_record()).transpose()
    }

    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO keys (id, format, version, epoch, n, tag, account_id, display_name, \
             environment, class, scopes, grantable_scopes, digest, digest_algorithm, hint, create_time, \
             update_time, expire_time, revoke_time, revoke_reason, revoke_comment, disabled, \
             allowed_cidrs, labels, rotated_from, rotated_to, created_by) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
             $19, $20, $21, $22, $23, $24, $25, $26, $27)",
        );
        self.run_on_one(bind_key(query, key), "keys", key.id).await
    }

    async fn update_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE keys SET format = $2, version = $3, epoch = $4, n = $5, tag = $6, account_id = $7, \
             display_name = $8, environment = $9, class = $10, scopes = $11, grantable_scopes = $12, \
             digest = $13, digest_algorithm = $14, hint = $15, create_time = $16, update_time = $17, \
             expire_time = $18, revoke_time = $19, revoke_reason = $20, revoke_comment = $21, \
             disabled = $22, allowed_cidrs = $23, labels = $24, rotated_from = $25, rotated_to = $26, \
             created_by = $27 WHERE id = $1",
        );
        self.run_on_one(bind_key(query, key), "keys", key.id).await
    }

    async fn count_keys(
        &mut self,
        account: &AccountId,
        class: KeyClass,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        let query = sqlx::query(concat!("SELECT ", counted!("$1", "$3")))
            .bind(account.as_str())
            .bind(at.micros())
            .bind(class.as_str());
        self.link.one(query).await?.map_or(Ok(0), |row| count(&row, 0))
    }

    async fn keys_made_by(&mut self, maker: &Actor) -> Result<Vec<KeyRecord>, StoreError> {
        let query =
            sqlx::query(select_keys!("WHERE created_by = $1 ORDER BY id")).bind(maker.to_string());
        self.scan(query).await?.iter().map(|row| key_row(row)?.into_record()).collect()
    }

    async fn scopes_held(&mut self, at: Timestamp) -> Result<Vec<(String, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT scope COLLATE \"C\", count(*) FROM ( \
                 SELECT id, json_array_elements_text(scopes::json) AS scope FROM keys \
                 WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
                 UNION \
                 SELECT id, json_array_elements_text(grantable_scopes::json) FROM keys \
                 WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $1) \
             ) AS held GROUP BY 1 ORDER BY 1",
        )
        .bind(at.micros());
        self.scan(query).await?.iter().map(name_and_count).collect()
    }

    async fn request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Remembered>, StoreError> {
        let query = sqlx::query(
            "SELECT content, made_account_id, made_key_id FROM requests \
             WHERE account_id = $1 AND rpc = $2 AND request_id = $3",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(id);
        let Some(row) = self.link.one(query).await? else { return Ok(None) };
        let named = Named { table: "requests", row: id.to_owned() };
        let made = Made {
            account: named.need("made_account_id", AccountId::parse(&row.text(1)?))?,
            key: row
                .maybe_text(2)?
                .map(|id| named.need("made_key_id", KeyId::parse(&id)))
                .transpose()?,
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
        let query = sqlx::query(
            "INSERT INTO requests \
             (account_id, rpc, request_id, content, made_account_id, made_key_id, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(&mark.id)
        .bind(mark.content.to_vec())
        .bind(made.account.as_str())
        .bind(made.key.map(|key| key.to_string()))
        .bind(at.micros());
        self.link.run(query).await.map(drop)
    }

    async fn forget_requests(&mut self, before: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(
            "DELETE FROM requests WHERE (account_id, rpc, request_id) IN ( \
                 SELECT account_id, rpc, request_id FROM requests WHERE at < $1 ORDER BY at LIMIT $2)",
        )
        .bind(before.micros())
        .bind(FORGOTTEN_MAX);
        self.link.run(query).await.map(drop)
    }
}

/// The policy and its revision; `None` before the store was seeded.
pub(super) async fn read_policy(link: &mut Link) -> Result<Option<(Policy, Position)>, StoreError> {
    let query = sqlx::query(SELECT_POLICY);
    let Some(row) = link.one(query).await? else { return Ok(None) };
    Ok(Some((policy(row.number(3)?, &row.text(4)?)?, position(&row, 0)?)))
}

/// A column, by its place.
pub(super) fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(column).map_err(failed)
}

columns_of!(PgRow);

/// The feed's one row is written when the schema is.
pub(super) fn no_feed() -> StoreError {
    Named { table: "feed", row: "1".into() }.corrupt("is not there")
}

/// A count, which PostgreSQL gives in 64 bits.
pub(super) fn count(row: &PgRow, column: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.number(column)?).unwrap_or(u32::MAX))
}

fn name_and_count(row: &PgRow) -> Result<(String, u64), StoreError> {
    Ok((row.text(0)?, row.number(1)?.cast_unsigned()))
}

fn bind_key<'q>(query: Query<'q>, key: &KeyRecord) -> Query<'q> {
    let KeyRow {
        id,
        format,
        version,
        revision: PositionRow { epoch, n, tag },
        account_id,
        display_name,
        environment,
        class,
        scopes,
        grantable_scopes,
        digest,
        digest_algorithm,
        hint,
        create_time,
        update_time,
        expire_time,
        revoke_time,
        revoke_reason,
        revoke_comment,
        disabled,
        allowed_cidrs,
        labels,
        rotated_from,
        rotated_to,
        created_by,
    } = KeyRow::of(key);
    let query = query.bind(id).bind(format).bind(version).bind(epoch).bind(n).bind(tag);
    let query = query.bind(account_id).bind(display_name).bind(environment).bind(class);
    let query = query.bind(scopes).bind(grantable_scopes).bind(digest).bind(digest_algorithm);
    let query = query.bind(hint).bind(create_time).bind(update_time).bind(expire_time);
    let query = query.bind(revoke_time).bind(revoke_reason).bind(revoke_comment).bind(disabled);
    query.bind(allowed_cidrs).bind(labels).bind(rotated_from).bind(rotated_to).bind(created_by)
}

fn bind_account<'q>(query: Query<'q>, account: &Account) -> Query<'q> {
    let AccountRow {
        id,
        format,
        version,
        revision: PositionRow { epoch, n, tag },
        display_name,
        plan,
        suspended,
        suspend_reason,
        labels,
        create_time,
        update_time,
    } = AccountRow::of(account);
    let query = query.bind(id).bind(format).bind(version).bind(epoch).bind(n).bind(tag);
    let query = query.bind(display_name).bind(plan).bind(suspended).bind(suspend_reason);
    query.bind(labels).bind(create_time).bind(update_time)
}

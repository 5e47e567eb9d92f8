//! The rows of one transaction, in SQLite; and how its rows are read.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::failure::failed;
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

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// How many old requests one mutation forgets at most.
const FORGOTTEN_MAX: i64 = 100;

/// What counts against a limit at `?2`, after the account and the class. A predecessor in overlap is not
/// counted as long as its successor counts in its place.
macro_rules! counted {
    ($account:literal, $class:literal) => {
        concat!(
            "(SELECT count(*) FROM keys WHERE account_id = ",
            $account,
            " AND class = ",
            $class,
            " AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > ?2)",
            " AND (rotated_to IS NULL OR NOT EXISTS (SELECT 1 FROM keys AS heir",
            " WHERE heir.id = keys.rotated_to AND heir.class = keys.class",
            " AND heir.revoke_time IS NULL AND (heir.expire_time IS NULL OR heir.expire_time > ?2))))"
        )
    };
}
pub(super) use counted;

/// The rows of the transaction that is open on a connection.
pub(super) struct SqliteRows<'a> {
    pub(super) connection: &'a mut SqliteConnection,
}

impl SqliteRows<'_> {
    async fn run(&mut self, query: Query<'_>) -> Result<u64, StoreError> {
        let result = query.execute(&mut *self.connection).await.map_err(failed)?;
        Ok(result.rows_affected())
    }

    /// Writes to one row, which has to be there.
    async fn run_on_one(
        &mut self,
        query: Query<'_>,
        table: &'static str,
        row: impl ToString,
    ) -> Result<(), StoreError> {
        match self.run(query).await? {
            1 => Ok(()),
            rows => {
                let row = row.to_string();
                Err(Named { table, row }.corrupt(format!("{rows} rows were written, not one")))
            }
        }
    }

    async fn insert_audit(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let Entry { revision, time, actor, action, account, key, change, peer, request_id } = entry;
        let query = sqlx::query(
            "INSERT INTO audit (n, at, actor, action, account_id, key_id, change, peer, request_id) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(revision.n.cast_signed())
        .bind(time.micros())
        .bind(actor.to_string())
        .bind(action)
        .bind(account.as_ref().map(ToString::to_string))
        .bind(key.map(|key| key.to_string()))
        .bind(json(change))
        .bind(peer)
        .bind(request_id.as_ref());
        self.run(query).await.map(drop)
    }

    async fn one(&mut self, query: Query<'_>) -> Result<Option<SqliteRow>, StoreError> {
        query.fetch_optional(&mut *self.connection).await.map_err(failed)
    }

    async fn all(&mut self, query: Query<'_>) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&mut *self.connection).await.map_err(failed)
    }
}

#[async_trait]
impl Rows for SqliteRows<'_> {
    async fn head(&mut self) -> Result<Head, StoreError> {
        // The transaction began IMMEDIATE: nobody else writes until it ends.
        let row = self.one(sqlx::query("SELECT epoch, n, tag, at, seeded FROM feed")).await?;
        let row = row.ok_or_else(no_feed)?;
        Ok(Head {
            position: position(&row, 0)?,
            at: Timestamp::from_micros(row.number(3)?),
            is_seeded: row.flag(4)?,
        })
    }

    async fn set_seeded(&mut self) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE feed SET seeded = 1 WHERE seeded = 0");
        self.run_on_one(query, "feed", 1).await
    }

    async fn append(&mut self, entry: &Entry, change: &Change) -> Result<(), StoreError> {
        self.insert_audit(entry).await?;
        let Change { position, subject, digest } = change;
        let PositionRow { epoch: _, n, tag } = (*position).into();
        let (kind, id) = subject.columns();
        let query = sqlx::query("UPDATE feed SET n = ?1, tag = ?2, at = ?3 WHERE n = ?1 - 1")
            .bind(n)
            .bind(tag)
            .bind(entry.time.micros());
        self.run_on_one(query, "feed", 1).await?;
        let query = sqlx::query(
            "INSERT INTO changes (n, tag, kind, subject, digest, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(n)
        .bind(tag)
        .bind(kind)
        .bind(id)
        .bind(digest.map(|digest| digest.as_bytes().to_vec()))
        .bind(entry.time.micros());
        self.run(query).await.map(drop)
    }

    async fn catalogue(&mut self) -> Result<Option<(Arc<Catalogue>, Position)>, StoreError> {
        let Some((policy, at)) = read_policy(&mut *self.connection).await? else { return Ok(None) };
        Ok(Some((compile(policy)?, at)))
    }

    async fn put_policy(
        &mut self,
        policy: &Policy,
        revision: Position,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let PositionRow { epoch, n, tag } = revision.into();
        let query = sqlx::query(
            "INSERT INTO policy (one, format, version, epoch, n, tag, at, document) \
             VALUES (1, ?1, 1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (one) DO UPDATE SET format = excluded.format, version = version + 1, \
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
        let query = sqlx::query(select_accounts!("WHERE id = ?1")).bind(id.as_str());
        self.one(query).await?.map(|row| account_row(&row)?.into_record()).transpose()
    }

    async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO accounts (id, format, version, epoch, n, tag, display_name, plan, suspended, \
             suspend_reason, labels, create_time, update_time) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        );
        self.run_on_one(bind_account(query, account), "accounts", &account.id).await
    }

    async fn update_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE accounts SET format = ?2, version = ?3, epoch = ?4, n = ?5, tag = ?6, \
             display_name = ?7, plan = ?8, suspended = ?9, suspend_reason = ?10, labels = ?11, \
             create_time = ?12, update_time = ?13 WHERE id = ?1",
        );
        self.run_on_one(bind_account(query, account), "accounts", &account.id).await
    }

    async fn plans_used(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT plan, count(*) FROM accounts WHERE id <> ?1 GROUP BY plan ORDER BY plan",
        )
        .bind(RESERVED_ACCOUNT);
        self.all(query).await?.iter().map(name_and_count).collect()
    }

    async fn key(&mut self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query(select_keys!("WHERE id = ?1")).bind(id.to_string());
        self.one(query).await?.map(|row| key_row(&row)?.into_record()).transpose()
    }

    async fn key_by_digest(&mut self, digest: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        let query = sqlx::query(select_keys!("WHERE digest = ?1")).bind(digest.as_bytes().to_vec());
        self.one(query).await?.map(|row| key_row(&row)?.into_record()).transpose()
    }

    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO keys (id, format, version, epoch, n, tag, account_id, display_name, \
             environment, class, scopes, grantable_scopes, digest, digest_algorithm, hint, create_time, \
             update_time, expire_time, revoke_time, revoke_reason, revoke_comment, disabled, \
             allowed_cidrs, labels, rotated_from, rotated_to, created_by) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
             ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27)",
        );
        self.run_on_one(bind_key(query, key), "keys", key.id).await
    }

    async fn update_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE keys SET format = ?2, version = ?3, epoch = ?4, n = ?5, tag = ?6, account_id = ?7, \
             display_name = ?8, environment = ?9, class = ?10, scopes = ?11, grantable_scopes = ?12, \
             digest = ?13, digest_algorithm = ?14, hint = ?15, create_time = ?16, update_time = ?17, \
             expire_time = ?18, revoke_time = ?19, revoke_reason = ?20, revoke_comment = ?21, \
             disabled = ?22, allowed_cidrs = ?23, labels = ?24, rotated_from = ?25, rotated_to = ?26, \
             created_by = ?27 WHERE id = ?1",
        );
        self.run_on_one(bind_key(query, key), "keys", key.id).await
    }

    async fn count_keys(
        &mut self,
        account: &AccountId,
        class: KeyClass,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        let query = sqlx::query(concat!("SELECT ", counted!("?1", "?3")))
            .bind(account.as_str())
            .bind(at.micros())
            .bind(class.as_str());
        self.one(query).await?.map_or(Ok(0), |row| get(&row, 0))
    }

    async fn keys_made_by(&mut self, maker: &Actor) -> Result<Vec<KeyRecord>, StoreError> {
        let query =
            sqlx::query(select_keys!("WHERE created_by = ?1 ORDER BY id")).bind(maker.to_string());
        self.all(query).await?.iter().map(|row| key_row(row)?.into_record()).collect()
    }

    async fn scopes_held(&mut self, at: Timestamp) -> Result<Vec<(String, u64)>, StoreError> {
        let query = sqlx::query(
            "SELECT scope, count(*) FROM ( \
                 SELECT keys.id AS id, held.value AS scope FROM keys, json_each(keys.scopes) AS held \
                 WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > ?1) \
                 UNION \
                 SELECT keys.id, held.value FROM keys, json_each(keys.grantable_scopes) AS held \
                 WHERE revoke_time IS NULL AND (expire_time IS NULL OR expire_time > ?1) \
             ) GROUP BY scope ORDER BY scope",
        )
        .bind(at.micros());
        self.all(query).await?.iter().map(name_and_count).collect()
    }

    async fn request(
        &mut self,
        account: &AccountId,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Remembered>, StoreError> {
        let query = sqlx::query(
            "SELECT content, made_account_id, made_key_id FROM requests \
             WHERE account_id = ?1 AND rpc = ?2 AND request_id = ?3",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(id);
        let Some(row) = self.one(query).await? else { return Ok(None) };
        let named = Named { table: "requests", row: id.to_owned() };
        let account = row.text(1)?;
        let key = get::<Option<String>>(&row, 2)?;
        let made = Made {
            account: named.need("made_account_id", AccountId::parse(&account))?,
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
        let query = sqlx::query(
            "INSERT INTO requests \
             (account_id, rpc, request_id, content, made_account_id, made_key_id, at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(account.as_str())
        .bind(rpc)
        .bind(&mark.id)
        .bind(mark.content.to_vec())
        .bind(made.account.as_str())
        .bind(made.key.map(|key| key.to_string()))
        .bind(at.micros());
        self.run(query).await.map(drop)
    }

    async fn forget_requests(&mut self, before: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(
            "DELETE FROM requests WHERE (account_id, rpc, request_id) IN ( \
                 SELECT account_id, rpc, request_id FROM requests WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )
        .bind(before.micros())
        .bind(FORGOTTEN_MAX);
        self.run(query).await.map(drop)
    }
}

/// The policy and its revision; `None` before the store was seeded.
pub(super) async fn read_policy(
    connection: &mut SqliteConnection,
) -> Result<Option<(Policy, Position)>, StoreError> {
    let row = sqlx::query(SELECT_POLICY).fetch_optional(connection).await.map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((policy(row.number(3)?, &row.text(4)?)?, position(&row, 0)?)))
}

/// A column, by its place.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(column).map_err(failed)
}

columns_of!(SqliteRow);

/// The feed's one row is written when the schema is.
pub(super) fn no_feed() -> StoreError {
    Named { table: "feed", row: "1".into() }.corrupt("is not there")
}

fn name_and_count(row: &SqliteRow) -> Result<(String, u64), StoreError> {
    Ok((get(row, 0)?, get::<i64>(row, 1)?.cast_unsigned()))
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

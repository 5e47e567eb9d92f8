//! Opening the database: its version, its settings, its schema. Whatever is wrong is said in words that name the
//! database, never the user's password, and what to do.

use std::time::Duration;

use rand::TryRng as _;
use rand::rngs::SysRng;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Postgres, SqlSafeStr as _, Transaction};
use tokio::time::timeout;

use super::failure::unusable;
use super::link::Link;
use super::settings::Settings;
use crate::key::RECORD_FORMAT;
use crate::store::database::{Database as _, failed};
use crate::store::row::no_feed;
use crate::store::sql::Columns as _;
use crate::store::{MacKey, Schema, StoreError};

/// As the server counts its versions.
const LEAST_VERSION: u32 = 12_00_00;
/// How long opening may take: another node may be bringing the schema up to date.
const OPEN_TIME_MAX: Duration = Duration::from_secs(50);

/// The schema, step by step. A step that was released is never edited. One after which older versions of latchkey
/// cannot go on raises `least_schema` in `feed`; with any other they go on, so that nodes are replaced one by one.
pub(super) const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "init", include_str!("../migrations/postgres/0001_init.sql"))];

/// Of all who bring the schema up to date at once one goes first, and the others find it done.
const ONE_AT_A_TIME: &str = "SET LOCAL synchronous_commit = 'on'; SET LOCAL lock_timeout = '45s'; \
     SET LOCAL idle_in_transaction_session_timeout = '45s'; \
     SELECT pg_advisory_xact_lock(7811887373391390073)";

/// What of the server's settings matters to those whose commits were acknowledged. A setting that a relative of
/// PostgreSQL does not have is NULL.
const SETTINGS: &str = "SELECT current_setting('fsync', true), current_setting('full_page_writes', true), \
     pg_is_in_recovery()";

/// Whether there are standbys, and whether a commit waits for any.
const STANDBYS: &str = "SELECT count(*), current_setting('synchronous_standby_names', true) \
     FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'";

/// Opens the database once, to see that it is fit for use; gives the number of the last change.
pub(super) async fn open(settings: &Settings, schema: Schema) -> Result<u64, StoreError> {
    let opening = async {
        let mut link = connect(settings).await?;
        if let Some(exposure) = settings.exposure() {
            tracing::warn!(database = settings.place, "the connection to the store: {exposure}");
        }
        check_settings(&mut link, settings).await?;
        check_statements(&mut link, settings).await?;
        match schema {
            Schema::BringUpToDate => bring_up_to_date(&mut link, settings).await?,
            Schema::LeaveAsItIs => {}
        }
        let n = check_schema(&mut link, settings).await?;
        if let Some(caveat) = caveat(&mut link).await? {
            tracing::warn!(database = settings.place, "{caveat}");
        }
        link.close().await;
        Ok(n)
    };
    timeout(OPEN_TIME_MAX, opening).await.unwrap_or_else(|_| Err(no_answer(settings)))
}

/// Brings the schema of the database of this URL up to date.
pub(in crate::store) async fn migrate(url: &str) -> Result<(), StoreError> {
    let settings = Settings::parse(url)?;
    let migrating = async {
        let mut link = connect(&settings).await?;
        check_settings(&mut link, &settings).await?;
        bring_up_to_date(&mut link, &settings).await?;
        check_schema(&mut link, &settings).await?;
        link.close().await;
        Ok(())
    };
    timeout(OPEN_TIME_MAX, migrating).await.unwrap_or_else(|_| Err(no_answer(&settings)))
}

/// Puts another key in the place of the one by which nodes authenticate what they keep elsewhere.
pub(in crate::store) async fn new_mac_key(url: &str, key: &MacKey) -> Result<(), StoreError> {
    let settings = Settings::parse(url)?;
    let renewing = async {
        let mut link = connect(&settings).await?;
        check_schema(&mut link, &settings).await?;
        // A pooler hands out a connection for no longer than a transaction, and this takes several messages.
        link.command("BEGIN; SET LOCAL synchronous_commit = 'on'".to_owned())
            .await
            .map_err(failed)?;
        link.run(key.renewal()).await?;
        link.command("COMMIT".to_owned()).await.map_err(failed)?;
        link.close().await;
        Ok(())
    };
    timeout(OPEN_TIME_MAX, renewing).await.unwrap_or_else(|_| Err(no_answer(&settings)))
}

/// Opens the database for reading alone. What a newer version added to the schema is not known here.
pub(super) async fn open_to_read(settings: &Settings) -> Result<Link, StoreError> {
    let opening = async {
        let mut link = connect(settings).await?;
        check_schema(&mut link, settings).await?;
        let latest = "SELECT max(version) FROM _sqlx_migrations".to_owned();
        let latest = link.command(latest).await.map_err(failed)?.ok_or_else(no_feed)?.number(0)?;
        if latest > known_schema() {
            return Err(newer_schema(&settings.place, latest));
        }
        Ok(link)
    };
    timeout(OPEN_TIME_MAX, opening).await.unwrap_or_else(|_| Err(no_answer(settings)))
}

/// What may be lost although it was acknowledged, as the server is set up now.
pub(super) async fn caveat(link: &mut Link) -> Result<Option<String>, StoreError> {
    let Some(row) = link.command(STANDBYS.to_owned()).await.map_err(failed)? else {
        return Ok(None);
    };
    let (standbys, names) = (row.number(0)?, row.maybe_text(1)?.unwrap_or_default());
    if standbys == 0 || !names.trim().is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "a failover of PostgreSQL may lose changes that were acknowledged, revocations among them: it has \
         {standbys} standbys and waits for none; set synchronous_standby_names = 'ANY 1 (*)'"
    )))
}

async fn connect(settings: &Settings) -> Result<Link, StoreError> {
    let link = Link::open(settings, Duration::MAX)
        .await
        .map_err(|error| unusable(&settings.place, &error))?;
    match link.connection.server_version_num() {
        Some(version) if version < LEAST_VERSION => Err(StoreError::Unusable(format!(
            "the database {}: PostgreSQL is of version {}, and must be of {} or newer",
            settings.place,
            version / 10_000,
            LEAST_VERSION / 10_000
        ))),
        // Relatives of PostgreSQL have versions of their own.
        Some(_) | None => Ok(link),
    }
}

async fn check_settings(link: &mut Link, settings: &Settings) -> Result<(), StoreError> {
    let say = |error| unusable(&settings.place, &error);
    let row = link.command(SETTINGS.to_owned()).await.map_err(say)?.ok_or_else(no_feed)?;
    let is_off = |value: Option<String>| value.is_some_and(|value| value == "off");
    if row.flag(2)? {
        return Err(StoreError::Unusable(format!(
            "the database {} is a standby: store.url has to name the primary",
            settings.place
        )));
    }
    if is_off(row.maybe_text(0)?) {
        return Err(StoreError::Unusable(format!(
            "the database {}: with fsync = off PostgreSQL loses what it has committed; set it to on",
            settings.place
        )));
    }
    if is_off(row.maybe_text(1)?) {
        tracing::warn!(
            database = settings.place,
            "full_page_writes is off: right where the file system writes pages whole, else a crash \
             damages the database"
        );
    }
    Ok(())
}

/// Whether a prepared statement is found again where it was made. A pooler that hands out connections for a transaction,
/// and does not keep track of such statements, has the second use of one meet another connection, or another client's
/// statement of the same name.
async fn check_statements(link: &mut Link, settings: &Settings) -> Result<(), StoreError> {
    if !settings.prepares {
        return Ok(());
    }
    let use_one = async |link: &mut Link| {
        let one = sqlx::query("SELECT 1").persistent(true).execute(&mut link.connection).await;
        one.map(drop).map_err(|error| unusable(&settings.place, &error))
    };
    // One that gives out its connections in turn is found by the second use, any other by the second client.
    use_one(link).await?;
    use_one(link).await?;
    let mut other = connect(settings).await?;
    use_one(&mut other).await?;
    use_one(&mut other).await?;
    other.close().await;
    Ok(())
}

/// All in one transaction: three nodes that start at once on an empty database make one schema and one feed.
async fn bring_up_to_date(link: &mut Link, settings: &Settings) -> Result<(), StoreError> {
    let say = |error: sqlx::Error| unusable(&settings.place, &error);
    if is_up_to_date(link, settings).await? {
        return Ok(());
    }
    let mut transaction = link.connection.begin().await.map_err(say)?;
    sqlx::raw_sql(ONE_AT_A_TIME).execute(&mut *transaction).await.map_err(say)?;
    apply(&mut transaction).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => say(error),
        MigrateError::VersionMismatch(version) => StoreError::Unusable(format!(
            "the database {}: step {version} of its schema is not the one that was released; start the \
             version that wrote it",
            settings.place
        )),
        other => StoreError::Unusable(format!(
            "the database {}: its schema cannot be brought up to date ({other})",
            settings.place
        )),
    })?;
    make_feed(&mut transaction).await.map_err(say)?;
    transaction.commit().await.map_err(say)
}

async fn apply(transaction: &mut Transaction<'_, Postgres>) -> Result<(), MigrateError> {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.into());
    // Steps that are newer than this program are no hindrance: `least_schema` tells.
    migrator.set_locking(false).set_ignore_missing(true);
    migrator.run_direct(None, &mut **transaction, false).await
}

/// The feed's one row, with its random bits.
async fn make_feed(transaction: &mut Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    let (mut epoch, mut mac_key) = ([0; 8], [0; 32]);
    for bits in [&mut epoch[..], &mut mac_key[..]] {
        SysRng
            .try_fill_bytes(bits)
            .map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    }
    sqlx::query(
        "INSERT INTO feed \
         (one, epoch, n, tag, at, kept_time, mac_key, least_format, least_schema, seeded) \
         VALUES (1, $1, 0, 0, 0, 0, $2, 1, 1, FALSE) ON CONFLICT (one) DO NOTHING",
    )
    .bind(i64::from_be_bytes(epoch))
    .bind(mac_key.to_vec())
    .persistent(false)
    .execute(&mut **transaction)
    .await
    .map(drop)
}

/// Whether every step was made, and the feed's row. What is up to date needs no right to change it.
async fn is_up_to_date(link: &mut Link, settings: &Settings) -> Result<bool, StoreError> {
    if !has_schema(link, settings).await? {
        return Ok(false);
    }
    let steps = "SELECT max(version), (SELECT count(*) FROM feed) FROM _sqlx_migrations";
    let row = link.command(steps.to_owned()).await.map_err(failed)?.ok_or_else(no_feed)?;
    Ok(row.maybe_number(0)?.is_some_and(|version| version >= known_schema()) && row.number(1)? == 1)
}

async fn has_schema(link: &mut Link, settings: &Settings) -> Result<bool, StoreError> {
    let ours =
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('feed') IS NOT NULL";
    let row = link.command(ours.to_owned()).await;
    row.map_err(|error| unusable(&settings.place, &error))?.ok_or_else(no_feed)?.flag(0)
}

/// Whether this version of latchkey may use the store; gives the number of the last change.
async fn check_schema(link: &mut Link, settings: &Settings) -> Result<u64, StoreError> {
    let place = &settings.place;
    if !has_schema(link, settings).await? {
        return Err(StoreError::Unusable(format!(
            "the database {place} has no schema of latchkey's: make it by `latchkey migrate`"
        )));
    }
    let marks = "SELECT n, least_format, least_schema, (SELECT max(version) FROM _sqlx_migrations) FROM feed";
    let row = link.command(marks.to_owned()).await;
    let row = row.map_err(|error| unusable(place, &error))?.ok_or_else(no_feed)?;
    if let Some(why) = newer(&row, 1)? {
        return Err(StoreError::Unusable(format!("the database {place} {why}")));
    }
    let known = known_schema();
    let found = row.maybe_number(3)?.unwrap_or(0);
    if found < known {
        return Err(StoreError::Unusable(format!(
            "the schema of the database {place} is {found}, and this latchkey needs {known}: bring it up to \
             date by `latchkey migrate`"
        )));
    }
    Ok(row.number(0)?.cast_unsigned())
}

/// Why this version must not use the store, if it must not: what must be known, from this column on.
pub(super) fn newer(row: &PgRow, at: usize) -> Result<Option<String>, StoreError> {
    let (format, schema, known) = (row.number(at)?, row.number(at + 1)?, known_schema());
    let why = if format > i64::from(RECORD_FORMAT) {
        format!(
            "holds records of format {format}, and this latchkey knows {RECORD_FORMAT}; start a newer version"
        )
    } else if schema > known {
        newer_than(schema)
    } else {
        return Ok(None);
    };
    Ok(Some(why))
}

fn known_schema() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn newer_schema(place: &str, version: i64) -> StoreError {
    StoreError::Unusable(format!("the database {place} {}", newer_than(version)))
}

fn newer_than(schema: i64) -> String {
    format!(
        "was written by a newer latchkey (its schema is {schema}, this one knows {}); start that version or a \
         newer one",
        known_schema()
    )
}

fn no_answer(settings: &Settings) -> StoreError {
    StoreError::Unusable(format!(
        "the database {} did not answer in time; see that it runs and can be reached",
        settings.place
    ))
}

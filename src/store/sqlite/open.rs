//! Opening the file: its lock, its state of health, its schema. Whatever is wrong is said in words that
//! name the file and what to do.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _};

use super::failure::{DAMAGED, unusable};
use crate::key::RECORD_FORMAT;
use crate::store::StoreError;
use crate::store::database::failed;

/// 3.51.3 is the first version without the bug by which a WAL that is reset while it is written to
/// loses commits: <https://sqlite.org/wal.html#walresetbug>.
const LEAST_VERSION: [u32; 3] = [3, 51, 3];
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS_MAX: usize = 128;
/// The WAL is cut back to this when it has been written into the database.
const WAL_BYTES_KEPT: &str = "67108864";
/// Only its owner may read the database: it holds whom keys belong to.
const FILE_MODE: u32 = 0o600;

/// The schema, step by step. A step that was released is never edited.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "init", include_str!("../migrations/sqlite/0001_init.sql")),
    (2, "audit", include_str!("../migrations/sqlite/0002_audit.sql")),
    (3, "mac_key", include_str!("../migrations/sqlite/0003_mac_key.sql")),
];

const SCHEMA_VERSION: &str = "SELECT CAST(max(version) AS TEXT) FROM _sqlx_migrations";

/// A database that was found fit for use.
pub(super) struct Opened {
    /// The one connection that writes.
    pub(super) writer: SqliteConnection,
    /// How to open it again.
    pub(super) writing: SqliteConnectOptions,
    /// How to open one that only reads.
    pub(super) reading: SqliteConnectOptions,
    /// Held for as long as the database is in use.
    pub(super) lock: File,
}

/// Opens the database of this path, makes it when it is not there, and brings its schema up to date.
pub(super) async fn open(path: &str) -> Result<Opened, StoreError> {
    if path.is_empty() || path.contains(":memory:") {
        return Err(StoreError::Unusable(format!(
            "store.url `sqlite://{path}`: must name a file, as in `sqlite://latchkey.db`; keys are not \
             kept in memory only"
        )));
    }
    let path = canonical(Path::new(path))?;
    let lock = take_lock(&path)?;
    check_names(&path)?;
    look_at_owner(&path).await?;
    let writing = writing(&path);
    let mut writer = writing.connect().await.map_err(|error| unusable(&path, &error))?;
    if let Err(refused) = make_ready(&mut writer, &path).await {
        // In order, so that no log is left beside what was refused.
        let _ = writer.close().await;
        return Err(refused);
    }
    Ok(Opened { writer, writing, reading: reading(&path), lock })
}

/// Opens the database of this path for reading alone, whether a process uses it or not. Nothing is made
/// where nothing is, and nothing is brought up to date.
pub(super) async fn open_to_read(path: &Path) -> Result<SqliteConnection, StoreError> {
    let path = match fs::metadata(path) {
        Ok(file) if file.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => fs::canonicalize(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Unusable(format!(
                "there is no `{}`; name the server's configuration, or its store.url",
                path.display()
            )));
        }
        Err(error) => Err(error),
    }
    .map_err(|error| unusable_file(path, &error))?;
    let mut connection = reading(&path).connect().await.map_err(|error| unusable(&path, &error))?;
    match check_to_read(&mut connection, &path).await {
        Ok(()) => Ok(connection),
        Err(refused) => {
            let _ = connection.close().await;
            Err(refused)
        }
    }
}

async fn check_to_read(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let say = |error: sqlx::Error| unusable(path, &error);
    let ours = "SELECT CAST(count(*) AS TEXT) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    if text(connection, ours).await.map_err(say)? != "1" {
        return Err(StoreError::Unusable(format!(
            "the database `{}` is not one of latchkey's; name another file",
            path.display()
        )));
    }
    let schema: i64 =
        text(connection, SCHEMA_VERSION).await.map_err(say)?.parse().unwrap_or(i64::MAX);
    if MIGRATIONS.iter().all(|(version, ..)| *version != schema) {
        return Err(newer_schema(path, schema));
    }
    check_format(connection, path).await
}

/// A database in memory with the schema as it was released, of the same version as this one's.
pub(super) async fn released(
    connection: &mut SqliteConnection,
) -> Result<SqliteConnection, StoreError> {
    let version = text(connection, SCHEMA_VERSION).await.map_err(failed)?;
    let version: i64 = version.parse().unwrap_or(i64::MAX);
    let mut released = SqliteConnectOptions::new().connect().await.map_err(failed)?;
    for (_, _, sql) in MIGRATIONS.iter().filter(|(step, ..)| *step <= version) {
        sqlx::raw_sql(*sql).execute(&mut released).await.map_err(failed)?;
    }
    Ok(released)
}

fn newer_schema(path: &Path, version: i64) -> StoreError {
    StoreError::Unusable(format!(
        "the database `{}` was written by a newer latchkey (its schema is {version}, this one knows {}); \
         start that version or a newer one",
        path.display(),
        MIGRATIONS.len()
    ))
}

async fn make_ready(writer: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let version = text(writer, "SELECT sqlite_version()").await;
    check_version(&version.map_err(|error| unusable(path, &error))?)?;
    check_modes(writer, path).await?;
    check_health(writer, path).await?;
    migrate(writer, path).await?;
    check_format(writer, path).await
}

/// The one name of the file, which is made when it is not there: a lock beside another name, such as
/// that of a symbolic link, would be another lock.
fn canonical(path: &Path) -> Result<PathBuf, StoreError> {
    let say = |error: io::Error| unusable_file(path, &error);
    match fs::metadata(path) {
        Ok(file) if file.is_dir() => return Err(say(io::ErrorKind::IsADirectory.into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_file(path).map_err(say)?,
        Err(error) => return Err(say(error)),
    }
    fs::canonicalize(path).map_err(say)
}

/// SQLite gives the files beside the database the same mode as the database. Only a file that is not
/// there is opened: to close one that is in use would let go of SQLite's own locks.
fn make_file(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(FILE_MODE).open(path).map(drop)
}

/// A lock beside the database, so that two processes never write to it: each would answer from a cache
/// that does not know of the other's changes.
fn take_lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(FILE_MODE)
        .open(&name)
        .map_err(|error| unusable_file(&name, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
            "the database `{}` is in use: another latchkey holds the lock `{}`. Stop that process \
             first (`fuser {}` tells which), or give this one another `store.url`",
            path.display(),
            name.display(),
            name.display(),
        ))),
        Err(TryLockError::Error(error)) => Err(unusable_file(&name, &error)),
    }
}

/// Under a second name, a hard link, the file would have a second lock and a second log.
fn check_names(path: &Path) -> Result<(), StoreError> {
    let names = fs::metadata(path).map_err(|error| unusable_file(path, &error))?.nlink();
    if names <= 1 {
        return Ok(());
    }
    let path = path.display();
    Err(StoreError::Unusable(format!(
        "the database `{path}` has {names} names (hard links), and under each a process of its own \
         could use it. Remove all but one (`find / -samefile '{path}'` lists them), and make a \
         symbolic link where another name is needed"
    )))
}

fn unusable_file(path: &Path, error: &io::Error) -> StoreError {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).display();
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => format!("make the folder first: `mkdir -p {folder}`"),
        io::ErrorKind::PermissionDenied => {
            format!("give this user the right to write the file and its folder `{folder}`")
        }
        io::ErrorKind::NotADirectory => format!("`{folder}` is not a folder; name another path"),
        io::ErrorKind::IsADirectory => "it is a folder; name a file in it".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("`{folder}` cannot be written; mount it for writing, or name another path")
        }
        io::ErrorKind::StorageFull => "the disk is full; make room and start again".to_owned(),
        _ => "see the cause".to_owned(),
    };
    StoreError::Unusable(format!("cannot open `{}`: {remedy} ({error})", path.display()))
}

fn common(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_MAX)
        // A file mapped into memory turns a failing disk into a killed process.
        .pragma("mmap_size", "0")
        .pragma("cell_size_check", "ON")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

fn writing(path: &Path) -> SqliteConnectOptions {
    common(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", WAL_BYTES_KEPT)
}

/// Such a connection never writes a checkpoint: two at once is what the bug of old versions needs.
fn reading(path: &Path) -> SqliteConnectOptions {
    common(path).read_only(true)
}

fn check_version(version: &str) -> Result<(), StoreError> {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let version_of = [(); 3].map(|()| numbers.next().unwrap_or(0));
    if version_of >= LEAST_VERSION {
        return Ok(());
    }
    let [major, minor, patch] = LEAST_VERSION;
    Err(StoreError::Unusable(format!(
        "SQLite {version} can lose commits when its log is reset; build latchkey with {major}.{minor}.\
         {patch} or newer"
    )))
}

async fn check_modes(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    for (pragma, wanted) in [("PRAGMA journal_mode", "wal"), ("PRAGMA synchronous", "2")] {
        let found = text(connection, pragma).await.map_err(|error| unusable(path, &error))?;
        if found != wanted {
            return Err(StoreError::Unusable(format!(
                "the database `{}`: {pragma} is `{found}` and must be `{wanted}`; put the file on a \
                 local disk, not on a network file system",
                path.display()
            )));
        }
    }
    Ok(())
}

async fn check_health(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let found =
        text(connection, "PRAGMA quick_check(1)").await.map_err(|error| unusable(path, &error))?;
    if found == "ok" {
        return Ok(());
    }
    Err(StoreError::Unusable(format!("the database `{}`: {DAMAGED} ({found})", path.display())))
}

/// A file with tables of another program is left alone; to open it for writing would change its mode.
async fn look_at_owner(path: &Path) -> Result<(), StoreError> {
    let say = |error: sqlx::Error| unusable(path, &error);
    let mut connection = common(path).connect().await.map_err(say)?;
    let is_ours = is_ours(&mut connection).await;
    let closed = connection.close().await;
    if !is_ours.map_err(say)? {
        return Err(StoreError::Unusable(format!(
            "the database `{}` belongs to another program; name another file",
            path.display()
        )));
    }
    closed.map_err(say)
}

async fn is_ours(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let tables = "SELECT CAST(count(*) AS TEXT) FROM sqlite_schema";
    let ours = "SELECT CAST(count(*) AS TEXT) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    Ok(text(connection, tables).await? == "0" || text(connection, ours).await? == "1")
}

async fn migrate<C: Migrate>(connection: &mut C, path: &Path) -> Result<(), StoreError> {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let migrator = Migrator::with_migrations(migrations.into());
    migrator.run_direct(None, connection, false).await.map_err(|error| {
        let shown = path.display();
        match error {
            MigrateError::VersionMissing(version) => newer_schema(path, version),
            MigrateError::VersionMismatch(version) => StoreError::Unusable(format!(
                "the database `{shown}`: step {version} of its schema is not the one that was released; \
                 start the version that wrote it"
            )),
            other => StoreError::Unusable(format!(
                "the database `{shown}`: its schema cannot be brought up to date ({other})"
            )),
        }
    })
}

async fn check_format(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let least = text(connection, "SELECT CAST(least_format AS TEXT) FROM feed")
        .await
        .map_err(|error| unusable(path, &error))?;
    if least.parse().is_ok_and(|least: u32| least <= RECORD_FORMAT) {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "the database `{}` holds records of format {least}, and this latchkey knows {RECORD_FORMAT}; \
         start a newer version",
        path.display()
    )))
}

/// The first column of the one row of a query, as text.
async fn text(
    connection: &mut SqliteConnection,
    query: &'static str,
) -> Result<String, sqlx::Error> {
    let row = sqlx::query(query).fetch_one(connection).await?;
    row.try_get_unchecked::<String, _>(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_with_the_wal_reset_bug_is_refused() {
        for bad in ["3.51.2", "3.7.0", "2.99.99", "3", "what"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
        for good in ["3.51.3", "3.52.0", "4.0.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
    }
}

//! A real PostgreSQL, started for the tests of this process and ended with it.
//!
//! One server for all tests that need nothing special of one, with a database for each; it listens on a Unix
//! socket alone. `./check` installs the programs.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tokio::sync::OnceCell;

use super::Folder;
use super::pki::Signed;

mod faults;

/// Who owns everything in it.
pub(crate) const USER: &str = "keeper";

/// How long a start may take on a busy machine.
const START_TIME_MAX: Duration = Duration::from_mins(1);

/// Starts the server, and again at each line, once it has ended. Ends it, however this process ends: then nobody writes
/// to its input any more.
const UNTIL_END_OF_INPUT: &str = r#"
programs=$1; folder=$2; shift 2
start() {
    "$programs/postgres" -D "$folder/data" -k "$folder" "$@" >>"$folder/log" 2>&1 </dev/null &
    server=$!
}
start "$@"
while read -r again; do wait $server; start "$@"; done
kill -QUIT $server
wait $server
rm -rf "$folder"
"#;

/// A server.
pub(crate) struct Postgres {
    folder: Folder,
    port: u16,
    keeper: Mutex<Child>,
    /// Databases that nobody needs any more.
    left: Mutex<Vec<String>>,
}

/// The server of all tests that need nothing special of one.
pub(crate) async fn shared() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_init(|| Postgres::start(&[])).await
}

impl Postgres {
    /// A server of one's own, with settings (`name=value`).
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let folder = Folder::new();
        make_data(folder.path());
        Self::run(folder, settings).await
    }

    /// A server that listens on TCP too, with this certificate.
    pub(crate) async fn start_with_tls(signed: &Signed) -> Self {
        let folder = Folder::new();
        make_data(folder.path());
        for (name, text) in [("server.crt", &signed.certificate), ("server.key", &signed.key)] {
            let path = folder.path().join("data").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = owner() {
                chown(&path, Some(user), Some(group)).unwrap();
            }
        }
        let anybody = "host all all 127.0.0.0/8 trust\nlocal all all trust\n";
        std::fs::write(folder.path().join("data/pg_hba.conf"), anybody).unwrap();
        Self::run(folder, &["ssl=on", "listen_addresses=127.0.0.1,127.0.0.2"]).await
    }

    /// A standby of this server, made of a copy of its files: not each version comes with a program for it.
    pub(crate) async fn standby(&self) -> Self {
        let (begin, end) = match version(&programs()) {
            Some(..15) => {
                ("pg_start_backup('a standby', true, false)", "pg_stop_backup(false, false)")
            }
            _ => ("pg_backup_start('a standby', true)", "pg_backup_stop(false)"),
        };
        let folder = Folder::new();
        own(folder.path());
        let data = folder.path().join("data");
        let mut copying = self.connect("postgres").await;
        run(&mut copying, format!("SELECT {begin}")).await.unwrap();
        // A file may go while it is copied.
        while !Command::new("cp")
            .arg("-a")
            .args([&self.folder.path().join("data"), &data])
            .status()
            .unwrap()
            .success()
        {
            std::fs::remove_dir_all(&data).unwrap();
        }
        let end = AssertSqlSafe(format!("SELECT labelfile FROM {end}"));
        let label = sqlx::raw_sql(end).fetch_one(&mut copying).await.unwrap();
        std::fs::remove_file(data.join("postmaster.pid")).unwrap();
        let from = format!("host={} port={} user={USER}", self.folder.path().display(), self.port);
        for (name, text) in [
            ("backup_label", label.get(0)),
            ("standby.signal", String::new()),
            ("postgresql.auto.conf", format!("primary_conninfo = '{from}'\n")),
        ] {
            let file = data.join(name);
            std::fs::write(&file, text).unwrap();
            if let Some((user, group)) = owner() {
                chown(file, Some(user), Some(group)).unwrap();
            }
        }
        Self::run(folder, &[]).await
    }

    async fn run(folder: Folder, settings: &[&str]) -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        // It names the socket and nothing else, unless a test has it listen on TCP too.
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + (std::process::id() * 7 + number) % 10_000).unwrap();
        let mut keeper = as_owner(Path::new("/bin/sh"));
        keeper.args(["-c", UNTIL_END_OF_INPUT, "postgres"]).arg(programs()).arg(folder.path());
        keeper.args(["-p", &port.to_string()]);
        // The last of several is what counts.
        let common = ["listen_addresses=", "max_connections=400", "shared_buffers=32MB"];
        for setting in common.iter().chain(settings) {
            keeper.args(["-c", setting]);
        }
        // It may go on for a moment after us, and nobody is to wait for it.
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().unwrap();
        let server = Self { folder, port, keeper: Mutex::new(keeper), left: Mutex::default() };
        server.until_it_answers().await;
        server
    }

    async fn until_it_answers(&self) {
        let answers = async {
            while self.options("postgres").connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let is_up = tokio::time::timeout(START_TIME_MAX, answers).await;
        is_up.unwrap_or_else(|_| panic!("PostgreSQL does not start:\n{}", self.log()));
    }

    /// A new, empty database.
    pub(crate) async fn database(&self) -> String {
        self.database_like("template0").await
    }

    /// A new database with what is in another, which nobody may be using.
    pub(crate) async fn database_like(&self, other: &str) -> String {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        let left = std::mem::take(&mut *self.left.lock().unwrap());
        for left in left {
            // Version 12 cannot do both at once.
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
            run(&mut connection, format!("{end} = '{left}'")).await.unwrap();
            until_done(&mut connection, format!("DROP DATABASE {left}")).await;
        }
        until_done(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {other}")).await;
        name
    }

    /// Leaves a database to be dropped when the next one is made.
    pub(crate) fn leave(&self, database: &str) {
        self.left.lock().unwrap().push(database.to_owned());
    }

    /// How a database of it is opened.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_by(self.folder.path(), database)
    }

    /// The same by a socket in another folder.
    pub(crate) fn url_by(&self, folder: &Path, database: &str) -> String {
        format!("postgres://{USER}@localhost:{}/{database}?host={}", self.port, folder.display())
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket_in(self.folder.path())
    }

    /// A socket that its clients find in another folder.
    pub(crate) fn socket_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!(".s.PGSQL.{}", self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass();
        let options = options.socket(self.folder.path()).port(self.port);
        options.username(USER).database(database).disable_statement_logging()
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        self.options(database).connect().await.unwrap()
    }

    /// Runs SQL in a database.
    pub(crate) async fn sql(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        run(&mut connection, sql.to_owned()).await.unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap();
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }
}

/// Whoever has just closed a connection to a database is not gone at once.
async fn until_done(connection: &mut PgConnection, sql: String) {
    while run(connection, sql.clone()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// A cluster as `initdb` makes it, in `data` of a folder.
fn make_data(folder: &Path) {
    own(folder);
    let mut initdb = as_owner(&program("initdb"));
    initdb.arg("-D").arg(folder.join("data")).args(["-U", USER, "-A", "trust", "--no-sync"]);
    // An order that is not that of the bytes, where the version knows one: a query that relies on it is found.
    if version(&programs()).is_some_and(|version| version >= 15) {
        initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
    }
    succeed(initdb.args(["-E", "UTF8", "--locale=C.UTF-8"]));
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{told}");
}

/// A command as a user whom PostgreSQL lets run it: not root.
pub(super) fn as_owner(program: &Path) -> Command {
    let Some((user, group)) = owner() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
    command.arg("--clear-groups").arg(program).current_dir("/");
    command
}

/// Makes a folder the owner's.
pub(super) fn own(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    if let Some((user, group)) = owner() {
        chown(folder, Some(user), Some(group)).unwrap();
    }
}

/// When we are root, somebody who is not: any will do, as nothing of the system's is touched.
fn owner() -> Option<(u32, u32)> {
    const NOBODY: u32 = 65_534;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    is_root.then_some((NOBODY, NOBODY))
}

/// A program of PostgreSQL's.
pub(crate) fn program(name: &str) -> PathBuf {
    programs().join(name)
}

fn version(programs: &Path) -> Option<u32> {
    programs.parent()?.file_name()?.to_str()?.parse().ok()
}

/// Where they are: Debian keeps them out of the `PATH`, those of each version in a folder; `tests/postgres/run` names another.
fn programs() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "other versions are tried from outside")]
    if let Some(folder) = std::env::var_os("LATCHKEY_POSTGRES") {
        return folder.into();
    }
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = folders.map(|folder| folder.path().join("bin"));
    folders.filter(|folder| folder.join("initdb").exists()).max_by_key(|path| version(path)).expect(
        "PostgreSQL is not installed: `./check` installs it, or `apt-get install postgresql`",
    )
}

//! A real `PgBouncer` before a PostgreSQL, started for one test and ended with it, on a Unix socket in a folder of its own.
//! It hands out connections for one transaction each, in turn, so that a session meets another server process all the
//! time. `./check` installs it.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::postgres::{Postgres, USER, as_owner, own};
use super::{Folder, eventually};

/// How long a start may take on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// It names the socket and nothing else.
const PORT: u16 = 6432;

/// Ends the pooler at once, however this process ends: then nobody writes to its input any more.
const UNTIL_END_OF_INPUT: &str = r#"
PATH="$PATH:/usr/sbin"
pgbouncer "$1" >>"$2" 2>&1 </dev/null &
pooler=$!
cat >/dev/null
kill -KILL $pooler
wait $pooler
"#;

/// A pooler.
pub(crate) struct PgBouncer {
    folder: Folder,
    keeper: Option<Child>,
}

impl PgBouncer {
    /// For all databases of this server.
    pub(crate) async fn start(server: &Postgres) -> Self {
        let folder = Folder::new();
        own(folder.path());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let socket = server.socket();
        let configuration = format!(
            "[databases]\n\
             * = host={} port={}\n\
             [pgbouncer]\n\
             unix_socket_dir = {}\n\
             listen_port = {PORT}\n\
             auth_type = trust\n\
             auth_file = {}\n\
             pool_mode = transaction\n\
             server_round_robin = 1\n\
             min_pool_size = 4\n\
             server_login_retry = 0.1\n",
            socket.parent().unwrap().display(),
            server.port(),
            at(""),
            at("users"),
        );
        std::fs::write(at("pgbouncer.ini"), configuration).unwrap();
        std::fs::write(at("users"), format!("\"{USER}\" \"\"\n")).unwrap();
        let mut pooler = Self { folder, keeper: None };
        pooler.start_again().await;
        pooler
    }

    /// Ends it, and whatever goes through it, at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
        // What was killed leaves its socket behind.
        let _ = std::fs::remove_file(self.socket());
    }

    /// Starts it, once it has ended, and waits until it can be reached.
    pub(crate) async fn start_again(&mut self) {
        let mut keeper = as_owner(Path::new("/bin/sh"));
        keeper.args(["-c", UNTIL_END_OF_INPUT, "pgbouncer"]);
        keeper.args(["pgbouncer.ini", "log"].map(|name| self.folder.path().join(name)));
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.keeper = Some(keeper.spawn().unwrap());
        let is_up = || std::os::unix::net::UnixStream::connect(self.socket()).ok();
        eventually(START_TIME_MAX, "PgBouncer answers (is pgbouncer installed?)", is_up).await;
    }

    /// How a database is opened through it.
    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://{USER}@localhost:{PORT}/{database}?host={folder}")
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{PORT}"))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
    }
}

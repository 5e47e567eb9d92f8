//! A real Redis, started for one test and ended with it, on a Unix socket in a folder of its own. `./check` installs it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Folder, eventually};

mod group;

pub(crate) use group::Group;

/// How long a start may take on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// Ends the server, however this process ends: then nobody writes to its input any more.
const UNTIL_END_OF_INPUT: &str = r#"
redis-server "$@" </dev/null &
server=$!
cat >/dev/null
kill -CONT $server 2>/dev/null
kill -KILL $server 2>/dev/null
wait $server
"#;

/// A server.
pub(crate) struct Redis {
    folder: Folder,
    arguments: Vec<String>,
    keeper: Option<Child>,
    is_paused: AtomicBool,
}

impl Redis {
    /// On a socket alone.
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--port", "0"]).await
    }

    /// With more to be said, on a socket too.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let mut redis = Self::prepare(arguments);
        redis.run().await;
        redis
    }

    /// As Sentinel, with this configuration, which it writes to.
    pub(crate) async fn start_sentinel(port: u16, configuration: &str) -> Self {
        let mut redis = Self::prepare(&["--port", &port.to_string()]);
        let file = redis.folder.path().join("sentinel.conf");
        std::fs::write(&file, configuration).unwrap();
        redis.arguments.splice(0..0, [file.display().to_string(), "--sentinel".to_owned()]);
        redis.arguments.retain(|argument| argument != "--save" && !argument.is_empty());
        redis.run().await;
        redis
    }

    fn prepare(arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let own = [
            ["--dir", &at("")],
            ["--unixsocket", &at("redis.sock")],
            ["--pidfile", &at("pid")],
            ["--logfile", &at("log")],
            ["--save", ""],
        ];
        let own = own.as_flattened().iter().chain(arguments).map(|it| (*it).to_owned());
        Self { arguments: own.collect(), folder, keeper: None, is_paused: AtomicBool::new(false) }
    }

    async fn run(&mut self) {
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", UNTIL_END_OF_INPUT, "redis"]).args(&self.arguments);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.keeper = Some(keeper.spawn().unwrap());
        self.is_paused.store(false, Ordering::Relaxed);
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let ready = ["eady to accept connections", "Sentinel ID is"];
        eventually(START_TIME_MAX, "Redis is ready (is redis-server installed?)", || {
            ready.iter().any(|ready| log().contains(ready)).then_some(())
        })
        .await;
    }

    /// How latchkey is told of it.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// What it answers to a command.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        command_of(command).query(&mut self.connect()).unwrap()
    }

    /// The same, where it may not answer: Sentinel cuts off whoever talks to a Redis that gets another place.
    pub(crate) fn try_ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        let client = redis::Client::open(self.url()).unwrap();
        command_of(command).query(&mut client.get_connection().ok()?).ok()
    }

    /// The names under which something is kept of a key.
    pub(crate) fn records(&self) -> Vec<String> {
        let names: Vec<String> = self.ask(&["KEYS", "latchkey:*"]);
        names.into_iter().filter(|name| name.len() == 90).collect()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        std::fs::remove_file(self.folder.path().join("log")).unwrap();
        self.end();
    }

    /// The same server again, empty save for what it was told of others.
    pub(crate) async fn start_again(&mut self) {
        self.run().await;
    }

    /// Stops it where it is: it takes connections still, and says nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        self.is_paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
        self.is_paused.store(false, Ordering::Relaxed);
    }

    /// Whether it was stopped, and did not go on since.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), signal).unwrap();
    }

    fn end(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn command_of(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
}

/// A port that nobody listens on, and that nobody is given by chance while a server on it starts again: below those
/// that Linux hands out, and another each time.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| {
        let next =
            std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        20_000 + u16::try_from(next % 12_000).unwrap()
    });
    ports.take(12_000).find(is_free).expect("a port is free")
}

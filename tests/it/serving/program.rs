//! The running program, its addresses, and what the machine says of its process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::Folder;

const LATCHKEY: &str = env!("CARGO_BIN_EXE_latchkey");
const FREE_PORT: &str = "127.0.0.1:0";

/// The program, started for one test, on free ports; killed when dropped.
pub(super) struct Program {
    child: Child,
    addresses: BTreeMap<String, String>,
    log: Option<JoinHandle<String>>,
    _folder: Folder,
}

impl Program {
    /// Starts it with these settings, written as in the environment but for the `LATCHKEY__`.
    pub(super) fn start(settings: &[(&str, &str)]) -> Self {
        Self::spawn(&mut Command::new(LATCHKEY), settings)
    }

    /// Starts it with a limit on its open files.
    pub(super) fn start_with_files(files: u32) -> Self {
        let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        Self::spawn(Command::new("sh").args(["-c", &limited, LATCHKEY]), &[])
    }

    /// What it writes when it does not start.
    pub(super) async fn fails_to_start(settings: &[(&str, &str)]) -> String {
        let (mut program, _) = Self::run(&mut Command::new(LATCHKEY), settings);
        let ended = timeout(Duration::from_secs(10), program.ended()).await;
        assert!(ended.is_ok_and(|status| !status.success()), "it started");
        program.log.take().unwrap().await.unwrap()
    }

    fn spawn(command: &mut Command, settings: &[(&str, &str)]) -> Self {
        let (mut program, lines) = Self::run(command, settings);
        program.await_start(&lines);
        program
    }

    fn run(program: &mut Command, settings: &[(&str, &str)]) -> (Self, mpsc::Receiver<String>) {
        let folder = Folder::new();
        let child = command(program, settings, &folder).stderr(Stdio::piped()).spawn().unwrap();
        let mut program = Self { child, addresses: BTreeMap::new(), log: None, _folder: folder };
        let (lines, read) = mpsc::channel();
        program.log = program.child.stderr.take().map(|stderr| follow(stderr, lines));
        (program, read)
    }

    fn await_start(&mut self, lines: &mpsc::Receiver<String>) {
        loop {
            let line = lines.recv_timeout(Duration::from_secs(30)).expect("it starts");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            match text("message").as_str() {
                "listening" => drop(self.addresses.insert(text("listener"), text("address"))),
                "ready" => return,
                _ => {}
            }
        }
    }

    pub(super) fn grpc(&self) -> SocketAddr {
        self.addresses["grpc"].parse().unwrap()
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.addresses["http"].parse().unwrap()
    }

    pub(super) fn operations(&self) -> SocketAddr {
        self.addresses["operations"].parse().unwrap()
    }

    /// Sends SIGTERM.
    pub(super) fn stop(&self) -> Instant {
        self.signal(Signal::TERM);
        now()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(super) async fn refuses_connections(&self) {
        let refused = async {
            loop {
                match TcpStream::connect(self.grpc()).await {
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                    _ => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(Duration::from_secs(5), refused).await.expect("it stops listening");
    }

    /// Whether it exits in time, and with success.
    pub(super) async fn exited(&mut self, limit: Duration) -> bool {
        timeout(limit, self.ended()).await.is_ok_and(|status| status.success())
    }

    async fn ended(&mut self) -> ExitStatus {
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// All that it has written to stderr, once it has exited.
    pub(super) async fn log(mut self) -> String {
        self.stop();
        self.log.take().unwrap().await.unwrap()
    }

    /// The processor time it has used so far.
    pub(super) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let user_and_system = after_name.split_whitespace().skip(11).take(2);
        let hundredths: u64 = user_and_system.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(hundredths * 10)
    }

    /// How often each serving thread has waited for work, by the thread's name.
    pub(super) fn wakeups_of_workers(&self) -> BTreeMap<String, u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let line = |status: &str, name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim_start_matches(':').trim().to_owned()
        };
        threads
            .map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap())
            .filter(|status| line(status, "Name").starts_with("worker-"))
            .map(|status| {
                let wakeups = line(&status, "voluntary_ctxt_switches");
                (line(&status, "Name"), wakeups.parse().unwrap())
            })
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "these tests measure how long things take")]
pub(super) fn now() -> Instant {
    Instant::now()
}

fn command<'a>(
    command: &'a mut Command,
    settings: &[(&str, &str)],
    folder: &Folder,
) -> &'a mut Command {
    let store = format!("sqlite://{}/latchkey.db", folder.path().display());
    let common = [
        ("GRPC__LISTEN", FREE_PORT),
        ("HTTP__LISTEN", FREE_PORT),
        ("OPERATIONS__LISTEN", "off"),
        ("SERVE__NOTICE_SECONDS", "0"), // nobody is to wait for it
        ("STORE__URL", &store),
    ];
    for (name, value) in common.iter().chain(settings) {
        command.env(format!("LATCHKEY__{name}"), value);
    }
    command.arg("serve")
}

/// Hands on each line as it comes, and returns them all at the end.
fn follow(stderr: ChildStderr, lines: mpsc::Sender<String>) -> JoinHandle<String> {
    tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            log += &line;
            log.push('\n');
            let _ = lines.send(line); // nobody waits for them once it is ready
        }
        log
    })
}

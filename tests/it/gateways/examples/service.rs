//! The services of `examples/` as real programs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::{Folder, Server, eventually, tools_path};

const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A folder of `examples/` with a service in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Example {
    FastApi,
    Express,
    Go,
    Tower,
}

impl Example {
    /// Where this one asks.
    pub(super) fn asks(self, server: &Server) -> SocketAddr {
        match self {
            Self::FastApi | Self::Express | Self::Go => server.http(),
            Self::Tower => server.grpc(),
        }
    }

    /// Built in this folder; latchkey's own tree stays as it is.
    fn command(self, folder: &Path, port: u16) -> Command {
        match self {
            Self::FastApi => {
                let mut command = Command::new(python());
                command.args(["-m", "uvicorn", "service:app", "--port", &port.to_string()]);
                command.current_dir(example("fastapi"));
                command
            }
            Self::Express => {
                let modules = installed("target/tools/express/node_modules");
                std::os::unix::fs::symlink(modules, folder.join("node_modules")).unwrap();
                let script = folder.join("service.mjs");
                std::fs::copy(example("express/service.mjs"), &script).unwrap();
                let mut command = Command::new("node");
                command.arg(script);
                command
            }
            Self::Go => {
                static BUILT: LazyLock<PathBuf> = LazyLock::new(built_by_go);
                Command::new(&*BUILT)
            }
            Self::Tower => {
                static BUILT: LazyLock<PathBuf> = LazyLock::new(built_by_cargo);
                Command::new(&*BUILT)
            }
        }
    }
}

fn built_by_go() -> PathBuf {
    let service = Path::new(env!("CARGO_TARGET_TMPDIR")).join("latchkey-example-go");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&service).arg(".").env("GOTOOLCHAIN", "local");
    succeed(go.current_dir(example("go")));
    service
}

fn built_by_cargo() -> PathBuf {
    let name = "latchkey-example-tower";
    let mut cargo = Command::new("cargo");
    // With the tests, so that features are chosen as for these, and nothing is compiled twice.
    cargo.args(["build", "--locked", "-p", "latchkey", "-p", name]);
    succeed(cargo.args(["--test", "it", "--bin", name]).current_dir(repository()));
    crate::support::latchkey().with_file_name(name)
}

/// A running service; it is ended when it is dropped.
pub(super) struct Service {
    child: Child,
    folder: Folder,
    address: SocketAddr,
}

impl Service {
    /// Starts it; it asks latchkey there, with a key of its own if it has one.
    pub(super) async fn start(example: Example, asks: SocketAddr, own_key: Option<&str>) -> Self {
        let (folder, address) = (Folder::new(), free_address());
        let mut command = example.command(folder.path(), address.port());
        command.env_clear().env("PATH", tools_path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PORT", address.port().to_string());
        command.env("LATCHKEY_URL", format!("http://{asks}"));
        command.envs(own_key.map(|key| ("LATCHKEY_KEY", key)));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = spawn(&mut command);
        let mut service = Self { child, folder, address };
        eventually(START_TIME_MAX, "the service listens", || {
            let ended = service.child.try_wait().unwrap();
            assert!(ended.is_none(), "{example:?} has ended: {}", service.log());
            TcpStream::connect(address).ok()
        })
        .await;
        service
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has said.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Service {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its service said")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the service's log ---\n{}", self.log());
        }
    }
}

/// The Python that has the packages of the examples.
pub(super) fn python() -> PathBuf {
    installed("target/tools/python/bin/python")
}

pub(super) fn example(path: &str) -> PathBuf {
    repository().join("examples").join(path)
}

pub(super) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn installed(path: &str) -> PathBuf {
    let path = repository().join(path);
    assert!(path.exists(), "there is no {}: ./check installs it", path.display());
    path
}

pub(super) fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; ./check installs it"))
}

pub(super) fn succeed(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; it has to be there"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

/// One that nobody else is given: neither the system nor another test takes ports from here.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1_000).unwrap();
    loop {
        let port = 26_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

//! The proxies as real programs, running the files of `deploy/` with other ports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::{Folder, eventually, tools_path};

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Names of files, in the program's own folder.
const PRINTED: &str = "printed";
const LOG: &str = "log";
const LOADED_HOST: &str = "loaded.example.com";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Envoy,
    Nginx,
    Haproxy,
    Caddy,
    Traefik,
}

/// The files that are to be copied, and where they go below the program's own folder.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) program: Program,
    pub(crate) files: Vec<File>,
}

#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

impl Example {
    /// The first file is the one that the others go with.
    pub(crate) fn read(program: Program, names: &[&'static str]) -> Self {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(program.name());
        let files = names.iter().map(|name| {
            let text = std::fs::read_to_string(deploy.join(name)).unwrap();
            File { name, text }
        });
        Self { program, files: files.collect() }
    }

    /// The same with that in the place of this, which has to be there.
    pub(crate) fn with(mut self, this: &str, that: &str) -> Self {
        assert!(self.files.iter().any(|file| file.text.contains(this)), "no {this}");
        for file in &mut self.files {
            file.text = file.text.replace(this, that);
        }
        self
    }

    /// Every line that says that it is there for security, and the example without it.
    pub(crate) fn without_each_security_line(&self) -> Vec<(String, Self)> {
        let mut without = Vec::new();
        for (at, file) in self.files.iter().enumerate() {
            let lines: Vec<_> = file.text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                if line.contains(" security: ") {
                    let mut changed = self.clone();
                    let kept = [&lines[..number], &lines[number + 1..]].concat();
                    changed.files[at].text = kept.join("\n") + "\n";
                    let name = format!("{}:{}: {}", file.name, number + 1, line.trim());
                    without.push((name, changed));
                }
            }
        }
        without
    }
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
        }
    }

    /// Where the file goes, below the program's own folder.
    fn folder_of(self, file: &str) -> &'static str {
        match self {
            Self::Traefik if file != "traefik.yaml" => "dynamic",
            _ => "",
        }
    }

    /// What whoever copies the example has around it, as unhelpful as can be.
    fn surroundings(self, main: &str) -> Option<(&'static str, String)> {
        match self {
            Self::Nginx => Some((
                "nginx.conf",
                format!(
                    "worker_processes 1;\ndaemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
                     events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  \
                     fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
                     underscores_in_headers on;\n  ignore_invalid_headers off;\n  include {main};\n}}\n"
                ),
            )),
            Self::Envoy | Self::Haproxy => None,
            // Answers once the folder's files are in force, which they are together: see `is_up`.
            Self::Traefik => Some((
                "dynamic/loaded.yaml",
                format!(
                    "http:\n  routers:\n    loaded:\n      rule: Host(`{LOADED_HOST}`)\n      priority: 1000\n      \
                     service: noop@internal\n"
                ),
            )),
            Self::Caddy => Some((
                "Caddyfile",
                format!("{{\n  admin off\n  auto_https off\n}}\nimport {main}\n"),
            )),
        }
    }

    /// Whether it serves what it was given. Traefik listens before it has read the folder, and finds nothing until then.
    fn is_up(self, address: SocketAddr) -> bool {
        match self {
            Self::Envoy | Self::Nginx | Self::Haproxy | Self::Caddy => {
                TcpStream::connect(address).is_ok()
            }
            Self::Traefik => status(address, LOADED_HOST).is_ok_and(|status| status == "418"),
        }
    }

    fn command(self, folder: &Path, main: &str) -> Command {
        let mut command = Command::new(self.name());
        match self {
            Self::Envoy => {
                command.args(["-c", main, "-l", "warn", "--concurrency", "1"]);
                command.args(["--disable-hot-restart", "--file-flush-interval-msec", "20"]);
            }
            Self::Nginx => {
                command.arg("-p").arg(folder).args(["-e", "stderr", "-c", "nginx.conf"]);
            }
            Self::Haproxy => {
                command.args(["-db", "-f", main]);
            }
            Self::Traefik => {
                command.args(["--configfile", "traefik.yaml"]);
            }
            Self::Caddy => {
                command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
            }
        }
        command.current_dir(folder).env_clear().env("HOME", folder);
        command.env("PATH", format!("{}:/usr/sbin", tools_path()));
        command
    }
}

/// A running proxy; it is ended when it is dropped.
pub(crate) struct Proxy {
    program: Program,
    child: Child,
    folder: Folder,
    address: SocketAddr,
    administration: SocketAddr,
}

impl Proxy {
    /// Starts it before these servers, each by the port that the example has for it; the error is what it says when it
    /// refuses to start.
    pub(crate) async fn start(
        example: &Example,
        servers: &[(&str, SocketAddr)],
    ) -> Result<Self, String> {
        let folder = Folder::new();
        let (address, administration) = (free_address(), free_address());
        let own = [("8000", address), ("9901", administration)];
        let ports: Vec<_> =
            servers.iter().chain(&own).map(|(shipped, to)| (*shipped, to.port())).collect();
        let main = example.files[0].name;
        for File { name, text } in &example.files {
            let to = folder.path().join(example.program.folder_of(name)).join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, with_ports(text, &ports)).unwrap();
        }
        if let Some((name, text)) = example.program.surroundings(main) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = |name| std::fs::File::create(folder.path().join(name)).unwrap();
        let mut command = example.program.command(folder.path(), main);
        command.stdin(Stdio::null()).stdout(file(PRINTED)).stderr(file(LOG));
        let spawned = command.spawn();
        let child = spawned.unwrap_or_else(|error| {
            panic!("{} cannot be started ({error}): ./check installs it", example.program.name())
        });
        let mut proxy = Self { program: example.program, child, folder, address, administration };
        let is_up = eventually(START_TIME_MAX, "the proxy listens", || {
            if proxy.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            example.program.is_up(address).then_some(true)
        });
        if is_up.await { Ok(proxy) } else { Err(proxy.log()) }
    }

    pub(crate) fn program(&self) -> Program {
        self.program
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where Envoy tells about itself.
    pub(crate) fn administration(&self) -> SocketAddr {
        self.administration
    }

    /// Its own folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has written to stdout; for Envoy, the access log.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(PRINTED)).unwrap_or_default()
    }

    /// Whether it takes `//` and `/../` out of a path before it asks about it.
    pub(crate) fn cleans_paths(&self) -> bool {
        matches!(self.program, Program::Envoy | Program::Traefik)
    }

    /// The status, and when to try again. Traefik tells its clients nothing else.
    pub(crate) fn says_when_undecided(&self) -> (u16, &'static str) {
        if self.program == Program::Traefik { (500, "") } else { (503, "1") }
    }

    /// What it has said.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        log + &self.printed()
    }
}

impl Drop for Proxy {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its proxy said")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.log());
        }
    }
}

fn status(address: SocketAddr, host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START_TIME_MAX))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// All at once, so that no port is taken for one that is to be replaced.
fn with_ports(text: &str, ports: &[(&str, u16)]) -> String {
    let mut left = text;
    let mut written = String::new();
    while let Some((at, (shipped, port))) =
        ports.iter().filter_map(|port| Some((left.find(port.0)?, port))).min_by_key(|(at, _)| *at)
    {
        written.push_str(&left[..at]);
        written.push_str(&port.to_string());
        left = &left[at + shipped.len()..];
    }
    written + left
}

/// One that nobody else is given: neither the system nor another test takes ports from here.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1_000).unwrap();
    loop {
        let port = 30_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000;
        if let Ok(listener) = TcpListener::bind(("0.0.0.0", port)) {
            return SocketAddr::new(
                "127.0.0.1".parse().unwrap(),
                listener.local_addr().unwrap().port(),
            );
        }
    }
}

//! The real program as a child process.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Folder, latchkey, tools_path};

/// How long a start may take on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A running `latchkey serve`.
pub(crate) struct Server {
    child: Child,
    folder: Arc<Folder>,
    log: Arc<Mutex<String>>,
    printed: Arc<Mutex<String>>,
    /// Held by who reads a line of the log.
    reading: Arc<tokio::sync::Mutex<()>>,
    store: String,
}

/// How a server is to be started. Told to stop it gives no notice, unless it is told to: nobody is to wait for it.
pub(crate) struct Builder {
    folder: Arc<Folder>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    store: String,
}

impl Server {
    /// On an empty store.
    pub(crate) async fn start() -> Self {
        Self::build().start().await
    }

    /// As `latchkey serve --dev` starts it.
    pub(crate) async fn start_dev() -> Self {
        Self::build().dev().start().await
    }

    /// On an empty store, with more to be said.
    pub(crate) fn build() -> Builder {
        Builder::on(Arc::new(Folder::new()))
    }

    /// The same store again, once this server has ended.
    pub(crate) fn again(&self) -> Builder {
        Builder::on(Arc::clone(&self.folder))
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.address("grpc").unwrap()
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.address("http").unwrap()
    }

    pub(crate) fn operations(&self) -> SocketAddr {
        self.address("operations").unwrap()
    }

    /// Where the listener of this name listens.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        self.address(name).unwrap()
    }

    /// The path of the database.
    pub(crate) fn database(&self) -> String {
        self.store.clone()
    }

    /// The folder that the database is in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The token of the root key, from the file that it was written to.
    pub(crate) fn root_token(&self) -> String {
        let folder = self.folder.path();
        ["latchkey.db.root-token", "root-token"]
            .iter()
            .find_map(|name| std::fs::read_to_string(folder.join(name)).ok())
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The live key that `--dev` printed.
    pub(crate) fn live_key(&self) -> String {
        self.printed_after("live key")
    }

    /// The test key that `--dev` printed.
    pub(crate) fn test_key(&self) -> String {
        self.printed_after("test key")
    }

    /// What was written to stdout.
    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// What was written to stderr: JSON lines.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// As long as the answer lives, nobody reads what is written to stderr.
    pub(crate) async fn leave_log_unread(&self) -> impl Drop + use<> {
        Arc::clone(&self.reading).lock_owned().await
    }

    pub(crate) fn process_id(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Sends a signal by its number.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.process_id()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it where it is: it takes connections still, and says nothing. A signal alone would be seen some time later.
    pub(crate) async fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
        let threads = format!("/proc/{}/task", self.process_id());
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status"));
            status.is_ok_and(|status| status.contains("State:\tT"))
        };
        let all_are = || std::fs::read_dir(&threads).unwrap().all(is_stopped).then_some(());
        eventually(Duration::from_secs(5), "the server stops", all_are).await;
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end; panics when it does not come in time.
    pub(crate) async fn wait_for_end(&mut self, at_most: Duration) -> ExitStatus {
        eventually(at_most, "the server ends", || self.ended()).await
    }

    /// Ends it at once, in the middle of whatever it does.
    pub(crate) async fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(rustix::process::Signal::KILL);
        }
        self.wait_for_end(Duration::from_secs(10)).await;
    }

    /// Tells it to stop, and waits.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_for_end(Duration::from_secs(20)).await
    }

    fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_it = event["message"] == "listening" && event["listener"] == listener;
            is_it.then(|| event["address"].as_str()?.parse().ok())?
        })
    }

    fn printed_after(&self, words: &str) -> String {
        let printed = self.printed();
        let line = printed.lines().find(|line| line.trim_start().starts_with(words));
        line.unwrap().split_whitespace().nth(2).unwrap().to_owned()
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its server said")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}

impl Builder {
    fn on(folder: Arc<Folder>) -> Self {
        let store = folder.path().join("latchkey.db").display().to_string();
        let mut arguments = vec!["serve".to_owned()];
        for listener in ["grpc", "http", "operations"] {
            arguments.extend([format!("--{listener}-listen"), "127.0.0.1:0".to_owned()]);
        }
        arguments.extend(["--store-url".to_owned(), format!("sqlite://{store}")]);
        let environment = [("LOG__FORMAT", "json"), ("SERVE__NOTICE_SECONDS", "0")];
        let environment = environment
            .map(|(name, value)| (format!("LATCHKEY__{name}"), value.to_owned()))
            .to_vec();
        Self { folder, arguments, environment, store }
    }

    /// As `latchkey serve --dev`, in the test's folder.
    pub(crate) fn dev(mut self) -> Self {
        let at = self.arguments.iter().position(|argument| argument == "--store-url").unwrap();
        self.arguments.truncate(at);
        let folder = self.folder.path().display().to_string();
        self.arguments.extend(["--dev".to_owned(), "--dev-dir".to_owned(), folder]);
        self
    }

    /// Has a listener listen elsewhere than on a free port.
    pub(crate) fn listen(mut self, listener: &str, address: &str) -> Self {
        let flag = format!("--{listener}-listen");
        let at = self.arguments.iter().position(|argument| *argument == flag).unwrap();
        address.clone_into(&mut self.arguments[at + 1]);
        self
    }

    /// Keeps the store elsewhere than in a file of its folder. The root token is given to it, or it would write one where
    /// the tests are run.
    pub(crate) fn store(mut self, url: &str) -> Self {
        const TOKEN: &str = "hm_live_0000000000000000000000000000002dlYSp";
        let at = self.arguments.iter().position(|argument| argument == "--store-url").unwrap();
        url.clone_into(&mut self.arguments[at + 1]);
        std::fs::write(self.folder.path().join("root-token"), TOKEN).unwrap();
        self.environment("LATCHKEY__ROOT_TOKEN", TOKEN)
    }

    /// The folder that everything is to be in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn environments(mut self, variables: Vec<(String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Server {
        let is_dev = self.arguments.iter().any(|argument| argument == "--dev");
        let mut server = self.launch();
        let (log, printed) = (Arc::clone(&server.log), Arc::clone(&server.printed));
        eventually(START_TIME_MAX, "the server is ready", || {
            if let Some(status) = server.ended() {
                // The lock is let go before the panic, which prints the log once more on its way.
                let said = log.lock().unwrap().clone();
                panic!("the server ended with {status}:\n{said}");
            }
            let ready = log.lock().unwrap().contains("\"ready\"")
                && (!is_dev || printed.lock().unwrap().contains("ListKeys"));
            ready.then_some(())
        })
        .await;
        server
    }

    /// Starts it, whatever comes of it.
    pub(crate) fn launch(self) -> Server {
        let mut child = Command::new(latchkey())
            .args(&self.arguments)
            .env_clear()
            .env("PATH", tools_path())
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reading = Arc::default();
        let log = gather(child.stderr.take().unwrap(), &reading);
        let printed = gather(child.stdout.take().unwrap(), &Arc::default());
        Server { child, folder: self.folder, log, printed, reading, store: self.store }
    }
}

/// Reads a stream on a thread of its own, so that the child never waits for us, unless it is meant to.
fn gather(
    stream: impl Read + Send + 'static,
    reading: &Arc<tokio::sync::Mutex<()>>,
) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let (written, reading) = (Arc::clone(&text), Arc::clone(reading));
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _reading = reading.blocking_lock();
            let mut text = written.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

/// Asks again and again until there is an answer; panics when there is none in time.
pub(crate) async fn eventually<T>(
    at_most: Duration,
    what: &str,
    ask: impl FnMut() -> Option<T>,
) -> T {
    eventually_each(Duration::from_millis(5), at_most, what, ask).await
}

/// The same with so long between a question and the next, where a question is a burden to others.
pub(crate) async fn eventually_each<T>(
    pause: Duration,
    at_most: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let answered = tokio::time::timeout(at_most, async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(pause).await;
        }
    });
    answered.await.unwrap_or_else(|_| panic!("not within {at_most:?}: {what}"))
}

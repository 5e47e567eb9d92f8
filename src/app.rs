//! The composition root: everything is wired here, started, and ended in order.
//!
//! Nothing imports it but the command line and tests.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authorizer::Authorizer;
use crate::cache::Cache;
use crate::cli::Dev;
use crate::clock::{Clock, Entropy};
use crate::config::{self, Config, read_policy};
use crate::delivery::Delivery;
use crate::failure::{Failure, Failures};
use crate::feed::Feed;
use crate::grpc;
use crate::http;
use crate::keyring::Keyring;
use crate::machine::{self, MachineEntropy};
use crate::serve::{Bound, Limits, Protocol, Workers};
use crate::store::{self, Store};
use crate::token::Prefix;

mod dev;
mod root;

/// Threads of the runtime for all that is not a decision: administration, the reader, the store.
const BACKGROUND_THREADS: usize = 2;
/// How often the time is written down, so that a restart with a wrong clock cannot go back by more.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(10);
/// How long the store may take to end.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the first read may take, with a store that is slow to wake.
const FIRST_READ_TIME_MAX: Duration = Duration::from_secs(30);

/// Runs the service until it is told to stop.
pub fn serve(config: Config, dev: Option<Dev>) -> Result<ExitCode, Failures> {
    let runtime = background()?;
    let ended = runtime.block_on(run(config, dev));
    // Whoever told us twice to stop does not wait for what is still under way.
    runtime.shutdown_background();
    ended
}

/// Makes a new root key and revokes the old one; the service must not be running on this store.
pub fn reset_root(config: &Config, delivery: &Delivery) -> Result<(), Failures> {
    let prefix = prefix(config)?;
    background()?.block_on(async {
        let store = open(config).await?;
        let clock = clock(&*store).await?;
        let reset = root::reset(&*store, &*clock, &MachineEntropy, &prefix, delivery).await;
        store.close().await;
        reset
    })?;
    Ok(())
}

/// What decides and administers, wired on one store; no listener yet.
pub struct Node {
    /// Decides.
    pub authorizer: Authorizer,
    /// Administers.
    pub keyring: Keyring,
    /// Reads.
    pub feed: Feed,
    /// Holds what was read.
    pub cache: Arc<Cache>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Node {
    /// Wires a node; it learns nothing until its feed runs.
    #[must_use]
    pub fn wire(
        store: &Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        prefix: &Prefix,
        keys_max: usize,
        read_time_max: Duration,
    ) -> Self {
        let cache = Arc::new(Cache::new(keys_max));
        let feed = Feed::new(Arc::clone(store), Arc::clone(&cache), read_time_max);
        let authorizer =
            Authorizer::new(Arc::clone(&cache), feed.clone(), Arc::clone(&clock), prefix.clone());
        let name = format!("node_{:016x}", entropy.number());
        let keyring = Keyring::new(
            Arc::clone(store),
            feed.clone(),
            Arc::clone(&clock),
            entropy,
            prefix.clone(),
            &name,
        );
        Self { authorizer, keyring, feed, cache, clock }
    }
}

async fn run(mut config: Config, dev: Option<Dev>) -> Result<ExitCode, Failures> {
    let stop = Stop::listen()?;
    raise_open_files();
    let dev = dev.map(|dev| dev::Session::prepare(dev, &mut config)).transpose()?;
    let prefix = prefix(&config)?;
    let policy = config.policy.file.as_deref().map(read_policy).transpose()?.unwrap_or_default();
    let listeners = Listeners::bind(&config).await?;

    let store = open(&config).await?;
    let clock = clock(&*store).await?;
    let entropy: Arc<dyn Entropy> = Arc::new(MachineEntropy);
    let delivery = root::Chosen::by(&config, dev.as_ref());
    root::seed(&*store, &*clock, &*entropy, &prefix, policy, delivery).await?;

    let keys_max = usize::try_from(config.cache.keys_max).unwrap_or(usize::MAX);
    let node = Node::wire(
        &store,
        Arc::clone(&clock),
        entropy,
        &prefix,
        keys_max,
        Duration::from_millis(250),
    );
    let mut tasks = JoinSet::new();
    let feed = node.feed.clone();
    tasks.spawn(async move { feed.run().await });
    tasks.spawn(keep_time(Arc::clone(&store), Arc::clone(&clock)));
    first_read(&node).await?;

    let dev = match dev {
        Some(session) => Some(session.make_keys(&node.keyring, &*store).await?),
        None => None,
    };
    let serving = listeners.serve(&config, &node, &stop.told())?;
    if let Some(lines) = &dev {
        lines.print(&serving.addresses)?;
    }
    let code = serving.until_drained(stop).await;

    let closed = tokio::time::timeout(CLOSE_TIME_MAX, async {
        tasks.shutdown().await;
        // A time that cannot be kept is only kept less late; the store itself says why it failed.
        let _ = store.keep_time(clock.now()).await;
        store.close().await;
    });
    if code == ExitCode::SUCCESS && closed.await.is_err() {
        tracing::warn!(
            "the store took too long to close; what was answered is durable all the same"
        );
    }
    // The temporary folder of a development session goes last.
    drop(dev);
    tracing::info!("stopped");
    Ok(code)
}

/// As many open files as we are allowed: a connection each, and the usual soft limit is low.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit { current: maximum, maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

fn background() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BACKGROUND_THREADS)
        .thread_name("background")
        .enable_all()
        .build()
        .map_err(|error| Failure::of("cannot start threads", &error))
}

fn prefix(config: &Config) -> Result<Prefix, Failure> {
    Prefix::parse(&config.token.prefix)
        .ok_or_else(|| Failure::new("token.prefix must be 2 to 16 characters of a-z and 0-9"))
}

async fn open(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    store::open(config.store.url.expose())
        .await
        .map_err(|error| Failure::of("cannot use the store", &error))
}

async fn clock(store: &dyn Store) -> Result<Arc<dyn Clock>, Failure> {
    let kept =
        store.kept_time().await.map_err(|error| Failure::of("cannot use the store", &error))?;
    let wall = machine::wall_clock();
    if kept > wall.after(Duration::from_mins(1)) {
        tracing::warn!(%kept, %wall, "the machine's clock is behind the store's: time goes on from the store's");
    }
    Ok(machine::clock(kept))
}

/// Nothing is served before the first read was applied.
async fn first_read(node: &Node) -> Result<(), Failure> {
    let read = async { while node.feed.show(None).await.is_err() {} };
    tokio::time::timeout(FIRST_READ_TIME_MAX, read)
        .await
        .map_err(|_| Failure::new("the store could not be read; the log says why"))
}

async fn keep_time(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(KEEP_TIME_EVERY).await;
        if let Err(error) = store.keep_time(clock.now()).await {
            tracing::warn!(%error, "the time could not be kept");
        }
    }
}

// === Listeners ===

/// Bound, so that a taken port is found out before anything else is done.
struct Listeners {
    grpc: Option<Bound>,
    http: Option<Bound>,
    operations: Option<Bound>,
}

/// Listeners at work.
struct Serving {
    tasks: JoinSet<()>,
    health: grpc::Health,
    is_draining: Arc<AtomicBool>,
    addresses: Addresses,
}

/// Where clients find us.
struct Addresses {
    grpc: Option<String>,
    http: Option<String>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Failure> {
        let refused = |error| Failure::of("cannot listen", &error);
        Ok(Self {
            grpc: Bound::bind("grpc", &config.grpc.listen).await.map_err(refused)?,
            http: Bound::bind("http", &config.http.listen).await.map_err(refused)?,
            operations: Bound::bind("operations", &config.operations.listen)
                .await
                .map_err(refused)?,
        })
    }

    fn serve(
        self,
        config: &Config,
        node: &Node,
        told: &watch::Receiver<u8>,
    ) -> Result<Serving, Failure> {
        let threads = usize::try_from(config.serve.threads).ok().and_then(NonZeroUsize::new);
        let workers =
            Workers::start(threads).map_err(|error| Failure::of("cannot start threads", &error))?;
        let limits = Limits {
            max_connections: usize::try_from(config.serve.connections_max).unwrap_or(usize::MAX),
            max_age: Duration::from_secs(config.serve.connection_age_seconds),
            drain_timeout: Duration::from_secs(config.serve.drain_seconds),
            ..Limits::default()
        };
        let is_draining = Arc::new(AtomicBool::new(false));
        let callers = callers(config)?;
        let realm: Arc<str> = config.http.realm.as_str().into();
        let (health, grpc_service) = grpc::service(grpc::Parts {
            authorizer: node.authorizer.clone(),
            keyring: node.keyring.clone(),
            callers,
            realm: Arc::clone(&realm),
            reflection: config.grpc.reflection,
            background: tokio::runtime::Handle::current(),
        });
        if callers == grpc::Callers::Key && self.http.is_some() {
            tracing::warn!(
                "with grpc.callers = key, forward-auth refuses every proxy: it cannot tell one from another yet"
            );
        }
        let http_service = http::public(node.authorizer.clone(), callers, realm);
        let operations_service = http::operations(readiness(node, &is_draining));

        let addresses =
            Addresses { grpc: address(self.grpc.as_ref()), http: address(self.http.as_ref()) };
        let mut tasks = JoinSet::new();
        let mut start =
            |bound: Option<Bound>, protocol, service: AnyService| {
                let Some(bound) = bound else { return };
                tracing::info!(listener = bound.name(), address = %bound.address(), "listening");
                let (workers, limits, told) =
                    (workers.clone(), limits.clone(), wait_for(told.clone(), 1));
                match service {
                    AnyService::Grpc(service) => tasks
                        .spawn(crate::serve::run(bound, workers, protocol, limits, service, told)),
                    AnyService::Http(service) => tasks
                        .spawn(crate::serve::run(bound, workers, protocol, limits, service, told)),
                };
            };
        start(self.grpc, Protocol::Http2, AnyService::Grpc(grpc_service));
        start(self.http, Protocol::Auto, AnyService::Http(http_service));
        start(self.operations, Protocol::Auto, AnyService::Http(operations_service));
        Ok(Serving { tasks, health, is_draining, addresses })
    }
}

/// The two kinds of service that there are.
enum AnyService {
    Grpc(grpc::Dispatch),
    Http(http::HttpService),
}

impl Serving {
    /// Serves until told to stop, then lets calls in flight end; told twice, it ends at once.
    async fn until_drained(mut self, stop: Stop) -> ExitCode {
        self.health.set_serving().await;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
        wait_for(stop.told(), 1).await;
        tracing::info!(
            "stopping: no new connections; calls in flight may end (a second signal stops at once)"
        );
        self.is_draining.store(true, Ordering::Relaxed);
        self.health.set_not_serving().await;
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => ExitCode::SUCCESS,
            () = wait_for(stop.told(), 2) => {
                tracing::warn!("told twice to stop: calls in flight are dropped");
                ExitCode::FAILURE
            }
        }
    }
}

fn callers(config: &Config) -> Result<grpc::Callers, Failure> {
    match config.grpc.callers() {
        config::Callers::Any => Ok(grpc::Callers::Any),
        config::Callers::Key => Ok(grpc::Callers::Key),
        config::Callers::Mtls => {
            Err(Failure::new("grpc.callers = mtls needs TLS, which is not served yet"))
        }
    }
}

fn address(bound: Option<&Bound>) -> Option<String> {
    bound.map(|bound| bound.address().to_string())
}

fn readiness(node: &Node, is_draining: &Arc<AtomicBool>) -> http::Readiness {
    let (cache, is_draining) = (Arc::clone(&node.cache), Arc::clone(is_draining));
    Arc::new(move || {
        if is_draining.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        match cache.applied() {
            Some(_) => Ok(()),
            None => {
                Err("nothing of the store is known: it was not read yet, or it went back in time"
                    .into())
            }
        }
    })
}

// === Signals ===

/// How often we were told to stop.
struct Stop(watch::Receiver<u8>);

impl Stop {
    /// Counts SIGTERM and SIGINT from here on.
    fn listen() -> Result<Self, Failure> {
        let refused = |error| Failure::of("cannot take signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let (count, told) = watch::channel(0_u8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                count.send_modify(|times| *times = times.saturating_add(1));
            }
        });
        Ok(Self(told))
    }

    fn told(&self) -> watch::Receiver<u8> {
        self.0.clone()
    }
}

async fn wait_for(mut told: watch::Receiver<u8>, times: u8) {
    // The sender lives as long as the process; should it not, that is a reason to stop as well.
    let _ = told.wait_for(|count| *count >= times).await;
}

//! The composition root: everything is wired here, started, and ended in order.
//!
//! Nothing imports it but the command line and tests.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::authorizer::Authorizer;
use crate::cache::Cache;
use crate::cache::redis::Redis;
use crate::cli::Dev;
use crate::clock::{Clock, Entropy};
use crate::config::Config;
use crate::delivery::Delivery;
use crate::failure::{Failure, Failures};
use crate::feed::{Boot, Feed};
use crate::filling::Filling;
use crate::keyring::Keyring;
use crate::machine::{self, MachineEntropy};
use crate::policy::Policy;
use crate::store::{self, MacKey, Schema, Store};
use crate::telemetry::Logging;
use crate::token::Prefix;
use crate::verifier::Verifier;

use self::background::Background;
use self::listeners::{Addresses, Listeners};
use self::stop::{Stage, Stop};
use self::telling::Telling;
use self::watched::{Told, Watched};

mod background;
mod dev;
mod listeners;
mod readiness;
pub mod root;
mod scrape;
mod sharing;
mod stop;
mod telling;
mod watched;

/// Threads of the runtime for all that is not a decision: administration, the reader, the store.
const BACKGROUND_THREADS: usize = 2;
/// How often the store is asked for the time at the start.
const ASKED_FOR_TIME: u32 = 3;
/// How often the time is written down, so that a restart with a wrong clock cannot go back by more.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(10);
/// How often the store is asked what of it could be lost.
const LOOK_AT_SETUP_EVERY: Duration = Duration::from_mins(1);
/// How long the last time may take to be written down: a start with a right clock does not need it.
const LAST_TIME_MAX: Duration = Duration::from_secs(1);
/// How long the store may take to end.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the first read may take, with a store that is slow to wake.
const FIRST_READ_TIME_MAX: Duration = Duration::from_secs(30);

/// Runs the service until it is told to stop, beside its log.
pub fn serve(config: Config, dev: Option<Dev>, logging: &Logging) -> Result<ExitCode, Failures> {
    let runtime = background()?;
    let ended = runtime.block_on(run(config, dev, logging));
    // Whoever told us again to stop does not wait for what is still under way.
    runtime.shutdown_background();
    ended
}

/// Makes a new root key and revokes the old one; the service must not be running on this store.
pub fn reset_root(config: &Config, delivery: &Delivery) -> Result<(), Failures> {
    let prefix = prefix(config)?;
    config.store.url.file().map_or(Ok(()), root::demand_database)?;
    background()?.block_on(async {
        let store = open(config).await?;
        let reset = async {
            let clock = clock(&*store).await?;
            root::reset(&*store, &*clock, &MachineEntropy, &prefix, delivery).await
        };
        let reset = reset.await;
        store.close().await;
        reset
    })?;
    Ok(())
}

/// Brings the schema of the store up to date.
pub fn migrate(config: &Config) -> Result<(), Failures> {
    let migrated = background()?.block_on(store::migrate(config.store.url.expose()));
    Ok(migrated.map_err(|error| Failure::of("cannot use the store", &error))?)
}

/// Gives the store another key for what nodes keep in Redis.
pub fn new_mac_key(config: &Config) -> Result<(), Failures> {
    config.store.url.file().map_or(Ok(()), root::demand_database)?;
    let key = MacKey::generate(&MachineEntropy);
    let renewed = background()?.block_on(store::new_mac_key(config.store.url.expose(), &key));
    Ok(renewed.map_err(|error| Failure::of("cannot use the store", &error))?)
}

/// What decides and administers, wired on one store; no listener yet.
pub struct Node {
    /// Decides.
    pub authorizer: Authorizer,
    /// Administers.
    pub keyring: Keyring,
    /// Reads.
    pub feed: Feed,
    /// Finds out what is not held.
    pub filling: Filling,
    /// What nodes keep for each other, where there is such.
    pub redis: Option<Arc<Redis>>,
    /// Holds what was read.
    pub cache: Arc<Cache>,
    /// Looks whether that is so.
    pub verifier: Verifier,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// What this node is called.
    pub name: String,
}

impl Node {
    /// Wires a node; it learns nothing until its feed runs. To be called in the runtime where flights shall go on.
    #[must_use]
    pub fn wire(
        store: &Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        prefix: &Prefix,
        keys_max: usize,
        read_time_max: Duration,
        redis: Option<Arc<Redis>>,
    ) -> Self {
        let cache = Arc::new(Cache::new(keys_max));
        let machine = machine::host_name().unwrap_or_default();
        let boot = Boot { id: entropy.number(), machine, started: clock.now() };
        let name = boot.name();
        let feed = Feed::new(
            Arc::clone(store),
            Arc::clone(&cache),
            Arc::clone(&clock),
            boot,
            read_time_max,
        );
        if let Some(redis) = &redis {
            feed.share(Arc::clone(redis));
        }
        let filling = Filling::new(
            Arc::clone(&cache),
            feed.clone(),
            redis.clone(),
            Arc::clone(&clock),
            Handle::current(),
        );
        let authorizer = Authorizer::new(
            Arc::clone(&cache),
            feed.clone(),
            filling.clone(),
            Arc::clone(&clock),
            prefix.clone(),
        );
        let keyring = Keyring::new(
            Arc::clone(store),
            feed.clone(),
            Arc::clone(&clock),
            entropy,
            prefix.clone(),
        );
        let verifier = Verifier::new(Arc::clone(store), Arc::clone(&cache), Arc::clone(&clock));
        Self { authorizer, keyring, feed, filling, redis, cache, verifier, clock, name }
    }
}

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Told to stop, and nothing was in flight any more.
    Drained,
    /// Something ended that must not.
    Broken,
}

/// Whoever tells us again to stop does not wait, for a start no more than for calls in flight or for the store to close:
/// what was answered is durable all the same.
async fn run(config: Config, dev: Option<Dev>, logging: &Logging) -> Result<ExitCode, Failures> {
    let stop = Stop::listen()?;
    tokio::select! {
        ended = run_until_told(config, dev, logging, &stop) => ended,
        () = stop.reaches(Stage::AtOnce) => {
            tracing::warn!("told again to stop: what is under way is dropped");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn run_until_told(
    mut config: Config,
    dev: Option<Dev>,
    logging: &Logging,
    stop: &Stop,
) -> Result<ExitCode, Failures> {
    machine::raise_open_files();
    // Its temporary folder goes last, when the store in it is closed.
    let dev = dev.map(|dev| dev::Session::prepare(dev, &mut config)).transpose()?;
    // Where there is no database yet, a policy that is wrong is told before one is made.
    let is_new = config.store.url.file().is_some_and(|file| !file.exists());
    let policy = is_new.then(|| first_policy(&config, dev.as_ref())).transpose()?;
    let tls = config.load_tls()?;
    let listeners = Listeners::bind(&config, tls).await?;

    let watched = Watched::open(&config, logging).await?;
    let store = &watched.store;
    let ended = work(&watched, &mut config, dev.as_ref(), policy, listeners, stop).await;
    if tokio::time::timeout(CLOSE_TIME_MAX, store.close()).await.is_err() {
        tracing::warn!(
            "the store took too long to close; what was answered is durable all the same"
        );
    }
    match ended? {
        End::Drained => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        End::Broken => Ok(ExitCode::FAILURE),
    }
}

/// All that is done with an open store; whoever opened it closes it, however this ends.
async fn work(
    watched: &Watched,
    config: &mut Config,
    dev: Option<&dev::Session>,
    policy: Option<Policy>,
    listeners: Listeners,
    stop: &Stop,
) -> Result<End, Failures> {
    let store: &Arc<dyn Store> = &(Arc::clone(&watched.store) as Arc<dyn Store>);
    let clock = clock(&**store).await?;
    let entropy: Arc<dyn Entropy> = Arc::new(MachineEntropy);
    let redis = sharing::redis(config, &entropy)?;
    let mut telling = Telling::new(config, &watched.metrics, &clock, &entropy);
    let chosen = root::Chosen::by(config, dev);
    let config = &*config;
    let prefix = prefix(config)?;
    let policy = || policy.map_or_else(|| first_policy(config, dev), Ok);
    root::seed(&**store, &*clock, &*entropy, &prefix, policy, chosen).await?;

    let keys_max = usize::try_from(config.cache.keys_max).unwrap_or(usize::MAX);
    let read_time_max = Duration::from_millis(config.store.read_timeout_ms);
    let clock_of = Arc::clone(&clock);
    let node = Node::wire(store, clock_of, entropy, &prefix, keys_max, read_time_max, redis);
    let mut tasks = Background::default();
    sharing::start(&mut tasks, &node, &**store);
    let feed = node.feed.clone();
    tasks.start("the reader", async move { feed.run().await });
    tasks.start("the look at the store's setup", look_at_setup(Arc::clone(store)));
    tasks.start("the time keeper", keep_time(Arc::clone(store), Arc::clone(&clock)));
    first_read(&node).await?;
    let verifier = node.verifier.clone();
    tasks.start("the verifier", async move { verifier.run().await });
    for tls in listeners.tls() {
        tasks.start("the watch over certificates", tls.watch());
    }

    let lines = match dev {
        Some(session) => Some(session.make_keys(&node.keyring, &**store).await?),
        None => None,
    };
    let scrape = watched.scrape(&node, &listeners, &telling);
    let exporter = telling.export(config, &node.name, Arc::clone(&scrape), &clock)?;
    let told = Told { observer: telling.observer, scrape, watched };
    let serving = listeners.serve(config, &node, told)?;
    if let Some(lines) = &lines {
        lines.print(&serving.addresses)?;
    }
    let end = tokio::select! {
        end = serving.until_drained(node.feed.knows(), stop) => end,
        what = tasks.broken() => {
            tracing::error!(what, "a part that must go on has ended; so the process ends");
            End::Broken
        }
    };
    if end == End::Drained {
        tasks.end().await;
        // A time that cannot be kept is only kept less late; the store itself says why it failed.
        let _ = tokio::time::timeout(LAST_TIME_MAX, store.keep_time(clock.now())).await;
        // Nobody has to reckon with this node any more. What cannot be told is found out by waiting.
        let _ = tokio::time::timeout(LAST_TIME_MAX, store.leave(node.feed.boot().id)).await;
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
    }
    Ok(end)
}

/// The policy of an empty store; a development session needs something of it.
fn first_policy(config: &Config, dev: Option<&dev::Session>) -> Result<Policy, Failures> {
    let policy = config.first_policy()?;
    dev.map_or(Ok(()), |_| dev::demand_demo(&policy))?;
    Ok(policy)
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
    Prefix::parse(&config.token.prefix).ok_or_else(|| {
        Failure::new("token.prefix must be 2 to 16 characters of a-z and 0-9, a letter first")
    })
}

async fn open(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    let schema = if config.store.migrate { Schema::BringUpToDate } else { Schema::LeaveAsItIs };
    store::open_with(config.store.url.expose(), schema)
        .await
        .map_err(|error| Failure::of("cannot use the store", &error))
}

/// Time goes on from the store's, if it has one of its own, else from the machine's; and never from before what was
/// kept.
///
/// What a store tells has passed by the time it arrives, on a busy machine long since: it is asked a few times, and the
/// answer that is latest for its time counts.
async fn clock(store: &dyn Store) -> Result<Arc<dyn Clock>, Failure> {
    let unusable = |error| Failure::of("cannot use the store", &error);
    let kept = store.kept_time().await.map_err(unusable)?;
    let ask = async || {
        let told = store.now().await.map_err(unusable)?.unwrap_or_else(machine::wall_clock);
        Ok::<_, Failure>((told, machine::clock(told, kept)))
    };
    let (told, mut clock) = ask().await?;
    for _ in 1..ASKED_FOR_TIME {
        let (_, another) = ask().await?;
        if another.now() > clock.now() {
            clock = another;
        }
    }
    if kept > told.after(Duration::from_mins(1)) {
        tracing::warn!(%kept, %told, "the clock is behind the time that was kept: time goes on from there");
    }
    Ok(clock)
}

/// Nothing is served before the first read was applied, and others reckon with this node.
async fn first_read(node: &Node) -> Result<(), Failure> {
    let mut knows = node.feed.knows();
    let read = knows.wait_for(|knows| *knows);
    match tokio::time::timeout(FIRST_READ_TIME_MAX, read).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::new("the store could not be read; the log says why")),
    }
}

/// What may be lost although it was acknowledged changes while we serve, as standbys come and go.
async fn look_at_setup(store: Arc<dyn Store>) {
    loop {
        // What cannot be found out now is left as it was.
        let _ = store.caveat().await;
        tokio::time::sleep(LOOK_AT_SETUP_EVERY).await;
    }
}

async fn keep_time(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(KEEP_TIME_EVERY).await;
        match tokio::time::timeout(KEEP_TIME_EVERY, store.keep_time(clock.now())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the time could not be kept"),
            Err(_) => tracing::warn!("the time could not be kept: the store does not answer"),
        }
    }
}

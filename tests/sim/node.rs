//! A node: what ships, less its listeners, started and stopped as `app` does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latchkey::app::Node;
use latchkey::cache::redis::{Address, Redis};
use latchkey::clock::{Clock, Entropy, SteadyClock};
use latchkey::metrics::{Snapshot, Value};
use latchkey::store::Store;
use latchkey::token::Prefix;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::store::SimStore;
use crate::world::{Chance, World};

/// How long a read may take.
const READ_TIME_MAX: Duration = Duration::from_millis(250);
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a call that was let in may go on when a node stops.
const DRAIN: Duration = Duration::from_millis(400);

/// A node that serves, or did.
pub(crate) struct Running {
    pub(crate) number: usize,
    pub(crate) boot_id: u64,
    pub(crate) node: Node,
    store: Arc<dyn Store>,
    /// Whether it answers; not any more once it was killed.
    is_alive: AtomicBool,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl Running {
    /// Starts one, and returns when it serves.
    pub(crate) async fn start(
        world: &Arc<World>,
        number: usize,
        redis: Option<&str>,
        mut dice: Dice,
    ) -> Option<Arc<Self>> {
        let store: Arc<dyn Store> = Arc::new(SimStore::new(world, number, dice.apart(1)));
        let entropy: Arc<dyn Entropy> = Arc::new(Chance::new(dice.apart(2)));
        // Up to 200 millionths fast or slow.
        let rate = 1.0 + (f64::from(u32::try_from(dice.below(401)).unwrap()) - 200.0) / 1e6;
        let anchor = store.now().await.ok()??;
        let rate = if world.shape.is_scripted { 1.0 } else { rate };
        let elapsed = world.clock_at_rate(number, rate);
        let begun = elapsed();
        let since = move || elapsed().saturating_sub(begun);
        let clock: Arc<dyn Clock> =
            Arc::new(SteadyClock::new(since, anchor, store.kept_time().await.ok()?));
        let redis = redis.map(|url| {
            let address = Address::parse(url, None).unwrap();
            Arc::new(Redis::new(address, Arc::clone(&entropy)))
        });
        let prefix = Prefix::parse("hm").unwrap();
        let room = world.shape.room;
        let node = Node::wire(&store, clock, entropy, &prefix, room, READ_TIME_MAX, redis);
        let mut tasks = JoinSet::new();
        let feed = node.feed.clone();
        tasks.spawn(async move { feed.run().await });
        let verifier = node.verifier.clone();
        tasks.spawn(async move { verifier.run().await });
        if let Some(redis) = &node.redis {
            let of = || (Arc::clone(redis), Arc::clone(&node.cache));
            let (redis, cache) = of();
            let commits = store.commits();
            tasks.spawn(async move { redis.keep_telling(&cache, commits).await });
            let (redis, _) = of();
            tasks.spawn(async move { redis.keep_connected().await });
            let (redis, _) = of();
            tasks.spawn(async move { redis.keep_writing().await });
            let ((redis, cache), feed) = (of(), node.feed.clone());
            tasks.spawn(async move { redis.keep_listening(&cache, || feed.nudge()).await });
        }
        let mut knows = node.feed.knows();
        timeout(START_TIME_MAX, knows.wait_for(|knows| *knows)).await.ok()?.ok()?;
        let boot_id = node.feed.boot().id;
        world.note(format_args!("node {number} serves as {boot_id:016x}"));
        let tasks = std::sync::Mutex::new(tasks);
        let is_alive = AtomicBool::new(true);
        Some(Arc::new(Self { number, boot_id, node, store, is_alive, tasks }))
    }

    /// What it counted under this name and label.
    pub(crate) fn counted(&self, name: &str, label: &str) -> u64 {
        let mut all = Snapshot::default();
        if let Some(redis) = &self.node.redis {
            redis.collect(&mut all);
        }
        let points = all.families().iter().filter(|family| family.metric.name == name);
        let points = points.flat_map(|family| &family.points);
        let points =
            points.filter(|point| label.is_empty() || point.labels.iter().any(|it| it == label));
        let counts = points.filter_map(|point| match point.value {
            Value::Count(count) => Some(count),
            Value::Amount(_) | Value::Histogram(_) => None,
        });
        counts.sum()
    }

    /// Whether something of it has ended that never does.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_alive() && self.tasks.lock().unwrap().try_join_next().is_some()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Relaxed)
    }

    /// It is gone, and nothing that it was about to answer arrives.
    pub(crate) fn crash(&self) {
        self.is_alive.store(false, Ordering::Relaxed);
        self.tasks.lock().unwrap().abort_all();
    }

    /// Nobody asks it any more; what is under way ends, then others need not reckon with it.
    pub(crate) async fn stop(&self) {
        sleep(DRAIN).await;
        self.tasks.lock().unwrap().abort_all();
        self.is_alive.store(false, Ordering::Relaxed);
        let _ = timeout(Duration::from_secs(1), self.store.leave(self.boot_id)).await;
    }
}

//! What is there from the first step to the last of serving: the store, watched, and what watches it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::readiness::Readiness;
use super::scrape::Sources;
use super::telling::Telling;
use super::{Listeners, Node, open};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::failure::Failure;
use crate::machine;
use crate::metrics::Metrics;
use crate::store::Observed;
use crate::telemetry::{LinesDropped, LogLevels, Logging, Observer, Scrape};

/// The store, and what watches it.
pub(super) struct Watched {
    pub(super) store: Arc<Observed>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) levels: LogLevels,
    lines_dropped: LinesDropped,
    started: Timestamp,
}

/// What the listeners tell of.
pub(super) struct Told<'a> {
    pub(super) observer: Observer,
    pub(super) scrape: Scrape,
    pub(super) watched: &'a Watched,
}

impl Watched {
    /// Opens the store.
    pub(super) async fn open(config: &Config, logging: &Logging) -> Result<Self, Failure> {
        let (started, metrics) = (machine::wall_clock(), Arc::default());
        let system = config.store.url.system();
        let store = Observed::new(open(config).await?, system, Arc::clone(&metrics));
        let (levels, lines_dropped) = (logging.levels(), logging.lines_dropped());
        Ok(Self { store: Arc::new(store), metrics, levels, lines_dropped, started })
    }

    /// All metrics, whenever somebody asks.
    pub(super) fn scrape(&self, node: &Node, listeners: &Listeners, telling: &Telling) -> Scrape {
        let sources = Sources {
            metrics: Arc::clone(&self.metrics),
            store: Arc::clone(&self.store),
            cache: Arc::clone(&node.cache),
            feed: node.feed.clone(),
            clock: Arc::clone(&node.clock),
            filling: node.filling.clone(),
            redis: node.redis.clone(),
            verifier: node.verifier.clone(),
            listeners: listeners.counters(),
            tls: listeners.tls().collect(),
            exports: telling.numbers.clone(),
            lines_dropped: self.lines_dropped.clone(),
            started: self.started,
        };
        Arc::new(move || sources.scrape())
    }

    /// Whether calls should be sent here, whenever somebody asks.
    pub(super) fn readiness(&self, node: &Node, is_stopping: &Arc<AtomicBool>) -> Readiness {
        Readiness {
            cache: Arc::clone(&node.cache),
            feed: node.feed.clone(),
            clock: Arc::clone(&node.clock),
            store: Arc::clone(&self.store),
            redis: node.redis.clone(),
            is_stopping: Arc::clone(is_stopping),
        }
    }
}

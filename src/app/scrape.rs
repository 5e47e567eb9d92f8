//! All metrics at one moment: asked of whoever has counted, when somebody wants to know.

use std::sync::Arc;

use crate::cache::Cache;
use crate::cache::redis::Redis;
use crate::clock::{Clock, Timestamp};
use crate::feed::Feed;
use crate::filling::Filling;
use crate::lease::{Freshness, Lease};
use crate::machine;
use crate::metrics::{Metrics, Snapshot, Value, table};
use crate::serve::{Counters, Tls};
use crate::store::{Observed, Store as _};
use crate::telemetry::{LinesDropped, Numbers};
use crate::verifier::Verifier;

/// The commit that this was built from, where the build said so.
const REVISION: &str = match option_env!("LATCHKEY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Whoever counts.
pub(super) struct Sources {
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Arc<Observed>,
    pub(super) cache: Arc<Cache>,
    pub(super) feed: Feed,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) filling: Filling,
    pub(super) redis: Option<Arc<Redis>>,
    pub(super) verifier: Verifier,
    pub(super) listeners: Vec<(&'static str, Arc<Counters>)>,
    pub(super) tls: Vec<Tls>,
    pub(super) exports: Numbers,
    pub(super) lines_dropped: LinesDropped,
    pub(super) started: Timestamp,
}

impl Sources {
    /// All metrics.
    pub(super) fn scrape(&self) -> Snapshot {
        let mut all = Snapshot::default();
        self.metrics.decisions.collect(&mut all);
        self.metrics.calls.collect(&table::CALL_DURATION, &[], &mut all);
        self.store.collect(&mut all);
        self.scrape_cache(&mut all);
        self.scrape_feed(&mut all);
        self.filling.collect(&mut all);
        if let Some(redis) = &self.redis {
            redis.collect(&mut all);
        }
        self.scrape_listeners(&mut all);
        self.scrape_tls(&mut all);
        self.exports.collect(&mut all);
        all.add(&table::LOG_LINES_DROPPED, [], Value::Count(self.lines_dropped.count()));
        self.scrape_process(&mut all);
        all
    }

    fn scrape_cache(&self, all: &mut Snapshot) {
        let holding = self.cache.holding();
        for (kind, count) in [
            ("key", holding.keys),
            ("account", holding.accounts),
            ("absent", holding.absent),
            ("listed", holding.listed),
        ] {
            all.add(&table::CACHE_ENTRIES, [kind], Value::Count(count as u64));
        }
        all.add(&table::CACHE_EVICTIONS, [], Value::Count(holding.evicted));
        all.add(&table::CACHE_COMPLETE, [], Value::Count(self.cache.is_complete().into()));
    }

    fn scrape_feed(&self, all: &mut Snapshot) {
        // Asked before what is applied, so that what is committed in between is not taken for a lag.
        let committed = *self.store.commits().borrow();
        if let Some(applied) = self.cache.applied() {
            all.add(&table::FEED_POSITION, [], Value::Count(applied.n));
            let behind = committed.saturating_sub(applied.n);
            all.add(&table::FEED_LAG_CHANGES, [], Value::Count(behind));
        }
        let progress = self.feed.progress();
        let lag = progress.trying.map_or(0.0, |since| since.elapsed().as_secs_f64());
        all.add(&table::FEED_LAG, [], Value::Amount(lag));
        if let Some(since) = progress.applied {
            all.add(&table::FEED_READ_AGE, [], Value::Amount(since.elapsed().as_secs_f64()));
        }
        all.add(&table::FEED_READS_GIVEN_UP, [], Value::Count(self.feed.reads_given_up()));
        all.add(&table::FEED_FENCES, [], Value::Count(self.feed.fences()));
        let unreadable = self.feed.unreadable_rows();
        all.add(&table::FEED_UNREADABLE_ROWS, [], Value::Count(unreadable));
        all.add(&table::FEED_FILLS, [], Value::Count(self.feed.fills()));
        for (result, count) in self.verifier.counts() {
            all.add(&table::VERIFIER_LOOKS, [result], Value::Count(count));
        }
        let (standing, now) = (self.cache.standing(), self.clock.now());
        if let Some(Lease::Since { from, .. }) = standing.map(|it| it.lease) {
            all.add(&table::LEASE_AGE, [], Value::Amount(now.since(from).as_secs_f64()));
        }
        // Whoever knows nothing is not fresh either, and somebody has to be told.
        let is_fresh = standing.is_some_and(|it| it.freshness(now) == Freshness::Fresh);
        all.add(&table::LEASE_FRESH, [], Value::Count(is_fresh.into()));
    }

    fn scrape_listeners(&self, all: &mut Snapshot) {
        for (listener, counters) in &self.listeners {
            let Counters {
                open,
                accepted,
                handshake_timeouts,
                tls_refused,
                aged,
                answer_timeouts,
                floods,
            } = &**counters;
            all.add(&table::CONNECTIONS, [*listener], Value::Count(open.get() as u64));
            all.add(&table::CONNECTIONS_ACCEPTED, [*listener], Value::Count(accepted.get()));
            for (cause, count) in [
                ("age", aged),
                ("answer_timeout", answer_timeouts),
                ("flood", floods),
                ("handshake_timeout", handshake_timeouts),
                ("tls_refused", tls_refused),
            ] {
                all.add(&table::CONNECTIONS_ENDED, [*listener, cause], Value::Count(count.get()));
            }
        }
    }

    fn scrape_tls(&self, all: &mut Snapshot) {
        for tls in &self.tls {
            let listener = tls.listener();
            let expiry = tls.not_after().since(Timestamp::EPOCH).as_secs();
            all.add(&table::TLS_CERTIFICATE_EXPIRY, [listener], Value::Count(expiry));
            for (result, count) in [("taken", tls.reloads()), ("refused", tls.refused_reloads())] {
                all.add(&table::TLS_RELOADS, [listener, result], Value::Count(count));
            }
        }
    }

    fn scrape_process(&self, all: &mut Snapshot) {
        all.add(&table::BUILD_INFO, [env!("CARGO_PKG_VERSION"), REVISION], Value::Count(1));
        let (seconds, nanos) = self.started.seconds_and_nanos();
        #[expect(clippy::cast_precision_loss, reason = "a date in seconds has 31 bits")]
        let started = seconds as f64 + f64::from(nanos) / 1e9;
        all.add(&table::PROCESS_START_TIME, [], Value::Amount(started));
        let cpu = machine::cpu_time().as_secs_f64();
        all.add(&table::PROCESS_CPU, [], Value::Amount(cpu));
        for (metric, value) in [
            (&table::PROCESS_MEMORY, machine::resident_bytes()),
            (&table::PROCESS_FILES, machine::open_files()),
            (&table::PROCESS_FILES_MAX, machine::open_files_max()),
        ] {
            if let Some(value) = value {
                all.add(metric, [], Value::Count(value));
            }
        }
    }
}

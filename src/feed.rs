//! The one reader: everything that the cache learns comes through it, one read at a time.
//!
//! Reads follow each other while somebody waits, else they follow commits, and where others change the store too, a
//! clock. A read that takes too long is given up and thrown away whole: its future is dropped, so nothing of it can
//! arrive later.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use crate::cache::redis::Redis;
use crate::cache::{Cache, Doubt, Hint};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Reason};
use crate::lease::{Lease, Standing};
use crate::metrics::Stopwatch;
use crate::store::{NodeRow, ReadAsk, Store, StoreError};
use crate::token::Digest;

mod loading;

mod telling;

use telling::Told;

mod waiting;

use waiting::{Show, Waiting};

/// How long the first read may take: it brings the whole window of recent changes.
const FIRST_READ_TIME_MAX: Duration = Duration::from_secs(10);
/// How many digests one read looks up.
const GATHERED_MAX: usize = 256;
/// How often what a read asks for is halved when the store is too slow for it.
const HALVINGS_MAX: u32 = 8;
/// How long the connection of the reader may take to be opened.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// After how many reads in a row that were fast enough they ask for more again.
const GOOD_READS: u32 = 16;
/// How many reads may be given up without a pause before the next.
const READS_AT_ONCE: u32 = 3;
/// For how long reads have to fail before nobody is made to wait for the next.
const FAILING_AFTER: Duration = Duration::from_secs(1);
/// The pause after a read that failed.
const PAUSE: Duration = Duration::from_millis(100);

mod pace;

use pace::{PAUSE_MAX, Pace};

/// A handle on the one reader of this process; cheap to clone.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<SharedFeed>,
}

struct SharedFeed {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    boot: Boot,
    begun: Stopwatch,
    read_time_max: Duration,
    waiting: Mutex<Waiting>,
    /// How often what a read asks for is halved at present.
    halvings: AtomicU32,
    /// How many reads in a row were fast enough since it was changed.
    good_reads: AtomicU32,
    somebody_waits: Notify,
    pushed: Notify,
    /// Who keeps what reads show for others.
    redis: OnceLock<Arc<Redis>>,
    /// Whether the next read has to renew the lease, due or not.
    must_renew: AtomicBool,
    reads_given_up: AtomicU64,
    fills: AtomicU64,
    fences: AtomicU64,
    /// Whether anything can be answered by what the cache knows.
    knows: watch::Sender<bool>,
    progress: Mutex<Progress>,
    /// Whether the last read failed, and this was told.
    is_failing: AtomicBool,
    /// Whether nothing was read since the last fence.
    is_fenced: AtomicBool,
    /// Rows that cannot be read.
    told: Told,
}

/// Who reads, as other nodes are told.
#[derive(Debug, Clone)]
pub struct Boot {
    /// Drawn at the start.
    pub id: u64,
    /// The name of the machine.
    pub machine: String,
    /// When this process was started.
    pub started: Timestamp,
}

impl Boot {
    /// What this node is called.
    #[must_use]
    pub fn name(&self) -> String {
        node_name(self.id)
    }
}

/// What the node of this boot is called.
#[must_use]
pub fn node_name(boot_id: u64) -> String {
    format!("node_{boot_id:016x}")
}

/// When reads came to something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Since when the last read was applied.
    pub applied: Option<Stopwatch>,
    /// Since when reads were sent and none was applied; `None` when the last one was.
    pub trying: Option<Stopwatch>,
}

impl Feed {
    /// A reader of this store for this cache, whose reads are given up after `read_time_max`. It reads
    /// once [`Feed::run`] is polled.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        clock: Arc<dyn Clock>,
        boot: Boot,
        read_time_max: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(SharedFeed {
                store,
                cache,
                clock,
                boot,
                begun: Stopwatch::start(),
                read_time_max,
                waiting: Mutex::default(),
                halvings: AtomicU32::new(0),
                good_reads: AtomicU32::new(0),
                somebody_waits: Notify::new(),
                pushed: Notify::new(),
                redis: OnceLock::new(),
                must_renew: AtomicBool::new(false),
                reads_given_up: AtomicU64::new(0),
                fills: AtomicU64::new(0),
                fences: AtomicU64::new(0),
                knows: watch::Sender::new(false),
                progress: Mutex::default(),
                is_failing: AtomicBool::new(false),
                is_fenced: AtomicBool::new(false),
                told: Told::default(),
            }),
        }
    }

    /// What reads show is offered to Redis, too. May be said once.
    pub fn share(&self, redis: Arc<Redis>) {
        let _ = self.shared.redis.set(redis);
    }

    /// Nothing of these subjects is used until it was read again.
    pub fn doubt(&self, doubts: Vec<Doubt>) {
        for doubt in doubts {
            self.shared.cache.doubt(doubt);
        }
        let (answer, _) = oneshot::channel();
        self.shared.must_renew.store(true, Ordering::Relaxed);
        self.shared.waiting().shows.push(Show { position: None, answer });
        self.shared.somebody_waits.notify_one();
    }

    /// Another node says that it changed something: the next read comes soon. Nothing else comes of it.
    pub fn nudge(&self) {
        self.shared.pushed.notify_one();
    }

    /// Whether reads have failed for so long that it is no use to wait for the next.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.progress().trying.is_some_and(|since| since.elapsed() >= FAILING_AFTER)
    }

    /// Reads until it is dropped.
    pub async fn run(&self) {
        let mut commits = self.shared.store.commits();
        let mut pace = Pace::new(self.shared.boot.id);
        let mut must_read = true;
        loop {
            let mut pause = pin!(pace.pause(self.shared.bound()));
            // A wake-up may be left over from somebody whom the last read has answered.
            while !must_read && !self.shared.is_awaited() {
                tokio::select! {
                    biased;
                    () = self.shared.somebody_waits.notified() => {}
                    () = &mut pause => must_read = true,
                    () = self.shared.pushed.notified() => {
                        let soon = pace.pushed();
                        if soon.deadline() < pause.deadline() {
                            pause.set(soon);
                        }
                    }
                    changed = commits.changed() => match changed {
                        Ok(()) => must_read = true,
                        Err(_) => return,
                    },
                }
            }
            commits.mark_unchanged();
            must_read = match self.shared.read_once().await {
                Ok(()) => self.shared.must_load() || !*self.shared.knows.borrow(),
                Err(pause) => {
                    tokio::time::sleep(pause).await;
                    true
                }
            };
        }
    }

    /// Reads that took too long, since the start.
    #[must_use]
    pub fn reads_given_up(&self) -> u64 {
        self.shared.reads_given_up.load(Ordering::Relaxed)
    }

    /// Digests that reads looked up because somebody waited, since the start.
    #[must_use]
    pub fn fills(&self) -> u64 {
        self.shared.fills.load(Ordering::Relaxed)
    }

    /// Whether anything can be answered by what is known of the store; it changes with the first read, with a fence, and
    /// when what is known is too old.
    #[must_use]
    pub fn knows(&self) -> watch::Receiver<bool> {
        self.shared.knows.subscribe()
    }

    /// Who reads.
    #[must_use]
    pub fn boot(&self) -> &Boot {
        &self.shared.boot
    }

    /// What this node says of itself, now.
    #[must_use]
    pub fn row(&self) -> NodeRow {
        self.shared.row(self.shared.cache.standing())
    }

    /// When reads came to something.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.shared.progress()
    }

    /// Rows of the store that cannot be read, as far as they were told.
    #[must_use]
    pub fn unreadable_rows(&self) -> u64 {
        self.shared.told.count()
    }

    /// How often the store was found to have gone back in time or out of order, since the start.
    #[must_use]
    pub fn fences(&self) -> u64 {
        self.shared.fences.load(Ordering::Relaxed)
    }
}

impl SharedFeed {
    /// Within what the store has to be read, where others change it.
    fn bound(&self) -> Option<Duration> {
        let bound = || self.cache.standing().map_or(Duration::MAX, |it| it.bounds.bound);
        self.store.is_shared().then(bound)
    }

    /// What the next read has to ask, and by what the node goes on if it renews the lease.
    fn ask(&self, wanted: Vec<Digest>, halvings: u32, must_renew: bool) -> (ReadAsk, Lease) {
        let mut ask = self.cache.begin_read(wanted, halvings);
        let is_first = ask.after.is_none();
        ask.time_max = if is_first { FIRST_READ_TIME_MAX } else { self.read_time_max };
        ask.page = ask.page.filter(|_| ask.after.is_none() || self.may_load());
        if !self.store.is_shared() {
            return (ask, Lease::Held);
        }
        let row = self.row(self.cache.standing());
        let bounds = row.bounds;
        ask.must_renew = must_renew;
        ask.node = Some(row);
        // Before the row is sent: what is committed after this instant the read may miss.
        (ask, Lease::Since { from: self.clock.now(), bounds })
    }

    /// Whether the next read has to renew the lease.
    fn must_renew(&self) -> bool {
        let now = self.clock.now();
        let is_due = |it: Standing| it.lease.is_due(it.bounds, now, PAUSE_MAX);
        self.store.is_shared()
            && (self.must_renew.swap(false, Ordering::Relaxed)
                || self.cache.standing().is_none_or(is_due))
    }

    /// What this node says of itself.
    fn row(&self, standing: Option<Standing>) -> NodeRow {
        NodeRow {
            boot_id: self.boot.id,
            name: self.boot.machine.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.boot.started,
            applied: standing.map(|standing| standing.applied),
            bounds: standing.map(|standing| standing.bounds).unwrap_or_default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_awaited(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// One read, for all who wait when it is sent. The error says how long to pause.
    async fn read_once(&self) -> Result<(), Duration> {
        self.progress().trying.get_or_insert_with(Stopwatch::start);
        self.connect().await?;
        let halvings = self.halvings.load(Ordering::Relaxed);
        let must_renew = self.must_renew();
        // What made a read too slow must not cost the lease: it is renewed by one that brings changes alone.
        // Where every read has to renew it, some are whole all the same, or nothing else would ever come.
        let is_bare =
            must_renew && halvings > 0 && self.good_reads.load(Ordering::Relaxed) < GOOD_READS;
        let gathered = self.waiting().gather(if is_bare { 0 } else { GATHERED_MAX >> halvings });
        let wanted = gathered.wanted.keys().copied().collect();
        let (mut ask, lease) = self.ask(wanted, halvings, must_renew);
        ask.page = ask.page.filter(|_| !is_bare);
        let read = timeout(ask.time_max, self.store.read(&ask)).await;
        let batch = match read {
            Ok(Ok(batch)) => batch,
            Ok(Err(StoreError::Outgrown(why))) => {
                return Err(self.report_fence(&self.cache.fence(why)));
            }
            Ok(Err(error)) => {
                self.must_renew.fetch_or(ask.must_renew, Ordering::Relaxed);
                self.waiting().put_back(gathered);
                self.report_failure(&error);
                return Err(PAUSE);
            }
            Err(_) => {
                self.must_renew.fetch_or(ask.must_renew, Ordering::Relaxed);
                self.waiting().put_back(gathered);
                return Err(self.give_up(ask.time_max, halvings));
            }
        };
        self.ask_for_more(halvings, is_bare);
        self.report_success(&batch.unreadable);
        let is_behind = batch.is_behind;
        let shared = self
            .redis
            .get()
            .map(|redis| (redis, batch.mac_keys.clone(), Hint::of_read(&ask, &batch)));
        let own: Vec<_> = gathered.shows.iter().filter_map(|show| show.position).collect();
        let is_renewed = batch.is_renewed || lease == Lease::Held;
        if let Err(fence) = self.cache.apply(batch, &own, is_renewed.then_some(lease)) {
            // Those who wait for their commits find their channels closed: it is not known here.
            return Err(self.report_fence(&fence));
        }
        if let Some((redis, keys, hints)) = shared {
            redis.set_keys(keys);
            redis.offer(hints);
        }
        self.is_fenced.store(false, Ordering::Relaxed);
        *self.progress() = Progress { applied: Some(Stopwatch::start()), trying: None };
        if is_behind {
            self.must_renew.fetch_or(ask.must_renew, Ordering::Relaxed);
            // Only changes came; those who wait are for the read that catches up.
            self.waiting().put_back(gathered);
            return Err(Duration::ZERO);
        }
        // The first row says nothing yet, so nobody would reckon with what is answered by it.
        if self.cache.standing().is_some_and(|standing| standing.lease.counts()) {
            self.knows.send_if_modified(|knows| !std::mem::replace(knows, true));
        }
        self.fills.fetch_add(gathered.wanted.len() as u64, Ordering::Relaxed);
        let waiters = gathered.wanted.into_values().flatten();
        for answer in gathered.shows.into_iter().map(|show| show.answer).chain(waiters) {
            let _ = answer.send(());
        }
        Ok(())
    }

    /// Opens what a read needs: the time for that is not the read's.
    async fn connect(&self) -> Result<(), Duration> {
        let why: &dyn std::fmt::Display =
            match timeout(CONNECT_TIME_MAX, self.store.connect()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => &error.to_string(),
                Err(_) => &"no connection in time",
            };
        self.report_failure(why);
        Err(PAUSE)
    }

    /// After many reads that were fast enough, the last of them whole, they ask for twice as much.
    fn ask_for_more(&self, halvings: u32, is_bare: bool) {
        if halvings == 0 {
            return;
        }
        let good = self.good_reads.fetch_add(1, Ordering::Relaxed) + 1;
        if good >= GOOD_READS && !is_bare {
            self.good_reads.store(0, Ordering::Relaxed);
            self.halvings.store(halvings - 1, Ordering::Relaxed);
        }
    }

    fn give_up(&self, time_max: Duration, halvings: u32) -> Duration {
        self.reads_given_up.fetch_add(1, Ordering::Relaxed);
        self.good_reads.store(0, Ordering::Relaxed);
        self.halvings.store((halvings + 1).min(HALVINGS_MAX), Ordering::Relaxed);
        self.report_failure(&format_args!("it took longer than {time_max:?} and was given up"));
        // What was given up may go on in the store for a while.
        PAUSE * halvings.saturating_sub(READS_AT_ONCE)
    }
}

/// The node does not hold what an answer needs; a later try may find it.
#[must_use]
pub fn not_ready(message: &str) -> Error {
    Error::new(Reason::NotReady, message).retry_after(Duration::from_millis(100))
}

//! The one reader: everything that the cache learns comes through it, one read at a time.
//!
//! Reads follow each other while somebody waits, else they follow commits. A read that takes too long
//! is given up and thrown away whole: its future is dropped, so nothing of it can arrive later.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use crate::cache::{Cache, Doubt, Fence};
use crate::error::{Error, Reason};
use crate::metrics::Stopwatch;
use crate::revision::Position;
use crate::store::Store;
use crate::token::Digest;

/// How long the first read may take: it brings the whole window of recent changes.
const FIRST_READ_TIME_MAX: Duration = Duration::from_secs(10);
/// How many digests one read looks up.
const GATHERED_MAX: usize = 256;
/// How many requests may wait for their keys to be read.
const WAITERS_MAX: usize = 16_384;
/// How often what a read asks for is halved when the store is too slow for it.
const HALVINGS_MAX: u32 = 8;
/// How long a request waits for its key to be read.
const FETCH_TIME_MAX: Duration = Duration::from_millis(150);
/// How long a mutation waits for the read that shows it.
const SHOW_TIME_MAX: Duration = Duration::from_secs(5);
/// The pause after a read that failed, and after a fence.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AFTER_FENCE: Duration = Duration::from_millis(500);

/// A handle on the one reader of this process; cheap to clone.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<SharedFeed>,
}

struct SharedFeed {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    read_time_max: Duration,
    waiting: Mutex<Waiting>,
    /// How often what a read asks for is halved at present.
    halvings: AtomicU32,
    somebody_waits: Notify,
    reads_given_up: AtomicU64,
    fences: AtomicU64,
    /// Whether the cache knows anything.
    knows: watch::Sender<bool>,
    progress: Mutex<Progress>,
    /// Whether the last read failed, and this was told.
    is_failing: AtomicBool,
}

/// When reads came to something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Since when the last read was applied.
    pub applied: Option<Stopwatch>,
    /// Since when reads were sent and none was applied; `None` when the last one was.
    pub trying: Option<Stopwatch>,
}

/// Who waits for the next read.
#[derive(Default)]
struct Waiting {
    shows: Vec<Show>,
    wanted: HashMap<Digest, Vec<oneshot::Sender<()>>>,
    /// How many wait for what is wanted, those who gave up since the last read included.
    waiters: usize,
}

/// Somebody who waits for a read sent after now; its commit, if it made one, must be in it.
struct Show {
    position: Option<Position>,
    answer: oneshot::Sender<()>,
}

/// What a read was asked for, and by whom.
struct Gathered {
    shows: Vec<Show>,
    wanted: HashMap<Digest, Vec<oneshot::Sender<()>>>,
}

impl Feed {
    /// A reader of this store for this cache, whose reads are given up after `read_time_max`. It reads
    /// once [`Feed::run`] is polled.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, read_time_max: Duration) -> Self {
        Self {
            shared: Arc::new(SharedFeed {
                store,
                cache,
                read_time_max,
                waiting: Mutex::default(),
                halvings: AtomicU32::new(0),
                somebody_waits: Notify::new(),
                reads_given_up: AtomicU64::new(0),
                fences: AtomicU64::new(0),
                knows: watch::Sender::new(false),
                progress: Mutex::default(),
                is_failing: AtomicBool::new(false),
            }),
        }
    }

    /// Waits for a read sent from now on to be applied. With a position, the read must show it.
    pub async fn show(&self, position: Option<Position>) -> Result<(), Error> {
        let (answer, shown) = oneshot::channel();
        self.shared.waiting().shows.push(Show { position, answer });
        self.shared.somebody_waits.notify_one();
        match tokio::time::timeout(SHOW_TIME_MAX, shown).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::new(
                Reason::OutcomeUnknown,
                "the change was made, but this node could not read it back; \
                 repeat it with the same request_id to be sure",
            )),
        }
    }

    /// Waits, for a moment, for a key to be read. What it brought is in the cache then.
    pub async fn fetch(&self, digest: Digest) -> Result<(), Error> {
        let fetched = {
            let mut waiting = self.shared.waiting();
            if waiting.waiters >= WAITERS_MAX {
                return Err(not_ready("too many keys are being read"));
            }
            let (answer, fetched) = oneshot::channel();
            waiting.wanted.entry(digest).or_default().push(answer);
            waiting.waiters += 1;
            fetched
        };
        self.shared.somebody_waits.notify_one();
        match tokio::time::timeout(FETCH_TIME_MAX, fetched).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(not_ready("the key could not be read in time")),
        }
    }

    /// Waits, for a moment, for any read to be applied: for a caller who knows of a later change.
    pub async fn catch_up(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.show(None)).await;
    }

    /// Nothing of these subjects is used until it was read again.
    pub fn doubt(&self, doubts: Vec<Doubt>) {
        for doubt in doubts {
            self.shared.cache.doubt(doubt);
        }
        let (answer, _) = oneshot::channel();
        self.shared.waiting().shows.push(Show { position: None, answer });
        self.shared.somebody_waits.notify_one();
    }

    /// Reads until it is dropped.
    pub async fn run(&self) {
        let mut commits = self.shared.store.commits();
        let mut must_read = true;
        loop {
            // A wake-up may be left over from somebody whom the last read has answered.
            while !must_read && !self.shared.is_awaited() {
                tokio::select! {
                    () = self.shared.somebody_waits.notified() => {}
                    changed = commits.changed() => match changed {
                        Ok(()) => must_read = true,
                        Err(_) => return,
                    },
                }
            }
            commits.mark_unchanged();
            must_read = match self.shared.read_once().await {
                Ok(()) => self.shared.cache.is_loading(),
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

    /// Whether anything of the store is known; it changes with the first read, and with a fence.
    #[must_use]
    pub fn knows(&self) -> watch::Receiver<bool> {
        self.shared.knows.subscribe()
    }

    /// When reads came to something.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.shared.progress()
    }

    /// How often the store was found to have gone back in time or out of order, since the start.
    #[must_use]
    pub fn fences(&self) -> u64 {
        self.shared.fences.load(Ordering::Relaxed)
    }
}

impl SharedFeed {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_awaited(&self) -> bool {
        let waiting = self.waiting();
        !waiting.shows.is_empty() || !waiting.wanted.is_empty()
    }

    /// One read, for all who wait when it is sent. The error says how long to pause.
    async fn read_once(&self) -> Result<(), Duration> {
        let gathered = self.gather();
        self.progress().trying.get_or_insert_with(Stopwatch::start);
        let halvings = self.halvings.load(Ordering::Relaxed);
        let wanted = gathered.wanted.keys().copied().collect();
        let ask = self.cache.begin_read(wanted, halvings);
        let time_max = if ask.after.is_some() { self.read_time_max } else { FIRST_READ_TIME_MAX };
        let read = tokio::time::timeout(time_max, self.store.read(&ask)).await;
        let batch = match read {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) => {
                self.put_back(gathered);
                self.report_failure(&error);
                return Err(PAUSE);
            }
            Err(_) => {
                self.put_back(gathered);
                return Err(self.give_up(time_max, halvings));
            }
        };
        self.halvings.store(halvings.saturating_sub(1), Ordering::Relaxed);
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the store is read again");
        }
        let is_behind = batch.is_behind;
        let own: Vec<_> = gathered.shows.iter().filter_map(|show| show.position).collect();
        if let Err(fence) = self.cache.apply(batch, &own) {
            // Those who wait for their commits find their channels closed: it is not known here.
            return Err(self.report_fence(&fence));
        }
        *self.progress() = Progress { applied: Some(Stopwatch::start()), trying: None };
        self.knows.send_if_modified(|knows| !std::mem::replace(knows, true));
        if is_behind {
            // Only changes came; those who wait are for the read that catches up.
            self.put_back(gathered);
            return Err(Duration::ZERO);
        }
        let waiters = gathered.wanted.into_values().flatten();
        for answer in gathered.shows.into_iter().map(|show| show.answer).chain(waiters) {
            let _ = answer.send(());
        }
        Ok(())
    }

    fn give_up(&self, time_max: Duration, halvings: u32) -> Duration {
        self.reads_given_up.fetch_add(1, Ordering::Relaxed);
        self.halvings.store((halvings + 1).min(HALVINGS_MAX), Ordering::Relaxed);
        self.report_failure(&format_args!("it took longer than {time_max:?} and was given up"));
        Duration::ZERO
    }

    /// Many reads fail in a row; the first of them is news.
    fn report_failure(&self, error: &dyn fmt::Display) {
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "a read of the store failed again");
        } else {
            tracing::warn!(%error, "a read of the store failed; it is tried again until one succeeds");
        }
    }

    fn report_fence(&self, fence: &Fence) -> Duration {
        self.fences.fetch_add(1, Ordering::Relaxed);
        self.knows.send_replace(false);
        tracing::error!(
            %fence,
            "the store cannot be trusted with what it said before: this node allows nothing and starts over"
        );
        PAUSE_AFTER_FENCE
    }

    fn gather(&self) -> Gathered {
        let mut waiting = self.waiting();
        let shows = std::mem::take(&mut waiting.shows);
        // Who gave up waiting needs no read.
        waiting.wanted.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        let gathered_max = (GATHERED_MAX >> self.halvings.load(Ordering::Relaxed)).max(1);
        let first: HashSet<_> = waiting.wanted.keys().copied().take(gathered_max).collect();
        let wanted = waiting.wanted.extract_if(|digest, _| first.contains(digest)).collect();
        waiting.waiters = waiting.wanted.values().map(Vec::len).sum();
        Gathered { shows, wanted }
    }

    fn put_back(&self, gathered: Gathered) {
        let mut waiting = self.waiting();
        waiting.shows.extend(gathered.shows.into_iter().filter(|show| !show.answer.is_closed()));
        for (digest, waiters) in gathered.wanted {
            waiting.waiters += waiters.len();
            waiting.wanted.entry(digest).or_default().extend(waiters);
        }
    }
}

/// The node does not hold what an answer needs; a later try may find it.
#[must_use]
pub fn not_ready(message: &str) -> Error {
    Error::new(Reason::NotReady, message).retry_after(Duration::from_millis(100))
}

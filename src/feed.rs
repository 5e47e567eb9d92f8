//! The one reader: everything that the cache learns comes through it, one read at a time.
//!
//! Reads follow each other while somebody waits, else they follow commits. A read that takes too long
//! is given up and thrown away whole: its future is dropped, so nothing of it can arrive later.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::cache::{Cache, Doubt, Fence};
use crate::error::{Error, Reason};
use crate::revision::Position;
use crate::store::{Store, StoreError};
use crate::token::Digest;

/// How long a read may take.
pub const READ_TIME_MAX: Duration = Duration::from_millis(250);
/// How long the first read may take: it brings the whole window of recent changes.
const FIRST_READ_TIME_MAX: Duration = Duration::from_secs(10);
/// How many digests one read looks up.
const GATHERED_MAX: usize = 256;
/// How many digests may be waited for.
const WANTED_MAX: usize = 4_096;
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
    waiting: Mutex<Waiting>,
    somebody_waits: Notify,
    reads_given_up: AtomicU64,
    fences: AtomicU64,
}

/// Who waits for the next read.
#[derive(Default)]
struct Waiting {
    shows: Vec<Show>,
    wanted: HashMap<Digest, Vec<oneshot::Sender<()>>>,
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
    /// A reader of this store for this cache. It reads once [`Feed::run`] is polled.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>) -> Self {
        Self {
            shared: Arc::new(SharedFeed {
                store,
                cache,
                waiting: Mutex::default(),
                somebody_waits: Notify::new(),
                reads_given_up: AtomicU64::new(0),
                fences: AtomicU64::new(0),
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
            if waiting.wanted.len() >= WANTED_MAX && !waiting.wanted.contains_key(&digest) {
                return Err(not_ready("too many keys are being read"));
            }
            let (answer, fetched) = oneshot::channel();
            waiting.wanted.entry(digest).or_default().push(answer);
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

    fn is_awaited(&self) -> bool {
        let waiting = self.waiting();
        !waiting.shows.is_empty() || !waiting.wanted.is_empty()
    }

    /// One read, for all who wait when it is sent. The error says how long to pause.
    async fn read_once(&self) -> Result<(), Duration> {
        let gathered = self.gather();
        let ask = self.cache.begin_read(gathered.wanted.keys().copied().collect());
        let time_max = if ask.after.is_some() { READ_TIME_MAX } else { FIRST_READ_TIME_MAX };
        let read = tokio::time::timeout(time_max, self.store.read(&ask)).await;
        let batch = match read {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) => {
                self.put_back(gathered);
                return Err(report_failure(&error));
            }
            Err(_) => {
                self.put_back(gathered);
                self.reads_given_up.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    "a read of the store took longer than {READ_TIME_MAX:?} and was given up"
                );
                return Err(Duration::ZERO);
            }
        };
        let is_behind = batch.is_behind;
        if let Err(fence) = self.cache.apply(batch) {
            self.put_back(gathered);
            return Err(self.fence(&fence));
        }
        if is_behind {
            // Only changes came; those who wait are for the read that catches up.
            self.put_back(gathered);
            return Err(Duration::ZERO);
        }
        self.answer(gathered)
    }

    fn answer(&self, gathered: Gathered) -> Result<(), Duration> {
        for show in gathered.shows {
            if let Some(position) = show.position
                && !self.cache.shows(position)
            {
                // Those not yet answered find their channel closed: they do not know either.
                return Err(self.fence(&Fence::OwnCommitMissing { n: position.n }));
            }
            let _ = show.answer.send(());
        }
        for answer in gathered.wanted.into_values().flatten() {
            let _ = answer.send(());
        }
        Ok(())
    }

    fn fence(&self, fence: &Fence) -> Duration {
        self.cache.fence();
        self.fences.fetch_add(1, Ordering::Relaxed);
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
        waiting.wanted.retain(|_, waiters| waiters.iter().any(|waiter| !waiter.is_closed()));
        let first: HashSet<_> = waiting.wanted.keys().copied().take(GATHERED_MAX).collect();
        let wanted = waiting.wanted.extract_if(|digest, _| first.contains(digest)).collect();
        Gathered { shows, wanted }
    }

    fn put_back(&self, gathered: Gathered) {
        let mut waiting = self.waiting();
        waiting.shows.extend(gathered.shows.into_iter().filter(|show| !show.answer.is_closed()));
        for (digest, waiters) in gathered.wanted {
            waiting.wanted.entry(digest).or_default().extend(waiters);
        }
    }
}

fn report_failure(error: &StoreError) -> Duration {
    tracing::warn!(%error, "a read of the store failed");
    PAUSE
}

/// The node does not hold what an answer needs; a later try may find it.
#[must_use]
pub fn not_ready(message: &str) -> Error {
    Error::new(Reason::NotReady, message).retry_after(Duration::from_millis(100))
}

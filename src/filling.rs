//! Finding out what the cache does not hold: one flight for each digest, whoever waits for it.
//!
//! A flight is a task of its own, so that who gives up waiting ends nothing for the others. It asks Redis, where there
//! is one and it could know, then the reader. Who waits has a deadline of his own, and looks the key up himself when
//! the flight has landed: nothing is handed over but word that it is worth looking.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared as Joined;
use hashbrown::DefaultHashBuilder;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use self::admission::Admission;
use crate::cache::redis::Redis;
use crate::cache::{Cache, Found};
use crate::clock::Clock;
use crate::error::Error;
use crate::feed::{Feed, not_ready};
use crate::metrics::{Snapshot, Stopwatch, Value, table};
use crate::token::Digest;

mod admission;

/// How many calls may wait for their keys.
const WAITERS_MAX: usize = 16_384;
/// How many keys are found out at once: a flight may go on for a moment when nobody waits for it any more.
const FLIGHTS_MAX: usize = 16_384;
/// How long one of them waits.
const WAIT_MAX: Duration = Duration::from_millis(150);

/// A handle on all flights; cheap to clone.
#[derive(Clone)]
pub struct Filling {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    feed: Feed,
    redis: Option<Arc<Redis>>,
    clock: Arc<dyn Clock>,
    /// Where flights go on: not where calls are answered.
    runtime: Handle,
    started: Stopwatch,
    flights: Mutex<Flights>,
    waiters: Semaphore,
    refused: Refused,
}

#[derive(Default)]
struct Flights {
    /// A map with a randomly keyed hasher: the bits of a digest can be ground.
    under_way: HashMap<Digest, Landing, DefaultHashBuilder>,
    admission: Admission,
}

/// What becomes of a flight, for all who wait for it.
type Landing = Joined<oneshot::Receiver<FoundOut>>;

/// Why nothing was found out, if so.
type FoundOut = Result<(), String>;

#[derive(Default)]
struct Refused {
    admission: AtomicU64,
    waiters: AtomicU64,
}

/// A flight that has begun. However it ends, nobody joins it after that.
struct Flight {
    shared: Arc<Shared>,
    digest: Digest,
    /// Until it has landed.
    landing: Option<oneshot::Sender<FoundOut>>,
    /// Whether it took a token, to be given back if the digest is somebody's.
    has_token: bool,
}

impl Filling {
    /// Fills this cache by this reader, and from Redis where there is one. Flights go on in this runtime.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        feed: Feed,
        redis: Option<Arc<Redis>>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                cache,
                feed,
                redis,
                clock,
                runtime,
                started: Stopwatch::start(),
                flights: Mutex::default(),
                waiters: Semaphore::new(WAITERS_MAX),
                refused: Refused::default(),
            }),
        }
    }

    /// Waits, for a moment, until it was found out what this digest is. That is in the cache then.
    pub async fn fetch(&self, digest: Digest) -> Result<(), Error> {
        let Ok(_place) = self.shared.waiters.try_acquire() else {
            return Err(self.shared.refuse_waiter());
        };
        match tokio::time::timeout(WAIT_MAX, self.join(digest)?).await {
            Ok(Ok(found_out)) => found_out.map_err(|why| not_ready(&why)),
            Ok(Err(_)) | Err(_) => Err(not_ready("the key could not be read in time")),
        }
    }

    /// What was counted.
    pub fn collect(&self, into: &mut Snapshot) {
        let waiters = WAITERS_MAX - self.shared.waiters.available_permits();
        into.add(&table::FEED_FILLING, [], Value::Count(waiters as u64));
        let Refused { admission, waiters } = &self.shared.refused;
        for (cause, count) in [("admission", admission), ("waiters", waiters)] {
            let count = count.load(Ordering::Relaxed);
            into.add(&table::FEED_FILLS_REFUSED, [cause], Value::Count(count));
        }
    }

    /// The flight for this digest, begun now if there is none.
    fn join(&self, digest: Digest) -> Result<Landing, Error> {
        let shared = &self.shared;
        let now = shared.started.elapsed();
        let has_token = !shared.cache.is_listed(&digest);
        let mut flights = shared.flights();
        let Flights { under_way, admission } = &mut *flights;
        let has_room = under_way.len() < FLIGHTS_MAX;
        let free = match under_way.entry(digest) {
            Entry::Occupied(flight) => return Ok(flight.get().clone()),
            Entry::Vacant(free) => free,
        };
        if !has_room {
            return Err(shared.refuse_waiter());
        }
        if has_token && !admission.admit(now) {
            shared.refused.admission.fetch_add(1, Ordering::Relaxed);
            return Err(not_ready("too many keys are looked for that nobody has"));
        }
        let (landing, landed) = oneshot::channel();
        let landed = landed.shared();
        free.insert(landed.clone());
        let shared = Arc::clone(shared);
        let flight = Flight { shared, digest, landing: Some(landing), has_token };
        self.shared.runtime.spawn(flight.fly());
        Ok(landed)
    }
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_waiter(&self) -> Error {
        self.refused.waiters.fetch_add(1, Ordering::Relaxed);
        not_ready("too many calls wait for their keys")
    }

    /// Whether the cache says this of a digest.
    fn finds(&self, digest: &Digest, is_it: impl FnOnce(&Found<'_>) -> bool) -> bool {
        let found = self.cache.view(self.clock.now(), |view| is_it(&view.find(digest)));
        found.unwrap_or(false)
    }
}

impl Flight {
    async fn fly(mut self) {
        let found_out = self.find_out().await.map_err(|error| error.message);
        self.land(Some(found_out));
    }

    async fn find_out(&self) -> Result<(), Error> {
        let Self { shared, digest, .. } = self;
        // Where the cache knows something that is too old or in doubt, nobody but the store can help.
        if let Some(redis) = &shared.redis
            && shared.finds(digest, |found| matches!(found, Found::Miss))
            && redis.fill(&shared.cache, digest).await
        {
            return Ok(());
        }
        shared.feed.fetch(*digest).await
    }

    /// Nobody joins it any more, and who waits for it goes on. Once: another may have begun since.
    fn land(&mut self, found_out: Option<FoundOut>) {
        let Some(landing) = self.landing.take() else { return };
        // One that was given up may have cost the store all the same.
        let gives_back = self.has_token
            && (self.shared.cache.is_listed(&self.digest)
                || self.shared.finds(&self.digest, |found| matches!(found, Found::Key(_))));
        let mut flights = self.shared.flights();
        flights.under_way.remove(&self.digest);
        if gives_back {
            flights.admission.give_back();
        }
        drop(flights);
        if let Some(found_out) = found_out {
            let _ = landing.send(found_out);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.land(None);
    }
}

//! Redis, a hint: what the reader of another node brought, or this one's before it was dropped; and word that there
//! is something to read.
//!
//! It may be away, stand still, forget or lie. A record from it counts only if its position proves it
//! ([`Cache::install_hint`]), and what is published only makes the next read come sooner. Nobody waits for it for
//! longer than 20 ms, and nothing needs it to start or to decide. Absent on purpose: scripts,
//! compare-and-set, the cache of the driver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use redis::Cmd;
use redis::aio::PubSub;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::address::Servers;
use self::link::{Breaker, Failed, in_time};
use self::numbers::{Heard, Looked, Numbers, Wrote};
use self::seal::{Broken, VALUE_BYTES_MAX};
use super::{Cache, Hint, Said};
use crate::clock::Entropy;
use crate::metrics::Snapshot;
use crate::store::MacKeys;
use crate::token::Digest;

mod address;
mod breaker;
mod link;
mod numbers;
mod seal;

pub use address::Address;

/// How long an answer is waited for.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(20);
/// How long it may take to connect, and to see that the connection is of use.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// How long that may take with one of several servers: then there is time for others.
const CONNECT_TO_ONE_TIME_MAX: Duration = Duration::from_secs(1);
/// How many records wait to be written; who comes after is dropped.
const QUEUE_MAX: usize = 4_096;
/// How many are written at once.
const WRITES_AT_ONCE_MAX: usize = 64;
/// How long a record is kept, give or take a fifth, so that what came at once does not go at once.
const KEPT: Duration = Duration::from_hours(1);
/// How long it is kept that a digest is nobody's.
const ABSENCE_KEPT: Duration = Duration::from_secs(10);
/// Where changes are published.
const CHANNEL: &str = "latchkey:changes";
/// After how long a silence the connection that listens is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The longest pause between attempts to listen.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A handle on Redis.
pub struct Redis {
    address: Address,
    breaker: Breaker,
    keys: RwLock<Option<MacKeys>>,
    queue: mpsc::Sender<Hint>,
    queued: tokio::sync::Mutex<mpsc::Receiver<Hint>>,
    entropy: Arc<dyn Entropy>,
    numbers: Numbers,
    has_told_of_bad_mac: AtomicBool,
}

impl Redis {
    /// Redis at this address; nothing is connected before [`Redis::keep_connected`] is polled.
    #[must_use]
    pub fn new(address: Address, entropy: Arc<dyn Entropy>) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        Self {
            address,
            breaker: Breaker::default(),
            keys: RwLock::default(),
            queue,
            queued: tokio::sync::Mutex::new(queued),
            entropy,
            numbers: Numbers::default(),
            has_told_of_bad_mac: AtomicBool::new(false),
        }
    }

    /// The store's keys, as they are now.
    pub fn set_keys(&self, keys: MacKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
    }

    /// Looks a digest up, and puts into the cache what is usable of it; whether anything was.
    pub async fn fill(&self, cache: &Cache, digest: &Digest) -> bool {
        let looked = match self.look_up(cache, digest).await {
            Err(looked) => looked,
            Ok(hint) => {
                let is_absent = hint.said == Said::Absent;
                match cache.install_hint(hint) {
                    Err(unusable) => unusable.into(),
                    Ok(()) if is_absent => Looked::Absent,
                    Ok(()) => Looked::Hit,
                }
            }
        };
        if looked == Looked::BadMac && !self.has_told_of_bad_mac.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a record in Redis was not written by a node of this store, or was changed, and is not used; \
                 metrics tell of others"
            );
        }
        self.numbers.lookups.add(looked, 1);
        matches!(looked, Looked::Hit | Looked::Absent)
    }

    /// Has these written when there is time for it.
    pub fn offer(&self, hints: Vec<Hint>) {
        for hint in hints {
            if self.queue.try_send(hint).is_err() {
                self.numbers.writes.add(Wrote::Dropped, 1);
            }
        }
    }

    /// Whether it is left alone, and why.
    #[must_use]
    pub fn why_left_alone(&self) -> Option<String> {
        self.breaker.why_open()
    }

    /// What was counted.
    pub fn collect(&self, into: &mut Snapshot) {
        self.numbers.collect(self.breaker.is_closed(), into);
    }

    async fn look_up(&self, cache: &Cache, digest: &Digest) -> Result<Hint, Looked> {
        let epoch = cache.applied().ok_or(Looked::AnotherEpoch)?.epoch;
        let read = read_command(&seal::name(epoch, digest));
        let value: Vec<u8> =
            self.breaker.call("get", &read, &self.numbers.operations).await.map_err(|failed| {
                match failed {
                    Failed::Skipped => Looked::Skipped,
                    Failed::TooSlow | Failed::Error(_) => Looked::Failed,
                }
            })?;
        if value.is_empty() {
            return Err(Looked::Miss);
        }
        let keys = self.keys().ok_or(Looked::BadMac)?;
        seal::open(&keys, digest, &value).map_err(|broken| match broken {
            Broken::BadMac => Looked::BadMac,
            Broken::Unreadable => Looked::Unreadable,
        })
    }

    fn keys(&self) -> Option<MacKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads a value, and no more of it than a record can have.
fn read_command(name: &str) -> Cmd {
    let mut command = redis::cmd("GETRANGE");
    command.arg(name).arg(0).arg(VALUE_BYTES_MAX);
    command
}

// === What goes on all the time. None of it ever ends: without Redis everything goes on as well. ===

impl Redis {
    /// Sees to it that there is a connection, as long as Redis is of use.
    pub async fn keep_connected(&self) {
        let opening = || {
            self.numbers.openings.fetch_add(1, Ordering::Relaxed);
        };
        self.breaker.keep_closed(self.servers(), &*self.entropy, opening).await;
    }

    /// Writes what is offered.
    pub async fn keep_writing(&self) {
        let mut queued = self.queued.lock().await;
        let mut batch = Vec::with_capacity(WRITES_AT_ONCE_MAX);
        while queued.recv_many(&mut batch, WRITES_AT_ONCE_MAX).await > 0 {
            join_all(batch.drain(..).map(|hint| self.write(hint))).await;
        }
    }

    /// Publishes what this node commits. What happens meanwhile is told by the latest.
    pub async fn keep_telling(&self, cache: &Cache, mut commits: watch::Receiver<u64>) {
        while commits.changed().await.is_ok() {
            let n = *commits.borrow_and_update();
            let Some(applied) = cache.applied() else { continue };
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(CHANNEL).arg(format!("{:016x} {n}", applied.epoch));
            // Who does not hear of it reads all the same, a little later.
            let told: Result<(), _> =
                self.breaker.call("publish", &publish, &self.numbers.operations).await;
            if let Err(failed) = told {
                tracing::debug!(%failed, "a change was not published");
            }
        }
        // The store is closed, and this ends with it.
        std::future::pending::<()>().await;
    }

    /// Hears what others commit, and calls `read` when it is not known here.
    pub async fn keep_listening(&self, cache: &Cache, read: impl Fn()) {
        let mut servers = self.servers();
        let mut attempt = 0;
        loop {
            match in_time(listen(&mut servers, attempt)).await {
                Ok(published) => {
                    attempt = 0;
                    // What was published before is read now, if anything was.
                    read();
                    self.hear(cache, published, &read).await;
                    tracing::debug!("the connection on which Redis publishes has ended");
                }
                Err(failed) => tracing::debug!(%failed, "Redis cannot be listened to"),
            }
            attempt += 1;
            let pause = Duration::from_millis(100 << attempt.min(6)).min(LISTEN_PAUSE_MAX);
            let jitter = u32::try_from(self.entropy.number() % 512).unwrap_or(0);
            tokio::time::sleep(pause * (256 + jitter) / 512).await;
        }
    }

    async fn write(&self, hint: Hint) {
        let Some(value) = self.keys().and_then(|keys| seal::seal(&keys.current, &hint)) else {
            return self.numbers.writes.add(Wrote::Failed, 1);
        };
        let mut set = redis::cmd("SET");
        set.arg(seal::name(hint.position.epoch, &hint.digest)).arg(value);
        set.arg("PX").arg(self.time_to_live(&hint.said).as_millis().to_string());
        let done = self.breaker.call::<()>("set", &set, &self.numbers.operations).await;
        let wrote = match done {
            Ok(()) => Wrote::Written,
            Err(Failed::Skipped) => Wrote::Skipped,
            Err(Failed::TooSlow | Failed::Error(_)) => Wrote::Failed,
        };
        self.numbers.writes.add(wrote, 1);
    }

    fn time_to_live(&self, said: &Said) -> Duration {
        match said {
            Said::Absent => ABSENCE_KEPT,
            // From four fifths of it to six.
            Said::Key(_) => {
                let part = u32::try_from(self.entropy.number() % 401).unwrap_or(0);
                KEPT * (800 + part) / 1_000
            }
        }
    }

    async fn hear(&self, cache: &Cache, published: PubSub, read: &impl Fn()) {
        let (mut sink, mut messages) = published.split();
        loop {
            match timeout(SILENCE_MAX, messages.next()).await {
                Ok(Some(message)) => {
                    let heard = heard(cache, message.get_payload_bytes());
                    self.numbers.pushes.add(heard, 1);
                    if heard == Heard::Ahead {
                        read();
                    }
                }
                Ok(None) => return,
                Err(_) => match timeout(CONNECT_TO_ONE_TIME_MAX, sink.ping::<redis::Value>()).await
                {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return,
                },
            }
        }
    }

    fn servers(&self) -> Servers {
        // The same was done when the address was read.
        self.address.servers().expect("an address that was read names servers")
    }
}

async fn listen(servers: &mut Servers, attempt: usize) -> Result<PubSub, Failed> {
    let mut published = servers.listen(attempt).await.map_err(Failed::Error)?;
    published.subscribe(CHANNEL).await.map_err(Failed::Error)?;
    Ok(published)
}

/// What a message says: an epoch and the number of a change.
fn heard(cache: &Cache, message: &[u8]) -> Heard {
    let told = std::str::from_utf8(message).ok().and_then(|text| {
        let (epoch, n) = text.split_once(' ')?;
        Some((u64::from_str_radix(epoch, 16).ok()?, n.parse::<u64>().ok()?))
    });
    match (told, cache.applied()) {
        (Some((epoch, n)), Some(applied)) if epoch == applied.epoch => {
            if n > applied.n {
                Heard::Ahead
            } else {
                Heard::Known
            }
        }
        _ => Heard::Foreign,
    }
}

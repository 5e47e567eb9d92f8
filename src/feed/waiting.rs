//! Who waits for the next read, and what for.

use std::pin::pin;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Feed, not_ready};
use crate::error::{Error, Reason};
use crate::revision::Position;
use crate::token::Digest;

/// How long a request waits for its key to be read.
const FETCH_TIME_MAX: Duration = Duration::from_millis(150);
/// How long a mutation waits for the read that shows it.
const SHOW_TIME_MAX: Duration = Duration::from_secs(5);
/// How often whoever waits for it looks whether reads fail altogether.
const FAILING_LOOKED_AT: Duration = Duration::from_millis(100);

/// Who waits for the next read, or was gathered for one, and what for.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) shows: Vec<Show>,
    /// In the order in which they were asked for.
    pub(super) wanted: IndexMap<Digest, Vec<oneshot::Sender<()>>>,
}

/// Somebody who waits for a read sent after now; its commit, if it made one, must be in it.
pub(super) struct Show {
    pub(super) position: Option<Position>,
    pub(super) answer: oneshot::Sender<()>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.shows.is_empty() && self.wanted.is_empty()
    }

    /// All who wait to be shown something, and at most so many keys that somebody waits for.
    pub(super) fn gather(&mut self, most: usize) -> Self {
        let shows = std::mem::take(&mut self.shows);
        // Who gave up waiting needs no read.
        self.wanted.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        let wanted = self.wanted.drain(..most.min(self.wanted.len())).collect();
        Self { shows, wanted }
    }

    /// They wait for the read after this one.
    pub(super) fn put_back(&mut self, gathered: Self) {
        self.shows.extend(gathered.shows.into_iter().filter(|show| !show.answer.is_closed()));
        for (digest, waiters) in gathered.wanted {
            self.wanted.entry(digest).or_default().extend(waiters);
        }
    }
}

impl Feed {
    /// Waits for a read sent from now on to be applied. With a position, the read must show it.
    pub async fn show(&self, position: Option<Position>) -> Result<(), Error> {
        let (answer, shown) = oneshot::channel();
        self.shared.waiting().shows.push(Show { position, answer });
        self.shared.somebody_waits.notify_one();
        match timeout(SHOW_TIME_MAX, self.unless_failing(shown)).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(_)) | None) | Err(_) => Err(Error::new(
                Reason::OutcomeUnknown,
                "the change was made, but this node could not read it back; \
                 repeat it with the same request_id to be sure",
            )),
        }
    }

    /// What comes of it, or nothing as soon as it is no use to wait any longer.
    async fn unless_failing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            match timeout(FAILING_LOOKED_AT, &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if self.is_failing() => return None,
                Err(_) => {}
            }
        }
    }

    /// Waits, for a moment, for a key to be read. What it brought is in the cache then.
    pub async fn fetch(&self, digest: Digest) -> Result<(), Error> {
        if self.is_failing() {
            return Err(not_ready("the store cannot be read"));
        }
        let fetched = {
            let mut waiting = self.shared.waiting();
            let (answer, fetched) = oneshot::channel();
            waiting.wanted.entry(digest).or_default().push(answer);
            fetched
        };
        self.shared.somebody_waits.notify_one();
        match timeout(FETCH_TIME_MAX, fetched).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(not_ready("the key could not be read in time")),
        }
    }

    /// Waits, for a moment, for any read to be applied: for a caller who knows of a later change, or for whom what is
    /// held is too old.
    pub async fn catch_up(&self, at_most: Duration) {
        if self.is_failing() {
            return;
        }
        let _ = timeout(at_most, self.show(None)).await;
    }
}

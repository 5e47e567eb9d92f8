//! Who waits for the next read, and what for.

use indexmap::IndexMap;
use tokio::sync::oneshot;

use crate::revision::Position;
use crate::token::Digest;

/// Who waits for the next read.
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

/// What a read was asked for, and by whom.
pub(super) struct Gathered {
    pub(super) shows: Vec<Show>,
    pub(super) wanted: IndexMap<Digest, Vec<oneshot::Sender<()>>>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.shows.is_empty() && self.wanted.is_empty()
    }

    /// All who wait to be shown something, and at most so many keys that somebody waits for.
    pub(super) fn gather(&mut self, most: usize) -> Gathered {
        let shows = std::mem::take(&mut self.shows);
        // Who gave up waiting needs no read.
        self.wanted.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        let wanted = self.wanted.drain(..most.min(self.wanted.len())).collect();
        Gathered { shows, wanted }
    }

    /// They wait for the read after this one.
    pub(super) fn put_back(&mut self, gathered: Gathered) {
        self.shows.extend(gathered.shows.into_iter().filter(|show| !show.answer.is_closed()));
        for (digest, waiters) in gathered.wanted {
            self.wanted.entry(digest).or_default().extend(waiters);
        }
    }
}

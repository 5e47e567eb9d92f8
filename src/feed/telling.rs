//! What is told of reads that fail, and of what they find: once, however often they find it.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SharedFeed;
use crate::cache::Fence;
use crate::lease::{Freshness, Standing};
use crate::store::Unreadable;

/// How many rows that cannot be read are told one by one.
const ROWS_TOLD_MAX: usize = 1_000;
/// The pause after a fence.
const PAUSE_AFTER_FENCE: Duration = Duration::from_millis(500);

/// Rows that cannot be read, by what was told of them.
#[derive(Default)]
pub(super) struct Told(Mutex<HashSet<String>>);

impl Told {
    fn tell(&self, rows: &[Unreadable]) {
        if rows.is_empty() {
            return;
        }
        let mut told = self.lock();
        for Unreadable { of: _, why } in rows {
            if told.len() < ROWS_TOLD_MAX && told.insert(why.clone()) {
                tracing::error!(why, "a row of the store cannot be read: nothing is allowed by it");
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.lock().len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedFeed {
    /// A read came to an end.
    pub(super) fn report_success(&self, unreadable: &[Unreadable]) {
        self.told.tell(unreadable);
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the store is read again");
        }
    }

    /// Many reads fail in a row; the first of them is news, and so is what can be answered no more.
    pub(super) fn report_failure(&self, error: &dyn fmt::Display) {
        let now = self.clock.now();
        let is_over = |it: Standing| it.freshness(now) == Freshness::Expired;
        if self.cache.standing().is_some_and(is_over) && self.knows.send_replace(false) {
            tracing::error!(
                "what this node holds is too old to answer from: calls should go elsewhere"
            );
        }
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "a read of the store failed again");
        } else {
            tracing::warn!(%error, "a read of the store failed; it is tried again until one succeeds");
        }
    }

    pub(super) fn report_fence(&self, fence: &Fence) -> Duration {
        if fence.is_of_history() {
            self.fences.fetch_add(1, Ordering::Relaxed);
        }
        self.knows.send_replace(false);
        if self.is_fenced.swap(true, Ordering::Relaxed) {
            tracing::debug!(%fence, "starting over found the store as it was");
        } else {
            tracing::error!(%fence, "what is held must not be used: this node allows nothing and starts over");
        }
        PAUSE_AFTER_FENCE + self.apart()
    }
}

//! When a store is read that others change too, if nobody here asks for it before.

use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::metrics::Stopwatch;

/// How often it is read, give or take a quarter.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// The longest pause that comes of it.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(125);
/// How many reads come in a bound at least: one that fails leaves time for another.
const READS_PER_BOUND: u32 = 4;
/// How far apart reads are that others ask for.
const PUSHES_APART: Duration = Duration::from_millis(20);

/// The pace of one reader.
pub(super) struct Pace {
    /// By what its pauses differ from those of others.
    draws: u64,
    /// Since some start, and when the last read goes that others asked for.
    started: Stopwatch,
    pushed: Duration,
}

impl Pace {
    pub(super) fn new(seed: u64) -> Self {
        Self { draws: seed, started: Stopwatch::start(), pushed: Duration::ZERO }
    }

    /// The pause after a read, so that there are several within `bound`; for ever where nobody else changes the store.
    pub(super) fn pause(&mut self, bound: Option<Duration>) -> Sleep {
        let Some(bound) = bound else { return sleep(Duration::MAX) };
        // From three quarters of it to five.
        sleep(POLL_EVERY.min(bound / READS_PER_BOUND) * (192 + self.draw() / 2) / 256)
    }

    /// Others ask for a read: the pause until then.
    pub(super) fn pushed(&mut self) -> Sleep {
        let now = self.started.elapsed();
        // One that is still to come is for this push as well.
        if self.pushed <= now {
            self.pushed = now.max(self.pushed + PUSHES_APART);
        }
        sleep(self.pushed.saturating_sub(now))
    }

    /// A number below 256, by Knuth's multiplicative generator.
    fn draw(&mut self) -> u32 {
        self.draws = self
            .draws
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.draws >> 56).unwrap_or(0)
    }
}

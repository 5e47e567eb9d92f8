//! What is counted and measured: every metric by its names, once, and the numbers of calls.
//!
//! What a decision touches is plain atomics, a part for each thread, which are added up when somebody
//! looks. Absent on purpose: labels that could name a key, an account, a path or a host.

use std::time::Duration;

use tokio::time::Instant;

pub use self::decisions::{Decisions, Lookup, Outcome, Surface};
pub use self::durations::{Durations, Timing};
pub use self::snapshot::{Family, Point, Snapshot, Tally, Value};
pub use self::table::{Kind, Metric, TABLE};

pub mod table;

mod decisions;
mod durations;

mod snapshot;
pub mod text;

/// The numbers of calls; everything else is asked of those who know it.
#[derive(Default)]
pub struct Metrics {
    /// Decisions.
    pub decisions: Decisions,
    /// Calls of administration, by method and status.
    pub calls: Durations<2>,
    /// Operations of the store, by operation and outcome.
    pub store: Durations<2>,
}

/// Measures a span of time, by the clock that timeouts go by.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    #[expect(clippy::disallowed_methods, reason = "this is where spans are measured")]
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

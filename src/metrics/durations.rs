//! How long things take that are rare beside decisions: a lock is cheap enough for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Stopwatch;
use super::snapshot::{Snapshot, Tally, Value};
use super::table::{CALL_BUCKETS, Metric};

/// Durations by `N` labels, of which the last is how it ended.
pub struct Durations<const N: usize>(Mutex<BTreeMap<[String; N], Tally>>);

impl<const N: usize> Default for Durations<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const N: usize> Durations<N> {
    /// Adds one.
    pub fn book(&self, labels: [&str; N], took: Duration) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(labels.map(str::to_owned));
        tally.or_insert_with(|| Tally::new(&CALL_BUCKETS)).add(took);
    }

    /// What was measured, with these labels in front.
    pub fn collect(&self, metric: &'static Metric, first: &[&str], into: &mut Snapshot) {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, tally) in &*tallies {
            let labels = first.iter().copied().chain(labels.iter().map(String::as_str));
            into.add(metric, labels, Value::Histogram(tally.clone()));
        }
    }
}

impl Durations<2> {
    /// Begins to measure a thing of this name. What is dropped before its end was cancelled.
    pub fn begin<'a>(&'a self, name: &'a str, cancelled: &'static str) -> Timing<'a> {
        Timing { durations: self, name, outcome: cancelled, watch: Stopwatch::start() }
    }
}

/// A thing that is being measured.
pub struct Timing<'a> {
    durations: &'a Durations<2>,
    name: &'a str,
    outcome: &'a str,
    watch: Stopwatch,
}

impl<'a> Timing<'a> {
    /// It came to an end, and how.
    pub fn end(mut self, outcome: &'a str) {
        self.outcome = outcome;
    }

    /// How long it has taken.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.durations.book([self.name, self.outcome], self.watch.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::STORE_OPERATION_DURATION;
    use super::*;

    #[test]
    fn what_is_dropped_half_way_was_cancelled() {
        let durations = Durations::default();
        durations.begin("read", "cancelled").end("ok");
        drop(durations.begin("read", "cancelled"));
        let mut snapshot = Snapshot::default();
        durations.collect(&STORE_OPERATION_DURATION, &["sqlite"], &mut snapshot);
        let text = super::super::text::write(&snapshot);
        for outcome in ["ok", "cancelled"] {
            let line = format!(
                "latchkey_store_operation_duration_seconds_count{{store=\"sqlite\",operation=\"read\",outcome=\"{outcome}\"}} 1"
            );
            assert!(text.contains(&line), "{text}");
        }
    }
}

//! Decisions, counted without a lock: a part for each thread, on cache lines of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::snapshot::{Snapshot, Tally, Value};
use super::table::{self, AUTHORIZE_BUCKETS, AUTHORIZE_BUCKETS_NANOS};
use crate::decision::{Decision, Denial};
use crate::error::Reason;

/// More threads than this share parts, which is only slower.
const PARTS: usize = 64;
const BUCKETS: usize = AUTHORIZE_BUCKETS.len() + 1;
/// Allowed, each denial, each denial that was only observed, each error, and cancelled.
const OUTCOMES: usize = 1 + 2 * Denial::ALL.len() + Reason::ALL.len() + 1;

/// Where a question was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `AuthorizationService`.
    Grpc,
    /// Forward-auth.
    Http,
    /// Envoy's external authorization.
    ExtAuthz,
}

impl Surface {
    const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::ExtAuthz];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::ExtAuthz => "ext_authz",
        }
    }
}

/// How the cache could help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lookup {
    /// Nothing was looked up: there was no well-formed key, or the question was wrong.
    #[default]
    None,
    /// The key was there.
    Hit,
    /// It was known that there is no such key.
    Negative,
    /// The store had to be read.
    Miss,
    /// The key was there, and the store could not be reached to know whether it is still so.
    Stale,
}

impl Lookup {
    const ALL: [Self; 5] = [Self::None, Self::Hit, Self::Negative, Self::Miss, Self::Stale];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hit => "hit",
            Self::Negative => "negative",
            Self::Miss => "miss",
            Self::Stale => "stale",
        }
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The request may go on.
    Allowed,
    /// It may not.
    Denied(Denial),
    /// It may go on, and might not if the rule were enforced.
    Observed(Denial),
    /// It could not be decided, or was asked wrongly.
    Failed(Reason),
    /// The caller went away before.
    Cancelled,
}

impl Outcome {
    /// Of what was decided.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        match (decision.denial, decision.observed) {
            (Some(denial), _) => Self::Denied(denial),
            (None, Some(denial)) => Self::Observed(denial),
            (None, None) => Self::Allowed,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Allowed)
            .chain(Denial::ALL.map(Self::Denied))
            .chain(Denial::ALL.map(Self::Observed))
            .chain(Reason::ALL.map(Self::Failed))
            .chain([Self::Cancelled])
    }

    /// Its place in [`Outcome::all`].
    const fn index(self) -> usize {
        match self {
            Self::Allowed => 0,
            Self::Denied(denial) => 1 + denial as usize,
            Self::Observed(denial) => 1 + Denial::ALL.len() + denial as usize,
            Self::Failed(reason) => 1 + 2 * Denial::ALL.len() + reason as usize,
            Self::Cancelled => OUTCOMES - 1,
        }
    }

    /// `allow`, `deny`, `observe` or `error`.
    #[must_use]
    pub const fn decision(self) -> &'static str {
        match self {
            Self::Allowed => "allow",
            Self::Denied(_) => "deny",
            Self::Observed(_) => "observe",
            Self::Failed(_) | Self::Cancelled => "error",
        }
    }

    /// The word for programs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Allowed => "ALLOWED",
            Self::Denied(denial) | Self::Observed(denial) => denial.as_str(),
            Self::Failed(reason) => reason.as_str(),
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// The numbers of decisions.
pub struct Decisions {
    parts: Box<[Part]>,
}

/// What the threads of one number have counted. Two cache lines, because they are fetched in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Part {
    surfaces: [OfSurface; Surface::ALL.len()],
}

struct OfSurface {
    outcomes: [AtomicU64; OUTCOMES],
    durations: [Histogram; Lookup::ALL.len()],
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Default for OfSurface {
    fn default() -> Self {
        Self { outcomes: [const { AtomicU64::new(0) }; OUTCOMES], durations: Default::default() }
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect() }
    }
}

impl Decisions {
    /// Counts one.
    pub fn book(&self, surface: Surface, lookup: Lookup, outcome: Outcome, took: Duration) {
        let of_surface = &self.parts[own_part()].surfaces[surface as usize];
        of_surface.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
        of_surface.durations[lookup as usize].add(took);
    }

    /// Adds up what all threads have counted.
    pub fn collect(&self, into: &mut Snapshot) {
        let mut requests = [0; Lookup::ALL.len()];
        for surface in Surface::ALL {
            let parts = || self.parts.iter().map(|part| &part.surfaces[surface as usize]);
            for outcome in Outcome::all() {
                let of = |part: &OfSurface| part.outcomes[outcome.index()].load(Ordering::Relaxed);
                let count: u64 = parts().map(of).sum();
                // Not all that could go wrong is announced; what can be allowed or denied is.
                if count > 0 || outcome.decision() != "error" {
                    let labels = [surface.as_str(), outcome.decision(), outcome.reason()];
                    into.add(&table::AUTHORIZE_DECISIONS, labels, Value::Count(count));
                }
            }
            for lookup in Lookup::ALL {
                let tally = Histogram::total(parts().map(|part| &part.durations[lookup as usize]));
                requests[lookup as usize] += tally.count();
                let labels = [surface.as_str(), lookup.as_str()];
                into.add(&table::AUTHORIZE_DURATION, labels, Value::Histogram(tally));
            }
        }
        for lookup in [Lookup::Hit, Lookup::Negative, Lookup::Miss] {
            let count = Value::Count(requests[lookup as usize]);
            into.add(&table::CACHE_REQUESTS, [lookup.as_str()], count);
        }
    }
}

impl Histogram {
    fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = AUTHORIZE_BUCKETS_NANOS.iter().position(|bound| nanos <= *bound);
        self.buckets[place.unwrap_or(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn total<'a>(all: impl Iterator<Item = &'a Self>) -> Tally {
        let mut tally = Tally::new(&AUTHORIZE_BUCKETS);
        for histogram in all {
            for (sum, bucket) in tally.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            let nanos = histogram.sum_nanos.load(Ordering::Relaxed);
            tally.sum_seconds += Duration::from_nanos(nanos).as_secs_f64();
        }
        tally
    }
}

/// The part of the thread that asks; threads get them in turn.
fn own_part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    let own = OWN.get();
    if own < PARTS {
        return own;
    }
    let own = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
    OWN.set(own);
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_place_of_its_own() {
        let places: Vec<_> = Outcome::all().map(Outcome::index).collect();
        assert_eq!(places, (0..OUTCOMES).collect::<Vec<_>>());
    }

    #[test]
    fn what_several_threads_count_is_added_up() {
        let decisions = Decisions::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let took = Duration::from_micros(7);
                        decisions.book(Surface::Grpc, Lookup::Hit, Outcome::Allowed, took);
                    }
                });
            }
        });
        let mut snapshot = Snapshot::default();
        decisions.collect(&mut snapshot);
        let text = super::super::text::write(&snapshot);
        let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line}: {text}");
        has(
            "latchkey_authorize_decisions_total{surface=\"grpc\",decision=\"allow\",reason=\"ALLOWED\"} 4000",
        );
        let of = "latchkey_authorize_duration_seconds_bucket{surface=\"grpc\",cache=\"hit\"";
        has(&format!("{of},le=\"0.000005\"}} 0"));
        has(&format!("{of},le=\"0.00001\"}} 4000"));
        has(&format!("{of},le=\"+Inf\"}} 4000"));
        has("latchkey_authorize_duration_seconds_sum{surface=\"grpc\",cache=\"hit\"} 0.028");
        has("latchkey_cache_requests_total{result=\"hit\"} 4000");
    }
}

//! How long a node may go on by what it read: two spans of the policy, counted from before the node's row was sent to
//! a store that others can change as well.
//!
//! Pure: instants are given. The clock they come from runs while the machine sleeps, and is not moved by steps of the
//! wall clock.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::Policy;
use crate::revision::Position;

/// By which part of a span a machine's clock may run fast or slow: 200 millionths.
const CLOCK_RATE_ERROR: u32 = 5_000;

/// How long a node that cannot renew its lease goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// As if nothing were wrong.
    pub bound: Duration,
    /// With answers flagged stale, none of them for strict scopes. Less than `bound` counts as much.
    pub grace: Duration,
}

/// By what a node goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Nobody else can change the store.
    Held,
    /// The node's row was written, and what was committed before it was read.
    Since {
        /// The time before the row was sent.
        from: Timestamp,
        /// What the row says: nobody counts on this node for less.
        bounds: Bounds,
    },
}

/// How good what a node holds is at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// All that was acknowledged longer ago than the bound is in it.
    Fresh,
    /// It may be answered from, flagged, where nothing strict is asked for.
    Stale,
    /// Only what can never change again is answered from it.
    Expired,
}

impl Bounds {
    /// Those of a policy.
    #[must_use]
    pub const fn of(policy: &Policy) -> Self {
        Self {
            bound: Duration::from_millis(policy.bound_ms),
            grace: Duration::from_millis(policy.grace_ms),
        }
    }

    /// How long others have to reckon with answers for strict scopes, by their own clocks.
    #[must_use]
    pub fn until_strict_end(self) -> Duration {
        as_others_count(self.bound)
    }

    /// How long others have to reckon with answers at all, by their own clocks.
    #[must_use]
    pub fn until_end(self) -> Duration {
        as_others_count(self.bound.max(self.grace))
    }
}

impl Lease {
    /// One by which nothing may be answered.
    pub const NONE: Self = Self::Since {
        from: Timestamp::EPOCH,
        bounds: Bounds { bound: Duration::ZERO, grace: Duration::ZERO },
    };

    /// How good it is at an instant, under the bounds of the policy that is applied. Longer ones than the row says do
    /// not count until it says so.
    #[must_use]
    pub fn freshness(self, policy: Bounds, now: Timestamp) -> Freshness {
        let Self::Since { from, bounds } = self else { return Freshness::Fresh };
        let age = now.since(from);
        let is_within = |span: Duration| age + span / CLOCK_RATE_ERROR < span;
        if is_within(bounds.bound.min(policy.bound)) {
            Freshness::Fresh
        } else if is_within(bounds.grace.min(policy.grace)) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }

    /// Whether others reckon with what is answered by it.
    #[must_use]
    pub fn counts(self) -> bool {
        match self {
            Self::Held => true,
            Self::Since { bounds, .. } => bounds != Bounds::default(),
        }
    }

    /// Whether it is time to renew it, for whoever asks again after `pause`.
    #[must_use]
    pub fn is_due(self, policy: Bounds, now: Timestamp, pause: Duration) -> bool {
        let Self::Since { from, bounds } = self else { return false };
        let is_as_told = bounds == policy;
        !is_as_told || now.since(from) + pause >= bounds.bound / 3
    }
}

/// How the cache stands to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The position up to which every change is reflected.
    pub applied: Position,
    /// The bounds of the policy.
    pub bounds: Bounds,
    /// By what it goes on.
    pub lease: Lease,
}

impl Standing {
    /// How good what is held is at an instant.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        self.lease.freshness(self.bounds, now)
    }
}

/// A span by a clock that runs slow, for whoever counts by one that runs fast.
fn as_others_count(span: Duration) -> Duration {
    span.div_f64(1.0 - 1.0 / f64::from(CLOCK_RATE_ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);
    const BOUNDS: Bounds = Bounds { bound: SECOND, grace: MINUTE };

    fn at(span: Duration) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_hours(1)).after(span)
    }

    fn lease() -> Lease {
        Lease::Since { from: at(Duration::ZERO), bounds: BOUNDS }
    }

    #[test]
    fn it_is_fresh_then_stale_then_over_and_a_little_early() {
        let of = |millis| lease().freshness(BOUNDS, at(Duration::from_millis(millis)));
        assert_eq!(of(0), Freshness::Fresh);
        assert_eq!(of(999), Freshness::Fresh);
        assert_eq!(of(1_000), Freshness::Stale);
        assert_eq!(of(59_980), Freshness::Stale);
        assert_eq!(of(59_990), Freshness::Expired);
    }

    #[test]
    fn longer_bounds_count_once_the_row_says_so_and_shorter_ones_at_once() {
        let now = at(SECOND * 2);
        let of = |bound, grace| lease().freshness(Bounds { bound, grace }, now);
        assert_eq!(of(MINUTE, MINUTE), Freshness::Stale);
        assert_eq!(of(SECOND, SECOND), Freshness::Expired);
        assert_eq!(Lease::NONE.freshness(BOUNDS, Timestamp::EPOCH), Freshness::Expired);
        assert_eq!(Lease::Held.freshness(Bounds::default(), now), Freshness::Fresh);
    }

    #[test]
    fn a_grace_that_is_shorter_than_the_bound_changes_nothing_before_it() {
        let bounds = Bounds { bound: SECOND, grace: Duration::ZERO };
        let lease = Lease::Since { from: at(Duration::ZERO), bounds };
        assert_eq!(lease.freshness(bounds, at(SECOND / 2)), Freshness::Fresh);
        assert_eq!(lease.freshness(bounds, at(SECOND)), Freshness::Expired);
        assert_eq!(bounds.until_end(), bounds.until_strict_end());
    }

    #[test]
    fn others_wait_longer_than_the_node_goes_on() {
        assert!(BOUNDS.until_strict_end() > SECOND && BOUNDS.until_end() > MINUTE);
    }

    #[test]
    fn it_is_renewed_three_times_in_a_bound_and_when_the_policy_changed() {
        let is_due = |policy, millis| {
            lease().is_due(policy, at(Duration::from_millis(millis)), Duration::from_millis(100))
        };
        assert!(!is_due(BOUNDS, 200));
        assert!(is_due(BOUNDS, 234));
        assert!(is_due(Bounds { grace: SECOND, ..BOUNDS }, 0));
        assert!(!Lease::Held.is_due(BOUNDS, at(MINUTE), SECOND));
    }
}

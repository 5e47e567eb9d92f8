//! What is counted of Redis.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::Unusable;
use crate::metrics::{Durations, Metric, Snapshot, Value, table};

/// All of it.
#[derive(Default)]
pub(super) struct Numbers {
    pub(super) operations: Durations<2>,
    pub(super) lookups: Counts<Looked, { Looked::ALL.len() }>,
    pub(super) writes: Counts<Wrote, { Wrote::ALL.len() }>,
    pub(super) pushes: Counts<Heard, { Heard::ALL.len() }>,
    pub(super) openings: AtomicU64,
}

/// Things of which each is one of `N`.
pub(super) struct Counts<T, const N: usize> {
    counts: [AtomicU64; N],
    of: std::marker::PhantomData<fn(T)>,
}

impl<T, const N: usize> Default for Counts<T, N> {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), of: std::marker::PhantomData }
    }
}

/// A few words, each of which is counted.
pub(super) trait Word: Copy + PartialEq + 'static {
    const WORDS: &'static [(Self, &'static str)];
}

impl<T: Word, const N: usize> Counts<T, N> {
    pub(super) fn add(&self, what: T, many: usize) {
        let place = T::WORDS.iter().position(|(word, _)| *word == what);
        if let Some(count) = place.and_then(|place| self.counts.get(place)) {
            count.fetch_add(many as u64, Ordering::Relaxed);
        }
    }

    fn collect(&self, metric: &'static Metric, into: &mut Snapshot) {
        for ((_, word), count) in T::WORDS.iter().zip(&self.counts) {
            into.add(metric, [*word], Value::Count(count.load(Ordering::Relaxed)));
        }
    }
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),*];
        }

        impl Word for $name {
            const WORDS: &'static [(Self, &'static str)] = Self::ALL;
        }
    };
}

words! {
    /// What came of looking a digest up.
    Looked {
        Hit = "hit",
        Absent = "absent",
        Miss = "miss",
        BadMac = "bad_mac",
        Unreadable = "unreadable",
        AnotherEpoch = "another_epoch",
        Ahead = "ahead",
        TooOld = "too_old",
        AnotherTag = "another_tag",
        Changed = "changed",
        Doubted = "doubted",
        /// It did not answer, or not in time.
        Failed = "failed",
        /// It was not asked, for it is left alone.
        Skipped = "skipped",
    }
}

words! {
    /// What came of something that was to be kept.
    Wrote {
        Written = "written",
        Failed = "failed",
        /// Redis is left alone.
        Skipped = "skipped",
        /// There was no room in the queue.
        Dropped = "dropped",
    }
}

words! {
    /// What was published by others.
    Heard {
        Ahead = "ahead",
        /// It told nothing that is not known.
        Known = "known",
        /// Of another store, or not understood.
        Foreign = "foreign",
    }
}

impl From<Unusable> for Looked {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::AnotherEpoch => Self::AnotherEpoch,
            Unusable::Ahead => Self::Ahead,
            Unusable::TooOld => Self::TooOld,
            Unusable::AnotherTag => Self::AnotherTag,
            Unusable::Changed => Self::Changed,
            Unusable::Doubted => Self::Doubted,
        }
    }
}

impl Numbers {
    pub(super) fn collect(&self, is_up: bool, into: &mut Snapshot) {
        into.add(&table::REDIS_UP, [], Value::Count(is_up.into()));
        let openings = self.openings.load(Ordering::Relaxed);
        into.add(&table::REDIS_BREAKER_OPENINGS, [], Value::Count(openings));
        self.lookups.collect(&table::REDIS_LOOKUPS, into);
        self.writes.collect(&table::REDIS_WRITES, into);
        self.pushes.collect(&table::REDIS_PUSHES, into);
        self.operations.collect(&table::REDIS_OPERATION_DURATION, &[], into);
    }
}

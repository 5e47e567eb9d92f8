//! Who may begin a flight: what keeps those who ask for keys that nobody has from keeping the store busy.
//!
//! A key that the cache has listed is looked for as it is. For any other, the flight takes a token of a bucket, and gives
//! it back if it found that the digest is somebody's. So keys that nobody has cost the store the bucket once, then a
//! trickle; and where the cache is complete no flight is ever needed for them.
//!
//! What is traded: while somebody floods us with such keys (each needs a right checksum and is asked for once, for its
//! absence is remembered), who asks for one more is told to try again, not that it is unknown. Whoever has a key notices
//! nothing, in the cache or not, save where keys are not listed: while pages are read after a start, and when there are
//! many times more than the cache has room for. Such a key comes by one of the trickle's tokens then.

use std::time::Duration;

/// How many flights may find nobody's keys before that is rationed.
const UNKNOWN_MAX: u64 = 4_096;
/// How many such keys a second are looked for then.
const UNKNOWN_PER_SECOND: u64 = 200;
/// Tokens are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// The bucket; times are since some start.
pub(super) struct Admission {
    millionths: u64,
    filled: Duration,
}

impl Default for Admission {
    fn default() -> Self {
        Self { millionths: UNKNOWN_MAX * WHOLE, filled: Duration::ZERO }
    }
}

impl Admission {
    /// Takes a token, if there is one.
    pub(super) fn admit(&mut self, now: Duration) -> bool {
        let since = now.saturating_sub(self.filled);
        self.filled = now;
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        self.put(micros.saturating_mul(UNKNOWN_PER_SECOND));
        match self.millionths.checked_sub(WHOLE) {
            Some(left) => {
                self.millionths = left;
                true
            }
            None => false,
        }
    }

    /// Gives a token back: the digest was somebody's.
    pub(super) fn give_back(&mut self) {
        self.put(WHOLE);
    }

    fn put(&mut self, millionths: u64) {
        self.millionths = self.millionths.saturating_add(millionths).min(UNKNOWN_MAX * WHOLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(admission: &mut Admission, now: Duration, asked: u64) -> usize {
        (0..asked).filter(|_| admission.admit(now)).count()
    }

    #[test]
    fn keys_that_nobody_has_cost_the_bucket_once_and_then_a_trickle() {
        let mut admission = Admission::default();
        assert_eq!(admitted(&mut admission, Duration::ZERO, 100_000), 4_096);
        for second in 1..=10 {
            let now = Duration::from_secs(second);
            assert_eq!(admitted(&mut admission, now, 100_000), 200);
        }
        // However finely the time is cut.
        let fine: usize = (1..=1_000)
            .map(|at| {
                admitted(&mut admission, Duration::from_secs(10) + Duration::from_millis(at), 9)
            })
            .sum();
        assert_eq!(fine, 200);
    }

    #[test]
    fn keys_that_exist_cost_nothing() {
        let mut admission = Admission::default();
        for _ in 0..100_000 {
            assert!(admission.admit(Duration::ZERO));
            admission.give_back();
        }
        assert_eq!(admission.millionths, UNKNOWN_MAX * WHOLE);
    }

    #[test]
    fn the_bucket_holds_no_more_than_it_can() {
        let mut admission = Admission::default();
        assert_eq!(admitted(&mut admission, Duration::from_hours(9), 100_000), 4_096);
        assert_eq!(admitted(&mut admission, Duration::from_hours(18), 100_000), 4_096);
    }
}

//! When Redis is to be left alone: the last calls, by how they ended.
//!
//! A window of calls and not of time: whoever asks once a minute is not to wait in vain each time, and whoever asks
//! a thousand times a second finds out at once.

use std::time::Duration;

/// How many calls are looked at.
const CALLS_MAX: u32 = 20;
/// How many must be there for anything to be said of them.
const CALLS_MIN: u32 = 5;
/// An answer that took longer is none that was worth waiting for.
pub(super) const SLOW: Duration = Duration::from_millis(10);

/// The last calls on one connection.
#[derive(Default)]
pub(super) struct Window {
    /// The last one in the lowest bit: whether it came to nothing.
    bad: u32,
    calls: u32,
}

/// What is to be done after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// Half of the calls, or more, came to nothing.
    Stop,
}

impl Window {
    /// A call ended: with an answer that took so long, or without one.
    pub(super) fn note(&mut self, answered: Option<Duration>) -> Verdict {
        let is_bad = answered.is_none_or(|took| took > SLOW);
        self.bad = (self.bad << 1 | u32::from(is_bad)) & ((1 << CALLS_MAX) - 1);
        self.calls = (self.calls + 1).min(CALLS_MAX);
        let is_over = self.calls >= CALLS_MIN && self.bad.count_ones() * 2 >= self.calls;
        if is_over { Verdict::Stop } else { Verdict::GoOn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Option<Duration> = Some(Duration::from_millis(1));
    const LATE: Option<Duration> = Some(Duration::from_millis(15));

    fn after(calls: &[Option<Duration>]) -> Verdict {
        let mut window = Window::default();
        calls.iter().fold(Verdict::GoOn, |_, call| window.note(*call))
    }

    #[test]
    fn half_of_the_calls_are_enough_and_fewer_are_not() {
        assert_eq!(after(&[None, None, None, None]), Verdict::GoOn);
        assert_eq!(after(&[None, None, None, None, None]), Verdict::Stop);
        assert_eq!(after(&[FAST, FAST, FAST, None, None]), Verdict::GoOn);
        assert_eq!(after(&[FAST, FAST, FAST, None, None, None]), Verdict::Stop);
        assert_eq!(after(&[LATE, LATE, FAST, FAST, LATE]), Verdict::Stop);
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let mut window = Window::default();
        for _ in 0..1_000 {
            assert_eq!(window.note(FAST), Verdict::GoOn);
        }
        let first = (1..100).find(|_| window.note(None) == Verdict::Stop);
        assert_eq!(first, Some(10));
        let mut window = Window::default();
        for call in [None, None].into_iter().chain([FAST; 40]) {
            assert_eq!(window.note(call), Verdict::GoOn);
        }
        assert_eq!((window.bad, window.calls), (0, CALLS_MAX));
    }
}

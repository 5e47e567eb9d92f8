//! Instants and where they come from: time is always a parameter, and it never goes back.
//!
//! Absent on purpose: the machine's clocks. They enter the process in `machine`, and nowhere else.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const MICROS_PER_SECOND: i64 = 1_000_000;
/// How often it is written down what time was told, in microseconds.
const FLOOR_EVERY: i64 = 1_000;

/// An instant, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59Z, the last instant that `google.protobuf.Timestamp` can say.
    pub const MAX: Self = Self(253_402_300_799 * MICROS_PER_SECOND);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The last microsecond of the year 9999.
    const LAST: Self = Self(Self::MAX.0 + MICROS_PER_SECOND - 1);

    /// The instant so many microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Seconds since the Unix epoch, rounded down, and the nanoseconds above them.
    #[must_use]
    pub fn seconds_and_nanos(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(MICROS_PER_SECOND) * 1_000;
        (self.0.div_euclid(MICROS_PER_SECOND), i32::try_from(nanos).unwrap_or(0))
    }

    /// From seconds and nanoseconds; `None` outside the years 1970 to 9999 or with nanoseconds out of range.
    #[must_use]
    pub fn from_seconds_and_nanos(seconds: i64, nanos: i32) -> Option<Self> {
        if !(0..=999_999_999).contains(&nanos) || !(0..=253_402_300_799).contains(&seconds) {
            return None;
        }
        Some(Self(seconds * MICROS_PER_SECOND + i64::from(nanos) / 1_000))
    }

    /// RFC 3339 in UTC, to the microsecond.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let second = self.to_string();
        format!("{}.{:06}Z", second.trim_end_matches('Z'), self.0.rem_euclid(MICROS_PER_SECOND))
    }

    /// Reads RFC 3339 with any offset; what is finer than a microsecond is cut off. `None` when the text
    /// is no such instant, or one outside the years 1970 to 9999.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once(['T', 't', ' '])?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let ends_at = time.find(['Z', 'z', '+', '-'])?;
        let (time, offset) = time.split_at(ends_at);
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let (sign, offset) = offset.split_at(1);
        let [offset_hour, offset_minute] = match sign {
            "Z" | "z" => offset.is_empty().then_some([0, 0])?,
            _ => numbers(offset, ':', [2, 2])?,
        };
        let days = days_from_civil(year, month, day);
        let is_right = civil_from_days(days) == (year, month, day)
            && hour < 24
            && minute < 60
            && second < 60
            && offset_hour < 24
            && offset_minute < 60
            && (1..=9).contains(&fraction.len())
            && fraction.bytes().all(|byte| byte.is_ascii_digit());
        if !is_right {
            return None;
        }
        let micros: i64 = format!("{fraction:0<6}")[..6].parse().ok()?;
        let offset = (offset_hour * 60 + offset_minute) * if sign == "-" { -60 } else { 60 };
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
        let instant = Self(seconds * MICROS_PER_SECOND + micros);
        (Self::EPOCH..=Self::LAST).contains(&instant).then_some(instant)
    }

    /// This instant moved on by `span`; it stops at [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(Self::MAX.0))
    }

    /// The span from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Days since the epoch as a date of the proleptic Gregorian calendar (Howard Hinnant's algorithm).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The reverse of [`civil_from_days`]; a date that there is not gives days of another date.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Numbers of so many digits each, between separators.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *number = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// Tells the time. `now` never goes back, within a process and across its restarts.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// Gives bytes that nobody can guess; tokens and tags are made of them.
pub trait Entropy: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);

    /// 64 random bits.
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A clock that steps of the wall clock do not move: time elapsed since an anchor, on a counter that
/// only rises, plus the wall clock's time at the anchor, held above the highest time seen before.
pub struct SteadyClock<E> {
    elapsed: E,
    anchor: Timestamp,
    floor: AtomicI64,
}

impl<E: Fn() -> Duration + Send + Sync> SteadyClock<E> {
    /// `elapsed` counts from the anchor; `wall` is the wall clock there, `persisted` the highest time
    /// that an earlier process is known to have told.
    pub fn new(elapsed: E, wall: Timestamp, persisted: Timestamp) -> Self {
        Self { elapsed, anchor: wall.max(persisted), floor: AtomicI64::new(i64::MIN) }
    }
}

impl<E: Fn() -> Duration + Send + Sync> Clock for SteadyClock<E> {
    fn now(&self) -> Timestamp {
        let now = self.anchor.after((self.elapsed)()).micros();
        // The counter only rises. Should it not, what was told once is the least that is told again, to within a
        // millisecond: if each call wrote it down, all threads would wait for each other.
        let told = self.floor.load(Ordering::Relaxed);
        if now >= told.saturating_add(FLOOR_EVERY) {
            self.floor.fetch_max(now, Ordering::Relaxed);
        }
        Timestamp(now.max(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_shown_as_rfc_3339() {
        let of = |seconds: i64| Timestamp::from_micros(seconds * MICROS_PER_SECOND).to_string();
        assert_eq!(of(0), "1970-01-01T00:00:00Z");
        assert_eq!(of(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(of(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn an_instant_is_told_to_the_microsecond_and_read_back() {
        let told = Timestamp::from_micros(1_000_002).to_rfc3339();
        assert_eq!(told, "1970-01-01T00:00:01.000002Z");
        for micros in [0, 1_000_002, 951_782_400_123_456, Timestamp::LAST.micros()] {
            let instant = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::parse(&instant.to_rfc3339()), Some(instant));
        }
        let utc = Timestamp::parse("2026-11-23T05:45:43Z");
        for same in
            ["2026-11-23T07:15:43+01:30", "2026-11-22t21:45:43.0-08:00", "2026-11-23 05:45:43z"]
        {
            assert_eq!(Timestamp::parse(same), utc, "{same}");
        }
        assert_eq!(
            Timestamp::parse("1970-01-01T00:00:00.1234567Z").map(Timestamp::micros),
            Some(123_456)
        );
    }

    #[test]
    fn what_is_no_instant_is_not_read() {
        for bad in [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T05:45:43",
            "2026-11-23T05:45Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T05:45:43.Z",
            "2026-11-23T05:45:43.1234567891Z",
            "2026-11-23T05:45:43Zulu",
            "2026-11-23T05:45:43+1",
            "+026-11-23T05:45:43Z",
            "1969-12-31T23:59:59Z",
            "9999-12-31T23:59:59-00:01",
            "2026-11-23T05:45:43\u{e9}Z",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn time_stays_above_what_was_told_before_a_restart() {
        let persisted = Timestamp::from_micros(5_000);
        let clock = SteadyClock::new(|| Duration::ZERO, Timestamp::from_micros(1_000), persisted);
        assert_eq!(clock.now(), persisted);
    }

    #[test]
    fn time_never_goes_back_when_the_counter_does() {
        let elapsed = std::sync::atomic::AtomicU64::new(9);
        let read = || Duration::from_micros(elapsed.load(Ordering::Relaxed));
        let clock = SteadyClock::new(read, Timestamp::EPOCH, Timestamp::EPOCH);
        let first = clock.now();
        elapsed.store(3, Ordering::Relaxed);
        assert_eq!(clock.now(), first);
    }
}

//! Instants and spans as people write them: `30d`, `2027-01-01`, `2027-01-01T12:00:00+01:00`.

use std::time::Duration;

use crate::clock::Timestamp;

/// What `--help` says of a span.
pub(super) const SPAN_HELP: &str = "a number with s, m, h, d or w, as in 90d or 1h30m";
/// What `--help` says of an instant.
pub(super) const INSTANT_HELP: &str =
    "a date (2027-01-01, at 00:00 UTC) or an instant (2027-01-01T12:00:00Z)";

const UNITS: [(char, u64); 5] =
    [('w', 7 * 24 * 3_600), ('d', 24 * 3_600), ('h', 3_600), ('m', 60), ('s', 1)];

/// A point in time: a span from or to now, or the instant itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Span(Duration),
    Instant(Timestamp),
}

impl When {
    /// Reads either.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let read =
            parse_span(text).map(Self::Span).or_else(|| parse_instant(text).map(Self::Instant));
        read.ok_or_else(|| format!("write {SPAN_HELP}; {INSTANT_HELP}"))
    }

    /// The instant; a span leads into the future.
    pub(super) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Instant(instant) => instant,
            Self::Span(span) => now.after(span),
        }
    }

    /// The instant; a span leads into the past.
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Instant(instant) => instant,
            Self::Span(span) => {
                let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.micros().saturating_sub(micros).max(0))
            }
        }
    }
}

/// Reads a span, for clap.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).ok_or_else(|| format!("write {SPAN_HELP}"))
}

/// An instant as a message says it.
pub(super) fn timestamp(instant: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = instant.seconds_and_nanos();
    prost_types::Timestamp { seconds, nanos }
}

/// A span as a message says it.
pub(super) fn duration(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: span.subsec_nanos().cast_signed() }
}

/// An instant of a message, to the second, as a cell of a table shows it; `-` when there is none.
pub(super) fn shown(instant: Option<&prost_types::Timestamp>) -> String {
    instant.map_or_else(|| "-".to_owned(), |instant| instant_text(instant.seconds, 0))
}

/// An instant as protobuf's JSON has it: RFC 3339 with 0, 3, 6 or 9 digits of a fraction.
pub(super) fn instant_text(seconds: i64, nanos: i32) -> String {
    let whole = Timestamp::from_micros(seconds.saturating_mul(1_000_000)).to_string();
    format!("{}{}Z", whole.trim_end_matches('Z'), fraction(nanos))
}

/// A span as protobuf's JSON has it: seconds with 0, 3, 6 or 9 digits of a fraction.
pub(super) fn duration_text(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.saturating_abs()))
}

fn fraction(nanos: i32) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        _ => format!(".{nanos:09}"),
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].chars().next()?;
        // Larger units come first, each once.
        let (_, size) = units.find(|(name, _)| *name == unit)?;
        seconds = seconds.checked_add(number.checked_mul(*size)?)?;
        rest = &rest[digits + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

/// A date alone is its first instant, in UTC.
fn parse_instant(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90), ("1h30m", 5_400), ("30d", 2_592_000), ("2w", 1_209_600), ("0s", 0)]
        {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        let wrong =
            ["", "30", "d", "-1d", "1.5h", "30m1h", "1d1d", "1y", "99999999999999999999s", "1dä"];
        for text in wrong {
            assert!(span(text).is_err(), "{text}");
        }
        assert!(span("9999999999999999w").is_err());
    }

    #[test]
    fn instants_are_read_and_written_back() {
        for (text, back) in [
            ("2027-01-01", "2027-01-01T00:00:00Z"),
            ("2024-02-29T12:34:56Z", "2024-02-29T12:34:56Z"),
            ("2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00Z"),
            ("2026-12-31 23:00:00.5-01:00", "2027-01-01T00:00:00Z"),
            ("1970-01-01t00:00:00z", "1970-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ] {
            let When::Instant(instant) = When::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(instant.to_string(), back, "{text}");
        }
        for text in [
            "2027",
            "2027-1-1",
            "2027-02-29",
            "2027-13-01",
            "2027-01-01T",
            "2027-01-01T25:00:00Z",
            "2027-01-01T00:00:00",
            "2027-01-01T00:00:00.Z",
            "1969-12-31",
            "2027-01-01T00:00:00+1",
            "10000-01-01",
            "2027-01-01TZ",
        ] {
            assert!(When::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_have_as_many_digits_as_protobuf_prescribes() {
        assert_eq!(instant_text(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(instant_text(0, 1_500_000), "1970-01-01T00:00:00.001500Z");
        assert_eq!(duration_text(600, 0), "600s");
        assert_eq!(duration_text(0, -500_000_000), "-0.500s");
        assert_eq!(duration_text(1, 1), "1.000000001s");
    }

    #[test]
    fn a_span_into_the_past_ends_at_the_epoch() {
        let now = Timestamp::from_micros(10_000_000);
        assert_eq!(When::parse("4s").unwrap().before(now).micros(), 6_000_000);
        assert_eq!(When::parse("9w").unwrap().before(now), Timestamp::EPOCH);
    }
}

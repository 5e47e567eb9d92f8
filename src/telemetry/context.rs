//! W3C Trace Context: who called us within which trace (`traceparent`, `tracestate`).
//!
//! What is not exactly as the recommendation has it counts as absent: then a trace of our own begins.

use http::{HeaderMap, HeaderName};

/// The most bytes of `tracestate` that are kept; the least that the recommendation asks for.
const STATE_BYTES_MAX: usize = 512;

/// The caller's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) is_sampled: bool,
    /// What other systems have to say of this trace; handed on as it is.
    pub(super) state: String,
}

impl Parent {
    /// From the headers of a call; `None` when there is none, or none that can be understood.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        // Looked for in every call: not worth reading the name each time.
        const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (Some(only), None) = (given.next(), given.next()) else { return None };
        let (trace_id, span_id, flags) = parse(only.as_bytes())?;
        Some(Self { trace_id, span_id, is_sampled: flags & 1 == 1, state: state(headers) })
    }

    /// What samplers that go by the trace draw: its lower half.
    pub(super) fn draw(&self) -> u64 {
        self.trace_id[8..].iter().fold(0, |draw, byte| draw << 8 | u64::from(*byte))
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, in lower case; a later version may have more behind a dash.
fn parse(text: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    const BYTES: usize = 55;
    let (known, more) = text.split_at_checked(BYTES)?;
    let version = hex::<1>(&known[..2])?[0];
    let is_whole = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.first().is_none_or(|byte| *byte == b'-'),
    };
    if !is_whole || [known[2], known[35], known[52]] != [b'-'; 3] {
        return None;
    }
    let (trace_id, span_id) = (hex::<16>(&known[3..35])?, hex::<8>(&known[36..52])?);
    let flags = hex::<1>(&known[53..])?[0];
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id, flags))
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// All `tracestate` headers as one; nothing when it is not text or too long.
fn state(headers: &HeaderMap) -> String {
    let parts: Option<Vec<_>> =
        headers.get_all("tracestate").iter().map(|part| part.to_str().ok()).collect();
    let state = parts.unwrap_or_default().join(",");
    if state.len() > STATE_BYTES_MAX { String::new() } else { state }
}

/// Bytes in hexadecimal digits, as ids of traces and spans are written.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(pairs: &[(&'static str, &str)]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Parent::read(&headers)
    }

    #[test]
    fn a_parent_is_read_with_its_state() {
        let parent =
            read(&[("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")]).unwrap();
        assert_eq!(to_hex(&parent.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(to_hex(&parent.span_id), "b7ad6b7169203331");
        assert_eq!((parent.is_sampled, &*parent.state), (true, "a=1,b=2"));
        let unsampled = GOOD.replace("-01", "-02");
        assert!(!read(&[("traceparent", &unsampled)]).unwrap().is_sampled);
        let later = format!("cc{}-what-comes", &GOOD[2..]);
        assert!(read(&[("traceparent", &later)]).unwrap().is_sampled);
    }

    #[test]
    fn what_is_not_exactly_right_is_no_parent() {
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD} "),
            &format!("ff{}", &GOOD[2..]),
            &format!("cc{}.", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &GOOD.replace("b7ad6b7169203331", &zeros[..16]),
            &GOOD.replace("-01", "-0g"),
        ] {
            assert_eq!(read(&[("traceparent", bad)]), None, "{bad}");
        }
        assert_eq!(read(&[("traceparent", GOOD), ("traceparent", GOOD)]), None);
        assert_eq!(read(&[("tracestate", "a=1")]), None);
        let long = format!("a={}", "x".repeat(STATE_BYTES_MAX));
        let parent = read(&[("traceparent", GOOD), ("tracestate", &long)]).unwrap();
        assert_eq!(parent.state, "");
    }
}

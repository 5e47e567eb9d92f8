//! Access logs, line by line: JSON as our example of Envoy writes it, and NGINX's `combined`. What is read of a line
//! is what rules go by, whether it passed, and whose key it was.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};

use serde::Deserialize;
use serde_json::Value;

use crate::policy::target::Mcp;

/// The longest line that is taken for one.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;

/// The lines of a log; one is held at a time.
pub(super) struct Lines<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
    pub(super) bytes: u64,
}

/// A request that was logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logged<'a> {
    pub(super) status: u16,
    pub(super) method: Cow<'a, str>,
    pub(super) host: Option<String>,
    /// As it was sent, query included.
    pub(super) target: Cow<'a, str>,
    pub(super) key: LoggedKey,
    mcp_method: Option<String>,
    mcp_tool: Option<String>,
}

/// Whose key it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum LoggedKey {
    /// This one.
    Id(String),
    /// The log has a place for the key, and none was found.
    None,
    /// The log has no place for it.
    #[default]
    NotTold,
}

/// Why a line is none of an access log.
pub(super) type Malformed = String;

/// A line, or why it is none.
pub(super) type Line<'a> = Result<&'a [u8], Malformed>;

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(source: R) -> Self {
        Self { source, line: Vec::new(), number: 0, bytes: 0 }
    }

    /// The next line with its number, if there is one. Of a line that is too long nothing is kept.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        self.line.clear();
        let mut bounded = (&mut self.source).take(LINE_BYTES_MAX as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        if read > LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
            self.skip_line()?;
            let long = format!("it is longer than {} MiB", LINE_BYTES_MAX >> 20);
            return Ok(Some((self.number, Err(long))));
        }
        Ok(Some((self.number, Ok(self.line.trim_ascii()))))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let piece = self.source.fill_buf()?;
            let end = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let skipped = end.unwrap_or(piece.len());
            self.source.consume(skipped);
            self.bytes += skipped as u64;
            if end.is_some() || skipped == 0 {
                return Ok(());
            }
        }
    }
}

impl<'a> Logged<'a> {
    /// Reads a line, of either form.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, Malformed> {
        if line.starts_with(b"{") { of_json(line) } else { of_combined(line) }
    }

    /// Whether the client was served. An interim answer is none of a gateway; 0 is Envoy's word for none.
    pub(super) const fn has_passed(&self) -> bool {
        100 <= self.status && self.status < 400
    }

    pub(super) fn mcp(&self) -> Option<Mcp<'_>> {
        Mcp::seen(self.mcp_method.as_deref(), self.mcp_tool.as_deref())
    }
}

// === Envoy ===

/// The fields that count; those that are not here may be anything.
#[derive(Deserialize)]
struct Json {
    method: Option<String>,
    path: Option<String>,
    authority: Option<String>,
    response_code: Option<Value>,
    #[serde(default, deserialize_with = "key")]
    key_id: LoggedKey,
    mcp_method: Option<String>,
    mcp_tool: Option<String>,
}

/// A field that is there, `null` or not.
fn key<'de, D: serde::Deserializer<'de>>(field: D) -> Result<LoggedKey, D::Error> {
    let id = told(Option::deserialize(field)?);
    Ok(id.map_or(LoggedKey::None, LoggedKey::Id))
}

fn of_json(line: &[u8]) -> Result<Logged<'static>, Malformed> {
    let read: Json = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let Json { method, path, authority, response_code, key_id, mcp_method, mcp_tool } = read;
    let needed = |name: &str| format!("it tells no `{name}`");
    let status = match &response_code {
        Some(Value::Number(number)) => number.as_u64().and_then(|it| u16::try_from(it).ok()),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    Ok(Logged {
        status: status.ok_or_else(|| needed("response_code"))?,
        method: Cow::Owned(told(method).ok_or_else(|| needed("method"))?),
        host: told(authority),
        target: Cow::Owned(told(path).ok_or_else(|| needed("path"))?),
        key: key_id,
        mcp_method: told(mcp_method),
        mcp_tool: told(mcp_tool),
    })
}

/// Envoy writes `null`, or `-`, for what there is not.
fn told(field: Option<String>) -> Option<String> {
    field.filter(|text| !text.is_empty() && text != "-")
}

// === NGINX ===

/// `ADDRESS - USER [TIME] "REQUEST" STATUS …`.
fn of_combined(line: &[u8]) -> Result<Logged<'_>, Malformed> {
    let neither = || "it is neither JSON nor `combined`".to_owned();
    let start = line.iter().position(|byte| *byte == b'"').ok_or_else(neither)? + 1;
    let end = end_of_text(&line[start..]).ok_or_else(neither)? + start;
    let mut rest = line[end + 1..].split(u8::is_ascii_whitespace).filter(|it| !it.is_empty());
    let status = rest.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let status = status.ok_or_else(|| "it tells no status after the request".to_owned())?;
    let logged = |method, target| Logged {
        status,
        method,
        host: None,
        target,
        key: LoggedKey::NotTold,
        mcp_method: None,
        mcp_tool: None,
    };
    let request = unescaped(&line[start..end]);
    let Some((method, after)) = split(request, ' ') else {
        // What was no request was refused, and whatever is in its place does not matter then.
        let none = logged(Cow::Borrowed(""), Cow::Borrowed(""));
        return if none.has_passed() { Err("it tells no request".to_owned()) } else { Ok(none) };
    };
    // The protocol is the last word, and a target that has spaces in it keeps them.
    let protocol = after.rfind(" HTTP/").unwrap_or(after.len());
    let target = match after {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..protocol]),
        Cow::Owned(text) => Cow::Owned(text[..protocol].to_owned()),
    };
    Ok(logged(method, target))
}

/// Where the text ends that began before: at a quotation mark without a backslash before it.
fn end_of_text(text: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    text.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })
}

/// `\xHH`, `\"` and `\\` as what they stand for. What is not UTF-8 then stays no ASCII, and so no path.
fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if !text.contains(&b'\\') {
        return String::from_utf8_lossy(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let (read, after) = match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (b'\\', &rest[1..]),
            },
            (b'\\', [escaped @ (b'"' | b'\\'), after @ ..]) => (*escaped, after),
            _ => (*byte, after),
        };
        bytes.push(read);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn split(text: Cow<'_, str>, at: char) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    match text {
        Cow::Borrowed(text) => {
            text.split_once(at).map(|(one, other)| (Cow::Borrowed(one), Cow::Borrowed(other)))
        }
        Cow::Owned(text) => text
            .split_once(at)
            .map(|(one, other)| (Cow::Owned(one.to_owned()), Cow::Owned(other.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(line: &str) -> String {
        match Logged::read(line.as_bytes()) {
            Ok(Logged { status, method, host, target, key, mcp_method, mcp_tool }) => {
                let host = host.unwrap_or_default();
                let key = match key {
                    LoggedKey::Id(id) => id,
                    LoggedKey::None => "none".into(),
                    LoggedKey::NotTold => "not told".into(),
                };
                format!("{status} {method} {host}{target} {key} {mcp_method:?} {mcp_tool:?}")
            }
            Err(why) => format!("! {why}"),
        }
    }

    #[test]
    fn a_line_of_envoy_is_read() {
        for (line, wanted) in [
            (
                r#"{"method":"GET","path":"/a?b","authority":"a.b:80","response_code":200,"key_id":"key_1"}"#,
                "200 GET a.b:80/a?b key_1 None None",
            ),
            (
                r#"{"x":{"y":[1]},"method":"POST","path":"/mcp","authority":"-","response_code":"204","key_id":null,"mcp_method":"tools/call","mcp_tool":"t"}"#,
                "204 POST /mcp none Some(\"tools/call\") Some(\"t\")",
            ),
            (
                r#"{"method":"GET","path":"/","response_code":0,"mcp_method":null}"#,
                "0 GET / not told None None",
            ),
            (r#"{"method":"GET","path":"/"}"#, "! it tells no `response_code`"),
            (r#"{"method":"GET","response_code":200}"#, "! it tells no `path`"),
        ] {
            assert_eq!(told(line), wanted);
        }
        assert!(told(r#"{"method":1}"#).contains("column"));
        assert!(told(r#"{"method":"a","method":"b"}"#).contains("duplicate"));
    }

    #[test]
    fn a_line_of_nginx_is_read() {
        let line = |request: &str, status: &str| {
            told(&format!(
                "192.0.2.1 - me [01/Jan/2026:00:00:00 +0000] \"{request}\" {status} 5 \"-\" \"x\""
            ))
        };
        for (request, status, wanted) in [
            ("GET /a?b HTTP/1.1", "200", "200 GET /a?b not told None None"),
            ("GET /a b HTTP/1.1", "200", "200 GET /a b not told None None"),
            ("GET /", "200", "200 GET / not told None None"),
            (r"GET /\x5C\x22\xC3\xA4 HTTP/2.0", "200", "200 GET /\\\"ä not told None None"),
            (r#"GET /\"a HTTP/1.1"#, "200", "200 GET /\"a not told None None"),
            (r"\x16\x03", "400", "400   not told None None"),
            ("", "408", "408   not told None None"),
            ("-", "200", "! it tells no request"),
            ("GET / HTTP/1.1", "-", "! it tells no status after the request"),
        ] {
            assert_eq!(line(request, status), wanted);
        }
        assert_eq!(told("nonsense"), "! it is neither JSON nor `combined`");
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let mut log = vec![b'x'; 3 * LINE_BYTES_MAX];
        log.extend_from_slice(b"\n a \n\nb");
        let mut lines = Lines::new(&log[..]);
        assert!(lines.next().unwrap().unwrap().1.is_err());
        let mut rest = vec![];
        while let Some((_, line)) = lines.next().unwrap() {
            rest.push(String::from_utf8(line.unwrap().to_vec()).unwrap());
        }
        assert_eq!((rest.join(","), lines.number), ("a,,b".to_owned(), 4));
        assert_eq!(lines.bytes, log.len() as u64);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(
            line in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                "[^\"]{0,9}\"[ -~\\\\]{0,40}\" ?[0-9]{0,6} ?\"?".prop_map(String::into_bytes),
            ],
        ) {
            drop(Logged::read(&line));
        }
    }
}

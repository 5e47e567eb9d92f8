//! A request, as far as rules go by it.
//!
//! Requests are compared by their host without its port and by their decoded path. What two readers of one request could
//! read differently is not compared at all, but denied: see [`Target::new`].

use std::borrow::Cow;
use std::net::Ipv6Addr;

pub(super) const METHOD_BYTES_MAX: usize = 32;

/// A request, or why it cannot be compared.
#[derive(Debug, Clone)]
pub struct Target<'a>(Result<Clear<'a>, Ambiguity>);

/// A request that has one reading.
#[derive(Debug, Clone)]
pub(super) struct Clear<'a> {
    /// In lower case, without a port.
    pub(super) host: Cow<'a, str>,
    pub(super) method: &'a str,
    /// Decoded, without the query.
    pub(super) path: Cow<'a, str>,
    pub(super) mcp: Option<Mcp<'a>>,
}

/// What a request says in the Model Context Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mcp<'a> {
    /// As in `tools/call`.
    pub method: &'a str,
    /// The tool that is called.
    pub tool: Option<&'a str>,
}

impl<'a> Mcp<'a> {
    /// The method of `tools/call`.
    pub const CALL: &'static str = "tools/call";

    /// What was seen of a request: `None`, as if nothing was, when a tool is called and it is not seen which. Only
    /// a call has a tool, whatever else has a name.
    #[must_use]
    pub fn seen(method: Option<&'a str>, tool: Option<&'a str>) -> Option<Self> {
        let method = method?;
        let is_call = method == Self::CALL;
        let tool = tool.filter(|_| is_call);
        (tool.is_some() || !is_call).then_some(Self { method, tool })
    }
}

/// Why two readers could read one request differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ambiguity {
    /// Host, method or path are not known, or stand there twice.
    Incomplete,
    /// The host is none that can be understood.
    Host,
    /// The method is not in capitals, as all are that there are.
    Method,
    /// The path does not begin with `/`.
    NoSlash,
    /// It holds `\`.
    Backslash,
    /// It holds `;`.
    Semicolon,
    /// It holds `#`.
    Hash,
    /// It holds a space, a control character or one beyond ASCII.
    Unprintable,
    /// It holds a `%` that two hexadecimal digits do not follow.
    BadEscape,
    /// It holds `/` as an escape.
    EscapedSlash,
    /// It holds as an escape what it may not hold plainly either.
    EscapedSpecial,
    /// It holds an escape that stands for a part of another.
    EscapedTwice,
    /// Its escapes are not UTF-8.
    NotUtf8,
    /// It holds `//`.
    EmptySegment,
    /// It holds `.` or `..` as a segment.
    DotSegment,
}

impl Ambiguity {
    /// What is ambiguous, as a clause.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "the host, the method or the path is not known",
            Self::Host => "the host is not one that can be understood",
            Self::Method => "the method is not in capitals",
            Self::NoSlash => "the path does not begin with `/`",
            Self::Backslash => "the path holds `\\`",
            Self::Semicolon => "the path holds `;`",
            Self::Hash => "the path holds `#`",
            Self::Unprintable => {
                "the path holds a space, a control character or one beyond ASCII that is not escaped"
            }
            Self::BadEscape => "the path holds a `%` that two hexadecimal digits do not follow",
            Self::EscapedSlash => "the path holds an escaped `/` (`%2f`)",
            Self::EscapedSpecial => {
                "the path holds an escaped `\\`, `;`, `#`, `?` or control character (as `%5c` or `%00`)"
            }
            Self::EscapedTwice => "the path holds an escaped escape (as `%252f`)",
            Self::NotUtf8 => "the path holds escapes that are not UTF-8",
            Self::EmptySegment => "the path holds `//`",
            Self::DotSegment => "the path holds the segment `.` or `..`, escaped or not",
        }
    }

    const fn of_byte(byte: u8) -> Self {
        match byte {
            b'\\' => Self::Backslash,
            b';' => Self::Semicolon,
            b'#' => Self::Hash,
            _ => Self::Unprintable,
        }
    }
}

impl<'a> Target<'a> {
    /// A request of which is not known what it is for.
    pub const INCOMPLETE: Self = Self(Err(Ambiguity::Incomplete));

    /// A request by its `Host`, its method and the target of its request line, query included. The target is split at
    /// the first `?`, and never read as a URL.
    ///
    /// A path is ambiguous, and denied whatever the rules say, when proxies and servers are known to disagree on it:
    /// it holds `\`, `;`, `#`, control characters or characters beyond ASCII, an escape that is none or that stands for
    /// one of those, for `/`, for `?` or for an escape; or `//`, `.` or `..` as a segment, escaped or not. So is a method
    /// that is not in capitals: some servers take `delete` for `DELETE`.
    #[must_use]
    pub fn new(host: &'a str, method: &'a str, target: &'a str, mcp: Option<Mcp<'a>>) -> Self {
        Self(Clear::read(host, method, target, mcp))
    }

    /// The request, if it has one reading.
    pub(super) fn clear(&self) -> Result<&Clear<'a>, Ambiguity> {
        self.0.as_ref().map_err(|ambiguity| *ambiguity)
    }
}

impl<'a> Clear<'a> {
    fn read(
        host: &'a str,
        method: &'a str,
        target: &'a str,
        mcp: Option<Mcp<'a>>,
    ) -> Result<Self, Ambiguity> {
        let host = host_name(host).ok_or(Ambiguity::Host)?;
        if !is_method(method) {
            return Err(Ambiguity::Method);
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Ok(Self { host, method, path: decoded(path)?, mcp })
    }
}

/// Whether it is a method, in capitals as all are that there are.
pub(super) fn is_method(text: &str) -> bool {
    (1..=METHOD_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
}

/// A host in lower case, without its port and without the dot of the root; an address of IPv6 in its one short form.
pub(super) fn host_name(host: &str) -> Option<Cow<'_, str>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => host.get(..rest.find(']')? + 2)?,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let port = &host[name.len()..];
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if !is_port {
        return None;
    }
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse().ok().map(|address: Ipv6Addr| format!("[{address}]").into());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_plain)) {
        return None;
    }
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if is_lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) })
}

/// The path as a server reads it, or why two servers could read it differently.
fn decoded(path: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if !path.starts_with('/') {
        return Err(Ambiguity::NoSlash);
    }
    if let Some(byte) = path.bytes().find(|byte| !is_plain(*byte)) {
        return Err(Ambiguity::of_byte(byte));
    }
    let decoded =
        if path.contains('%') { Cow::Owned(unescaped(path)?) } else { Cow::Borrowed(path) };
    check_segments(&decoded)?;
    Ok(decoded)
}

/// Only the last segment may be empty, and none may lead elsewhere.
pub(super) fn check_segments(path: &str) -> Result<(), Ambiguity> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if matches!(segment, "." | "..") {
            return Err(Ambiguity::DotSegment);
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err(Ambiguity::EmptySegment);
        }
    }
    Ok(())
}

/// Whether all readers take this byte of a path for itself.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br"\;#".contains(&byte)
}

fn unescaped(path: &str) -> Result<String, Ambiguity> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(Ambiguity::BadEscape)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex);
        match byte.ok_or(Ambiguity::BadEscape)? {
            b'/' => return Err(Ambiguity::EscapedSlash),
            // Decoded before it is split, the path would end here.
            b'?' => return Err(Ambiguity::EscapedSpecial),
            byte if byte >= 0x80 || byte == b' ' || is_plain(byte) => bytes.push(byte),
            _ => return Err(Ambiguity::EscapedSpecial),
        }
        bytes.extend_from_slice(rest.as_bytes());
    }
    // A second decoding must find nothing.
    let is_escape = |part: &[u8]| part[0] == b'%' && part[1..].iter().all(u8::is_ascii_hexdigit);
    if bytes.windows(3).any(is_escape) {
        return Err(Ambiguity::EscapedTwice);
    }
    String::from_utf8(bytes).map_err(|_| Ambiguity::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Why it is ambiguous, if it is.
    fn why(host: &str, method: &str, target: &str) -> Option<Ambiguity> {
        Target::new(host, method, target, None).clear().err()
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_told() {
        for path in [
            "",
            "a",
            "*",
            "//",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/.",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a%00b",
            "/a%0a",
            "/a%7f",
            "/a\tb",
            "/a b",
            "/ä",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/a%252f",
            "/%25%32%66",
            "/a#b",
            "/a%23b",
            "/a%3fb",
            "/a%ff",
            "http://a/b",
        ] {
            assert!(why("a.b", "GET", path).is_some(), "{path}");
        }
        for (path, told) in [
            ("a", Ambiguity::NoSlash),
            ("/a\\b", Ambiguity::Backslash),
            ("/a;b", Ambiguity::Semicolon),
            ("/a#b", Ambiguity::Hash),
            ("/ä", Ambiguity::Unprintable),
            ("/a%zz", Ambiguity::BadEscape),
            ("/a%2Fb", Ambiguity::EscapedSlash),
            ("/a%5c", Ambiguity::EscapedSpecial),
            ("/a%3F", Ambiguity::EscapedSpecial),
            ("/a%252f", Ambiguity::EscapedTwice),
            ("/a%ff", Ambiguity::NotUtf8),
            ("/a//b", Ambiguity::EmptySegment),
            ("/a/.%2e/b", Ambiguity::DotSegment),
        ] {
            assert_eq!(why("a.b", "GET", path), Some(told), "{path}");
        }
        for path in ["/", "/a/", "/...", "/a%20b", "/a%40b", "/%c3%a4", "/100%25", "/a?//..;%2f"] {
            assert_eq!(why("a.b", "GET", path), None, "{path}");
        }
        assert_eq!(Target::INCOMPLETE.clear().err(), Some(Ambiguity::Incomplete));
    }

    #[test]
    fn a_host_that_could_be_read_in_two_ways_is_told() {
        for host in [
            "", ":80", "a:b", "a,b", "a b", "u@h", "[::1", "[::1]x", "a/b", "ä", ".", "..", ".a.b",
            "a..b", "a.b..", "[", "[]", "[a.b]", "a]b", "a[b", "[::1%1]", "::1", "*",
        ] {
            assert_eq!(why(host, "GET", "/"), Some(Ambiguity::Host), "{host}");
        }
        for (host, name) in [
            ("a.b", "a.b"),
            ("A.b.", "a.b"),
            ("a.b:80", "a.b"),
            ("a.b:", "a.b"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("[0:0::0001]", "[::1]"),
            ("[2001:DB8::7]", "[2001:db8::7]"),
            ("xn--bcher-kva.b", "xn--bcher-kva.b"),
            ("_x.a-b", "_x.a-b"),
            ("192.0.2.1:1", "192.0.2.1"),
        ] {
            assert_eq!(host_name(host).as_deref(), Some(name), "{host}");
        }
    }

    #[test]
    fn a_method_that_could_be_read_in_two_ways_is_told() {
        for method in ["DELETE", "M-SEARCH"] {
            assert_eq!(why("a", method, "/"), None, "{method}");
        }
        for method in ["delete", "Delete", "DELETE ", ""] {
            assert_eq!(why("a", method, "/"), Some(Ambiguity::Method), "{method}");
        }
    }

    #[test]
    fn a_call_of_a_tool_is_seen_with_its_tool_or_not_at_all() {
        let mcp = |method, tool| Some(Mcp { method, tool });
        assert_eq!(Mcp::seen(Some("tools/call"), None), None);
        assert_eq!(Mcp::seen(Some("prompts/get"), Some("x")), mcp("prompts/get", None));
        assert_eq!(Mcp::seen(Some("tools/call"), Some("x")), mcp("tools/call", Some("x")));
        assert_eq!(Mcp::seen(None, Some("x")), None);
    }

    proptest! {
        /// What is compared is what any server makes of the path: decoded once or not at all, it has the same
        /// segments, and none that leads elsewhere.
        #[test]
        fn a_path_that_is_compared_has_one_reading(
            path in "/([a-c/.;%2fFeE5c0\\\\]|%2e|%2f|%61|%25){0,12}",
        ) {
            if let Ok(decoded) = decoded(&path) {
                let segments = |text: &str| text.matches('/').count();
                prop_assert_eq!(segments(&path), segments(&decoded));
                prop_assert!(!decoded.contains("//") && !decoded.contains(['\\', ';', '\0']));
                prop_assert!(!decoded.split('/').any(|it| it == "." || it == ".."));
                if path.contains('%') && !path.contains("%25") {
                    prop_assert!(!decoded.contains('%'));
                }
            }
        }
    }
}

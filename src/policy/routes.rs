//! Rules made ready to choose by: the first in the list that matches a request answers.
//!
//! Requests are compared by their decoded path. What two readers of one path could read differently is not
//! compared at all, but denied: see [`Target::new`].

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::rule::{Rule, RuleMode, is_method};
use crate::error::Violations;
use crate::scope::expression::{Expression, Resolve};
use crate::token::Environment;

/// The rules of a policy.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

/// One rule, ready to be compared.
#[derive(Debug)]
pub struct Route {
    /// What logs and answers call it.
    pub name: Arc<str>,
    /// What the request needs.
    pub needs: Needs,
    /// The environment that the key must belong to.
    pub environment: Option<Environment>,
    /// What the request counts; `None` means the highest cost of the scopes named.
    pub cost: Option<u32>,
    /// Whether a denial is only counted and logged.
    pub is_observed: bool,
    hosts: Vec<HostPattern>,
    methods: Vec<String>,
    path: Option<PathPattern>,
    mcp_methods: Vec<String>,
    mcp_tools: Vec<String>,
}

/// What a request needs.
#[derive(Debug)]
pub enum Needs {
    /// A key that may do this.
    Scope(Arc<Expression>),
    /// A key, whatever it may do.
    AuthenticateOnly,
    /// Nothing.
    Public,
    /// Nothing helps.
    Deny,
}

/// What the rules say of a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// This rule is the first that matches.
    Rule(&'a Route),
    /// This rule would be the first that matches, but goes by what the request says in the Model Context Protocol,
    /// and that is not known. What comes after it is not looked at: it could be meant for less. One that is only
    /// observed is passed over, unless none comes after it.
    Blind(&'a Route),
    /// None matches.
    NoRule,
    /// The host, the method or the path could be read in two ways, for this reason.
    Ambiguous(Ambiguity),
}

/// What an answer comes to, before any key is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    /// The key decides: it is a rule that needs one.
    Key(&'a Route),
    /// Everybody passes.
    Open(&'a Route),
    /// Nobody passes; by this rule, if by one.
    Closed(Option<&'a Route>),
}

impl<'a> Answer<'a> {
    /// What it comes to.
    #[must_use]
    pub const fn gate(self) -> Gate<'a> {
        match self {
            Self::Rule(route) => match route.needs {
                Needs::Scope(_) | Needs::AuthenticateOnly => Gate::Key(route),
                Needs::Public => Gate::Open(route),
                Needs::Deny => Gate::Closed(Some(route)),
            },
            Self::Blind(route) => Gate::Closed(Some(route)),
            Self::NoRule | Self::Ambiguous(_) => Gate::Closed(None),
        }
    }
}

/// Why two readers could read one host, one method or one path differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ambiguity {
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

// === Requests ===

/// A request, as far as rules go by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// In lower case, without a port.
    host: Option<Cow<'a, str>>,
    method: &'a str,
    /// Decoded, without the query.
    path: Result<Cow<'a, str>, Ambiguity>,
    mcp: Option<Mcp<'a>>,
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

impl<'a> Target<'a> {
    /// A request by its `Host`, its method and the target of its request line, query included. The target is split at
    /// the first `?`, and never read as a URL.
    ///
    /// A path is ambiguous, and denied whatever the rules say, when proxies and servers are known to disagree on it:
    /// it holds `\`, `;`, `#`, control characters or characters beyond ASCII, an escape that is none or that stands for
    /// one of those, for `/`, for `?` or for an escape; or `//`, `.` or `..` as a segment, escaped or not. So is a method
    /// that is not in capitals: some servers take `delete` for `DELETE`.
    #[must_use]
    pub fn new(host: &'a str, method: &'a str, target: &'a str, mcp: Option<Mcp<'a>>) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Self { host: host_name(host), method, path: decoded(path), mcp }
    }
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
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if matches!(segment, "." | "..") {
            return Err(Ambiguity::DotSegment);
        }
        if segment.is_empty() && segments.peek().is_some() {
            return Err(Ambiguity::EmptySegment);
        }
    }
    Ok(decoded)
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

// === Patterns ===

/// `/v1/items/{id}` or `/v1/{*rest}`.
#[derive(Debug)]
pub struct PathPattern {
    /// What stands before the first parameter: most paths differ in it.
    start: String,
    router: matchit::Router<()>,
}

impl PathPattern {
    /// Reads a pattern; the error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("must begin with `/`".into());
        }
        if text.contains(['%', '?', '#', ';', '\\', ' ']) {
            return Err(
                "is compared with decoded paths: it may hold no `%`, `?`, `#`, `;`, `\\` or space"
                    .into(),
            );
        }
        let mut segments = text.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            if matches!(segment, "." | "..") || (segment.is_empty() && segments.peek().is_some()) {
                return Err(
                    "may have no `.`, `..` or empty segment: such paths are always denied".into()
                );
            }
        }
        let mut router = matchit::Router::new();
        router.insert(text, ()).map_err(|_| {
            "must be as `/v1/items/{id}`, where `{id}` is one segment, or `/v1/{*rest}`, where `{*rest}` is all that \
             follows"
        })?;
        let start = text.split(['{', '}']).next().unwrap_or_default().to_owned();
        Ok(Self { start, router })
    }

    fn matches(&self, path: &str) -> bool {
        path.starts_with(&self.start) && self.router.at(path).is_ok()
    }
}

#[derive(Debug)]
enum HostPattern {
    Exactly(String),
    /// What follows the `*`, its dot included.
    Below(String),
}

impl HostPattern {
    fn read(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some(end) => Self::Below(end.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exactly(name) => name == host,
            Self::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        }
    }
}

// === Choosing ===

impl Routes {
    /// Compiles rules that were found right by themselves; scopes are resolved in this catalogue.
    pub(super) fn compile(
        rules: &[Rule],
        catalogue: &impl Resolve,
        prefix: &str,
        violations: &mut Violations,
    ) -> Self {
        let compile = |(index, rule): (usize, &Rule)| {
            let needs = match &rule.required_scope {
                Some(text) => {
                    let field = format!("{prefix}rules[{index}].required_scope");
                    let expression = violations.check(field, Expression::parse(text, catalogue))?;
                    Needs::Scope(Arc::new(expression))
                }
                None if rule.authenticate_only => Needs::AuthenticateOnly,
                None if rule.public => Needs::Public,
                None => Needs::Deny,
            };
            let path = match rule.path.as_str() {
                "" => None,
                text => {
                    let field = format!("{prefix}rules[{index}].path");
                    Some(violations.check(field, PathPattern::parse(text))?)
                }
            };
            Some(Route {
                name: rule.name.as_str().into(),
                needs,
                environment: rule.required_environment,
                cost: rule.cost,
                is_observed: rule.mode == RuleMode::Observe,
                hosts: rule.hosts.iter().map(|host| HostPattern::read(host)).collect(),
                methods: rule.methods.clone(),
                path,
                mcp_methods: rule.mcp_methods.clone(),
                mcp_tools: rule.mcp_tools.clone(),
            })
        };
        Self(rules.iter().enumerate().filter_map(compile).collect())
    }

    /// What the rules say of this request.
    #[must_use]
    pub fn answer(&self, target: &Target<'_>) -> Answer<'_> {
        let Some(host) = target.host.as_deref() else {
            return Answer::Ambiguous(Ambiguity::Host);
        };
        if !is_method(target.method) {
            return Answer::Ambiguous(Ambiguity::Method);
        }
        let path = match &target.path {
            Ok(path) => path,
            Err(ambiguity) => return Answer::Ambiguous(*ambiguity),
        };
        let mut unseen = None;
        for route in self.0.iter().filter(|route| route.matches(target, host, path)) {
            if target.mcp.is_some() || !route.goes_by_mcp() {
                return Answer::Rule(route);
            }
            // One that is only observed opens nothing that one after it closes: it may not be the one that is meant.
            if !route.is_observed {
                return Answer::Blind(route);
            }
            unseen.get_or_insert(route);
        }
        unseen.map_or(Answer::NoRule, Answer::Blind)
    }
}

impl Route {
    fn matches(&self, target: &Target<'_>, host: &str, path: &str) -> bool {
        let is_any_of =
            |list: &[String], word: &str| list.is_empty() || list.iter().any(|it| it == word);
        is_any_of(&self.methods, target.method)
            && (self.hosts.is_empty() || self.hosts.iter().any(|it| it.matches(host)))
            && self.path.as_ref().is_none_or(|pattern| pattern.matches(path))
            // One that goes by what is not known is taken for a match: what comes after it could ask for less.
            && target.mcp.is_none_or(|mcp| {
                is_any_of(&self.mcp_methods, mcp.method)
                    && (self.mcp_tools.is_empty()
                        || mcp.tool.is_some_and(|tool| is_any_of(&self.mcp_tools, tool)))
            })
    }

    fn goes_by_mcp(&self) -> bool {
        !self.mcp_methods.is_empty() || !self.mcp_tools.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Catalogue, Policy};

    fn catalogue(rules: &str) -> Catalogue {
        let policy = Policy::from_toml(&format!("{}\n{rules}", Policy::default().to_toml()));
        Catalogue::compile(policy.unwrap(), "").unwrap()
    }

    /// The name of the rule that answers; `!` before it when it cannot see what it goes by.
    fn answer(catalogue: &Catalogue, target: &Target<'_>) -> String {
        match catalogue.routes().answer(target) {
            Answer::Rule(route) => route.name.to_string(),
            Answer::Blind(route) => format!("!{}", route.name),
            Answer::NoRule => "none".into(),
            Answer::Ambiguous(_) => "ambiguous".into(),
        }
    }

    fn get<'a>(host: &'a str, path: &'a str) -> Target<'a> {
        Target::new(host, "GET", path, None)
    }

    #[test]
    fn the_first_rule_that_matches_answers() {
        assert_eq!(answer(&catalogue(""), &get("a.b", "/")), "none");
        let catalogue = catalogue(
            r#"
            [[rules]]
            name = "health"
            path = "/health"
            public = true
            [[rules]]
            name = "own"
            hosts = ["api.example.com", "*.example.org"]
            methods = ["GET", "HEAD"]
            path = "/v1/items/{id}"
            required_scope = "memory:read"
            [[rules]]
            name = "special"
            path = "/v1/items/special"
            deny = true
            [[rules]]
            name = "rest"
            path = "/v1/{*rest}"
            authenticate_only = true
            "#,
        );
        for (method, host, target, rule) in [
            ("GET", "a.b", "/health", "health"),
            ("GET", "a.b", "/health?x=/v1/items", "health"),
            ("GET", "a.b", "/health/", "none"),
            ("GET", "API.example.com.:8080", "/v1/items/7", "own"),
            ("HEAD", "x.y.example.org", "/v1/items/special", "own"),
            ("GET", "example.org", "/v1/items/special", "special"),
            ("POST", "api.example.com", "/v1/items/7", "rest"),
            ("GET", "api.example.com", "/v1/%69tems/7", "own"),
            ("GET", "a.b", "/v1/items/%73pecial", "special"),
            ("GET", "a.b", "/v1/items/7/more", "rest"),
            ("GET", "a.b", "/v1/", "none"),
            ("GET", "a.b", "/V1/items/7", "none"),
        ] {
            let target = Target::new(host, method, target, None);
            assert_eq!(answer(&catalogue, &target), rule, "{target:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_told() {
        let catalogue = catalogue("[[rules]]\nname = \"all\"\npublic = true\n");
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
            assert_eq!(answer(&catalogue, &get("a.b", path)), "ambiguous", "{path}");
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
            let target = get("a.b", path);
            let answer = catalogue.routes().answer(&target);
            assert!(matches!(answer, Answer::Ambiguous(is) if is == told), "{path}: {answer:?}");
        }
        for path in ["/", "/a/", "/...", "/a%20b", "/a%40b", "/%c3%a4", "/100%25", "/a?//..;%2f"] {
            assert_eq!(answer(&catalogue, &get("a.b", path)), "all", "{path}");
        }
    }

    #[test]
    fn a_host_or_a_method_that_could_be_read_in_two_ways_is_told() {
        let catalogue = catalogue(
            "[[rules]]\nname = \"no\"\nhosts = [\"a.b\", \"[::1]\"]\ndeny = true\n\
             [[rules]]\nname = \"no-delete\"\nmethods = [\"DELETE\"]\ndeny = true\n\
             [[rules]]\nname = \"all\"\npublic = true\n",
        );
        for host in [
            "", ":80", "a:b", "a,b", "a b", "u@h", "[::1", "[::1]x", "a/b", "ä", ".", "..", ".a.b",
            "a..b", "a.b..", "[", "[]", "[a.b]", "a]b", "a[b", "[::1%1]", "::1", "*",
        ] {
            assert_eq!(answer(&catalogue, &get(host, "/")), "ambiguous", "{host}");
        }
        for host in ["a.b", "A.b.", "a.b:80", "a.b:", "[::1]", "[::1]:80", "[0:0::0001]"] {
            assert_eq!(answer(&catalogue, &get(host, "/")), "no", "{host}");
        }
        for host in ["a", "a.b.c", "xn--bcher-kva.b", "_x.a-b", "192.0.2.1:1", "[2001:DB8::7]"] {
            assert_eq!(answer(&catalogue, &get(host, "/")), "all", "{host}");
        }
        for (method, rule) in [
            ("DELETE", "no-delete"),
            ("M-SEARCH", "all"),
            ("delete", "ambiguous"),
            ("Delete", "ambiguous"),
            ("DELETE ", "ambiguous"),
            ("", "ambiguous"),
        ] {
            let target = Target::new("a", method, "/", None);
            assert_eq!(answer(&catalogue, &target), rule, "{method}");
        }
    }

    #[test]
    fn one_url_with_many_tools_has_a_rule_for_each() {
        let catalogue = catalogue(
            r#"
            [[rules]]
            name = "listen"
            methods = ["GET"]
            path = "/mcp"
            authenticate_only = true
            [[rules]]
            name = "store"
            path = "/mcp"
            mcp_tools = ["memory_store"]
            required_scope = "memory:write"
            [[rules]]
            name = "list"
            path = "/mcp"
            mcp_methods = ["tools/list", "initialize"]
            authenticate_only = true
            [[rules]]
            name = "rest"
            public = true
            "#,
        );
        let mcp = |method, tool| Some(Mcp { method, tool });
        for (mcp, rule) in [
            (mcp("tools/call", Some("memory_store")), "store"),
            (mcp("tools/list", None), "list"),
            (mcp("tools/call", Some("other")), "rest"),
            (mcp("tools/call", None), "rest"),
            (None, "!store"),
        ] {
            assert_eq!(answer(&catalogue, &Target::new("a", "POST", "/mcp", mcp)), rule, "{mcp:?}");
        }
        assert_eq!(answer(&catalogue, &get("a", "/mcp")), "listen");
        assert_eq!(Mcp::seen(Some("tools/call"), None), None);
        assert_eq!(Mcp::seen(Some("prompts/get"), Some("x")), mcp("prompts/get", None));
        assert_eq!(Mcp::seen(Some("tools/call"), Some("x")), mcp("tools/call", Some("x")));
        assert_eq!(Mcp::seen(None, Some("x")), None);
        assert_eq!(answer(&catalogue, &get("a", "/other")), "rest");
    }

    #[test]
    fn a_rule_that_is_only_observed_and_sees_nothing_opens_nothing() {
        let observed =
            "[[rules]]\nname = \"new\"\nmcp_tools = [\"new\"]\ndeny = true\nmode = \"observe\"\n";
        let closed = "[[rules]]\nname = \"old\"\nmcp_tools = [\"old\"]\nauthenticate_only = true\n";
        let rest = "[[rules]]\nname = \"rest\"\npath = \"/mcp\"\nauthenticate_only = true\n";
        for (rules, answers) in [
            (vec![observed], "!new"),
            (vec![observed, closed], "!old"),
            (vec![observed, rest], "rest"),
            (vec![observed, closed, rest], "!old"),
        ] {
            let catalogue = catalogue(&rules.concat());
            let target = Target::new("a", "POST", "/mcp", None);
            assert_eq!(answer(&catalogue, &target), answers, "{rules:?}");
            let mcp = Some(Mcp { method: Mcp::CALL, tool: Some("new") });
            assert_eq!(answer(&catalogue, &Target::new("a", "POST", "/mcp", mcp)), "new");
        }
    }

    #[test]
    fn a_scope_that_there_is_not_is_told_by_its_rule() {
        let rules = "[[rules]]\nname = \"a\"\nrequired_scope = \"memory:reed\"\n";
        let policy = Policy::from_toml(&format!("{}\n{rules}", Policy::default().to_toml()));
        let error = Catalogue::compile(policy.unwrap(), "policy.").unwrap_err().to_string();
        assert!(error.contains("policy.rules[0].required_scope"), "{error}");
        assert!(error.contains("did you mean `memory:read`?"), "{error}");
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

        /// Escapes change nothing: whoever escapes a letter comes to the same rule, or to none.
        #[test]
        fn escaping_a_letter_leads_nowhere_else(at in 1_usize..9) {
            let catalogue = catalogue(
                "[[rules]]\nname = \"no\"\npath = \"/admin/it\"\ndeny = true\n\
                 [[rules]]\nname = \"all\"\npublic = true\n",
            );
            let path = "/admin/it";
            let escaped = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
            let answer = answer(&catalogue, &get("a", &escaped));
            prop_assert!(answer == "no" || (answer == "ambiguous" && path.as_bytes()[at] == b'/'));
        }
    }
}

//! The requests that every proxy is sent, good ones and attacks.

use std::borrow::Cow;

use super::envoy::{call, mcp, sandbox};
use super::program::Program;
use super::stage::{By, Keys};
use crate::gateways::forward_auth::UNKNOWN;

/// What has to come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The upstream sees it as it was sent, with the identity and without the secret.
    Passed,
    /// With this status and its challenge; the upstream sees nothing.
    Refused(u16),
    /// The upstream sees nothing, however the client is told.
    Stopped,
    /// Either; what passes is right in everything.
    PassedOrStopped,
    /// The upstream sees nothing. Where the proxy cleans paths before it asks, it may see one below `/items/` that every
    /// server reads alike.
    StoppedOrCleaned,
}

/// Where a request has to get to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    Production,
    Sandbox,
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    host: &'static str,
    headers: Vec<String>,
    pub(super) body: Cow<'static, str>,
    is_chunked: bool,
    pub(super) upstream: Upstream,
    /// Whether it counts nothing, whoever asks.
    pub(super) is_free: bool,
    pub(super) expected: Expected,
}

impl Request {
    pub(super) fn of(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            host: "api.example.com",
            headers: Vec::new(),
            body: Cow::Borrowed(""),
            is_chunked: false,
            upstream: Upstream::Production,
            is_free: false,
            expected: Expected::Passed,
        }
    }

    pub(super) fn get(target: &str) -> Self {
        Self::of("GET", target)
    }

    /// One that a key that may read may ask, as far as this example is concerned.
    pub(super) fn plain(by: By) -> Self {
        match by {
            By::Mcp => Self::mcp(&call("memory_recall")),
            By::Scopes | By::Rules | By::Sandbox => Self::get("/items/7"),
        }
    }

    pub(super) fn key(self, token: &str) -> Self {
        self.header(&format!("authorization: Bearer {token}"))
    }

    /// As it goes over the wire.
    pub(super) fn header(mut self, line: &str) -> Self {
        self.headers.push(line.to_owned());
        self
    }

    fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    pub(super) fn body(self, body: impl Into<Cow<'static, str>>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(super) fn in_chunks(self) -> Self {
        Self { is_chunked: true, ..self }
    }

    pub(super) fn at(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    pub(super) fn free(self) -> Self {
        Self { is_free: true, ..self }
    }

    pub(super) fn sandboxed(self) -> Self {
        Self { upstream: Upstream::Sandbox, ..self }
    }

    pub(super) fn refused(self, status: u16) -> Self {
        Self { expected: Expected::Refused(status), ..self }
    }

    pub(super) fn stopped(self) -> Self {
        Self { expected: Expected::Stopped, ..self }
    }

    fn stopped_or_cleaned(self) -> Self {
        Self { expected: Expected::StoppedOrCleaned, ..self }
    }

    pub(super) fn passed_or_stopped(self) -> Self {
        Self { expected: Expected::PassedOrStopped, ..self }
    }

    /// The same, where this proxy has a way of its own: Envoy turns away names with `_`.
    pub(super) fn before(self, program: Program) -> Self {
        let has_underscore =
            |header: &String| header.split(':').next().is_some_and(|name| name.contains('_'));
        let is_turned_away = program == Program::Envoy && self.headers.iter().any(has_underscore);
        if is_turned_away { self.stopped() } else { self }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { method, target, host, headers, body, is_chunked, .. } = self;
        let mut head = vec![format!("{method} {target} HTTP/1.1"), format!("Host: {host}")];
        head.extend(headers.iter().cloned());
        // Only one header of this name, so that a request may bring its own.
        if !headers.iter().any(|header| header.starts_with("Connection:")) {
            head.push("Connection: close".to_owned());
        }
        let body = match (is_chunked, body.len()) {
            (true, length) => {
                head.push("Transfer-Encoding: chunked".to_owned());
                format!("{length:x}\r\n{body}\r\n0\r\n\r\n")
            }
            (false, 0) => String::new(),
            (false, length) => {
                head.push(format!("Content-Length: {length}"));
                body.clone().into_owned()
            }
        };
        format!("{}\r\n\r\n{body}", head.join("\r\n")).into_bytes()
    }

    pub(super) fn mentions(&self, token: &str) -> bool {
        self.headers.iter().any(|header| header.contains(token))
    }

    /// Whether anybody may ask it, and is nobody then.
    pub(super) fn is_public(&self) -> bool {
        self.target == "/health"
    }
}

/// All of them.
pub(super) fn requests(by: By, keys: &Keys) -> Vec<Request> {
    match by {
        By::Mcp => return [mcp(keys), spoofing(by, keys)].concat(),
        By::Sandbox => return [sandbox(keys), spoofing(by, keys)].concat(),
        By::Scopes | By::Rules => {}
    }
    let mut all = honest(keys);
    all.extend(without_a_right(keys));
    all.extend(spoofing(by, keys));
    all.extend(forwarded(keys));
    all.extend(ambiguous(keys));
    all.extend(addresses(keys));
    if by == By::Rules {
        all.extend(by_rules(keys));
    }
    all
}

pub(super) fn while_latchkey_is_away(by: By, Keys { reader, .. }: &Keys) -> Vec<Request> {
    let plain = Request::plain(by);
    let mut all = vec![plain.clone().key(reader).refused(503), plain.refused(503)];
    if matches!(by, By::Scopes | By::Rules) {
        all.push(Request::of("POST", "/items/7").key(reader).body("x").refused(503));
        all.push(Request::of("HEAD", "/items/7").key(reader).refused(503));
    }
    all
}

fn honest(Keys { reader, admin, .. }: &Keys) -> Vec<Request> {
    vec![
        Request::get("/items/7?a=b&c=%2F..;").key(reader),
        Request::get("/items/7").header(&format!("x-api-key: {reader}")),
        Request::get("/items/7").header(&format!("X-API-Key: {reader}")),
        Request::get("/items/7").header(&format!("AUTHORIZATION: bearer {reader}")),
        Request::get("/admin/7").key(admin),
        Request::get("/items/7").host("api.example.com:8000").key(reader),
        Request::of("POST", "/items/7").key(reader).body("{\"a\": 1}"),
        Request::of("POST", "/items/7").key(reader).body("in chunks").in_chunks(),
        Request::of("DELETE", "/admin/7").key(admin),
        Request::get("http://api.example.com/items/7").key(reader).passed_or_stopped(),
    ]
}

fn without_a_right(Keys { reader, .. }: &Keys) -> Vec<Request> {
    vec![
        Request::get("/items/7").refused(401),
        Request::get("/items/7").key(UNKNOWN).refused(401),
        Request::get("/items/7").key("nonsense").refused(401),
        Request::get("/items/7").header("Authorization: Basic eDp4").refused(401),
        Request::get("/items/7").key(reader).header(&format!("x-api-key: {reader}")).refused(401),
        Request::get("/items/7").key(reader).key(UNKNOWN).passed_or_stopped(),
        Request::get("/items/7").key(UNKNOWN).key(reader).stopped(),
        Request::of("POST", "/items/7").body("a=b").refused(401),
        Request::of("HEAD", "/items/7").refused(401),
        Request::get("/admin/7").key(reader).refused(403),
        Request::of("POST", "/admin/7").key(reader).body("a=b").refused(403),
        Request::of("HEAD", "/admin/7").key(reader).refused(403),
        Request::get("/elsewhere").key(reader).stopped(),
        Request::get("/").stopped(),
        // What the proxies have beside the API.
        Request::get("/_latchkey").key(reader).stopped(),
        Request::get("/_latchkey/items").key(reader).stopped(),
        Request::get("/v1/forward-auth?scope=memory:read").key(reader).stopped(),
    ]
}

/// A client that says who it is.
fn spoofing(by: By, Keys { reader, .. }: &Keys) -> Vec<Request> {
    let plain = || Request::plain(by);
    let names = ["Account-Id", "Key-Id", "Environment", "Scopes", "Plan", "Billable"];
    let spelled = |spell: fn(&str) -> String| {
        let spoof = |request: Request, name: &&str| {
            request.header(&format!("{}: evil", spell(&format!("X-Latchkey-{name}"))))
        };
        names.iter().fold(plain(), spoof)
    };
    let spellings: [fn(&str) -> String; 9] = [
        str::to_owned,
        str::to_lowercase,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replace('-', ".").to_lowercase(),
        |name| name.replace("y-", "y_"),
        |name| name.replace("X-", "X_").to_uppercase(),
        |name| name.replace('-', "~"),
        |name| name.replace("X-", "X!"),
    ];
    let mut all = Vec::new();
    for spell in spellings {
        all.push(spelled(spell).key(reader));
        all.push(spelled(spell).refused(401));
    }
    // Headers that this one names are for the next server only: what the proxy sets is not the client's to take away.
    for taken in
        ["X-Latchkey-Account-Id, X-Latchkey-Scopes", "X-Forwarded-Uri, Host", "Authorization"]
    {
        let connection = format!("Connection: close, {taken}");
        all.push(plain().header(&connection).key(reader).passed_or_stopped());
    }
    for header in ["X-Forwarded-For: 192.0.2.7", "X-Original-Url: /", "X-Rewrite-Url: /"] {
        all.push(plain().header(header).key(reader));
    }
    all
}

/// A client that says what it asked.
fn forwarded(Keys { reader, .. }: &Keys) -> Vec<Request> {
    let mut all = Vec::new();
    for header in [
        "X-Forwarded-Method: GET",
        "X-Forwarded-Uri: /items/7",
        "X-Forwarded-Host: api.example.com",
        "X-Forwarded-For: 192.0.2.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Prefix: /items",
        "X-Forwarded-Port: 443",
        "Forwarded: for=192.0.2.7;host=api.example.com",
        "X-Original-Method: GET",
        "X-Original-Uri: /items/7",
        "X-Original-Host: api.example.com",
        "X-Original-Url: /items/7",
        "X-Rewrite-Url: /items/7",
        "X_Forwarded_Uri: /items/7",
        "X_Original_Uri: /items/7",
        "x-forwarded-uri: /health",
        "x-original-uri: /health",
    ] {
        let stays = Request::get("/items/7").header(header);
        all.push(stays.clone().key(reader));
        all.push(stays.refused(401));
        let denied = Request::of("DELETE", "/admin/7").header(header);
        all.push(denied.clone().key(reader).refused(403));
        all.push(denied.refused(401));
    }
    all
}

/// Paths that one server reads otherwise than another.
fn ambiguous(Keys { reader, .. }: &Keys) -> Vec<Request> {
    let paths = [
        "/items/../admin/7",
        "/items/%2e%2e/admin/7",
        "/items/.%2E/admin/7",
        "/items/..%2fadmin/7",
        "/items%2f..%2fadmin/7",
        "/items/..;/admin/7",
        "/items/..;x=y/admin/7",
        "/items/;/../admin/7",
        "/items/..\\admin/7",
        "/items/%5c../admin/7",
        "/items/..%5cadmin/7",
        "/items/%252e%252e/admin/7",
        "/items/%00",
        "/items//7",
        "//admin/7",
        "//items/7",
        "/items/./7",
        "/items/..",
        "/items/7#/../../admin/7",
        "/items/%23",
        "/%61dmin/7",
        "/admin%2f7",
        "/ADMIN/7",
        "/admin/7/../../items/7",
        "/admin;/7",
        "admin/7",
        "*",
    ];
    paths.map(|path| Request::get(path).key(reader).stopped_or_cleaned()).to_vec()
}

/// Keys that are bound to networks, and a client that says where it is.
fn addresses(Keys { here, elsewhere, .. }: &Keys) -> Vec<Request> {
    let mut all = vec![
        Request::get("/items/7").key(here),
        Request::get("/items/7").key(here).header("X-Forwarded-For: 203.0.113.9"),
        Request::get("/items/7").key(elsewhere).refused(403),
    ];
    for header in ["X-Forwarded-For", "x-forwarded-for", "X-Real-Ip", "X_Forwarded_For"] {
        let header = format!("{header}: 192.0.2.7");
        all.push(Request::get("/items/7").key(elsewhere).header(&header).refused(403));
        let twice = Request::get("/items/7").key(elsewhere).header(&header).header(&header);
        all.push(twice.refused(403));
    }
    let hidden = Request::get("/items/7").key(elsewhere).header("X-Forwarded-For: 192.0.2.7");
    all.push(hidden.header("Connection: close, X-Forwarded-For").stopped());
    all
}

/// What only rules can tell apart.
fn by_rules(Keys { reader, admin, .. }: &Keys) -> Vec<Request> {
    vec![
        Request::of("DELETE", "/items/7").key(reader).refused(403),
        Request::of("DELETE", "/items/7").key(admin),
        Request::of("DELETE", "/items/7")
            .key(reader)
            .header("X-Forwarded-Method: GET")
            .refused(403),
        Request::of("DELETE", "/items/7").key(reader).header("X-Original-Method: GET").refused(403),
        Request::of("BREW", "/items/7").key(reader).stopped(),
        Request::get("/items/7").host("evil.example.com").key(reader).refused(403),
        Request::get("/items/7")
            .host("evil.example.com")
            .key(reader)
            .header("X-Forwarded-Host: api.example.com")
            .refused(403),
        Request::get("/items/7").header("Host: evil.example.com").key(reader).stopped(),
        Request::get("http://api.example.com/items/7")
            .host("evil.example.com")
            .key(reader)
            .passed_or_stopped(),
        Request::get("http://evil.example.com/items/7").key(reader).stopped(),
        Request::get("/health"),
        Request::get("/health").key(reader),
        Request::get("/health")
            .header("X-Latchkey-Account-Id: evil")
            .header("x_latchkey_plan: evil"),
        Request::get("/health").key(UNKNOWN).header("x.latchkey.account.id: evil"),
    ]
}

//! What is said besides: who one is, from where one comes, and more than anybody wants to read.

use super::super::cast::{ELSEWHERE, Who};
use super::super::shot::{Draft, Over};
use super::with_a_key_or_without;

const IDENTITY: [&str; 7] =
    ["account-id", "key-id", "environment", "scopes", "plan", "billable", "something-new"];

pub(super) fn identity_made_up(draft: &mut Draft<'_>) {
    for _ in 0..=draft.dice.below(6) {
        let plain = format!("x-latchkey-{}", draft.one(&IDENTITY));
        let name = match draft.dice.below(8) {
            0 => plain.replace('-', "_"),
            1 => plain.replace('-', "."),
            2 => plain.replace("x-", "x_"),
            3 => plain.replace("y-", "y_"),
            4 => plain.replace("y-", "y."),
            5 if draft.over == Over::Http1 => plain.to_ascii_uppercase(),
            6 if draft.over == Over::Http1 => draft.spelled(&plain),
            _ => plain,
        };
        let value =
            draft.one(&["root", "memory:admin", "", "true", "a, b", "\u{e9}", "live", "%0d%0a"]);
        draft.field(name, value);
    }
    with_a_key_or_without(draft);
}

pub(super) fn nominated(draft: &mut Draft<'_>) {
    let name = draft.one(&[
        "authorization",
        "x-api-key",
        "x-latchkey-key-id",
        "x-latchkey-account-id, x-latchkey-scopes",
        "host",
        "x-request-id",
        "content-length",
        "x-envoy-original-path",
        "te",
        "transfer-encoding",
        ":path",
        "cookie",
    ]);
    if draft.over == Over::Http1 {
        let before = draft.one(&["", "close, ", "keep-alive, ", "te, "]);
        draft.field("connection", format!("{before}{name}"));
    } else {
        draft.field("te", name);
    }
    match draft.dice.below(4) {
        0 => draft.field("te", "trailers"),
        1 => draft.field("keep-alive", "timeout=5"),
        2 => draft.field("proxy-connection", name),
        _ => {}
    }
    with_a_key_or_without(draft);
}

pub(super) fn headers_of_proxies(draft: &mut Draft<'_>) {
    const SAID: [(&str, &str); 27] = [
        ("x-envoy-original-path", "/items/7"),
        ("x-envoy-original-path", "/health"),
        ("x-envoy-original-method", "GET"),
        ("x-envoy-internal", "true"),
        ("x-envoy-external-address", ELSEWHERE),
        ("x-envoy-auth-partial-body", "true"),
        ("x-envoy-auth-failure-mode-allowed", "true"),
        ("x-envoy-auth-headers-to-remove", "x-latchkey-key-id"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx,gateway-error"),
        ("x-envoy-max-retries", "20"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-alt-stat-name", "latchkey"),
        ("x-envoy-decorator-operation", "admin"),
        ("x-envoy-force-trace", "1"),
        ("x-forwarded-for", ELSEWHERE),
        ("x-forwarded-for", "192.0.2.7, 127.0.0.1"),
        ("x-real-ip", ELSEWHERE),
        ("forwarded", "for=192.0.2.7;host=api.example.com"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-uri", "/items/7"),
        ("x-forwarded-method", "GET"),
        ("x-original-uri", "/items/7"),
        ("x-original-url", "/admin/7"),
        ("x-rewrite-url", "/admin/7"),
        ("x-forwarded-client-cert", "By=spiffe://a;URI=spiffe://admin"),
        ("x-ext-authz-check", "allow"),
    ];
    for _ in 0..=draft.dice.below(3) {
        let (name, value) = draft.one(&SAID);
        let is_odd = draft.dice.is_one_of(1, 6);
        let name = if is_odd { name.replace('-', "_") } else { name.to_owned() };
        draft.field(name, value);
    }
    if draft.dice.is_one_of(1, 3) {
        draft.bring(draft.cast.of(Who::Elsewhere));
    } else {
        with_a_key_or_without(draft);
    }
}

pub(super) fn large_headers(draft: &mut Draft<'_>) {
    let length = draft.one(&[8_000, 30_000, 59_000, 61_000, 70_000, 200_000]);
    let token = draft.guest().token.clone();
    let filler = "a".repeat(length);
    match draft.dice.below(6) {
        0 => draft.credential("x-api-key", filler, Who::Nobody),
        1 => draft.credential("x-api-key", format!("{token}{filler}"), Who::Nobody),
        2 => draft.credential("authorization", format!("Bearer {filler}{token}"), Who::Nobody),
        3 => draft.field(format!("x-{filler}"), "a"),
        4 => draft.field("cookie", filler),
        _ => draft.field("x-latchkey-scopes", filler),
    }
    if draft.dice.is_one_of(1, 3) {
        with_a_key_or_without(draft);
    }
}

pub(super) fn many_headers(draft: &mut Draft<'_>) {
    let count = draft.one(&[50, 90, 99, 105, 300, 1_000]);
    for nth in 0..count {
        draft.field(format!("x-{nth}"), "a");
    }
    with_a_key_or_without(draft);
}

pub(super) fn no_text(draft: &mut Draft<'_>) {
    let odd = draft.one(&[
        &b"\xff\xfe"[..],
        b"\xc3",
        b"\x00",
        b"\x01",
        b"\x7f",
        b"\x0b",
        b"\x80",
        b"\r",
        b"\n",
    ]);
    let guest = draft.guest();
    let token = guest.token.clone();
    // Some servers take it for the end of the line, and then it is a key, and nothing comes behind it.
    let is_end = matches!(odd, b"\r" | b"\n");
    let who = if is_end { guest.who } else { Who::Nobody };
    match draft.dice.below(7) {
        0 => draft.credential("x-api-key", [token.as_bytes(), odd].concat(), who),
        1 => draft.credential("x-api-key", [odd, token.as_bytes()].concat(), who),
        2 => draft.credential("authorization", [b"Bearer ", odd, token.as_bytes()].concat(), who),
        3 => draft.field([b"x-api-key", odd].concat(), &token),
        4 => draft.field([odd, b"authorization"].concat(), format!("Bearer {token}")),
        5 => draft.field("user-agent", odd),
        _ => draft.field([b"x-latchkey-key-id", odd].concat(), "root"),
    }
    if !is_end && draft.dice.is_one_of(1, 3) {
        with_a_key_or_without(draft);
    }
}

pub(super) fn bodies(draft: &mut Draft<'_>) {
    let token = draft.cast.of(Who::Admin).token.clone();
    let body = match draft.dice.below(7) {
        0 => r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"memory_recall"}}"#.into(),
        1 => r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"memory_export_subgraph"}}]"#.into(),
        2 => format!(r#"{{"x-api-key":"{token}"}}"#),
        3 => format!("authorization=Bearer+{token}"),
        4 => "\u{feff}{}".into(),
        5 => "a".repeat(100_000),
        _ => format!("GET /admin/7 HTTP/1.1\r\nhost: a\r\nx-api-key: {token}\r\n\r\n"),
    };
    draft.method = draft.one(&["POST", "POST", "GET", "DELETE"]).into();
    if draft.dice.is_one_of(1, 3) {
        draft.target = b"/mcp".to_vec();
    }
    let content_type = draft.one(&["application/json", "application/grpc", "text/plain"]);
    draft.field("content-type", content_type);
    with_a_key_or_without(draft);
    draft.whole_body(body);
}

pub(super) fn trailers(draft: &mut Draft<'_>) {
    draft.method = b"POST".to_vec();
    with_a_key_or_without(draft);
    if draft.over == Over::Http1 {
        draft.field("transfer-encoding", "chunked");
        draft.field("trailer", "authorization, x-latchkey-key-id");
        draft.body("2\r\n{}\r\n0\r\n");
    } else {
        draft.body("{}");
    }
    let admin = draft.cast.of(Who::Admin);
    match draft.dice.below(5) {
        0 => draft.trailer("authorization", format!("Bearer {}", admin.token), None),
        1 => draft.trailer("x-api-key", &admin.token, None),
        2 => draft.trailer("x-latchkey-key-id", "root", None),
        3 => draft.trailer("content-length", "7", None),
        _ => draft.trailer("transfer-encoding", "chunked", None),
    }
}

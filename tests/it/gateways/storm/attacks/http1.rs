//! What only HTTP/1 can say: lines, lengths, and what comes next on the same connection.

use super::super::cast::Who;
use super::super::shot::Draft;
use super::with_a_key_or_without;

/// What is not led to by anything, and may not be got at by what comes before it.
const HIDDEN: &str = "/admin/7";

pub(super) fn upgrades(draft: &mut Draft<'_>) {
    with_a_key_or_without(draft);
    if draft.dice.is_one_of(1, 3) {
        draft.method = b"CONNECT".to_vec();
        draft.target =
            draft.one(&["api.example.com:443", "127.0.0.1:3000", "/admin/7", "*"]).into();
    } else {
        let upgrade = draft.one(&[
            "websocket",
            "h2c",
            "H2C",
            "TLS/1.0",
            "HTTP/2.0",
            "connect-udp",
            "h2c, websocket",
            "",
            "foo",
        ]);
        let connection = draft.one(&[
            "upgrade",
            "Upgrade, HTTP2-Settings",
            "upgrade, keep-alive",
            "close",
            "authorization, upgrade",
        ]);
        draft.field("connection", connection);
        draft.field("upgrade", upgrade);
        draft.field("http2-settings", "AAMAAABkAAQAAP__");
        draft.field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        draft.field("sec-websocket-version", "13");
    }
    draft.another(None, HIDDEN);
}

pub(super) fn folded(draft: &mut Draft<'_>) {
    let actor = draft.guest();
    let (token, who) = (&actor.token, actor.who);
    let fold = draft.one(&["\r\n ", "\r\n\t", "\n ", "\r\n \r\n ", "\r ", "\r\n"]);
    match draft.dice.below(6) {
        0 => draft.line(format!("authorization: Bearer{fold}{token}\r\n"), who),
        1 => draft.line(format!("x-api-key:{fold}{token}\r\n"), who),
        2 => {
            // Folded it is a part of the header before it.
            let who = (fold == "\r\n").then_some(who);
            draft.line(format!("x-a: b{fold}x-api-key: {token}\r\n"), who);
        }
        3 => {
            draft.bring(actor);
            draft.line(format!("x-a: b{fold}x-latchkey-key-id: root\r\n"), None);
        }
        4 => {
            draft.bring(actor);
            draft.line(format!("x-latchkey-scopes:{fold}memory:admin\r\n"), None);
        }
        _ => draft.line(format!("authorization:{fold}Bearer {token}\r\n"), who),
    }
}

/// What one reader takes for a body, and another for the next request.
pub(super) fn two_lengths(draft: &mut Draft<'_>) {
    draft.method = draft.one(&["POST", "POST", "GET"]).into();
    with_a_key_or_without(draft);
    let encoding = draft.one(&[
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding:\tchunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "transfer_encoding: chunked\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked\x0b\r\n",
        " transfer-encoding: chunked\r\n",
        "x: y\ntransfer-encoding: chunked\r\n",
        "",
    ]);
    let lengths = draft.one(&[
        "content-length: 0\r\n",
        "content-length: 5\r\n",
        "content-length: 3\r\ncontent-length: 5\r\n",
        "content-length: 5, 5\r\n",
        "content-length: +5\r\n",
        "content-length: 5 \r\n",
        "content-length: 0x5\r\n",
        "content-length: -1\r\n",
        "content-length: 18446744073709551621\r\n",
        "content_length: 5\r\n",
        "content-length : 5\r\n",
        "",
    ]);
    let (one, two) =
        if draft.dice.is_one_of(1, 2) { (encoding, lengths) } else { (lengths, encoding) };
    draft.line(one, None);
    draft.line(two, None);
    let start = draft.one(&[
        "0\r\n\r\n",
        "0;a=b\r\n\r\n",
        "0\r\n\r\n\r\n",
        "00000000000000000000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        "0x0\r\n\r\n",
        "0\n\n",
        "",
    ]);
    draft.body(start);
    let guest = draft.guest();
    let actor = draft.dice.is_one_of(1, 5).then_some(guest);
    draft.another(actor, HIDDEN);
}

pub(super) fn lines(draft: &mut Draft<'_>) {
    draft.version = draft
        .one(&[
            " HTTP/1.0",
            " HTTP/1.0",
            "",
            " HTTP/0.9",
            " HTTP/1.2",
            " HTTP/2.0",
            " http/1.1",
            " HTTP/1.1 ",
            "\tHTTP/1.1",
            " HTTP/1.1 HTTP/1.1",
            "\nHTTP/1.1",
            " ICAP/1.0",
            " HTTP/1.10",
        ])
        .into();
    match draft.dice.below(6) {
        0 => draft.line("no colon\r\n", None),
        1 => draft.line(": no name\r\n", None),
        2 => draft.line(" begins with a space: a\r\n", None),
        3 => draft.line("x-latchkey-key-id : root\r\n", None),
        4 => {
            let admin = draft.cast.of(Who::Admin);
            draft.line(format!("x-a: b\nx-api-key: {}\r\n", admin.token), admin.who);
        }
        _ => {}
    }
    with_a_key_or_without(draft);
}

/// A good request, and another whose right must be its own.
pub(super) fn one_after_the_other(draft: &mut Draft<'_>) {
    let (first, second) = (draft.actor(), draft.actor());
    draft.bring(first);
    draft.method = draft.one(&["GET", "POST"]).into();
    let body = draft.one(&["", "hello"]);
    draft.whole_body(body);
    let target = draft.one(&["/items/7", "/admin/7", "/admin/7", "/health"]);
    let second = draft.dice.is_one_of(1, 2).then_some(second);
    draft.another(second, target);
}

//! What only HTTP/2 can say: pseudo headers, and bytes that end a line in HTTP/1.

use super::super::cast::Who;
use super::super::shot::Draft;
use super::with_a_key_or_without;

pub(super) fn pseudo_headers(draft: &mut Draft<'_>) {
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api.example.com"),
        (":path", "/items/7"),
    ];
    let mut pseudo = good.to_vec();
    match draft.dice.below(20) {
        0 => pseudo.push((":path", "/admin/7")),
        1 => pseudo.insert(0, (":path", "/admin/7")),
        2 => pseudo.push((":method", "DELETE")),
        3 => pseudo.push((":authority", "evil.example.com")),
        4 => drop(pseudo.remove(3)),
        5 => drop(pseudo.remove(2)),
        6 => drop(pseudo.remove(0)),
        7 => drop(pseudo.remove(1)),
        8 => pseudo[3].1 = "",
        9 => pseudo[3].1 = "http://api.example.com/admin/7",
        10 => pseudo[3].1 = "*",
        11 => pseudo[1].1 = "https://api.example.com/admin/7?",
        12 => pseudo.extend([(":protocol", "websocket")]),
        13 => pseudo = vec![(":method", "CONNECT"), (":authority", "127.0.0.1:3000")],
        14 => {
            pseudo[0].1 = "CONNECT";
            pseudo.push((":protocol", "connect-udp"));
        }
        15 => pseudo.push((":status", "200")),
        16 => pseudo.push((":x-latchkey-key-id", "root")),
        17 => pseudo.insert(0, ("x-early", "a")),
        18 => pseudo[2].1 = "evil@api.example.com",
        _ => pseudo[3].0 = ":Path",
    }
    if draft.dice.is_one_of(1, 3) {
        draft.field("host", "evil.example.com");
    }
    let bytes = |(name, value): (&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    draft.pseudo = Some(pseudo.into_iter().map(bytes).collect());
    with_a_key_or_without(draft);
}

/// Whatever writes it out as HTTP/1 without looking writes two requests, or another header.
pub(super) fn injected(draft: &mut Draft<'_>) {
    let tag = format!("x-storm: {}.1", draft.number);
    let another = format!("GET /admin/7 HTTP/1.1\r\nhost: api.example.com\r\n{tag}\r\n\r\n");
    let admin = draft.cast.of(Who::Admin).token.clone();
    match draft.dice.below(10) {
        0 => draft.field("x-a", format!("b\r\n\r\n{another}")),
        1 => draft.field("x-a", "b\r\nx-latchkey-key-id: root"),
        2 => draft.field("x-a", "b\nx-latchkey-scopes: memory:admin"),
        3 => draft.field("x-a: b\r\nx-latchkey-key-id", "root"),
        4 => draft.field("x-a", format!("b\r\nx-api-key: {admin}")),
        5 => draft.target = format!("/items/7 HTTP/1.1\r\nhost: a\r\n\r\n{another}").into(),
        6 => draft.target = b"/items/7 /admin/7".to_vec(),
        7 => draft.method = b"GET /admin/7 HTTP/1.1\r\nx: ".to_vec(),
        8 => draft.hosts = vec![b"a\r\nx-latchkey-key-id: root".to_vec()],
        _ => draft.field("x-latchkey-key-id\r\nx", "root"),
    }
    with_a_key_or_without(draft);
}

pub(super) fn of_connections(draft: &mut Draft<'_>) {
    match draft.dice.below(9) {
        0 => draft.field("connection", "authorization, x-latchkey-key-id"),
        1 => draft.field("transfer-encoding", "chunked"),
        2 => draft.field("te", "gzip"),
        3 => draft.field("upgrade", "h2c"),
        4 => draft.field("keep-alive", "timeout=5"),
        5 => draft.field("content-length", "0"),
        6 => draft.field("content-length", "999"),
        7 => draft.field("X-Latchkey-Key-Id", "root"),
        _ => {
            let bearer = format!("Bearer {}", draft.cast.of(Who::Admin).token);
            draft.credential("Authorization", bearer, Who::Admin);
        }
    }
    if draft.dice.is_one_of(1, 2) {
        draft.method = b"POST".to_vec();
        draft.another(None, "/admin/7");
    }
    with_a_key_or_without(draft);
}

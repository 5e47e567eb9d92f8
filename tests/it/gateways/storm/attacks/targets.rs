//! What is asked for, where two servers may not agree what that is.

use super::super::shot::Draft;
use super::with_a_key_or_without;

pub(super) fn paths(draft: &mut Draft<'_>) {
    const PARTS: [&str; 44] = [
        "/",
        "/",
        "/",
        "//",
        "/./",
        "/../",
        "..",
        "%2e%2e",
        ".%2E",
        "%2e",
        "..;",
        ";",
        ";a=b",
        "%3b",
        "%2f",
        "%2F",
        "%5c",
        "\\",
        "%252f",
        "%252e%252e",
        "%255c",
        "%00",
        "%0a",
        "%0d%0a",
        "%20",
        "%09",
        "#",
        "%23",
        "%3f",
        "?",
        "items",
        "items",
        "admin",
        "admin",
        "ADMIN",
        "%61dmin",
        "adm%69n",
        "%2561dmin",
        "health",
        "7",
        "*",
        "%c0%af",
        "%u002f",
        "%",
    ];
    if draft.dice.is_one_of(1, 2) {
        draft.target = roundabout(draft).into_bytes();
        return with_a_key_or_without(draft);
    }
    let start =
        draft.one(&["/items/", "/items/", "/items", "/health", "/health/", "/admin", "//", "/"]);
    let mut target = start.to_owned();
    for _ in 0..=draft.dice.below(6) {
        target.push_str(draft.one(&PARTS));
    }
    if draft.dice.is_one_of(1, 2) {
        target.push_str(draft.one(&[
            "/admin/7",
            "admin/7",
            "%2fadmin%2f7",
            "/../admin/7",
            "/%2e%2e/admin/7",
        ]));
    }
    draft.target = target.into_bytes();
    with_a_key_or_without(draft);
}

/// Out of where one may be, or into where one may not. Few things are odd at a time, or it is stopped for another.
fn roundabout(draft: &mut Draft<'_>) -> String {
    const SLASHES: [&str; 11] =
        ["%2f", "%2F", "%5c", "\\", "//", ";/", ";a=b/", "%252f", "/./", "%00/", "/%2e/"];
    const ADMINS: [&str; 6] = ["ADMIN", "%61dmin", "adm%69n", "%2561dmin", "admin;a=b", "admin%3b"];
    const SEVENS: [&str; 6] =
        ["%2f7", "//7", "/../admin/7", "\\7", "/7;/../../items/7", "/7#/../../items/7"];
    const UPS: [&str; 9] =
        ["..", "..", "%2e%2e", ".%2E", "..;", "..;a=b", "%2e%2e;", "..%00", "%252e%252e"];
    let slash = mostly(draft, "/", &SLASHES);
    let admin = mostly(draft, "admin", &ADMINS);
    let seven = mostly(draft, "/7", &SEVENS);
    let up = draft.one(&UPS);
    match draft.dice.below(4) {
        0 => format!("/{admin}{seven}"),
        1 => format!("{slash}{admin}{seven}"),
        _ => format!("/items/{up}{slash}{admin}{seven}"),
    }
}

fn mostly(draft: &mut Draft<'_>, plain: &'static str, odd: &[&'static str]) -> &'static str {
    if draft.dice.is_one_of(2, 3) { plain } else { draft.one(odd) }
}

pub(super) fn targets(draft: &mut Draft<'_>) {
    let long = |start: &str, length: usize| format!("{start}{}", "a".repeat(length)).into_bytes();
    draft.target = match draft.dice.below(22) {
        0 => b"".to_vec(),
        1 => b"*".to_vec(),
        2 => b"admin/7".to_vec(),
        3 => b"items/../admin/7".to_vec(),
        4 => b"http://api.example.com/admin/7".to_vec(),
        5 => b"http://evil.example.com/items/7".to_vec(),
        6 => b"http://api.example.com@evil.example.com/admin/7".to_vec(),
        7 => b"http:///admin/7".to_vec(),
        8 => b"http://api.example.com".to_vec(),
        9 => b"https://api.example.com/items/../admin/7".to_vec(),
        10 => b"ftp://api.example.com/admin/7".to_vec(),
        11 => b"//api.example.com/admin/7".to_vec(),
        12 => b"api.example.com:443".to_vec(),
        13 => long("/items/", 60 * 1024),
        14 => long("/items/7?", 60 * 1024),
        15 => b"/items/7\0/../../admin/7".to_vec(),
        16 => b"/items/\xff\xfe/7".to_vec(),
        17 => b"/items/7\t/admin/7".to_vec(),
        18 => b"/items/7?/../../admin/7".to_vec(),
        19 => b"/items/7?x#/../../admin/7".to_vec(),
        20 => b"?/admin/7".to_vec(),
        _ => b"/items/7 /admin/7".to_vec(),
    };
    with_a_key_or_without(draft);
}

pub(super) fn methods(draft: &mut Draft<'_>) {
    let method = draft.one(&[
        "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "GeT", "delete",
        "BREW", "PRI", "PROPFIND", "GET\t", "", "G\u{0}T", "ITEMS", "CONNECT",
    ]);
    draft.method = method.into();
    if matches!(method, "POST" | "PUT" | "PATCH") {
        draft.whole_body("{}");
    }
    if draft.dice.is_one_of(1, 4) {
        let name = draft.one(&["x-http-method-override", "x-method-override", "x-http-method"]);
        draft.field(name, "DELETE");
    }
    with_a_key_or_without(draft);
}

pub(super) fn hosts(draft: &mut Draft<'_>) {
    let host = |host: &str| host.as_bytes().to_vec();
    draft.hosts = match draft.dice.below(14) {
        0 => vec![],
        1 => vec![host("api.example.com"), host("evil.example.com")],
        2 => vec![host("evil.example.com"), host("api.example.com")],
        3 => vec![host("")],
        4 => vec![host("api.example.com:80:80")],
        5 => vec![host("evil@api.example.com")],
        6 => vec![host("api.example.com, evil.example.com")],
        7 => vec![host("API.EXAMPLE.COM.")],
        8 => vec![host("api.example.com/admin/7")],
        9 => vec![host("[::1]:80")],
        10 => vec![host("api.example.com#")],
        11 => vec![b"api.example.com\0".to_vec()],
        12 => vec![b"\xffapi.example.com".to_vec()],
        _ => vec![host("evil.example.com")],
    };
    if draft.dice.is_one_of(1, 3) {
        let name = draft.one(&["x-forwarded-host", "x-host", "forwarded", "x-original-host"]);
        draft.field(name, "api.example.com");
    }
    with_a_key_or_without(draft);
}

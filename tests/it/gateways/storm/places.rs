//! What an upstream could take a request for. It is read in every way in which some server is known to read it, so that
//! whoever gets through must be let to all the places that one of them would serve.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::cast::By;

/// What the upstream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// For `memory:read`.
    Read,
    /// For `memory:admin`.
    Admin,
    /// For whoever has a key, where the rules say it.
    Known,
    /// For everybody, where the rules say it.
    Open,
    /// Nothing is there, and nobody is let to it.
    Nothing,
}

/// How a server reads a path.
#[derive(Clone, Copy)]
struct Reader {
    /// How often it undoes escapes.
    decodes: u8,
    /// A bit for each.
    habits: u8,
}

/// Tomcat and Jetty take what follows a `;` out of a segment.
const DROPS_PARAMETERS: u8 = 1;
/// IIS takes `\` for `/`.
const TURNS_BACKSLASHES: u8 = 2;
/// NGINX takes several `/` for one.
const MERGES_SLASHES: u8 = 4;
/// Windows does not tell capital letters apart.
const IGNORES_CASE: u8 = 8;
/// What is written in C may end at a NUL.
const ENDS_AT_NUL: u8 = 16;
const HABITS: u8 = 32;

/// The place that the request names to a server as it should be, and those that some server would take it for.
pub(super) fn places(by: By, method: &[u8], target: &[u8]) -> (Place, BTreeSet<Place>) {
    let method = method.to_ascii_uppercase();
    let path = path(target);
    let place = |path: &[u8]| place(by, &method, path);
    let readings = readers().map(|reader| place(&reader.read(path))).collect();
    (place(&Reader { decodes: 1, habits: 0 }.read(path)), readings)
}

/// Without an origin and without a query.
fn path(target: &[u8]) -> &[u8] {
    let target = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let Some(at) = target.windows(3).position(|part| part == b"://") else { return target };
    let rest = &target[at + 3..];
    rest.iter().position(|byte| *byte == b'/').map_or(b"/", |slash| &rest[slash..])
}

fn place(by: By, method: &[u8], path: &[u8]) -> Place {
    // Rules say that something has to follow.
    let is_below =
        |folder: &[u8]| path.starts_with(folder) && (by == By::Scopes || path.len() > folder.len());
    if is_below(b"/items/") {
        match (by, method) {
            (By::Rules, b"DELETE") => Place::Admin,
            (By::Rules, b"GET" | b"HEAD" | b"POST") | (By::Scopes, _) => Place::Read,
            _ => Place::Nothing,
        }
    } else if is_below(b"/admin/") {
        Place::Admin
    } else if by == By::Rules && path == b"/health" {
        Place::Open
    } else if by == By::Rules && path == b"/me" && method == b"GET" {
        Place::Known
    } else {
        Place::Nothing
    }
}

fn readers() -> impl Iterator<Item = Reader> {
    (0..3).flat_map(|decodes| (0..HABITS).map(move |habits| Reader { decodes, habits }))
}

impl Reader {
    const fn has(self, habit: u8) -> bool {
        self.habits & habit != 0
    }

    fn read(self, path: &[u8]) -> Vec<u8> {
        let mut path = Cow::Borrowed(path.split(|byte| *byte == b'#').next().unwrap_or_default());
        for round in 0..=self.decodes {
            if round > 0 {
                path = Cow::Owned(unescaped(&path));
            }
            if self.has(DROPS_PARAMETERS) && path.contains(&b';') {
                let segments = path.split(|byte| *byte == b'/');
                let kept =
                    segments.map(|it| it.split(|byte| *byte == b';').next().unwrap_or_default());
                path = Cow::Owned(kept.collect::<Vec<_>>().join(&b'/'));
            }
        }
        let mut path = path.into_owned();
        if self.has(ENDS_AT_NUL) {
            path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
        }
        if self.has(TURNS_BACKSLASHES) {
            path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        if self.has(IGNORES_CASE) {
            path.make_ascii_lowercase();
        }
        resolved(&path, self.has(MERGES_SLASHES))
    }
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut read = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let escape = (*byte == b'%').then(|| digit(path.get(at + 1)).zip(digit(path.get(at + 2))));
        if let Some((high, low)) = escape.flatten() {
            read.push(u8::try_from(high * 16 + low).unwrap());
            at += 3;
        } else {
            read.push(*byte);
            at += 1;
        }
    }
    read
}

/// Without `.` and `..`, from the root on.
fn resolved(path: &[u8], merges_slashes: bool) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = vec![];
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    // What stands before the first `/` is nothing, or a path that does not begin with one.
    if segments.peek().is_some_and(|first| first.is_empty()) {
        segments.next();
    }
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            b"" if merges_slashes && !is_last => {}
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push(b"");
        }
    }
    [&b"/"[..], &kept.join(&b'/')].concat()
}

#[test]
fn a_path_is_read_in_every_way_of_some_server() {
    let of = |target: &str| places(By::Scopes, b"GET", target.as_bytes());
    for target in ["/items/7", "/items/a%20b?x=/../admin/7", "/items/7/..", "/items/a;b"] {
        let (plain, all) = of(target);
        assert_eq!((plain, all.contains(&Place::Admin)), (Place::Read, false), "{target}");
    }
    for target in [
        "/items/../admin/7",
        "/items/%2e%2E/admin/7",
        "/items/..%2fadmin/7",
        "/items/..;a=b/admin/7",
        "/items/..%3ba/admin/7",
        "/items/..\\admin/7",
        "/items/%252e%252e/admin/7",
        "//admin/7",
        "/ADMIN/7",
        "/%61dmin/7",
        "admin/7",
        "http://a/admin/7",
        "/admin%2f7",
        "/admin/7%00/../../items/7",
        "/admin/7#/../../items/7",
    ] {
        assert!(of(target).1.contains(&Place::Admin), "{target}");
    }
}

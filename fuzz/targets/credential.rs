//! Credentials as the headers of a request bring them: none, one, or something that is not one.

#![no_main]

use latchkey::authorizer::Credential;
use libfuzzer_sys::fuzz_target;

// A line is a header; one that begins with `a` is `authorization`, any other holds a bare key.
fuzz_target!(|data: &[u8]| {
    let lines = || data.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    let authorization = || lines().filter(|line| *line.0 == b'a').map(|line| line.1);
    let bare = || lines().filter(|line| *line.0 != b'a').map(|line| line.1);
    let all: Vec<_> = authorization().map(bearer).chain(bare().map(Some)).collect();
    match (Credential::from_headers(authorization(), bare()), &all[..]) {
        (Credential::Missing, []) => {}
        (Credential::Malformed, [None] | [_, _, ..]) => {}
        (Credential::Token(token), [Some(only)]) => assert_eq!(token, *only),
        (_, all) => panic!("{all:?}"),
    }
});

/// The word in any case, one space, and something without a space.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let mut parts = value.split(|byte| *byte == b' ');
    let (word, key, rest) = (parts.next()?, parts.next()?, parts.next());
    (word.to_ascii_lowercase() == b"bearer" && !key.is_empty() && rest.is_none()).then_some(key)
}

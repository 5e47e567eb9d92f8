//! Tokens: the parser against a naive one, and what must never be: a token that is taken although a character
//! of it changed, or that is repeated in a message.

#![no_main]

use latchkey::token::{self, Token};
use libfuzzer_sys::fuzz_target;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fuzz_target!(|data: &[u8]| {
    check(data);
    // Nearly everything fails at the checksum, so the same once more with the right one.
    let head = &data[..data.len().saturating_sub(6)];
    check(&[head, &checksum(head)].concat());
});

fn check(data: &[u8]) {
    let parsed = token::parse(data);
    assert_eq!(parsed.is_ok(), is_token(data), "{:?}", parsed.err());
    let Ok(parsed) = parsed else { return };
    let text = std::str::from_utf8(data).expect("a token is ASCII");
    let token = Token::from_text(text).expect("it was read a moment ago");
    assert_eq!(token.expose(), text);
    assert_eq!(token.digest(), parsed.digest());
    let start = format!("{}_{}_", parsed.prefix, parsed.environment.as_str());
    assert!(text.starts_with(&start));

    let secret = &text[start.len()..];
    assert!(token::is_in(text) && token::is_in(&format!("({text})")));
    let shown = [token.hint(), format!("{token:?}"), token::quoted(text)];
    assert!(shown.iter().all(|shown| !shown.contains(&secret[4..32])), "{shown:?}");

    for at in 0..data.len() {
        let mut changed = data.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert!(token::parse(&changed).is_err(), "{text} changed at {at}");
    }
}

/// The form, read off its description: `[a-z][a-z0-9]{1,15}_(live|test)_[0-9A-Za-z]{36}` and the checksum.
fn is_token(data: &[u8]) -> bool {
    let parts: Vec<_> = data.split(|byte| *byte == b'_').collect();
    let [prefix, environment, secret] = parts[..] else { return false };
    let is_prefix = (2..=16).contains(&prefix.len())
        && prefix[0].is_ascii_lowercase()
        && prefix.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_prefix
        && (environment == b"live" || environment == b"test")
        && secret.len() == 36
        && secret.iter().all(u8::is_ascii_alphanumeric)
        && data.ends_with(&checksum(&data[..data.len() - 6]))
}

/// CRC-32 bit by bit, in base62.
fn checksum(data: &[u8]) -> [u8; 6] {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let crc = u64::from(!crc);
    [5, 4, 3, 2, 1, 0].map(|place| DIGITS[(crc / 62_u64.pow(place) % 62) as usize])
}

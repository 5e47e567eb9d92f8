//! Tokens that are looked for, and the search for them.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use latchkey::machine::MachineEntropy;
use latchkey::token::{Environment, Prefix, Token};

/// So many characters of a token that follow each other are a leak. A hint shows fewer.
const CHARS: usize = 12;
/// As many in base64, and in hex.
const BASE64_CHARS: usize = CHARS / 3 * 4;
const HEX_CHARS: usize = CHARS * 2;
/// Prefix, environment and the first four characters: what a hint shows at its beginning.
const HINT_CHARS: usize = 12;

/// A token that is right in form, and nobody's.
pub(crate) fn token() -> String {
    let prefix = Prefix::parse("hm").unwrap();
    Token::generate(&prefix, Environment::Live, &MachineEntropy).expose().to_owned()
}

/// The same with a slip in it, without its end, with more, and of another kind: none is a token, each is nearly one.
pub(super) fn nearly(token: &str) -> Vec<String> {
    let swapped = format!(
        "{}{}{}",
        &token[..20],
        if &token[20..21] == "a" { "b" } else { "a" },
        &token[21..]
    );
    vec![swapped, token[..43].to_owned(), format!("{token}0"), token.replace("_live_", "_prod_")]
}

/// Parts of canaries, as they could be found.
#[derive(Default)]
pub(crate) struct Canaries {
    parts: HashSet<Vec<u8>>,
}

impl Canaries {
    pub(crate) fn watch(&mut self, token: &str) {
        let bytes = token.as_bytes();
        let mut add = |text: &[u8], length: usize| {
            self.parts.extend(text.windows(length).map(<[u8]>::to_vec));
        };
        add(&bytes[HINT_CHARS - CHARS + 1..], CHARS);
        for start in 1..4 {
            // Whole groups of three bytes, whatever stands before and after.
            let whole = &bytes[start..start + (bytes.len() - start) / 3 * 3];
            add(STANDARD_NO_PAD.encode(whole).as_bytes(), BASE64_CHARS);
        }
        let hex = hex(&bytes[1..]);
        add(hex.as_bytes(), HEX_CHARS);
        add(hex.to_uppercase().as_bytes(), HEX_CHARS);
    }

    /// The first part that is found, with what stands before it.
    pub(crate) fn find(&self, haystack: &[u8]) -> Option<String> {
        [CHARS, BASE64_CHARS, HEX_CHARS].into_iter().find_map(|length| {
            let at = haystack.windows(length).position(|window| {
                // Most windows hold something that no token has.
                window.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_+/".contains(byte))
                    && self.parts.contains(window)
            })?;
            let around = &haystack[at.saturating_sub(100)..(at + length + 20).min(haystack.len())];
            Some(String::from_utf8_lossy(around).into_owned())
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

fn digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap()
}

#[test]
fn a_canary_is_found_in_each_form_and_its_hint_is_not() {
    let token = token();
    let mut canaries = Canaries::default();
    canaries.watch(&token);
    let hex = hex(token.as_bytes());
    for found in [
        token.clone(),
        format!("…{}…", &token[20..32]),
        STANDARD_NO_PAD.encode(&token),
        STANDARD_NO_PAD.encode(format!("a{token}")),
        STANDARD_NO_PAD.encode(format!("ab{token}")),
        hex.to_uppercase(),
        hex,
    ] {
        assert!(canaries.find(found.as_bytes()).is_some(), "{found}");
    }
    let hint = format!("{}...{}", &token[..12], &token[40..]);
    assert_eq!(canaries.find(hint.as_bytes()), None);
}

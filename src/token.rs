//! Tokens and their digests: form, checksum, making, parsing and hashing.
//!
//! A token is `<prefix>_<env>_<30 random base62><6 base62 of CRC-32>`; secret scanners find one by
//! `[a-z][a-z0-9]{1,15}_(live|test)_[0-9A-Za-z]{36}`. The checksum stops typing errors, not attackers.
//! A [`Token`] cannot be printed, compared or cloned; a [`Digest`] is what is stored and looked up.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::clock::Entropy;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_CHARS: usize = 30;
const CHECKSUM_CHARS: usize = 6;
const TAIL_CHARS: usize = RANDOM_CHARS + CHECKSUM_CHARS;
/// `_live_` or `_test_`.
const ENVIRONMENT_CHARS: usize = 6;
const PREFIX_CHARS_MAX: usize = 16;
const PREFIX_CHARS_MIN: usize = 2;

/// The most bytes a token can have.
pub const TOKEN_BYTES_MAX: usize = PREFIX_CHARS_MAX + ENVIRONMENT_CHARS + TAIL_CHARS;

/// `live` or `test`: part of the token and of the record. A test key is never billable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Production traffic; its use is billed.
    Live,
    /// Development; never billed, counted against limits all the same.
    Test,
}

impl Environment {
    /// The word in the token and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "live" => Some(Self::Live),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// The first part of a token, `[a-z][a-z0-9]{1,15}`; it says whose key it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// `None` when the text is not `[a-z][a-z0-9]{1,15}`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_prefix(text.as_bytes()).then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The secret string that a client sends. It is shown once and wiped when dropped.
pub struct Token(SecretString);

impl Token {
    /// Makes a new token from 178 random bits.
    #[must_use]
    pub fn generate(prefix: &Prefix, environment: Environment, entropy: &dyn Entropy) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX));
        text.push_str(prefix.as_str());
        text.push('_');
        text.push_str(environment.as_str());
        text.push('_');
        push_random(&mut text, entropy);
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.iter().map(|digit| char::from(*digit)));
        Self(SecretString::from(text.as_str()))
    }

    /// Takes a token that was made elsewhere, when its form is right.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        parse(text.as_bytes())?;
        Ok(Self(SecretString::from(text)))
    }

    /// The secret itself: for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What is stored and looked up in its place.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.expose().as_bytes())
    }

    /// What people are shown in its place.
    #[must_use]
    pub fn hint(&self) -> String {
        hint(self.expose())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// Prefix, environment, first four and last four characters: `hm_live_Ab12...Yz89`.
fn hint(text: &str) -> String {
    let (head, tail) = text.split_at(text.len() - TAIL_CHARS);
    format!("{head}{}...{}", &tail[..4], &tail[TAIL_CHARS - 4..])
}

/// Rejection sampling: a byte below 248 is uniform over 62 digits, the others are drawn again.
fn push_random(text: &mut String, entropy: &dyn Entropy) {
    let mut left = RANDOM_CHARS;
    let mut bytes = Zeroizing::new([0; 64]);
    while left > 0 {
        entropy.fill(&mut *bytes);
        for byte in bytes.iter().filter(|byte| **byte < 248).take(left) {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            left -= 1;
        }
    }
}

/// SHA-256 of a token: 32 bytes by which a key is stored, cached and looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a token's bytes.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(sha2::Sha256::digest(token).into())
    }

    /// A digest read back from where it was stored; `None` when it is not 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A token whose form and checksum are right; it borrows the bytes it was read from.
#[derive(Clone, Copy)]
pub struct Parsed<'a> {
    bytes: &'a [u8],
    /// The prefix; whether it is one of ours is for the caller to say.
    pub prefix: &'a str,
    /// The environment that the token names.
    pub environment: Environment,
}

impl Parsed<'_> {
    /// What is looked up.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.bytes)
    }
}

/// What is wrong with a token's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Too short or too long.
    #[error("the length is wrong: after the environment there must be 36 characters")]
    Length,
    /// A character outside `0-9A-Za-z` in the secret part.
    #[error("a character of the secret part is not one of 0-9, A-Z, a-z")]
    Alphabet,
    /// Not `[a-z][a-z0-9]{1,15}`.
    #[error("the prefix is not 2 to 16 characters of a-z and 0-9, a letter first")]
    Prefix,
    /// Neither `live` nor `test`.
    #[error("the environment is neither `live` nor `test`")]
    Environment,
    /// The last six characters do not fit the rest.
    #[error("the checksum does not fit: a character was lost or changed")]
    Checksum,
}

/// Reads a token's form, from its end, and checks its checksum; nothing is hashed or looked up.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Malformed> {
    if bytes.len() < PREFIX_CHARS_MIN + ENVIRONMENT_CHARS + TAIL_CHARS
        || bytes.len() > TOKEN_BYTES_MAX
    {
        return Err(Malformed::Length);
    }
    let (head, tail) = bytes.split_at(bytes.len() - TAIL_CHARS);
    let (prefix, environment) = head.split_at(head.len() - ENVIRONMENT_CHARS);
    if !tail.iter().all(u8::is_ascii_alphanumeric) {
        return Err(Malformed::Alphabet);
    }
    let environment = match environment {
        b"_live_" => Environment::Live,
        b"_test_" => Environment::Test,
        _ => return Err(Malformed::Environment),
    };
    if !is_prefix(prefix) {
        return Err(Malformed::Prefix);
    }
    let (checked, given) = bytes.split_at(bytes.len() - CHECKSUM_CHARS);
    if checksum(checked) != given {
        return Err(Malformed::Checksum);
    }
    let prefix = std::str::from_utf8(prefix).map_err(|_| Malformed::Prefix)?;
    Ok(Parsed { bytes, prefix, environment })
}

fn is_prefix(bytes: &[u8]) -> bool {
    (PREFIX_CHARS_MIN..=PREFIX_CHARS_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// CRC-32 (IEEE) in base62, zero-padded to six digits.
fn checksum(checked: &[u8]) -> [u8; CHECKSUM_CHARS] {
    let mut rest = crc32fast::hash(checked) as usize;
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % 62];
        rest /= 62;
    }
    digits
}

// === Tokens where they do not belong ===

/// What stands in the place of what may be a token.
const NOT_REPEATED: &str = "(not repeated: it may be a token)";
/// How many characters of a caller's text an error repeats.
const QUOTED_CHARS_MAX: usize = 40;
/// A run of letters and digits this long, capitals among them, may be part of a secret.
const SUSPICIOUS_CHARS: usize = 12;
/// A run this long behind `_live_` or `_test_` may be part of a secret, whatever it is made of, save a hash.
const LONG_CHARS: usize = 20;

/// A caller's text as a message may repeat it, in backquotes: its beginning, without characters that a
/// terminal would obey. What may be a token, or a part of one, is not repeated.
#[must_use]
pub fn quoted(text: &str) -> String {
    let is_suspicious = text.split(|char: char| !char.is_ascii_alphanumeric()).any(|run| {
        run.len() >= SUSPICIOUS_CHARS && run.bytes().any(|byte| byte.is_ascii_uppercase())
    });
    if is_suspicious || is_in(text) {
        return NOT_REPEATED.to_owned();
    }
    let cut = if text.chars().nth(QUOTED_CHARS_MAX).is_some() { "…" } else { "" };
    let start: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    format!("`{start}{cut}`")
}

/// Whether a well-formed token stands in a text, alone or among other words.
#[must_use]
pub fn stands_in(text: &str) -> bool {
    words(text).any(|word| parse(word.as_bytes()).is_ok())
}

/// Whether a token stands in a text, whole, cut short or with a slip in it: somebody put a secret where everybody can
/// read it.
#[must_use]
pub fn is_in(text: &str) -> bool {
    has_likeness(text) || words(text).any(|word| word.split('_').any(resembles_whole_secret))
}

/// The same, but the secret alone, without what a token begins with, is none: other texts can look like it.
#[must_use]
pub fn has_likeness(text: &str) -> bool {
    words(text).any(resembles_one)
}

/// The text with what may be a token, or the secret part of one, taken out: for what is shown to the person who
/// wrote it, perhaps in a place where tokens do not belong.
#[must_use]
pub fn without_tokens(text: &str) -> String {
    let mut shown = text.to_owned();
    for word in words(text).filter(|word| resembles_one(word) || resembles_secret(word)) {
        shown = shown.replace(word, NOT_REPEATED);
    }
    shown
}

/// The words of a text that could be a token, or hold one.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
}

/// Whether a word is a token, or has the environment of one in it and something like a secret behind it.
fn resembles_one(word: &str) -> bool {
    let is_long = |run: &str| {
        (run.len() >= LONG_CHARS && !is_hash(run))
            || (run.len() >= SUSPICIOUS_CHARS && is_mixed(run))
    };
    let is_behind_environment = ["_live_", "_test_"]
        .iter()
        .flat_map(|name| word.match_indices(name))
        .any(|(at, name)| word[at + name.len()..].split('_').any(is_long));
    is_behind_environment || parse(word.as_bytes()).is_ok()
}

/// Whether a run is just as long as the secret part of a token, and as mixed.
fn resembles_whole_secret(run: &str) -> bool {
    run.len() == TAIL_CHARS && is_mixed(run)
}

/// Whether a word is like the secret part of a token, without what comes before.
fn resembles_secret(word: &str) -> bool {
    word.len() >= RANDOM_CHARS && is_mixed(word)
}

/// Hexadecimal, as the commit in `ci_test_<commit>` is. Of a secret, 20 characters in a row come out like this once in
/// some hundred thousand million times; and then its checksum gives it away, if it is whole. Digits alone are what people
/// write in the place of a secret.
fn is_hash(run: &str) -> bool {
    run.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && run.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Small letters, capitals and digits: hardly a word that somebody chose.
fn is_mixed(word: &str) -> bool {
    let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
    has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
}

/// What is said of a text that holds a token.
pub const HOLDS_TOKEN: &str = "holds a token; everybody who may read this could use it";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by chance as one in three hundred million is.
    const TOKEN_WITHOUT_CAPITALS: &str = "hm_live_1ebzb5zg2451s0hfh7bmi4aagxahit0c7rg3";

    /// A build's name, with a commit in it.
    const HASH: &str = "ci_test_2fd4e1c67a2d28fced849ee1bb76e7391b93eb12";

    struct Counting(std::sync::atomic::AtomicU64);

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            for byte in buffer {
                let next = self.0.fetch_add(0x9e37_79b9, std::sync::atomic::Ordering::Relaxed);
                *byte = u8::try_from(next >> 16 & 0xff).unwrap();
            }
        }
    }

    #[test]
    fn the_published_vectors_are_read() {
        for (text, prefix, environment) in [
            ("hm_live_0000000000000000000000000000002dlYSp", "hm", Environment::Live),
            ("hm_test_abcdefghijklmnopqrstuvwxyzABCD4Sf8P8", "hm", Environment::Test),
            ("acme2_live_9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z9Z9z2qMi8T", "acme2", Environment::Live),
        ] {
            let parsed = parse(text.as_bytes()).unwrap();
            assert_eq!((parsed.prefix, parsed.environment), (prefix, environment));
        }
    }

    #[test]
    fn each_fault_of_form_has_its_name() {
        let fault = |text: &str| parse(text.as_bytes()).err().unwrap();
        assert_eq!(fault("hm_live_abc123xyz456def789ghi012jkl345mno678"), Malformed::Checksum);
        assert_eq!(fault("hm_live_000000000000000000000000000000"), Malformed::Length);
        assert_eq!(fault("hm_prod_0000000000000000000000000000002dlYSp"), Malformed::Environment);
        assert_eq!(fault("HM_live_0000000000000000000000000000002dlYSp"), Malformed::Prefix);
        assert_eq!(fault("hm_live_00000000000000000000000000000-2dlYSp"), Malformed::Alphabet);
        assert_eq!(fault(""), Malformed::Length);
    }

    #[test]
    fn a_token_does_not_print_itself() {
        let token = Token::from_text("hm_live_0000000000000000000000000000002dlYSp").unwrap();
        assert_eq!(format!("{token:?}"), "Token([redacted])");
        assert_eq!(token.hint(), "hm_live_0000...lYSp");
    }

    #[test]
    fn a_text_is_shown_without_the_tokens_in_it() {
        let token = "hm_live_0000000000000000000000000000002dlYSp";
        let told = format!("cannot read `{token}`: no");
        assert_eq!(without_tokens(&told), format!("cannot read `{NOT_REPEATED}`: no"));
        for part in [
            &token[..28],
            &token[2..],
            "abcdefghijklmnopqrstuvwxyzABCD4Sf8P8",
            "x_test_00000000000000000000",
        ] {
            assert_eq!(without_tokens(part), NOT_REPEATED, "{part}");
        }
        for text in [
            "",
            "é LATCHKEY__GRPC__LISTEN_FILE",
            "hm_live_…",
            "latchkey.v1.AuthorizationService/Authorize",
        ] {
            assert_eq!(without_tokens(text), text);
        }
    }

    #[test]
    fn a_callers_text_is_repeated_unless_it_may_be_a_token() {
        assert_eq!(quoted("memory:reed"), "`memory:reed`");
        assert_eq!(quoted("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        for secret in ["hm_live_abcdEFGHijkl", "a:0123456789aB", "x abcdefGhijklm"] {
            assert_eq!(quoted(secret), "(not repeated: it may be a token)");
        }
        let without_capitals = TOKEN_WITHOUT_CAPITALS;
        assert!(parse(without_capitals.as_bytes()).is_ok());
        assert_eq!(quoted(without_capitals), "(not repeated: it may be a token)");
        assert_eq!(quoted(&"x".repeat(99)).chars().count(), 43);
    }

    #[test]
    fn a_token_is_found_in_a_text() {
        assert!(is_in("key: hm_live_0000000000000000000000000000002dlYSp."));
        assert!(is_in("x_hm_live_0000000000000000000000000000002dlYSp"));
        assert!(is_in("hm_live_0000000000000000000000000000002dlYSq"), "a slip in it");
        assert!(is_in("hm_live_aB3aB3aB3aB3"), "a part of it");
        assert!(is_in("j000m_live_0000000000000000000000000000002175bd"), "one like a hash");
        assert!(is_in("hm_prod_abcdefghijklmnopqrstuvwxyzABCD4Sf8P8"), "all but its beginning");
        for text in
            ["", "_live_", "on_live_systems", "load_test_orchestrator", "hm_live_Ab12...Yz89", HASH]
        {
            assert!(!is_in(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_read_again(seed in any::<u64>(), prefix in "[a-z][a-z0-9]{1,15}") {
            let prefix = Prefix::parse(&prefix).unwrap();
            let entropy = Counting(seed.into());
            let token = Token::generate(&prefix, Environment::Test, &entropy);
            let parsed = parse(token.expose().as_bytes()).unwrap();
            prop_assert_eq!(parsed.prefix, prefix.as_str());
            prop_assert_eq!(parsed.environment, Environment::Test);
            prop_assert_eq!(parsed.digest(), token.digest());
        }

        #[test]
        fn one_changed_character_is_noticed_wherever_it_is(
            seed in any::<u64>(),
            prefix in "[a-z][a-z0-9]{1,15}",
            to in any::<u8>(),
        ) {
            let entropy = Counting(seed.into());
            let prefix = Prefix::parse(&prefix).unwrap();
            let token = Token::generate(&prefix, Environment::Live, &entropy);
            let token = token.expose().as_bytes();
            for at in 0..token.len() {
                let swapped = token.get(at + 1).copied().unwrap_or(to);
                for to in [to, token[at].wrapping_add(1), token[at] ^ 0x20, swapped] {
                    let mut changed = token.to_vec();
                    changed[at] = to;
                    prop_assert_eq!(parse(&changed).is_ok(), to == token[at]);
                }
                prop_assert!(parse(&[&token[..at], &token[at + 1..]].concat()).is_err());
            }
        }

        #[test]
        fn no_bytes_make_the_parser_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}

//! What is kept in Redis: a hint as bytes, under the name of its digest, authenticated by a key of the store.
//!
//! `format (1) | epoch (8) | n (8) | tag (8) | record as JSON, nothing for an absence | HMAC-SHA-256 (32)`. The MAC is
//! over the digest and all that stands before it, so that no value counts under another name. Neither the name of a
//! key for people nor its hint is in it: the hint shows eight characters of the token.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::account::AccountId;
use crate::cache::{AccountEntry, Hint, KeyEntry, Said};
use crate::clock::Timestamp;
use crate::key::KeyId;
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::store::{MacKey, MacKeys};
use crate::token::{Digest, Environment};

/// The most that is read, and written.
pub(super) const VALUE_BYTES_MAX: usize = 16 * 1024;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 25;
const MAC_BYTES: usize = 32;
/// What the same key may authenticate elsewhere one day is not taken for this.
const DOMAIN: &[u8] = b"latchkey: a record in Redis\0";

/// Why a value is not a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nobody who knows the keys of this store wrote it, or not under this digest.
    BadMac,
    /// Another version wrote it.
    Unreadable,
}

/// What is told of a key. The names are those in Redis.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    environment: String,
    scopes: Vec<String>,
    expire_time: Option<i64>,
    revoked: bool,
    disabled: bool,
    cidrs: Vec<String>,
    labels: BTreeMap<String, String>,
    account: String,
    plan: String,
    suspended: bool,
}

/// The name that a digest has in Redis. A token cannot be worked out of its digest.
pub(super) fn name(epoch: u64, digest: &Digest) -> String {
    let mut name = format!("latchkey:{epoch:016x}:");
    for byte in digest.as_bytes() {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// A hint as it is kept; `None` when it is too large for that.
pub(super) fn seal(key: &MacKey, hint: &Hint) -> Option<Vec<u8>> {
    let Position { epoch, n, tag } = hint.position;
    let mut value = vec![FORMAT];
    for number in [epoch, n, tag] {
        value.extend(number.to_be_bytes());
    }
    if let Said::Key(of) = &hint.said {
        serde_json::to_writer(&mut value, &Record::of(&of.0, &of.1)).ok()?;
    }
    let mac = mac(key, &hint.digest, &value)?.finalize().into_bytes();
    value.extend(mac);
    (value.len() <= VALUE_BYTES_MAX).then_some(value)
}

/// What was kept under this digest.
pub(super) fn open(keys: &MacKeys, digest: &Digest, value: &[u8]) -> Result<Hint, Broken> {
    let at = value.len().checked_sub(MAC_BYTES).filter(|at| *at >= HEAD_BYTES);
    let (sealed, theirs) = value.split_at(at.ok_or(Broken::BadMac)?);
    let is_by =
        |key: &MacKey| mac(key, digest, sealed).is_some_and(|mac| mac.verify_slice(theirs).is_ok());
    if !is_by(&keys.current) && !keys.previous.as_ref().is_some_and(is_by) {
        return Err(Broken::BadMac);
    }
    let (head, record) = sealed.split_at(HEAD_BYTES);
    if head[0] != FORMAT {
        return Err(Broken::Unreadable);
    }
    let number =
        |at: usize| head[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let position = Position { epoch: number(1), n: number(9), tag: number(17) };
    let said = match record {
        [] => Said::Absent,
        json => {
            let record: Record = serde_json::from_slice(json).map_err(|_| Broken::Unreadable)?;
            Said::Key(Box::new(record.read().ok_or(Broken::Unreadable)?))
        }
    };
    Ok(Hint { digest: *digest, position, said })
}

fn mac(key: &MacKey, digest: &Digest, sealed: &[u8]) -> Option<Hmac<Sha256>> {
    // Keys of every length will do.
    let mac = Hmac::<Sha256>::new_from_slice(key.expose()).ok()?;
    Some(mac.chain_update(DOMAIN).chain_update(digest.as_bytes()).chain_update(sealed))
}

impl Record {
    fn of(key: &KeyEntry, account: &AccountEntry) -> Self {
        let KeyEntry {
            id,
            environment,
            scopes,
            expire_time,
            is_revoked,
            is_disabled,
            allowed_cidrs,
            labels,
        } = key;
        Self {
            id: id.to_string(),
            environment: environment.as_str().to_owned(),
            scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            expire_time: expire_time.map(Timestamp::micros),
            revoked: *is_revoked,
            disabled: *is_disabled,
            cidrs: allowed_cidrs.iter().map(ToString::to_string).collect(),
            labels: labels.clone(),
            account: account.id.to_string(),
            plan: account.plan.clone(),
            suspended: account.is_suspended,
        }
    }

    fn read(self) -> Option<(KeyEntry, AccountEntry)> {
        let scopes = self.scopes.iter().map(|scope| ScopePattern::parse(scope).ok());
        let key = KeyEntry {
            id: KeyId::parse(&self.id)?,
            environment: Environment::parse(&self.environment)?,
            scopes: scopes.collect::<Option<_>>()?,
            expire_time: self.expire_time.map(Timestamp::from_micros),
            is_revoked: self.revoked,
            is_disabled: self.disabled,
            allowed_cidrs: self
                .cidrs
                .iter()
                .map(|cidr| cidr.parse().ok())
                .collect::<Option<_>>()?,
            labels: self.labels,
        };
        let account = AccountEntry {
            id: AccountId::parse(&self.account)?,
            plan: self.plan,
            is_suspended: self.suspended,
        };
        Some((key, account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MacKey {
        MacKey::new([byte; 32].into())
    }

    fn keys() -> MacKeys {
        MacKeys { current: key(2), previous: Some(key(1)) }
    }

    fn digest() -> Digest {
        Digest::of(b"a token")
    }

    fn hint() -> Hint {
        let entry = KeyEntry {
            id: KeyId::new(Timestamp::from_micros(7_000_000), 3, u64::MAX),
            environment: Environment::Test,
            scopes: vec![ScopePattern::parse("memory:read").unwrap()],
            expire_time: Some(Timestamp::from_micros(9)),
            is_revoked: true,
            is_disabled: true,
            allowed_cidrs: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            labels: BTreeMap::from([("team".to_owned(), "\"ä\"".to_owned())]),
        };
        let id = AccountId::parse("acme").unwrap();
        let account = AccountEntry { id, plan: "pro".into(), is_suspended: true };
        let position = Position { epoch: u64::MAX, n: 7, tag: 0x0102_0304_0506_0708 };
        Hint { digest: digest(), position, said: Said::Key(Box::new((entry, account))) }
    }

    fn sealed(hint: &Hint) -> Vec<u8> {
        seal(&key(2), hint).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_back() {
        for hint in [hint(), Hint { said: Said::Absent, ..hint() }] {
            assert_eq!(open(&keys(), &digest(), &sealed(&hint)), Ok(hint));
        }
    }

    #[test]
    fn the_key_before_counts_and_no_other() {
        for (by, expected) in [(1, Ok(hint())), (2, Ok(hint())), (3, Err(Broken::BadMac))] {
            let value = seal(&key(by), &hint()).unwrap();
            assert_eq!(open(&keys(), &digest(), &value), expected);
        }
        let alone = MacKeys { previous: None, ..keys() };
        let value = seal(&key(1), &hint()).unwrap();
        assert_eq!(open(&alone, &digest(), &value), Err(Broken::BadMac));
    }

    #[test]
    fn every_bit_that_is_flipped_is_noticed() {
        let value = sealed(&hint());
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&keys(), &digest(), &flipped), Err(Broken::BadMac), "bit {bit}");
        }
        for bytes in 0..value.len() {
            assert_eq!(open(&keys(), &digest(), &value[..bytes]), Err(Broken::BadMac));
        }
    }

    #[test]
    fn what_was_kept_under_another_digest_does_not_count() {
        let other = Digest::of(b"another token");
        for hint in [hint(), Hint { said: Said::Absent, ..hint() }] {
            assert_eq!(open(&keys(), &other, &sealed(&hint)), Err(Broken::BadMac));
        }
    }

    #[test]
    fn what_another_version_kept_is_not_guessed_at() {
        let authentic = |sealed: &[u8]| {
            let mac = mac(&key(2), &digest(), sealed).unwrap().finalize().into_bytes();
            [sealed, &mac[..]].concat()
        };
        let value = sealed(&hint());
        let body = &value[..value.len() - MAC_BYTES];
        assert_eq!(open(&keys(), &digest(), &authentic(body)), Ok(hint()));
        let newer = [&[2], &body[1..]].concat();
        let more = [&body[..body.len() - 1], b",\"more\":1}"].concat();
        let less = [&body[..HEAD_BYTES], b"{}"].concat();
        for other in [newer, more, less] {
            assert_eq!(open(&keys(), &digest(), &authentic(&other)), Err(Broken::Unreadable));
        }
    }

    #[test]
    fn the_largest_record_has_room() {
        let mut hint = hint();
        let Said::Key(of) = &mut hint.said else { panic!("it is of a key") };
        let scope = ScopePattern::parse(&format!("memory:{}", "x".repeat(57))).unwrap();
        of.0.scopes = vec![scope; crate::key::KEY_SCOPES_MAX];
        let cidr = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
        of.0.allowed_cidrs = vec![cidr; crate::key::KEY_CIDRS_MAX];
        let label = |at: u32| (format!("{at:063}"), "\"".repeat(63));
        of.0.labels = (0..16).map(label).collect();
        assert!(sealed(&hint).len() < VALUE_BYTES_MAX);
    }

    #[test]
    fn a_name_tells_the_digest_and_the_epoch_alone() {
        let name = name(0xfe, &digest());
        assert_eq!((name.len(), &name[..26]), (90, "latchkey:00000000000000fe:"));
    }
}

//! Keys: the record that stands behind a token, its states and its restrictions.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::account::{AccountId, Labels};
use crate::clock::Timestamp;
use crate::revision::Position;
use crate::scope::ScopePattern;
use crate::token::{Digest, Environment};

/// The most scopes of a key, and the most grantable ones.
pub const KEY_SCOPES_MAX: usize = 64;
/// The most CIDRs of a key.
pub const KEY_CIDRS_MAX: usize = 64;
/// The most days that a rotated key may overlap its successor.
pub const OVERLAP_DAYS_MAX: u64 = 7;
/// The format of the records that this version writes.
pub const RECORD_FORMAT: u32 = 1;
/// The only digest so far.
pub const DIGEST_ALGORITHM: &str = "sha256";

const ID_PREFIX: &str = "key_";
const ID_CHARS: usize = 26;
/// Crockford's base32, in lower case: sorts as the numbers do, and has no `i`, `l`, `o`, `u`.
const ID_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A key's id: `key_` and 26 characters, in order of creation. It is public and may be logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u128);

impl KeyId {
    /// An id for the key that the change `n` makes: milliseconds, then `n`, then random bits.
    #[must_use]
    pub fn new(at: Timestamp, n: u64, random: u64) -> Self {
        let millis = u128::try_from(at.micros() / 1_000).unwrap_or(0) & 0xffff_ffff_ffff;
        Self(millis << 80 | u128::from(n & 0xffff_ffff) << 48 | u128::from(random >> 16))
    }

    /// Reads an id; `None` when the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(ID_PREFIX).filter(|digits| digits.len() == ID_CHARS)?;
        digits
            .bytes()
            .try_fold(0_u128, |sum, byte| {
                let digit = ID_ALPHABET.iter().position(|digit| *digit == byte)? as u128;
                // 26 digits are 130 bits: the first may only be 0 to 7.
                (sum >> 123 == 0).then_some(sum << 5 | digit)
            })
            .map(Self)
    }

    /// What is said of a text that is no id.
    pub const GRAMMAR: &'static str = "must be `key_` and 26 characters, as an answer gave it";
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; ID_CHARS];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = ID_ALPHABET[(self.0 >> (place * 5) & 31) as usize];
        }
        f.write_str(ID_PREFIX)?;
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a key was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeReason {
    /// No reason was given.
    Unspecified,
    /// Somebody else may know the token.
    Compromised,
    /// Another key took its place.
    Superseded,
    /// Nobody used it.
    Unused,
    /// An administrator decided so.
    Administrative,
}

impl RevokeReason {
    const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::Compromised,
        Self::Superseded,
        Self::Unused,
        Self::Administrative,
    ];

    /// The word in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Compromised => "compromised",
            Self::Superseded => "superseded",
            Self::Unused => "unused",
            Self::Administrative => "administrative",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// When, why and with what words a key was revoked; it happens once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: RevokeReason,
    /// With what words; may be empty.
    pub comment: String,
}

/// What a key is at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It can be used.
    Active,
    /// It is paused.
    Disabled,
    /// Its time is over.
    Expired,
    /// It is gone for good.
    Revoked,
}

/// Which of the two limits on the number of keys a key falls under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyClass {
    /// Counted against the plan.
    Data,
    /// Holds `latchkey:` scopes only; an account may have five of these beside its plan.
    Operator,
}

impl KeyClass {
    /// How many operator keys an account may have beside its plan.
    pub const OPERATORS_MAX: u32 = 5;

    /// The class of a key with these scopes.
    #[must_use]
    pub fn of(scopes: &[ScopePattern]) -> Self {
        if !scopes.is_empty() && scopes.iter().all(ScopePattern::is_own) {
            Self::Operator
        } else {
            Self::Data
        }
    }

    /// The word in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Operator => "operator",
        }
    }
}

/// Who made something: `key:ID` or `system:WHAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// An operator's key.
    Key(KeyId),
    /// latchkey itself, and on what occasion.
    System(String),
}

impl Actor {
    /// Reads what [`fmt::Display`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("key", id) => KeyId::parse(id).map(Self::Key),
            ("system", what) => Some(Self::System(what.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::System(what) => write!(f, "system:{what}"),
        }
    }
}

/// The record of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Whom it belongs to.
    pub account: AccountId,
    /// Its name for people.
    pub display_name: String,
    /// As its token says.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Vec<ScopePattern>,
    /// What it may hand out.
    pub grantable_scopes: Vec<ScopePattern>,
    /// By what it is found.
    pub digest: Digest,
    /// What people are shown of its token.
    pub hint: String,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was changed last.
    pub update_time: Timestamp,
    /// When its time is over; `None` means never.
    pub expire_time: Option<Timestamp>,
    /// Whether it is gone for good.
    pub revocation: Option<Revocation>,
    /// Whether it is paused.
    pub disabled: bool,
    /// From where it may be used; empty means anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    /// What the owner attached.
    pub labels: Labels,
    /// The key that it took the place of.
    pub rotated_from: Option<KeyId>,
    /// The key that took its place.
    pub rotated_to: Option<KeyId>,
    /// Who made it.
    pub created_by: Actor,
    /// The change that made it what it is.
    pub revision: Position,
    /// How often it was changed.
    pub version: u64,
}

impl KeyRecord {
    /// What it is now. The order is that of the decision: revoked, disabled, expired.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revocation.is_some() {
            KeyState::Revoked
        } else if self.disabled {
            KeyState::Disabled
        } else if is_expired(self.expire_time, now) {
            KeyState::Expired
        } else {
            KeyState::Active
        }
    }

    /// Whether it counts against a limit on the number of keys: not revoked, expired or in overlap. (A
    /// predecessor in overlap counts after all once its successor does not: the store looks at both.)
    #[must_use]
    pub fn is_counted(&self, now: Timestamp) -> bool {
        self.revocation.is_none() && self.rotated_to.is_none() && !is_expired(self.expire_time, now)
    }

    /// Which limit it counts against.
    #[must_use]
    pub fn class(&self) -> KeyClass {
        KeyClass::of(&self.scopes)
    }
}

/// Whether a time is over; at the instant itself it is.
#[must_use]
pub fn is_expired(expire_time: Option<Timestamp>, now: Timestamp) -> bool {
    expire_time.is_some_and(|end| end <= now)
}

/// Whether a client may use a key from here. An address that is not known is in no network. An IPv4
/// address that came mapped into IPv6 counts as what it is.
#[must_use]
pub fn is_address_allowed(cidrs: &[IpNet], address: Option<IpAddr>) -> bool {
    cidrs.is_empty()
        || address.is_some_and(|address| {
            let address = address.to_canonical();
            cidrs.iter().any(|cidr| cidr.contains(&address))
        })
}

/// Reads a network; host bits are refused, because who wrote them meant something else.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| {
            "must be a network as in `192.0.2.0/24` or `2001:db8::/32`, or one address".to_owned()
        })?,
    };
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err("is an IPv4 network mapped into IPv6; write it as IPv4".to_owned());
    }
    if net.trunc() != net {
        return Err(format!("has bits set beyond its prefix; did you mean `{}`?", net.trunc()));
    }
    Ok(net)
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whom it shall belong to.
    pub account: AccountId,
    /// Its name for people.
    pub display_name: String,
    /// Production or development.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Vec<ScopePattern>,
    /// What it may hand out.
    pub grantable_scopes: Vec<ScopePattern>,
    /// When its time is over.
    pub expiry: Expiry,
    /// From where it may be used; empty means anywhere.
    pub allowed_cidrs: Vec<IpNet>,
    /// What the owner attaches.
    pub labels: Labels,
}

/// When a new key's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At an instant.
    At(Timestamp),
    /// So long after it was made.
    In(std::time::Duration),
}

/// What shall change of a key; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Its name for people.
    pub display_name: Option<String>,
    /// What it may do, as a whole.
    pub scopes: Option<Vec<ScopePattern>>,
    /// What it may hand out, as a whole.
    pub grantable_scopes: Option<Vec<ScopePattern>>,
    /// When its time is over; `Some(None)` means never.
    pub expire_time: Option<Option<Timestamp>>,
    /// From where it may be used, as a whole.
    pub allowed_cidrs: Option<Vec<IpNet>>,
    /// What the owner attached, as a whole.
    pub labels: Option<Labels>,
    /// Whether it is paused.
    pub disabled: Option<bool>,
}

impl KeyChange {
    /// Whether it only takes away: pausing a key needs no grant.
    #[must_use]
    pub fn is_pause(&self) -> bool {
        *self == Self { disabled: Some(true), ..Self::default() }
    }

    /// The key as it will be.
    #[must_use]
    pub fn apply(self, key: &KeyRecord) -> KeyRecord {
        let Self {
            display_name,
            scopes,
            grantable_scopes,
            expire_time,
            allowed_cidrs,
            labels,
            disabled,
        } = self;
        let mut after = key.clone();
        after.display_name = display_name.unwrap_or(after.display_name);
        after.scopes = scopes.unwrap_or(after.scopes);
        after.grantable_scopes = grantable_scopes.unwrap_or(after.grantable_scopes);
        after.expire_time = expire_time.unwrap_or(after.expire_time);
        after.allowed_cidrs = allowed_cidrs.unwrap_or(after.allowed_cidrs);
        after.labels = labels.unwrap_or(after.labels);
        after.disabled = disabled.unwrap_or(after.disabled);
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_sort_in_order_of_creation() {
        let at = Timestamp::from_micros(1_800_000_000_000_000);
        let ids = [
            KeyId::new(at, 1, u64::MAX),
            KeyId::new(at, 2, 0),
            KeyId::new(at.after(std::time::Duration::from_millis(1)), 1, 0),
        ];
        for id in ids {
            assert_eq!(id.to_string().len(), 30);
            assert_eq!(KeyId::parse(&id.to_string()), Some(id));
        }
        assert!(ids.is_sorted() && ids.map(|id| id.to_string()).is_sorted());
        for bad in ["", "key_", "key_zzzzzzzzzzzzzzzzzzzzzzzzzz", "key_0000000000000000000000000l"]
        {
            assert_eq!(KeyId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused_with_the_right_one() {
        assert_eq!(parse_cidr("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_cidr("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert!(parse_cidr("10.0.0.1/8").unwrap_err().contains("`10.0.0.0/8`"));
        assert!(parse_cidr("10.0.0.0/33").is_err() && parse_cidr("ten").is_err());
        assert!(parse_cidr("::ffff:10.0.0.0/104").unwrap_err().contains("IPv4"));
    }

    #[test]
    fn an_unknown_address_is_in_no_network() {
        let net = [parse_cidr("192.0.2.0/24").unwrap()];
        let of = |text: &str| Some(text.parse().unwrap());
        assert!(is_address_allowed(&[], None));
        assert!(!is_address_allowed(&net, None));
        assert!(is_address_allowed(&net, of("192.0.2.9")));
        assert!(is_address_allowed(&net, of("::ffff:192.0.2.9")));
        assert!(!is_address_allowed(&net, of("192.0.3.9")));
    }
}

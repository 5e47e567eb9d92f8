//! Who may do what with keys, read off the API's description once more and as naively as can be: sets of
//! names, ranges of addresses, and every reason there is to refuse, not the first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use latchkey::clock::Timestamp;
use latchkey::error::Reason;
use latchkey::key::{KeyChange, KeyRecord, NewKey};
use latchkey::policy::ScopeDefinition;
use latchkey::scope::ScopePattern;
use latchkey::token::Environment;

/// What a mutation is judged on.
pub(super) struct Oracle<'a> {
    /// The catalogue, latchkey's own scopes among it.
    pub(super) scopes: &'a [ScopeDefinition],
    pub(super) now: Timestamp,
    /// The accounts that are suspended.
    pub(super) suspended: &'a BTreeSet<String>,
    pub(super) maker: &'a KeyRecord,
}

type Reasons = BTreeSet<&'static str>;

impl Oracle<'_> {
    /// Why this key may not be made; nothing if it may.
    pub(super) fn create(&self, new: &KeyRecord) -> Reasons {
        let mut reasons = self.maker_and_reach(new);
        reasons.extend(self.is_suspended(new).then_some(Reason::AccountSuspended.as_str()));
        reasons.extend(self.unknown(&new.scopes));
        reasons.extend(self.unknown(&new.grantable_scopes));
        reasons.extend(over(new, self.now).then_some(Reason::InvalidField.as_str()));
        reasons.extend(self.grant(new));
        reasons
    }

    /// Why this key may not be changed so.
    pub(super) fn update(&self, before: &KeyRecord, change: &KeyChange) -> Reasons {
        let mut reasons = self.maker_and_reach(before);
        reasons.extend(before.revocation.is_some().then_some(Reason::KeyRevoked.as_str()));
        let after = change.clone().apply(before);
        reasons.extend(change.scopes.iter().filter_map(|scopes| self.unknown(scopes)));
        reasons.extend(change.grantable_scopes.iter().filter_map(|scopes| self.unknown(scopes)));
        if after.expire_time != before.expire_time {
            reasons.extend(over(&after, self.now).then_some(Reason::InvalidField.as_str()));
            let is_longer = lifetime(&after) > lifetime(before);
            let is_predecessor = before.rotated_to.is_some();
            reasons.extend((is_predecessor && is_longer).then_some(Reason::KeyRotated.as_str()));
        }
        let is_pause = *change == KeyChange { disabled: Some(true), ..KeyChange::default() };
        if !is_pause {
            reasons.extend(self.grant(before));
            reasons.extend(self.grant(&after));
        }
        reasons
    }

    /// Why this key may not be rotated.
    pub(super) fn rotate(&self, old: &KeyRecord) -> Reasons {
        let mut reasons = self.maker_and_reach(old);
        reasons.extend(old.revocation.is_some().then_some(Reason::KeyRevoked.as_str()));
        reasons.extend(old.rotated_to.is_some().then_some(Reason::KeyRotated.as_str()));
        reasons.extend(over(old, self.now).then_some(Reason::KeyExpired.as_str()));
        reasons.extend(self.is_suspended(old).then_some(Reason::AccountSuspended.as_str()));
        reasons.extend(self.grant(old));
        reasons
    }

    /// Why this key may not be revoked.
    pub(super) fn revoke(&self, key: &KeyRecord) -> Reasons {
        self.maker_and_reach(key)
    }

    /// The maker works, may write keys, and the key is one that it reaches.
    fn maker_and_reach(&self, key: &KeyRecord) -> Reasons {
        let maker = self.maker;
        let works = maker.revocation.is_none() && !maker.disabled && !over(maker, self.now);
        let writes = closure(self.scopes, &maker.scopes).contains("latchkey:keys.write");
        let mut reasons = Reasons::new();
        reasons.extend((!works).then_some(Reason::InvalidCredential.as_str()));
        reasons.extend(self.is_suspended(maker).then_some(Reason::CallerSuspended.as_str()));
        reasons.extend((!writes).then_some(Reason::PermissionDenied.as_str()));
        let reaches = maker.account.as_str() == "latchkey" || maker.account == key.account;
        reasons.extend((!reaches).then_some(Reason::NotFound.as_str()));
        reasons
    }

    /// The key lies within what the maker may hand out.
    fn grant(&self, key: &KeyRecord) -> Option<&'static str> {
        let maker = self.maker;
        let held = closure(self.scopes, &maker.scopes);
        let is_everything = maker.account.as_str() == "latchkey" && held.contains("latchkey:admin");
        let hands_out = |scope: &ScopePattern| {
            let is_own = scope.as_str().starts_with("latchkey:");
            covers(self.scopes, &maker.grantable_scopes, scope)
                && (!is_own || covers(self.scopes, &maker.scopes, scope))
        };
        let mut scopes = key.scopes.iter().chain(&key.grantable_scopes);
        let scopes_fit = is_everything || scopes.all(hands_out);
        let environment_fits =
            maker.environment == Environment::Live || key.environment == Environment::Test;
        let bounds_fit = maker.account != key.account
            || (lifetime(key) <= lifetime(maker) && places(key).is_within(&places(maker)));
        let fits = scopes_fit && environment_fits && bounds_fit;
        (!fits).then_some(Reason::GrantExceeded.as_str())
    }

    fn unknown(&self, scopes: &[ScopePattern]) -> Option<&'static str> {
        let is_unknown = |scope: &ScopePattern| closure(self.scopes, [scope]).is_empty();
        scopes.iter().any(is_unknown).then_some(Reason::InvalidField.as_str())
    }

    fn is_suspended(&self, key: &KeyRecord) -> bool {
        self.suspended.contains(key.account.as_str())
    }
}

/// The key that these wishes describe, with all else as it is in `like`.
pub(super) fn wished(new: &NewKey, expire_time: Option<Timestamp>, like: &KeyRecord) -> KeyRecord {
    KeyRecord {
        account: new.account.clone(),
        environment: new.environment,
        scopes: new.scopes.clone(),
        grantable_scopes: new.grantable_scopes.clone(),
        allowed_cidrs: new.allowed_cidrs.clone(),
        expire_time,
        disabled: false,
        revocation: None,
        rotated_from: None,
        rotated_to: None,
        ..like.clone()
    }
}

/// Whether a key has at most what the root of its chain was made with.
pub(super) fn is_within_root(
    key: &KeyRecord,
    root: &KeyRecord,
    scopes: &[ScopeDefinition],
) -> bool {
    let account_fits = root.account.as_str() == "latchkey" || key.account == root.account;
    let environment_fits =
        root.environment == Environment::Live || key.environment == Environment::Test;
    let bounds_fit = key.account != root.account
        || (lifetime(key) <= lifetime(root) && places(key).is_within(&places(root)));
    account_fits && environment_fits && bounds_fit && has_root_scopes(key, root, scopes)
}

fn has_root_scopes(key: &KeyRecord, root: &KeyRecord, scopes: &[ScopeDefinition]) -> bool {
    let held = closure(scopes, &root.scopes);
    let is_everything = root.account.as_str() == "latchkey" && held.contains("latchkey:admin");
    // The root itself holds what it was given; all others, what it could hand out.
    let is_as_given = key.id == root.id
        && key.scopes == root.scopes
        && key.grantable_scopes == root.grantable_scopes;
    let granted = closure(scopes, &root.grantable_scopes);
    is_everything
        || is_as_given
        || closure(scopes, key.scopes.iter().chain(&key.grantable_scopes)).iter().all(|scope| {
            granted.contains(scope) && (held.contains(scope) || !scope.starts_with("latchkey:"))
        })
}

/// Whether everything that the scope is, now and later, lies within the list.
fn covers(scopes: &[ScopeDefinition], list: &[ScopePattern], scope: &ScopePattern) -> bool {
    let is_spelled = |other: &ScopePattern| is_meant(other, scope.as_str());
    let is_name = scopes.iter().any(|known| known.name == scope.as_str());
    (is_name || list.iter().any(is_spelled))
        && closure(scopes, [scope]).is_subset(&closure(scopes, list))
}

/// Whether a pattern says this text: it is it, or it is all that begins so.
fn is_meant(pattern: &ScopePattern, text: &str) -> bool {
    let pattern = pattern.as_str();
    text == pattern || pattern.strip_suffix('*').is_some_and(|start| text.starts_with(start))
}

/// The names of scopes that these amount to.
fn closure<'a, 'b>(
    scopes: &'a [ScopeDefinition],
    list: impl IntoIterator<Item = &'b ScopePattern>,
) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    for pattern in list {
        all.extend(scopes.iter().map(|it| it.name.as_str()).filter(|name| is_meant(pattern, name)));
    }
    loop {
        let before = all.len();
        for scope in scopes {
            if all.contains(scope.name.as_str()) {
                all.extend(scope.implies.iter().map(String::as_str));
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

fn over(key: &KeyRecord, now: Timestamp) -> bool {
    key.expire_time.is_some_and(|end| end.micros() <= now.micros())
}

fn lifetime(key: &KeyRecord) -> i64 {
    key.expire_time.map_or(i64::MAX, Timestamp::micros)
}

/// From where a key may be used.
enum Places {
    /// From anywhere, also where the address is not known.
    Anywhere,
    /// From these ranges of IPv4 and IPv6 addresses.
    Ranges(Vec<(bool, u128, u128)>),
}

fn places(key: &KeyRecord) -> Places {
    if key.allowed_cidrs.is_empty() {
        return Places::Anywhere;
    }
    let range = |text: String| {
        let (address, length) = text.split_once('/').unwrap();
        let length: u32 = length.parse().unwrap();
        let (is_v6, first, bits) = match address.parse().unwrap() {
            IpAddr::V4(address) => (false, u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (true, address.to_bits(), 128),
        };
        let more = if length == 0 && bits == 128 { u128::MAX } else { (1 << (bits - length)) - 1 };
        (is_v6, first, first + more)
    };
    Places::Ranges(key.allowed_cidrs.iter().map(|cidr| range(cidr.to_string())).collect())
}

impl Places {
    fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Anywhere) => true,
            (Self::Anywhere, Self::Ranges(_)) => false,
            (Self::Ranges(own), Self::Ranges(others)) => {
                own.iter().all(|(is_v6, first, last)| is_filled(*is_v6, *first, *last, others))
            }
        }
    }
}

/// Whether a range is filled by others, walked through from its first address to its last.
fn is_filled(is_v6: bool, first: u128, last: u128, others: &[(bool, u128, u128)]) -> bool {
    let mut next = first;
    loop {
        let mut around =
            others.iter().filter(|(v6, a, b)| *v6 == is_v6 && *a <= next && next <= *b);
        match around.next() {
            None => return false,
            Some((_, _, end)) if *end >= last => return true,
            Some((_, _, end)) => next = end + 1,
        }
    }
}

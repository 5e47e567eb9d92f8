//! What a key may hand out: no key can do more than its maker.
//!
//! Judged on rows that the store read in the same transaction, never on what a cache holds.

use ipnet::IpNet;

use crate::account::AccountId;
use crate::error::{Error, Reason};
use crate::key::KeyRecord;
use crate::policy::Catalogue;
use crate::scope::ScopePattern;
use crate::token::Environment;

/// The scope whose holder, in the reserved account, may hand out everything.
const ADMIN: &str = "latchkey:admin";

/// Fails unless `key`, as it is or as it will be, lies within what `maker` may hand out.
pub fn check(maker: &KeyRecord, key: &KeyRecord, catalogue: &Catalogue) -> Result<(), Error> {
    if !may_hand_out_everything(maker, catalogue) {
        for scope in key.scopes.iter().chain(&key.grantable_scopes) {
            check_scope(maker, scope, catalogue)?;
        }
    }
    if maker.environment == Environment::Test && key.environment == Environment::Live {
        return Err(exceeded("your key is a test key; it may not make or change live keys"));
    }
    if maker.account == key.account {
        check_lifetime(maker, key)?;
        check_networks(maker, key)?;
    }
    Ok(())
}

/// Fails unless the maker may act on this account at all; with the one text that does not say whether
/// it exists.
pub fn check_reach(maker: &AccountId, target: &AccountId) -> Result<(), Error> {
    if maker.is_reserved() || maker == target { Ok(()) } else { Err(Error::not_found()) }
}

/// Fails unless the maker acts on all accounts.
pub fn check_reserved(maker: &AccountId) -> Result<(), Error> {
    let told = "only keys of the account `latchkey` may do this";
    maker.is_reserved().then_some(()).ok_or_else(|| Error::new(Reason::PermissionDenied, told))
}

fn may_hand_out_everything(maker: &KeyRecord, catalogue: &Catalogue) -> bool {
    let held = catalogue.held(&maker.scopes);
    maker.account.is_reserved() && catalogue.index(ADMIN).is_some_and(|admin| held.contains(admin))
}

fn check_scope(
    maker: &KeyRecord,
    scope: &ScopePattern,
    catalogue: &Catalogue,
) -> Result<(), Error> {
    let is_covered = |by: &[ScopePattern]| {
        // A pattern covers what the catalogue will hold tomorrow too, and a scope that it lacks today may
        // come back: only what is spelled out covers these.
        let is_known = scope.stem().is_none() && catalogue.index(scope.as_str()).is_some();
        let spelled = is_known || by.iter().any(|granted| granted.encloses(scope));
        spelled && catalogue.held([scope]).is_within(&catalogue.held(by))
    };
    if !is_covered(&maker.grantable_scopes) {
        return Err(exceeded(format!("your key may not hand out `{scope}`"))
            .with("scope", scope.to_string()));
    }
    if scope.is_own() && !is_covered(&maker.scopes) {
        return Err(exceeded(format!("your key does not hold `{scope}` itself"))
            .with("scope", scope.to_string()));
    }
    Ok(())
}

fn check_lifetime(maker: &KeyRecord, key: &KeyRecord) -> Result<(), Error> {
    match (maker.expire_time, key.expire_time) {
        (None, _) => Ok(()),
        (Some(end), Some(wanted)) if wanted <= end => Ok(()),
        (Some(end), _) => Err(exceeded(format!(
            "your key expires at {end}; within its account it may not make one that lasts longer"
        ))
        .with("expire_time", end.to_string())),
    }
}

fn check_networks(maker: &KeyRecord, key: &KeyRecord) -> Result<(), Error> {
    // Two halves allow the whole.
    let allowed = IpNet::aggregate(&maker.allowed_cidrs);
    let is_within = allowed.is_empty()
        || !key.allowed_cidrs.is_empty()
            && key.allowed_cidrs.iter().all(|cidr| allowed.iter().any(|net| net.contains(cidr)));
    if is_within {
        return Ok(());
    }
    Err(exceeded(
        "your key is restricted to networks; within its account it may not make one that is restricted less",
    ))
}

fn exceeded(message: impl Into<String>) -> Error {
    Error::new(Reason::GrantExceeded, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::key::{Actor, KeyId, parse_cidr};
    use crate::policy::Policy;
    use crate::revision::Position;
    use crate::token::Digest;

    fn key(account: &str, scopes: &[&str], grantable: &[&str]) -> KeyRecord {
        let read =
            |names: &[&str]| names.iter().map(|name| ScopePattern::parse(name).unwrap()).collect();
        KeyRecord {
            id: KeyId::new(Timestamp::EPOCH, 1, 1),
            account: AccountId::parse(account).unwrap(),
            display_name: "key".into(),
            environment: Environment::Live,
            scopes: read(scopes),
            grantable_scopes: read(grantable),
            digest: Digest::of(b""),
            hint: String::new(),
            create_time: Timestamp::EPOCH,
            update_time: Timestamp::EPOCH,
            expire_time: None,
            revocation: None,
            disabled: false,
            allowed_cidrs: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            rotated_from: None,
            rotated_to: None,
            created_by: Actor::System("test".into()),
            revision: Position { epoch: 0, n: 0, tag: 0 },
            version: 1,
        }
    }

    fn allowed(maker: &KeyRecord, child: &KeyRecord) -> bool {
        check(maker, child, &Catalogue::compile(Policy::default(), "").unwrap()).is_ok()
    }

    #[test]
    fn only_grantable_scopes_are_handed_out_implications_followed() {
        let maker = key("a", &["latchkey:keys.write"], &["memory:write"]);
        assert!(allowed(&maker, &key("a", &["memory:write"], &[])));
        assert!(allowed(&maker, &key("a", &["memory:read"], &["memory:read"])));
        assert!(!allowed(&maker, &key("a", &["memory:admin"], &[])));
        assert!(!allowed(&maker, &key("a", &["memory:read"], &["memory:admin"])));
        // All that lies below `memory:` today is within the grant, what comes tomorrow is not.
        let wide = key("a", &["latchkey:keys.write"], &["memory:admin", "memory:readonly"]);
        assert!(!allowed(&wide, &key("a", &["memory:*"], &[])));
        assert!(allowed(&key("a", &[], &["memory:*"]), &key("a", &["memory:*"], &[])));
    }

    #[test]
    fn a_scope_that_the_policy_lacks_is_covered_by_its_spelling_alone() {
        let orphan = key("a", &["gone:admin"], &[]);
        assert!(!allowed(&key("a", &[], &["memory:write"]), &orphan));
        assert!(allowed(&key("a", &[], &["gone:*"]), &orphan));
    }

    #[test]
    fn a_test_key_makes_no_live_keys() {
        let mut maker = key("a", &[], &["memory:read"]);
        maker.environment = Environment::Test;
        let mut child = key("a", &["memory:read"], &[]);
        assert!(!allowed(&maker, &child));
        child.environment = Environment::Test;
        assert!(allowed(&maker, &child));
    }

    #[test]
    fn own_scopes_must_be_held_too() {
        let child = key("a", &["latchkey:keys.read"], &[]);
        assert!(!allowed(&key("a", &["latchkey:keys.write"], &["latchkey:keys.read"]), &child));
        assert!(allowed(&key("a", &["latchkey:keys.read"], &["latchkey:keys.read"]), &child));
        assert!(!allowed(&key("a", &["latchkey:admin"], &[]), &child));
        assert!(allowed(&key("latchkey", &["latchkey:admin"], &[]), &child));
    }

    #[test]
    fn a_child_in_the_same_account_lasts_no_longer_and_is_restricted_no_less() {
        let mut maker = key("a", &[], &["memory:read"]);
        maker.expire_time = Some(Timestamp::from_micros(10));
        maker.allowed_cidrs = vec![parse_cidr("10.0.0.0/8").unwrap()];
        let mut child = key("a", &["memory:read"], &[]);
        assert!(!allowed(&maker, &child));
        child.expire_time = Some(Timestamp::from_micros(10));
        assert!(!allowed(&maker, &child));
        child.allowed_cidrs = vec![parse_cidr("10.1.0.0/16").unwrap()];
        assert!(allowed(&maker, &child));
        child.allowed_cidrs = vec![parse_cidr("10.0.0.0/8").unwrap()];
        maker.allowed_cidrs =
            ["10.0.0.0/9", "10.128.0.0/9"].map(|it| parse_cidr(it).unwrap()).into();
        assert!(allowed(&maker, &child));
        child.expire_time = Some(Timestamp::from_micros(11));
        assert!(!allowed(&maker, &child));
    }
}

//! `KeyService`: keys, their changes and the questions about them.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    account_id, environment, environment_if_any, environment_to_proto, given, instant, key_id,
    mask, not_in_mask, optional, page_size, position, request_id, span, texts, timestamp, whole,
};
use zeroize::Zeroizing;

use crate::account::{check_comment, check_display_name, check_labels};
use crate::clock::Timestamp;
use crate::error::{Error, Violations};
use crate::key::{
    Actor, Expiry, KEY_CIDRS_MAX, KEY_SCOPES_MAX, KeyChange, KeyId, KeyRecord, KeyState, NewKey,
    OVERLAP_DAYS_MAX, RevokeReason, parse_cidr,
};
use crate::keyring::{KeyList, KeyUpdate, LookupBy, Revoke};
use crate::proto::v1::{self, create_key_request, lookup_key_request, revoke_key_request};
use crate::scope::ScopePattern;
use crate::store::KeyTarget;
use crate::token::quoted;
use crate::token::{self, Digest};

/// What of a key can be changed.
const CHANGEABLE: &str = "`display_name`, `scopes`, `grantable_scopes`, `expire_time`, \
                          `restrictions`, `labels`, `disabled`";
/// A hundred years of 365.25 days.
const TTL_MAX: Duration = Duration::from_hours(876_600);
const OVERLAP_MAX: Duration = Duration::from_hours(OVERLAP_DAYS_MAX * 24);
/// How long a caller may ask to wait for the nodes.
pub(in crate::grpc) const WAIT_MAX: Duration = Duration::from_mins(1);
/// A hint is at most a prefix, an environment and eleven characters.
const HINT_BYTES_MAX: usize = 64;

/// A key to be put in another's place.
pub(in crate::grpc) struct Rotate {
    /// The other.
    pub(in crate::grpc) id: KeyId,
    /// How long the other goes on working.
    pub(in crate::grpc) overlap: Duration,
    /// The request, for a repeat to be recognised.
    pub(in crate::grpc) request_id: Option<String>,
}

// === To the domain ===

/// The key to be made, and the id of the request.
pub(in crate::grpc) fn create(
    request: v1::CreateKeyRequest,
) -> Result<(NewKey, Option<String>), Error> {
    let v1::CreateKeyRequest {
        account_id: account,
        display_name,
        environment: environment_number,
        scopes,
        expiration,
        restrictions,
        labels,
        request_id: request,
        grantable_scopes,
    } = request;
    let account = account_id("account_id", &account)?;
    let mut violations = Violations::default();
    name(&mut violations, "display_name", &display_name);
    check_labels(&mut violations, "labels", &labels);
    let environment = environment(&mut violations, "environment", environment_number);
    let scopes = patterns(&mut violations, "scopes", &scopes);
    let grantable_scopes = patterns(&mut violations, "grantable_scopes", &grantable_scopes);
    let expiry = expiry(&mut violations, expiration);
    let allowed_cidrs = networks(&mut violations, "restrictions", restrictions);
    let request = request_id(&mut violations, &request);
    let new = environment.map(|environment| NewKey {
        account,
        display_name,
        environment,
        scopes,
        grantable_scopes,
        expiry,
        allowed_cidrs,
        labels,
    });
    Ok((whole(violations, new)?, request))
}

/// By what a key is looked up.
pub(in crate::grpc) fn lookup(request: v1::LookupKeyRequest) -> Result<LookupBy, Error> {
    let v1::LookupKeyRequest { by } = request;
    match by {
        Some(lookup_key_request::By::Token(token)) => digest(token).map(LookupBy::Digest),
        Some(lookup_key_request::By::Hint(hint))
            if !hint.is_empty() && hint.len() <= HINT_BYTES_MAX =>
        {
            Ok(LookupBy::Hint(hint))
        }
        Some(lookup_key_request::By::Hint(_)) => {
            Err(Error::invalid("hint", "must be a hint as `Key.token_hint` shows it"))
        }
        None => Err(Error::invalid("by", "is missing; send `token` or `hint`")),
    }
}

/// Which keys are listed.
pub(in crate::grpc) fn list(request: v1::ListKeysRequest) -> Result<KeyList, Error> {
    let v1::ListKeysRequest {
        account_id: account,
        page_size: size,
        page_token,
        states: numbers,
        created_by,
        environment,
    } = request;
    let account = given(&account, |text| account_id("account_id", text))?;
    let mut violations = Violations::default();
    let list = KeyList {
        account,
        created_by: maker(&mut violations, &created_by),
        environment: environment_if_any(&mut violations, "environment", environment),
        states: states(&mut violations, &numbers),
        page_size: page_size(&mut violations, size),
        page_token,
    };
    violations.finish()?;
    Ok(list)
}

/// A change to a key: the fields that the mask names.
pub(in crate::grpc) fn update(request: v1::UpdateKeyRequest) -> Result<KeyUpdate, Error> {
    let v1::UpdateKeyRequest { key, update_mask, expected_revision } = request;
    let v1::Key {
        key_id: id,
        display_name,
        scopes,
        grantable_scopes,
        expire_time,
        restrictions,
        labels,
        disabled,
        // Never change.
        account_id: _,
        environment: _,
        // Output only.
        state: _,
        token_hint: _,
        create_time: _,
        update_time: _,
        revoke_time: _,
        revoke_reason: _,
        last_used_time: _,
        rotated_from: _,
        rotated_to: _,
        created_by: _,
        revision: _,
        revoke_comment: _,
    } = key.ok_or_else(|| Error::invalid("key", "is missing"))?;
    let id = key_id("key.key_id", &id)?;
    let mut violations = Violations::default();
    let mut change = KeyChange::default();
    for path in mask(&mut violations, update_mask) {
        match path.as_str() {
            "display_name" => {
                name(&mut violations, "key.display_name", &display_name);
                change.display_name = Some(display_name.clone());
            }
            "scopes" => {
                change.scopes = Some(patterns(&mut violations, "key.scopes", &scopes));
            }
            "grantable_scopes" => {
                let field = "key.grantable_scopes";
                change.grantable_scopes = Some(patterns(&mut violations, field, &grantable_scopes));
            }
            "expire_time" => {
                let field = "key.expire_time";
                change.expire_time =
                    Some(expire_time.and_then(|time| instant(&mut violations, field, time)));
            }
            "restrictions" | "restrictions.allowed_cidrs" if change.allowed_cidrs.is_none() => {
                let field = "key.restrictions";
                change.allowed_cidrs = Some(networks(&mut violations, field, restrictions.clone()));
            }
            "restrictions" | "restrictions.allowed_cidrs" => {}
            "labels" => {
                check_labels(&mut violations, "key.labels", &labels);
                change.labels = Some(labels.clone());
            }
            "disabled" => change.disabled = Some(disabled),
            other => not_in_mask(&mut violations, other, CHANGEABLE),
        }
    }
    let expected = position(&mut violations, "expected_revision", &expected_revision);
    violations.finish()?;
    Ok(KeyUpdate { id, change, expected })
}

/// A key to be revoked, and how long to wait for the nodes then.
pub(in crate::grpc) fn revoke(request: v1::RevokeKeyRequest) -> Result<(Revoke, Duration), Error> {
    let v1::RevokeKeyRequest { target, reason, comment, wait, revoke_created } = request;
    let target = match target {
        Some(revoke_key_request::Target::KeyId(id)) => KeyTarget::Id(key_id("key_id", &id)?),
        Some(revoke_key_request::Target::Token(token)) => KeyTarget::Digest(digest(token)?),
        None => return Err(Error::invalid("target", "is missing; send `key_id` or `token`")),
    };
    let mut violations = Violations::default();
    let reason = revoke_reason(&mut violations, reason);
    check_comment(&mut violations, "comment", &comment);
    let wait = wait.and_then(|wait| {
        let fits = |wait| wait <= WAIT_MAX;
        span(&mut violations, "wait", wait, fits, "must be 0 to 60 s")
    });
    violations.finish()?;
    let revoke = Revoke { target, reason, comment, with_created: revoke_created };
    Ok((revoke, wait.unwrap_or_default()))
}

/// A key to be put in another's place.
pub(in crate::grpc) fn rotate(request: v1::RotateKeyRequest) -> Result<Rotate, Error> {
    let v1::RotateKeyRequest { key_id: id, overlap, request_id: request } = request;
    let id = key_id("key_id", &id)?;
    let mut violations = Violations::default();
    let overlap = overlap.and_then(|overlap| {
        let fits = |overlap| overlap <= OVERLAP_MAX;
        span(&mut violations, "overlap", overlap, fits, "must be 0 to 7 days")
    });
    let request_id = request_id(&mut violations, &request);
    violations.finish()?;
    Ok(Rotate { id, overlap: overlap.unwrap_or_default(), request_id })
}

/// The digest of a token that somebody found; what was sent is not given back, but wiped.
fn digest(token: String) -> Result<Digest, Error> {
    let token = Zeroizing::new(token);
    token::parse(token.as_bytes())
        .map(|parsed| parsed.digest())
        .map_err(|fault| Error::invalid("token", format!("is not a token: {fault}")))
}

fn name(violations: &mut Violations, field: &str, name: &str) {
    if name.is_empty() {
        violations.add(field, "is missing; a key needs a name of 1 to 63 characters");
    }
    check_display_name(violations, field, name);
}

fn patterns(violations: &mut Violations, field: &str, scopes: &[String]) -> Vec<ScopePattern> {
    if scopes.len() > KEY_SCOPES_MAX {
        violations.add(field, format!("may hold {KEY_SCOPES_MAX} scopes at most"));
        return Vec::new();
    }
    let mut read = Vec::with_capacity(scopes.len());
    for (index, text) in scopes.iter().enumerate() {
        match ScopePattern::parse(text) {
            Ok(pattern) if read.contains(&pattern) => {
                violations.add(format!("{field}[{index}]"), "stands in the list already");
            }
            Ok(pattern) => read.push(pattern),
            Err(error) => {
                let fault = format!("{}: {error}", quoted(text));
                violations.add(format!("{field}[{index}]"), fault);
            }
        }
    }
    read
}

/// The networks of the restrictions in `field`.
fn networks(
    violations: &mut Violations,
    field: &str,
    restrictions: Option<v1::Restrictions>,
) -> Vec<IpNet> {
    let v1::Restrictions { allowed_cidrs } = restrictions.unwrap_or_default();
    if allowed_cidrs.len() > KEY_CIDRS_MAX {
        let fault = format!("may hold {KEY_CIDRS_MAX} networks at most");
        violations.add(format!("{field}.allowed_cidrs"), fault);
        return Vec::new();
    }
    let read = |(index, text): (usize, &String)| {
        violations.check(format!("{field}.allowed_cidrs[{index}]"), parse_cidr(text))
    };
    allowed_cidrs.iter().enumerate().filter_map(read).collect()
}

fn expiry(
    violations: &mut Violations,
    expiration: Option<create_key_request::Expiration>,
) -> Expiry {
    let expiry = match expiration {
        None => Some(Expiry::Never),
        Some(create_key_request::Expiration::ExpireTime(time)) => {
            instant(violations, "expire_time", time).map(Expiry::At)
        }
        Some(create_key_request::Expiration::Ttl(ttl)) => {
            // A microsecond is the least that a time can differ by.
            let fits = |ttl| (Duration::from_micros(1)..=TTL_MAX).contains(&ttl);
            span(violations, "ttl", ttl, fits, "must be more than 0 and at most 100 years")
                .map(Expiry::In)
        }
    };
    expiry.unwrap_or(Expiry::Never)
}

/// A maker as `Key.created_by` shows it; empty means any.
fn maker(violations: &mut Violations, text: &str) -> Option<String> {
    let remedy = "must be as `Key.created_by` shows it, as in `key:ID`";
    optional(text, |text| {
        let actor = violations.check("created_by", Actor::parse(text).ok_or(remedy))?;
        Some(actor.to_string())
    })
}

fn states(violations: &mut Violations, numbers: &[i32]) -> Vec<KeyState> {
    let mut states = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let state = match v1::KeyState::try_from(*number) {
            Ok(v1::KeyState::Active) => KeyState::Active,
            Ok(v1::KeyState::Disabled) => KeyState::Disabled,
            Ok(v1::KeyState::Expired) => KeyState::Expired,
            Ok(v1::KeyState::Revoked) => KeyState::Revoked,
            Ok(v1::KeyState::Unspecified) | Err(_) => {
                let remedy = "must be KEY_STATE_ACTIVE, _DISABLED, _EXPIRED or _REVOKED";
                violations.add(format!("states[{index}]"), remedy);
                continue;
            }
        };
        if !states.contains(&state) {
            states.push(state);
        }
    }
    states
}

fn revoke_reason(violations: &mut Violations, number: i32) -> RevokeReason {
    match v1::RevokeReason::try_from(number) {
        Ok(v1::RevokeReason::Unspecified) => RevokeReason::Unspecified,
        Ok(v1::RevokeReason::Compromised) => RevokeReason::Compromised,
        Ok(v1::RevokeReason::Superseded) => RevokeReason::Superseded,
        Ok(v1::RevokeReason::Unused) => RevokeReason::Unused,
        Ok(v1::RevokeReason::Administrative) => RevokeReason::Administrative,
        Err(_) => {
            let remedy = "must be REVOKE_REASON_COMPROMISED, _SUPERSEDED, _UNUSED or \
                          _ADMINISTRATIVE, or be left out";
            violations.add("reason", remedy);
            RevokeReason::Unspecified
        }
    }
}

// === From the domain ===

/// A key as it is at `now`. When it was used last is not known yet.
pub(in crate::grpc) fn key(key: KeyRecord, now: Timestamp) -> v1::Key {
    let state = state_to_proto(key.state(now));
    let KeyRecord {
        id,
        account,
        display_name,
        environment,
        scopes,
        grantable_scopes,
        digest: _,
        hint,
        create_time,
        update_time,
        expire_time,
        revocation,
        disabled,
        allowed_cidrs,
        labels,
        rotated_from,
        rotated_to,
        created_by,
        revision,
        version: _,
    } = key;
    let restrictions = (!allowed_cidrs.is_empty())
        .then(|| v1::Restrictions { allowed_cidrs: texts(&allowed_cidrs) });
    let id_text = |id: Option<KeyId>| id.map(|id| id.to_string()).unwrap_or_default();
    let reason = revocation.as_ref().map_or(RevokeReason::Unspecified, |it| it.reason);
    v1::Key {
        key_id: id.to_string(),
        account_id: account.to_string(),
        display_name,
        environment: environment_to_proto(environment).into(),
        scopes: texts(&scopes),
        state: state.into(),
        token_hint: hint,
        create_time: Some(timestamp(create_time)),
        update_time: Some(timestamp(update_time)),
        expire_time: expire_time.map(timestamp),
        revoke_time: revocation.as_ref().map(|it| timestamp(it.time)),
        revoke_reason: revoke_reason_to_proto(reason).into(),
        last_used_time: None,
        restrictions,
        labels,
        rotated_from: id_text(rotated_from),
        created_by: created_by.to_string(),
        revision: revision.to_revision(),
        disabled,
        grantable_scopes: texts(&grantable_scopes),
        revoke_comment: revocation.map(|it| it.comment).unwrap_or_default(),
        rotated_to: id_text(rotated_to),
    }
}

const fn state_to_proto(state: KeyState) -> v1::KeyState {
    match state {
        KeyState::Active => v1::KeyState::Active,
        KeyState::Disabled => v1::KeyState::Disabled,
        KeyState::Expired => v1::KeyState::Expired,
        KeyState::Revoked => v1::KeyState::Revoked,
    }
}

const fn revoke_reason_to_proto(reason: RevokeReason) -> v1::RevokeReason {
    match reason {
        RevokeReason::Unspecified => v1::RevokeReason::Unspecified,
        RevokeReason::Compromised => v1::RevokeReason::Compromised,
        RevokeReason::Superseded => v1::RevokeReason::Superseded,
        RevokeReason::Unused => v1::RevokeReason::Unused,
        RevokeReason::Administrative => v1::RevokeReason::Administrative,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "key_00000000000000000000000000";
    const TOKEN: &str = "hm_live_abc123xyz456def789ghi012jkl345mno678";

    fn fields(error: Option<Error>) -> Vec<String> {
        error.into_iter().flat_map(|it| it.violations).map(|it| it.field).collect()
    }

    fn masked(paths: &[&str]) -> v1::UpdateKeyRequest {
        v1::UpdateKeyRequest {
            key: Some(v1::Key { key_id: ID.into(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            expected_revision: String::new(),
        }
    }

    #[test]
    fn every_field_of_a_new_key_at_fault_is_named() {
        let request = v1::CreateKeyRequest {
            account_id: "acme".into(),
            scopes: vec!["a:b".into(), "*".into(), "a:b".into()],
            expiration: Some(create_key_request::Expiration::Ttl(prost_types::Duration::default())),
            restrictions: Some(v1::Restrictions { allowed_cidrs: vec!["10.0.0.1/8".into()] }),
            labels: [(String::new(), String::new())].into(),
            request_id: "once".into(),
            grantable_scopes: vec!["a:b".into(); 65],
            ..Default::default()
        };
        let named = [
            "display_name",
            "labels",
            "environment",
            "scopes[1]",
            "scopes[2]",
            "grantable_scopes",
            "ttl",
            "restrictions.allowed_cidrs[0]",
            "request_id",
        ];
        assert_eq!(fields(create(request).err()), named);
    }

    #[test]
    fn a_mask_changes_what_it_names_and_nothing_else() {
        let update = update(masked(&["disabled", "expire_time"])).ok().unwrap();
        let expected =
            KeyChange { disabled: Some(false), expire_time: Some(None), ..KeyChange::default() };
        assert_eq!(update.change, expected);
    }

    #[test]
    fn a_mask_that_is_empty_or_names_something_else_is_refused() {
        assert_eq!(fields(update(masked(&[])).err()), ["update_mask"]);
        assert_eq!(fields(update(masked(&["*"])).err()), ["update_mask"]);
        let error = update(masked(&["account_id"])).err().unwrap();
        assert!(error.message.contains("`account_id`") && error.message.contains("`labels`"));
        let mut restrictions = masked(&["restrictions", "restrictions.allowed_cidrs"]);
        restrictions.key.as_mut().unwrap().restrictions =
            Some(v1::Restrictions { allowed_cidrs: vec!["x".into()] });
        assert_eq!(fields(update(restrictions).err()), ["key.restrictions.allowed_cidrs[0]"]);
    }

    #[test]
    fn a_token_at_fault_is_not_given_back() {
        let by = Some(lookup_key_request::By::Token(TOKEN.into()));
        let error = lookup(v1::LookupKeyRequest { by }).err().unwrap();
        assert!(error.message.contains("checksum") && !format!("{error:?}").contains("abc123"));
    }

    #[test]
    fn spans_are_bounded() {
        let of = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let rotating = |overlap| v1::RotateKeyRequest {
            key_id: ID.into(),
            overlap,
            request_id: String::new(),
        };
        assert!(rotate(rotating(of(7 * 86_400))).is_ok() && rotate(rotating(None)).is_ok());
        assert_eq!(fields(rotate(rotating(of(7 * 86_400 + 1))).err()), ["overlap"]);
        let revoking = v1::RevokeKeyRequest {
            target: Some(revoke_key_request::Target::KeyId(ID.into())),
            reason: 9,
            comment: "x".repeat(501),
            wait: of(61),
            revoke_created: false,
        };
        assert_eq!(fields(revoke(revoking).err()), ["reason", "comment", "wait"]);
    }
}

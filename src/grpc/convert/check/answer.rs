//! `envoy.service.auth.v3.CheckResponse`: what a gateway is told. No answer is made but here, and none leaves out its
//! status. It is written field by field, because there is one for every request.

use bytes::Bytes;
use tonic::Code;

use super::{headers, is_grpc};
use crate::decision::{Decision, Identity};
use crate::error::{Error, Reason};
use crate::gateway::{IDENTITY_HEADERS, Refusal, Secret, identity_headers, problem};
use crate::grpc::message::PREFIX_BYTES;
use crate::metrics::Outcome;
use crate::proto::check::{CheckRequest, Pair};
use crate::proto::wire::Writer;

/// What an answer usually takes.
const ANSWER_BYTES: usize = 1024;

/// Numbers of fields, by message.
mod number {
    /// `CheckResponse`.
    pub(super) const STATUS: u8 = 1;
    pub(super) const DENIED: u8 = 2;
    pub(super) const OK: u8 = 3;
    pub(super) const METADATA: u8 = 4;
    /// `google.rpc.Status` and `HttpStatus`.
    pub(super) const CODE: u8 = 1;
    /// `OkHttpResponse` and `DeniedHttpResponse`.
    pub(super) const HEADERS: u8 = 2;
    pub(super) const HEADERS_TO_REMOVE: u8 = 5;
    pub(super) const HTTP_STATUS: u8 = 1;
    pub(super) const BODY: u8 = 3;
    /// `HeaderValueOption`.
    pub(super) const HEADER: u8 = 1;
    pub(super) const APPEND: u8 = 2;
    pub(super) const APPEND_ACTION: u8 = 3;
    /// Entries of maps and `HeaderValue`.
    pub(super) const KEY: u8 = 1;
    pub(super) const VALUE: u8 = 2;
    /// `Struct`, `Value` and `ListValue`.
    pub(super) const FIELDS: u8 = 1;
    pub(super) const STRING: u8 = 3;
    pub(super) const BOOL: u8 = 4;
    pub(super) const LIST: u8 = 6;
    pub(super) const VALUES: u8 = 1;
}

/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE_OR_ADD: u64 = 2;

/// Of a decision. `secret` is what the upstream is not to see.
pub(in crate::grpc) fn decided(
    check: &CheckRequest<'_>,
    decision: &Decision,
    realm: &str,
    secret: Option<Secret<'_>>,
) -> Result<Bytes, Error> {
    if let Some(denial) = decision.denial {
        let refusal = Refusal::denied(decision, denial, realm);
        return Ok(refused(check, &refusal, |told| metadata(told, decision)));
    }
    // Without a rule that says otherwise, an allow is somebody's.
    if decision.identity.is_none() && decision.rule.is_none() {
        return Err(Error::new(Reason::Internal, "internal error"));
    }
    // What a rule only observes passes as if it were not there: nobody's, and with what may be meant for somebody else.
    let is_enforced = decision.observed.is_none();
    let identity = decision.identity.as_ref().filter(|_| is_enforced);
    let secret = secret.filter(|_| is_enforced);
    Ok(answer(Code::Ok, |writer| {
        writer.message(number::OK, |ok| pass(ok, check, identity, decision.billable, secret));
        writer.message(number::METADATA, |told| metadata(told, decision));
    }))
}

/// Of what could not be decided, or was asked wrongly.
pub(in crate::grpc) fn undecided(check: &CheckRequest<'_>, refusal: &Refusal) -> Bytes {
    refused(check, refusal, |told| {
        tell(told, "decision", "error");
        tell(told, "reason", refusal.reason);
    })
}

/// An answer, framed as gRPC has it.
fn answer(code: Code, write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::after(&[0; PREFIX_BYTES], ANSWER_BYTES);
    writer.message(number::STATUS, |status| {
        if code != Code::Ok {
            status.number(number::CODE, code as u64);
        }
    });
    write(&mut writer);
    let mut bytes = writer.into_bytes();
    let length = u32::try_from(bytes.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

// === What the upstream sees ===

/// All identity headers always, each set or taken out, so that none is the client's own. Some servers take `_`, `.`
/// and what else is no letter for `-`, so what then looks like one is taken out too.
fn pass(
    ok: &mut Writer,
    check: &CheckRequest<'_>,
    identity: Option<&Identity>,
    billable: bool,
    secret: Option<Secret<'_>>,
) {
    for (name, _) in headers(check).filter(|(name, _)| is_alike(name)) {
        ok.text(number::HEADERS_TO_REMOVE, &String::from_utf8_lossy(name));
    }
    let Some(identity) = identity else {
        for name in IDENTITY_HEADERS {
            ok.text(number::HEADERS_TO_REMOVE, name);
        }
        let is_secret = |(name, value): &Pair<'_>| secret.is_some_and(|it| it.is_in(name, value));
        for (name, _) in headers(check).filter(is_secret) {
            ok.text(number::HEADERS_TO_REMOVE, &String::from_utf8_lossy(name));
        }
        return;
    };
    for (name, value) in identity_headers(identity, billable) {
        // Gateways do not set what is empty.
        if value.is_empty() {
            ok.text(number::HEADERS_TO_REMOVE, name);
        } else {
            header(ok, name, &value);
        }
    }
    if let Some(name) = secret.and_then(|secret| secret.found) {
        ok.text(number::HEADERS_TO_REMOVE, name);
    }
}

/// Whether a name is that of an identity header but for what stands in place of a `-`.
fn is_alike(name: &[u8]) -> bool {
    let is_other = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'-';
    name.iter().any(is_other)
        && IDENTITY_HEADERS.iter().any(|own| {
            let is_same = |(a, b): (&u8, u8)| {
                a.eq_ignore_ascii_case(&b) || (!a.is_ascii_alphanumeric() && b == b'-')
            };
            name.len() == own.len() && name.iter().zip(own.bytes()).all(is_same)
        })
}

/// A header that stands in the place of any of the same name. Envoy reads the one field or the other, by its version; in
/// 1.37.0 what leaves both out is put *behind* what the client sent.
fn header(response: &mut Writer, name: &str, value: &str) {
    response.message(number::HEADERS, |option| {
        option.message(number::HEADER, |header| {
            header.text(number::KEY, name);
            header.text(number::VALUE, value);
        });
        // A `BoolValue` that is false: it is there, and has nothing in it.
        option.message(number::APPEND, |_| {});
        option.number(number::APPEND_ACTION, OVERWRITE_OR_ADD);
    });
}

// === What the client sees ===

fn refused(
    check: &CheckRequest<'_>,
    refusal: &Refusal,
    metadata: impl FnOnce(&mut Writer),
) -> Bytes {
    let Refusal { status, reason, detail, challenge, retry_after } = refusal;
    answer(code(*status), |writer| {
        writer.message(number::DENIED, |denied| {
            denied.message(number::HTTP_STATUS, |http| http.number(number::CODE, (*status).into()));
            header(denied, "cache-control", "no-store");
            if let Some(challenge) = challenge {
                header(denied, "www-authenticate", challenge);
            }
            if let Some(seconds) = retry_after {
                header(denied, "retry-after", &seconds.to_string());
            }
            if !is_grpc(check) {
                header(denied, "content-type", "application/problem+json");
                denied.text(number::BODY, &problem(*status, reason, detail));
            }
        });
        writer.message(number::METADATA, metadata);
    })
}

const fn code(http_status: u16) -> Code {
    match http_status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

// === What the gateway itself is told, for its logs and other filters ===

fn metadata(told: &mut Writer, decision: &Decision) {
    let Decision {
        denial,
        identity,
        needed: _,
        billable,
        rule,
        ambiguity,
        observed,
        stale,
        revision,
    } = decision;
    let (word, reason) = match denial {
        Some(denial) => ("deny", denial.as_str()),
        None => ("allow", Outcome::Allowed.reason()),
    };
    tell(told, "decision", word);
    tell(told, "reason", reason);
    tell_value(told, "billable", |value| value.number(number::BOOL, u64::from(*billable)));
    tell(told, "revision", &revision.to_revision());
    if *stale {
        tell_value(told, "stale", |value| value.number(number::BOOL, 1));
    }
    if let Some(rule) = rule {
        tell(told, "rule", rule);
    }
    if let Some(ambiguity) = ambiguity {
        tell(told, "ambiguity", ambiguity.as_str());
    }
    if let Some(observed) = observed {
        tell(told, "observed_reason", observed.as_str());
    }
    let Some(identity) = identity else { return };
    let Identity { key_id, account, environment, scopes, plan, labels: _, expire_time: _ } =
        identity;
    tell(told, "key_id", &key_id.to_string());
    tell(told, "account_id", account.as_str());
    tell(told, "environment", environment.as_str());
    tell(told, "plan", plan);
    tell_value(told, "scopes", |value| {
        value.message(number::LIST, |list| {
            for scope in scopes.iter() {
                list.message(number::VALUES, |value| value.text(number::STRING, scope.as_str()));
            }
        });
    });
}

/// A field of a `Struct` that is text.
fn tell(told: &mut Writer, name: &str, text: &str) {
    tell_value(told, name, |value| value.text(number::STRING, text));
}

/// A field of a `Struct`.
fn tell_value(told: &mut Writer, name: &str, write: impl FnOnce(&mut Writer)) {
    told.message(number::FIELDS, |field| {
        field.text(number::KEY, name);
        field.message(number::VALUE, write);
    });
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::decision::Denial;
    use crate::proto::vendored::envoy::service::auth::v3::CheckResponse;
    use crate::proto::vendored::envoy::service::auth::v3::check_response::HttpResponse;

    fn read(framed: &Bytes) -> CheckResponse {
        let length = u32::from_be_bytes(framed[1..PREFIX_BYTES].try_into().unwrap());
        assert_eq!((framed[0], length as usize), (0, framed.len() - PREFIX_BYTES));
        CheckResponse::decode(&framed[PREFIX_BYTES..]).unwrap()
    }

    fn nobody(denial: Option<Denial>, rule: Option<&str>) -> Decision {
        Decision { rule: rule.map(Into::into), ..Decision::nobodys(denial) }
    }

    #[test]
    fn each_denial_has_its_status_and_its_code() {
        for denial in Denial::ALL {
            let decision = nobody(Some(denial), None);
            let response = read(&decided(&CheckRequest::default(), &decision, "r", None).unwrap());
            let code = response.status.unwrap().code;
            let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
                panic!("{denial:?} is let through");
            };
            let (status, expected) = match denial {
                Denial::MissingCredential
                | Denial::MalformedCredential
                | Denial::UnknownKey
                | Denial::KeyRevoked
                | Denial::KeyDisabled
                | Denial::KeyExpired => (401, 16),
                Denial::AccountSuspended
                | Denial::AddressNotAllowed
                | Denial::WrongEnvironment
                | Denial::InsufficientScope
                | Denial::RouteDenied => (403, 7),
                Denial::RateLimited | Denial::QuotaExceeded => (429, 8),
            };
            assert_eq!((denied.status.unwrap().code, code), (status, expected), "{denial:?}");
            let has = |name: &str| {
                denied.headers.iter().any(|it| it.header.as_ref().unwrap().key == name)
            };
            let is_challenged = status == 401 || denial == Denial::InsufficientScope;
            assert_eq!(has("www-authenticate"), is_challenged, "{denial:?}");
            assert!(has("content-type") && has("cache-control"));
        }
    }

    #[test]
    fn what_could_not_be_decided_is_refused() {
        for reason in Reason::ALL {
            let refusal = Refusal::undecided(&Error::new(reason, "told"));
            let response = read(&undecided(&CheckRequest::default(), &refusal));
            let code = response.status.unwrap().code;
            assert!(matches!(refusal.status, 500 | 503), "{reason:?}");
            assert_eq!(code, if refusal.status == 503 { 14 } else { 13 });
            assert!(matches!(response.http_response, Some(HttpResponse::DeniedResponse(_))));
            assert_eq!(refusal.retry_after.is_some(), refusal.status == 503);
        }
    }

    #[test]
    fn an_allow_is_somebodys_or_a_rules() {
        let of = |decision| decided(&CheckRequest::default(), &decision, "r", None);
        assert_eq!(of(nobody(None, None)).unwrap_err().reason, Reason::Internal);
        assert!(of(nobody(None, Some("open"))).is_ok());
    }

    #[test]
    fn what_looks_like_an_identity_header_but_for_its_dashes_is_told_apart() {
        for name in ["x_latchkey_plan", "X-Latchkey_Plan", "x_latchkey-key-id"] {
            assert!(is_alike(name.as_bytes()), "{name}");
        }
        for name in ["x-latchkey-plan", "x_latchkey_plans", "x_latchkey_plam", "_"] {
            assert!(!is_alike(name.as_bytes()), "{name}");
        }
    }
}

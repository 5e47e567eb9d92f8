//! `envoy.service.auth.v3`: what a gateway is told. No answer is made but here, and none leaves out its status.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use super::{headers, is_grpc};
use crate::decision::{Decision, Identity};
use crate::error::{Error, Reason};
use crate::gateway::{IDENTITY_HEADERS, Refusal, identity_headers, problem};
use crate::metrics::Outcome;
use crate::proto::check::CheckRequest;
use crate::proto::vendored::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::proto::vendored::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::proto::vendored::envoy::service::auth::v3::check_response::HttpResponse;
use crate::proto::vendored::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use crate::proto::vendored::envoy::r#type::v3::HttpStatus;
use crate::proto::vendored::google::rpc::Status;

/// Of a decision. `hidden` is the header that the upstream is not to see.
pub(in crate::grpc) fn decided(
    check: &CheckRequest,
    decision: &Decision,
    realm: &str,
    hidden: Option<&str>,
) -> Result<CheckResponse, Error> {
    let told = Some(metadata(decision));
    if let Some(denial) = decision.denial {
        return Ok(refused(check, &Refusal::denied(decision, denial, realm), told));
    }
    // Without a rule that says otherwise, an allow is somebody's.
    if decision.identity.is_none() && decision.rule.is_none() {
        return Err(Error::new(Reason::Internal, "internal error"));
    }
    let identity = decision.identity.as_ref().filter(|_| decision.observed.is_none());
    Ok(CheckResponse {
        status: Some(Status { code: Code::Ok.into(), ..Status::default() }),
        dynamic_metadata: told,
        http_response: Some(HttpResponse::OkResponse(passed(
            check,
            identity,
            decision.billable,
            hidden,
        ))),
    })
}

/// Of what could not be decided, or was asked wrongly.
pub(in crate::grpc) fn undecided(check: &CheckRequest, refusal: &Refusal) -> CheckResponse {
    let fields = [("decision", text("error")), ("reason", text(refusal.reason))];
    refused(check, refusal, Some(structure(fields)))
}

// === What the upstream sees ===

/// All identity headers always, each set or taken out, so that none is the client's own. Some servers take `_` for `-`,
/// so what then looks like one is taken out too.
fn passed(
    check: &CheckRequest,
    identity: Option<&Identity>,
    billable: bool,
    hidden: Option<&str>,
) -> OkHttpResponse {
    let mut set = Vec::new();
    let mut remove: Vec<String> = headers(check)
        .filter(|(name, _)| is_alike(name))
        .map(|(name, _)| name.to_owned())
        .collect();
    match identity {
        Some(identity) => {
            for (name, value) in identity_headers(identity, billable) {
                // Gateways do not set what is empty.
                if value.is_empty() {
                    remove.push(name.to_owned());
                } else {
                    set.push(header(name, value));
                }
            }
            remove.extend(hidden.map(str::to_owned));
        }
        None => remove.extend(IDENTITY_HEADERS.map(str::to_owned)),
    }
    OkHttpResponse { headers: set, headers_to_remove: remove, ..OkHttpResponse::default() }
}

/// Whether a name is that of an identity header but for a `_`.
fn is_alike(name: &str) -> bool {
    name.contains('_')
        && IDENTITY_HEADERS.iter().any(|own| {
            let is_same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
            name.len() == own.len() && name.bytes().zip(own.bytes()).all(is_same)
        })
}

/// A header that stands in the place of any of the same name. Envoy reads the one field or the other, by its version; in
/// 1.37.0 what leaves both out is put *behind* what the client sent.
#[expect(deprecated, reason = "there are versions that read nothing else")]
fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() }),
        append: Some(false),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

// === What the client sees ===

fn refused(check: &CheckRequest, refusal: &Refusal, told: Option<Struct>) -> CheckResponse {
    let Refusal { status, reason, detail, challenge, retry_after } = refusal;
    let mut set = vec![header("cache-control", "no-store".to_owned())];
    set.extend(challenge.as_ref().map(|it| header("www-authenticate", it.clone())));
    set.extend(retry_after.map(|seconds| header("retry-after", seconds.to_string())));
    let body = if is_grpc(check) {
        String::new()
    } else {
        set.push(header("content-type", "application/problem+json".to_owned()));
        problem(*status, reason, detail)
    };
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(*status) }),
        headers: set,
        body,
    };
    CheckResponse {
        status: Some(Status { code: code(*status).into(), ..Status::default() }),
        dynamic_metadata: told,
        http_response: Some(HttpResponse::DeniedResponse(denied)),
    }
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

fn metadata(decision: &Decision) -> Struct {
    let Decision { denial, identity, needed: _, billable, rule, observed, revision } = decision;
    let (word, reason) = match denial {
        Some(denial) => ("deny", denial.as_str()),
        None => ("allow", Outcome::Allowed.reason()),
    };
    let mut told = structure([
        ("decision", text(word)),
        ("reason", text(reason)),
        ("billable", Kind::BoolValue(*billable)),
        ("revision", text(revision.to_revision())),
    ]);
    let mut tell = |name: &str, kind| {
        told.fields.insert(name.to_owned(), Value { kind: Some(kind) });
    };
    if let Some(rule) = rule {
        tell("rule", text(&**rule));
    }
    if let Some(observed) = observed {
        tell("observed_reason", text(observed.as_str()));
    }
    if let Some(identity) = identity {
        let Identity { key_id, account, environment, scopes, plan, labels: _, expire_time: _ } =
            identity;
        let scopes =
            scopes.iter().map(|scope| Value { kind: Some(text(scope.as_str())) }).collect();
        tell("key_id", text(key_id.to_string()));
        tell("account_id", text(account.as_str()));
        tell("environment", text(environment.as_str()));
        tell("scopes", Kind::ListValue(ListValue { values: scopes }));
        tell("plan", text(&**plan));
    }
    told
}

fn structure<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
    let fields = fields.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
    Struct { fields: BTreeMap::from(fields) }
}

fn text(text: impl Into<String>) -> Kind {
    Kind::StringValue(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Denial;
    use crate::revision::Position;

    fn nobody(denial: Option<Denial>, rule: Option<&str>) -> Decision {
        Decision {
            denial,
            identity: None,
            needed: None,
            billable: false,
            rule: rule.map(Into::into),
            observed: None,
            revision: Position { epoch: 1, n: 2, tag: 3 },
        }
    }

    #[test]
    fn each_denial_has_its_status_and_its_code() {
        for denial in Denial::ALL {
            let decision = nobody(Some(denial), None);
            let response = decided(&CheckRequest::default(), &decision, "r", None).unwrap();
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
            let response = undecided(&CheckRequest::default(), &refusal);
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
            assert!(is_alike(name), "{name}");
        }
        for name in ["x-latchkey-plan", "x_latchkey_plans", "x_latchkey_plam", "_"] {
            assert!(!is_alike(name), "{name}");
        }
    }
}

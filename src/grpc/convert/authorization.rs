//! `AuthorizationService`: questions and decisions. On a hit, what is not in the answer is not made.

use std::net::IpAddr;

use super::{environment_if_any, environment_to_proto, position, texts, timestamp};
use crate::authorizer::{Credential, Question, Required};
use crate::decision::{Decision, Denial, Identity};
use crate::error::{Error, Violations};
use crate::policy::COST_MAX;
use crate::proto::v1;
use crate::scope::expression::BadExpression;

/// What a caller asks; it borrows the message.
pub(crate) fn question(request: &v1::AuthorizeRequest) -> Result<Question<'_>, Error> {
    let v1::AuthorizeRequest {
        token,
        required_scope,
        authenticate_only,
        client_address,
        required_environment,
        min_revision,
        cost,
    } = request;
    let mut violations = Violations::default();
    let required = match (required_scope.as_str(), *authenticate_only) {
        ("", true) => Required::AuthenticateOnly,
        ("", false) => {
            violations.add("required_scope", BadExpression::Empty.to_string());
            Required::AuthenticateOnly
        }
        (_, true) => {
            violations.add("required_scope", "must be empty when authenticate_only is set");
            Required::AuthenticateOnly
        }
        (expression, false) => Required::Scope(expression),
    };
    let question = Question {
        credential: Credential::from_token(token.as_bytes()),
        required,
        client_address: address(&mut violations, client_address),
        environment: environment_if_any(
            &mut violations,
            "required_environment",
            *required_environment,
        ),
        cost: cost.filter(|cost| is_cost(&mut violations, *cost)),
        min_revision: position(&mut violations, "min_revision", min_revision),
    };
    violations.finish()?;
    Ok(question)
}

fn address(violations: &mut Violations, text: &str) -> Option<IpAddr> {
    if text.is_empty() {
        return None;
    }
    let remedy = "must be an IPv4 or IPv6 address without a port, as in `192.0.2.7` or \
                  `2001:db8::7`; leave it empty when it is not known";
    violations.check("client_address", text.parse().map_err(|_| remedy))
}

fn is_cost(violations: &mut Violations, cost: u32) -> bool {
    let is_right = cost <= COST_MAX;
    if !is_right {
        violations.add("cost", format!("is {cost}, and can be {COST_MAX} at most"));
    }
    is_right
}

/// What the caller is told.
pub(crate) fn answer(decision: Decision, realm: &str) -> v1::AuthorizeResponse {
    // The challenge is only made where there is something to challenge.
    let challenge = decision.denial.and_then(|_| decision.challenge(realm));
    let http_status = i32::from(decision.http_status());
    // Who asks by a scope of its own is asked no rules.
    let Decision {
        denial,
        identity,
        needed: _,
        billable,
        rule: _,
        ambiguity: _,
        observed: _,
        stale,
        revision,
    } = decision;
    let base = v1::AuthorizeResponse {
        allowed: denial.is_none(),
        reason: reason(denial).into(),
        http_status,
        billable,
        www_authenticate: challenge.unwrap_or_default(),
        revision: revision.to_revision(),
        stale,
        limits: Vec::new(),
        ..v1::AuthorizeResponse::default()
    };
    let Some(identity) = identity else { return base };
    let Identity { key_id, account, environment, scopes, plan, labels, expire_time } = identity;
    v1::AuthorizeResponse {
        key_id: key_id.to_string(),
        account_id: account.as_str().to_owned(),
        environment: environment_to_proto(environment).into(),
        scopes: texts(&scopes),
        plan: (*plan).to_owned(),
        labels: labels.map(|labels| (*labels).clone()).unwrap_or_default(),
        expire_time: expire_time.map(timestamp),
        ..base
    }
}

const fn reason(denial: Option<Denial>) -> v1::DecisionReason {
    let Some(denial) = denial else { return v1::DecisionReason::Allowed };
    match denial {
        Denial::MissingCredential => v1::DecisionReason::MissingCredential,
        Denial::MalformedCredential => v1::DecisionReason::MalformedCredential,
        Denial::UnknownKey => v1::DecisionReason::UnknownKey,
        Denial::KeyRevoked => v1::DecisionReason::KeyRevoked,
        Denial::KeyDisabled => v1::DecisionReason::KeyDisabled,
        Denial::KeyExpired => v1::DecisionReason::KeyExpired,
        Denial::AccountSuspended => v1::DecisionReason::AccountSuspended,
        Denial::AddressNotAllowed => v1::DecisionReason::AddressNotAllowed,
        Denial::WrongEnvironment => v1::DecisionReason::WrongEnvironment,
        Denial::InsufficientScope => v1::DecisionReason::InsufficientScope,
        Denial::RateLimited => v1::DecisionReason::RateLimited,
        Denial::QuotaExceeded => v1::DecisionReason::QuotaExceeded,
        Denial::RouteDenied => v1::DecisionReason::RouteDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(request: &v1::AuthorizeRequest) -> Vec<String> {
        let error = question(request).err();
        error.into_iter().flat_map(|it| it.violations).map(|it| it.field).collect()
    }

    #[test]
    fn every_field_at_fault_is_named() {
        let request = v1::AuthorizeRequest {
            client_address: "192.0.2.7:80".into(),
            required_environment: 9,
            min_revision: "7".into(),
            ..Default::default()
        };
        let named = ["required_scope", "client_address", "required_environment", "min_revision"];
        assert_eq!(faults(&request), named);
        assert!(question(&request).err().unwrap().message.contains("is empty; name a scope"));
    }

    #[test]
    fn a_question_asks_for_a_scope_or_only_who_it_is() {
        let of = |scope: &str, authenticate_only| v1::AuthorizeRequest {
            required_scope: scope.into(),
            authenticate_only,
            ..Default::default()
        };
        assert!(question(&of("memory:read", false)).is_ok());
        assert!(question(&of("", true)).is_ok());
        assert_eq!(faults(&of("memory:read", true)), ["required_scope"]);
    }
}

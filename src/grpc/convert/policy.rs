//! `PolicyService`: the policy as a document of messages.
//!
//! Only what the domain's document cannot say is checked here; the rest is checked where the policy is
//! applied, with the same field paths.

use std::time::Duration;

use super::{duration, position, span};
use crate::error::{Error, Violations};
use crate::keyring::PolicyUpdate;
use crate::policy::{Plan, Policy, QuotaMode, RateLimit, ScopeDefinition, own_scopes};
use crate::proto::v1;

/// What one request under a scope counts when the scope does not say.
const COST_DEFAULT: u32 = 1;

// === To the domain ===

/// The policy to be put in place.
pub(in crate::grpc) fn apply(request: v1::ApplyPolicyRequest) -> Result<PolicyUpdate, Error> {
    let v1::ApplyPolicyRequest { policy, expected_revision, validate_only, allow_orphans } =
        request;
    let policy = policy.ok_or_else(|| Error::invalid("policy", "is missing"))?;
    let policy = policy_from_proto(policy)?;
    let mut violations = Violations::default();
    let expected = position(&mut violations, "expected_revision", &expected_revision);
    violations.finish()?;
    Ok(PolicyUpdate { policy, expected, is_dry_run: validate_only, allow_orphans })
}

/// The document, without latchkey's own scopes where they say what is built in anyway.
pub fn policy_from_proto(policy: v1::Policy) -> Result<Policy, Error> {
    let v1::Policy { scopes, plans, rules, accepted_prefixes, bound, grace, revision: _ } = policy;
    let defaults = Policy::default();
    let mut violations = Violations::default();
    if !rules.is_empty() {
        let remedy = "are not served by this version; a policy may hold none yet";
        violations.add("policy.rules", remedy);
    }
    let bound_ms = bound.map(|bound| millis(&mut violations, "policy.bound", bound));
    let grace_ms = grace.map(|grace| millis(&mut violations, "policy.grace", grace));
    let read = |(index, plan)| plan_from_proto(&mut violations, index, plan);
    let plans = plans.into_iter().enumerate().map(read).collect();
    violations.finish()?;
    let policy = Policy {
        accepted_prefixes,
        bound_ms: bound_ms.unwrap_or(defaults.bound_ms),
        grace_ms: grace_ms.unwrap_or(defaults.grace_ms),
        scopes: scopes.into_iter().map(scope_from_proto).collect(),
        plans,
    };
    // Checked as it was sent, so that violations name the places of what was sent.
    policy.validate("policy.")?;
    Ok(policy.without_own_scopes())
}

fn scope_from_proto(scope: v1::Scope) -> ScopeDefinition {
    let v1::Scope { name, description, implies, strict, cost } = scope;
    ScopeDefinition { name, description, implies, strict, cost: cost.unwrap_or(COST_DEFAULT) }
}

fn plan_from_proto(violations: &mut Violations, index: usize, plan: v1::Plan) -> Plan {
    let v1::Plan { name, max_keys, monthly_quota, quota_mode, rate_limit } = plan;
    let quota_mode = match v1::QuotaMode::try_from(quota_mode) {
        Ok(v1::QuotaMode::Hard) => QuotaMode::Hard,
        Ok(v1::QuotaMode::Unspecified | v1::QuotaMode::Metered) => QuotaMode::Metered,
        Err(_) => {
            let remedy = "must be QUOTA_MODE_HARD or QUOTA_MODE_METERED, or be left out";
            violations.add(format!("policy.plans[{index}].quota_mode"), remedy);
            QuotaMode::Metered
        }
    };
    let rate_limit = rate_limit.map(|rate_limit| {
        let v1::RateLimit { requests_per_second, burst } = rate_limit;
        RateLimit { requests_per_second, burst }
    });
    Plan { name, max_keys, monthly_quota, quota_mode, rate_limit }
}

fn millis(violations: &mut Violations, field: &str, given: prost_types::Duration) -> u64 {
    let fits = |span: Duration| {
        span.subsec_nanos().is_multiple_of(1_000_000) && u64::try_from(span.as_millis()).is_ok()
    };
    let remedy = "must be a number of whole milliseconds, and not negative";
    let span = span(violations, field, given, fits, remedy).unwrap_or_default();
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

// === From the domain ===

/// The document as clients see it: defaults filled in, latchkey's own scopes last, so that the places
/// of the others are those that violations name when it is sent back.
pub fn policy_to_proto(policy: &Policy, revision: String) -> v1::Policy {
    let Policy { accepted_prefixes, bound_ms, grace_ms, scopes, plans } = policy;
    v1::Policy {
        scopes: scopes.iter().cloned().chain(own_scopes()).map(scope_to_proto).collect(),
        plans: plans.iter().map(plan_to_proto).collect(),
        rules: Vec::new(),
        accepted_prefixes: accepted_prefixes.clone(),
        bound: Some(duration(Duration::from_millis(*bound_ms))),
        grace: Some(duration(Duration::from_millis(*grace_ms))),
        revision,
    }
}

fn scope_to_proto(scope: ScopeDefinition) -> v1::Scope {
    let ScopeDefinition { name, description, implies, strict, cost } = scope;
    v1::Scope { name, description, implies, strict, cost: Some(cost) }
}

fn plan_to_proto(plan: &Plan) -> v1::Plan {
    let Plan { name, max_keys, monthly_quota, quota_mode, rate_limit } = plan;
    let quota_mode = match quota_mode {
        QuotaMode::Hard => v1::QuotaMode::Hard,
        QuotaMode::Metered => v1::QuotaMode::Metered,
    };
    v1::Plan {
        name: name.clone(),
        max_keys: *max_keys,
        monthly_quota: *monthly_quota,
        quota_mode: quota_mode.into(),
        rate_limit: rate_limit.map(|rate_limit| {
            let RateLimit { requests_per_second, burst } = rate_limit;
            v1::RateLimit { requests_per_second, burst }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_survives_being_read_and_written_back() {
        let shown = policy_to_proto(&Policy::default(), String::new());
        assert!(shown.scopes.iter().any(|scope| scope.name == "latchkey:admin"));
        assert_eq!(policy_from_proto(shown).unwrap(), Policy::default());
    }

    #[test]
    fn what_is_left_out_has_its_default_and_zero_is_no_default() {
        let plans = vec![v1::Plan { name: "free".into(), ..Default::default() }];
        let absent = v1::Policy { plans: plans.clone(), ..Default::default() };
        let absent = policy_from_proto(absent).unwrap();
        assert_eq!((absent.bound_ms, absent.grace_ms), (1_000, 600_000));
        let zero = Some(prost_types::Duration::default());
        let said = v1::Policy { plans, bound: zero, grace: zero, ..Default::default() };
        let refused = policy_from_proto(said).unwrap_err();
        let fields: Vec<_> = refused.violations.iter().map(|it| it.field.as_str()).collect();
        assert_eq!(fields, ["policy.bound"]);
    }

    #[test]
    fn rules_and_odd_spans_are_refused_by_name() {
        let policy = v1::Policy {
            rules: vec![v1::Rule::default()],
            bound: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            grace: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
            plans: vec![v1::Plan { quota_mode: 9, ..Default::default() }],
            ..Default::default()
        };
        let error = policy_from_proto(policy).unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|it| it.field.as_str()).collect();
        let named = ["policy.rules", "policy.bound", "policy.grace", "policy.plans[0].quota_mode"];
        assert_eq!(fields, named);
    }
}

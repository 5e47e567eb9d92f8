//! `PolicyService`: the policy as a document of messages.
//!
//! Only what the domain's document cannot say is checked here; the rest is checked where the policy is
//! applied, with the same field paths.

use std::time::Duration;

use super::{duration, environment_if_any, environment_to_proto, position, span};
use crate::error::{Error, Violations};
use crate::keyring::PolicyUpdate;
use crate::policy::{
    Plan, Policy, QuotaMode, RateLimit, Rule, RuleMode, ScopeDefinition, own_scopes,
};
use crate::proto::v1;
use crate::proto::v1::rule::Requirement;

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
    let bound_ms = bound.map(|bound| millis(&mut violations, "policy.bound", bound));
    let grace_ms = grace.map(|grace| millis(&mut violations, "policy.grace", grace));
    let read = |(index, plan)| plan_from_proto(&mut violations, index, plan);
    let plans = plans.into_iter().enumerate().map(read).collect();
    let read = |(index, rule)| rule_from_proto(&mut violations, index, rule);
    let rules = rules.into_iter().enumerate().map(read).collect();
    violations.finish()?;
    let policy = Policy {
        accepted_prefixes,
        bound_ms: bound_ms.unwrap_or(defaults.bound_ms),
        grace_ms: grace_ms.unwrap_or(defaults.grace_ms),
        scopes: scopes.into_iter().map(scope_from_proto).collect(),
        plans,
        rules,
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

fn rule_from_proto(violations: &mut Violations, index: usize, rule: v1::Rule) -> Rule {
    let field = |name: &str| format!("policy.rules[{index}].{name}");
    let mode = match v1::RuleMode::try_from(rule.mode) {
        Ok(v1::RuleMode::Unspecified | v1::RuleMode::Enforce) => RuleMode::Enforce,
        Ok(v1::RuleMode::Observe) => RuleMode::Observe,
        Err(_) => {
            let remedy = "must be RULE_MODE_ENFORCE or RULE_MODE_OBSERVE, or be left out";
            violations.add(field("mode"), remedy);
            RuleMode::Enforce
        }
    };
    let mut read = Rule {
        name: rule.name,
        hosts: rule.hosts,
        methods: rule.methods,
        path: rule.path,
        mcp_methods: rule.mcp_methods,
        mcp_tools: rule.mcp_tools,
        required_environment: environment_if_any(
            violations,
            &field("required_environment"),
            rule.required_environment,
        ),
        cost: rule.cost,
        mode,
        ..Rule::default()
    };
    // One that is false says the opposite of what it is for; what was meant is not guessed.
    let mut is_said = |name: &str, is: bool| {
        if !is {
            violations.add(field(name), "can only be `true`");
        }
        true
    };
    match rule.requirement {
        Some(Requirement::RequiredScope(text)) => read.required_scope = Some(text),
        Some(Requirement::AuthenticateOnly(is)) => {
            read.authenticate_only = is_said("authenticate_only", is);
        }
        Some(Requirement::Public(is)) => read.public = is_said("public", is),
        Some(Requirement::Deny(is)) => read.deny = is_said("deny", is),
        None => {}
    }
    read
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
    let Policy { accepted_prefixes, bound_ms, grace_ms, scopes, plans, rules } = policy;
    v1::Policy {
        scopes: scopes.iter().cloned().chain(own_scopes()).map(scope_to_proto).collect(),
        plans: plans.iter().map(plan_to_proto).collect(),
        rules: rules.iter().map(rule_to_proto).collect(),
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

pub(crate) fn rule_to_proto(rule: &Rule) -> v1::Rule {
    let rule = rule.clone();
    let requirement = match rule.required_scope {
        Some(text) => Some(Requirement::RequiredScope(text)),
        None if rule.authenticate_only => Some(Requirement::AuthenticateOnly(true)),
        None if rule.public => Some(Requirement::Public(true)),
        None => rule.deny.then_some(Requirement::Deny(true)),
    };
    let mode = match rule.mode {
        RuleMode::Enforce => v1::RuleMode::Enforce,
        RuleMode::Observe => v1::RuleMode::Observe,
    };
    v1::Rule {
        name: rule.name,
        hosts: rule.hosts,
        methods: rule.methods,
        path: rule.path,
        mcp_methods: rule.mcp_methods,
        mcp_tools: rule.mcp_tools,
        requirement,
        required_environment: rule
            .required_environment
            .map_or(0, |it| environment_to_proto(it).into()),
        cost: rule.cost,
        mode: mode.into(),
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
    fn rules_survive_being_read_and_written_back() {
        let rule = |name: &str| Rule { name: name.into(), ..Rule::default() };
        let rules = vec![
            Rule {
                hosts: vec!["a.b".into()],
                methods: vec!["GET".into()],
                path: "/v1/{id}".into(),
                mcp_methods: vec!["tools/call".into()],
                mcp_tools: vec!["x".into()],
                required_scope: Some("memory:read".into()),
                required_environment: Some(crate::token::Environment::Test),
                cost: Some(0),
                mode: RuleMode::Observe,
                ..rule("all")
            },
            Rule { authenticate_only: true, ..rule("who") },
            Rule { public: true, ..rule("open") },
            Rule { deny: true, ..rule("rest") },
        ];
        let policy = Policy { rules, ..Policy::default() };
        assert_eq!(policy_from_proto(policy_to_proto(&policy, String::new())).unwrap(), policy);
        assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
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
    fn odd_rules_and_spans_are_refused_by_name() {
        let rule =
            v1::Rule { requirement: Some(Requirement::Deny(false)), mode: 9, ..Default::default() };
        let policy = v1::Policy {
            rules: vec![rule],
            bound: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            grace: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
            plans: vec![v1::Plan { quota_mode: 9, ..Default::default() }],
            ..Default::default()
        };
        let error = policy_from_proto(policy).unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|it| it.field.as_str()).collect();
        let named = [
            "policy.bound",
            "policy.grace",
            "policy.plans[0].quota_mode",
            "policy.rules[0].mode",
            "policy.rules[0].deny",
        ];
        assert_eq!(fields, named);
    }
}

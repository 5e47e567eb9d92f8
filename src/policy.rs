//! The policy: one versioned document with the catalogue of scopes, the plans, the rules of gateways, the
//! accepted prefixes and the two bounds. Written as TOML by people, kept as JSON in the store.
//!
//! A document becomes a [`Catalogue`] when it is right; only that decides.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Violations};
use crate::scope::{OWN_RESOURCE, Scope};
use crate::token::{self, Prefix};

pub mod catalogue;
pub mod routes;
pub mod rule;
pub mod target;

pub use catalogue::Catalogue;
pub use rule::{Rule, RuleMode};

/// The most scopes of a policy, latchkey's own included.
pub const SCOPES_MAX: usize = 1_000;
const PLANS_MAX: usize = 100;
const PREFIXES_MAX: usize = 16;
const IMPLIES_MAX: usize = 100;
/// How many unknown names are compared with the known ones: a list of mistakes shall not cost much.
pub const HINTS_MAX: usize = 8;
const DESCRIPTION_CHARS_MAX: usize = 500;
/// The most that one request counts.
pub(crate) const COST_MAX: u32 = 1_000_000;
const BOUND_MS_MIN: u64 = 100;
const BOUND_MS_MAX: u64 = 60_000;
/// The longest that M, and so either of the two bounds, can be.
pub const GRACE_MAX: Duration = Duration::from_hours(24);

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Prefixes of tokens that are accepted beside the configured `token.prefix`.
    #[serde(default)]
    pub accepted_prefixes: Vec<String>,
    /// B: how long a connected node may go on answering from what it knows, in milliseconds.
    #[serde(default = "default_bound_ms")]
    pub bound_ms: u64,
    /// M: how long a node that is cut off from the store serves scopes that are not strict, in milliseconds.
    #[serde(default = "default_grace_ms")]
    pub grace_ms: u64,
    /// The catalogue, without latchkey's own scopes.
    #[serde(default)]
    pub scopes: Vec<ScopeDefinition>,
    /// The plans.
    #[serde(default)]
    pub plans: Vec<Plan>,
    /// What gateways ask for each route; the first that matches answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// A scope of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeDefinition {
    /// Its name, as in `memory:read`.
    pub name: String,
    /// What it is for, in words.
    #[serde(default)]
    pub description: String,
    /// The scopes that it contains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implies: Vec<String>,
    /// Whether a node that is cut off from the store stops answering for it at B.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// What one request under it counts.
    #[serde(default = "default_cost")]
    pub cost: u32,
}

/// A plan: how many keys an account may have, and how much it may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its name, as in `free`.
    pub name: String,
    /// The most keys; absent means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<u32>,
    /// Requests a month; absent means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monthly_quota: Option<u64>,
    /// What happens above the quota.
    #[serde(default)]
    pub quota_mode: QuotaMode,
    /// How fast; absent means unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// What happens above a monthly quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaMode {
    /// Requests are refused.
    Hard,
    /// Requests are served, and the rest is billed.
    #[default]
    Metered,
}

/// A rate with room for a burst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests a second in the long run.
    pub requests_per_second: f64,
    /// Requests at once.
    pub burst: u32,
}

const fn default_bound_ms() -> u64 {
    1_000
}

const fn default_grace_ms() -> u64 {
    600_000
}

const fn default_cost() -> u32 {
    1
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            accepted_prefixes: Vec::new(),
            bound_ms: default_bound_ms(),
            grace_ms: default_grace_ms(),
            scopes: vec![
                scope(
                    "memory:readonly",
                    "Read memories; for keys that shall never do more",
                    &["memory:read"],
                    1,
                ),
                scope("memory:read", "Read memories", &[], 1),
                scope("memory:write", "Store, update and forget memories", &["memory:read"], 0),
                ScopeDefinition {
                    strict: true,
                    ..scope("memory:admin", "Export and administer memories", &["memory:write"], 1)
                },
            ],
            plans: vec![
                plan("free", Some(1), Some(5_000), QuotaMode::Hard),
                plan("developer", Some(5), Some(50_000), QuotaMode::Metered),
                plan("pro", Some(20), Some(250_000), QuotaMode::Metered),
                plan("enterprise", None, None, QuotaMode::Metered),
            ],
            rules: Vec::new(),
        }
    }
}

fn scope(name: &str, description: &str, implies: &[&str], cost: u32) -> ScopeDefinition {
    ScopeDefinition {
        name: name.into(),
        description: description.into(),
        implies: implies.iter().map(|name| (*name).to_owned()).collect(),
        strict: false,
        cost,
    }
}

fn plan(
    name: &str,
    max_keys: Option<u32>,
    monthly_quota: Option<u64>,
    quota_mode: QuotaMode,
) -> Plan {
    Plan { name: name.into(), max_keys, monthly_quota, quota_mode, rate_limit: None }
}

/// latchkey's own scopes: built in, unchangeable, and part of every catalogue.
#[must_use]
pub fn own_scopes() -> Vec<ScopeDefinition> {
    let mut scopes: Vec<_> = [
        ("latchkey:authorize", "Ask for decisions"),
        ("latchkey:keys.read", "See keys"),
        ("latchkey:keys.write", "Create, change, rotate and revoke keys"),
        ("latchkey:accounts.read", "See accounts"),
        ("latchkey:accounts.write", "Create and change accounts"),
        ("latchkey:usage.read", "See usage"),
        ("latchkey:audit.read", "See the audit trail"),
        ("latchkey:policy.read", "See the policy"),
        ("latchkey:policy.write", "Replace the policy"),
        ("latchkey:nodes.read", "See the nodes"),
    ]
    .map(|(name, description)| scope(name, description, &[], 0))
    .into();
    let all: Vec<_> = scopes.iter().map(|scope| scope.name.as_str()).collect();
    let admin = ScopeDefinition {
        strict: true,
        ..scope("latchkey:admin", "Everything that latchkey itself offers", &all, 0)
    };
    scopes.insert(0, admin);
    scopes
}

impl Policy {
    /// Reads a document as people write it.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        toml::from_str::<Self>(text)
            .map_err(|error| Error::invalid("policy", error.to_string().trim().to_owned()))
            .map(Self::without_own_scopes)
    }

    /// The document as people write it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// The plan of this name.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.name == name)
    }

    /// The document less definitions of latchkey's own scopes that say what is built in anyway, so that
    /// what was read can be written back.
    #[must_use]
    pub fn without_own_scopes(mut self) -> Self {
        let own = own_scopes();
        self.scopes.retain(|scope| !own.contains(scope));
        self
    }

    /// Checks everything that can be seen in the document itself; `prefix` is put before field paths.
    pub fn validate(&self, prefix: &str) -> Result<(), Error> {
        let mut violations = Violations::default();
        self.check_bounds(prefix, &mut violations);
        self.check_scopes(prefix, &mut violations);
        self.check_plans(prefix, &mut violations);
        rule::check(&self.rules, prefix, &mut violations);
        violations.finish()
    }

    fn check_bounds(&self, prefix: &str, violations: &mut Violations) {
        if !(BOUND_MS_MIN..=BOUND_MS_MAX).contains(&self.bound_ms) {
            violations.add(format!("{prefix}bound"), "must be from 100 ms to 60 s");
        }
        if Duration::from_millis(self.grace_ms) > GRACE_MAX {
            violations.add(format!("{prefix}grace"), "must be from 0 to 24 h");
        }
        if self.accepted_prefixes.len() > PREFIXES_MAX {
            violations.add(format!("{prefix}accepted_prefixes"), "may hold 16 prefixes at most");
        }
        for (index, text) in self.accepted_prefixes.iter().enumerate() {
            let field = format!("{prefix}accepted_prefixes[{index}]");
            if Prefix::parse(text).is_none() {
                violations.add(field, "must be 2 to 16 characters of a-z and 0-9, a letter first");
            } else if self.accepted_prefixes[..index].contains(text) {
                violations.add(field, "stands in the list already");
            }
        }
    }

    fn check_scopes(&self, prefix: &str, violations: &mut Violations) {
        let own = own_scopes().len();
        if self.scopes.len() + own > SCOPES_MAX {
            let most = SCOPES_MAX - own;
            violations.add(format!("{prefix}scopes"), format!("may hold {most} scopes at most"));
            return;
        }
        let mut seen = std::collections::HashSet::new();
        let built_in = own_scopes();
        for (index, scope) in self.scopes.iter().enumerate() {
            // What was read may be written back.
            if built_in.contains(scope) {
                continue;
            }
            let field = |name: &str| format!("{prefix}scopes[{index}].{name}");
            match Scope::parse(&scope.name) {
                Err(error) => violations.add(field("name"), error.to_string()),
                Ok(name) if name.is_own() => violations.add(
                    field("name"),
                    format!("`{OWN_RESOURCE}:` scopes are built in and cannot be changed or added"),
                ),
                Ok(_) if !seen.insert(scope.name.as_str()) => {
                    violations.add(field("name"), "is defined already");
                }
                Ok(_) => {}
            }
            if scope.description.chars().count() > DESCRIPTION_CHARS_MAX {
                violations.add(field("description"), "may have 500 characters at most");
            }
            if has_unprintable(&scope.description) {
                violations.add(field("description"), UNPRINTABLE);
            } else if token::is_in(&scope.description) {
                violations.add(field("description"), token::HOLDS_TOKEN);
            }
            if scope.cost > COST_MAX {
                violations.add(field("cost"), "may be 1,000,000 at most");
            }
        }
        self.check_implications(prefix, violations);
    }

    fn check_implications(&self, prefix: &str, violations: &mut Violations) {
        let built_in = own_scopes();
        let defined: Vec<_> =
            self.scopes.iter().enumerate().filter(|(_, it)| !built_in.contains(it)).collect();
        let names: std::collections::HashSet<_> =
            defined.iter().map(|(_, scope)| scope.name.as_str()).collect();
        let mut hints = HINTS_MAX;
        for (index, scope) in defined {
            let field = format!("{prefix}scopes[{index}].implies");
            if scope.implies.len() > IMPLIES_MAX {
                violations.add(field.clone(), "may hold 100 scopes at most");
                continue;
            }
            for (place, implied) in scope.implies.iter().enumerate() {
                if Scope::parse(implied).is_ok_and(|implied| implied.is_own()) {
                    violations.add(
                        format!("{field}[{place}]"),
                        format!(
                            "may not name a `{OWN_RESOURCE}:` scope: keys are given those by name"
                        ),
                    );
                } else if !names.contains(implied.as_str()) {
                    let near = (hints > 0)
                        .then(|| catalogue::nearest(implied, names.iter().copied()))
                        .flatten();
                    hints = hints.saturating_sub(1);
                    let hint =
                        near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    violations.add(
                        format!("{field}[{place}]"),
                        format!("names a scope that this policy does not define{hint}"),
                    );
                }
            }
        }
        if let Some(path) = self.find_loop() {
            violations.add(
                format!("{prefix}scopes"),
                format!("imply each other in a loop: {}", path.join(" -> ")),
            );
        }
    }

    /// A loop of implications, if there is one: depth-first, each scope finished once.
    fn find_loop(&self) -> Option<Vec<&str>> {
        let by_name: std::collections::HashMap<&str, &ScopeDefinition> =
            self.scopes.iter().map(|scope| (scope.name.as_str(), scope)).collect();
        let mut finished = std::collections::HashSet::new();
        for start in &self.scopes {
            // Each step of the path holds the scope and how many of its implications were followed.
            let mut path: Vec<(&ScopeDefinition, usize)> = vec![(start, 0)];
            while let Some((scope, followed)) = path.last_mut() {
                let Some(implied) = scope.implies.get(*followed) else {
                    finished.insert(scope.name.as_str());
                    path.pop();
                    continue;
                };
                *followed += 1;
                let Some(next) = by_name.get(implied.as_str()) else { continue };
                if let Some(at) = path.iter().position(|(scope, _)| scope.name == next.name) {
                    let names = path[at..].iter().map(|(scope, _)| scope.name.as_str());
                    return Some(names.chain([next.name.as_str()]).collect());
                }
                if !finished.contains(next.name.as_str()) {
                    path.push((next, 0));
                }
            }
        }
        None
    }

    fn check_plans(&self, prefix: &str, violations: &mut Violations) {
        if self.plans.is_empty() || self.plans.len() > PLANS_MAX {
            violations.add(format!("{prefix}plans"), "must hold 1 to 100 plans");
            return;
        }
        for (index, plan) in self.plans.iter().enumerate() {
            let field = |name: &str| format!("{prefix}plans[{index}].{name}");
            if !is_plan_name(&plan.name) {
                violations
                    .add(field("name"), "must be 1 to 63 characters of a-z, 0-9, `_` and `-`");
            } else if self.plans[..index].iter().any(|other| other.name == plan.name) {
                violations.add(field("name"), "is defined already");
            }
            if let Some(rate) = plan.rate_limit {
                if !rate.requests_per_second.is_finite() || rate.requests_per_second <= 0.0 {
                    violations.add(field("rate_limit.requests_per_second"), "must be above 0");
                }
                if rate.burst == 0 {
                    violations.add(field("rate_limit.burst"), "must be 1 at least");
                }
            }
        }
    }
}

fn is_plan_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
        })
}

/// What is said of a text with [`has_unprintable`] characters.
pub const UNPRINTABLE: &str = "may hold no control or bidirectional-override characters";

/// Whether a text holds characters that would change how what stands around it is read: control
/// characters, and those that override the direction of writing.
#[must_use]
pub fn has_unprintable(text: &str) -> bool {
    text.chars().any(|char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    })
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(policy: &Policy) -> String {
        policy.validate("policy.").unwrap_err().to_string()
    }

    #[test]
    fn the_default_policy_is_right_and_survives_being_written() {
        let policy = Policy::default();
        policy.validate("").unwrap();
        assert_eq!(Policy::from_toml(&policy.to_toml()).unwrap(), policy);
    }

    #[test]
    fn a_loop_of_implications_is_shown() {
        let mut policy = Policy::default();
        policy.scopes[1].implies = vec!["memory:admin".into()];
        assert!(
            fault(&policy).contains("memory:read -> memory:admin -> memory:write -> memory:read")
        );
        policy.scopes[1].implies = vec!["memory:read".into()];
        assert!(fault(&policy).contains("memory:read -> memory:read"));
    }

    #[test]
    fn latchkeys_own_scopes_cannot_be_redefined_but_may_be_repeated() {
        let mut policy = Policy::default();
        policy.scopes.extend(own_scopes());
        assert_eq!(policy.clone().without_own_scopes(), Policy::default());
        policy.scopes.push(scope("latchkey:more", "", &[], 1));
        assert!(fault(&policy.without_own_scopes()).contains("built in"));
    }

    #[test]
    fn no_scope_reaches_into_latchkeys_own_by_implication() {
        let mut policy = Policy::default();
        policy.scopes[1].implies = vec!["latchkey:admin".into()];
        assert!(fault(&policy).contains("policy.scopes[1].implies[0]: may not name a `latchkey:`"));
        // Nor where these are repeated in the document.
        policy.scopes.extend(own_scopes());
        assert!(fault(&policy).contains("policy.scopes[1].implies[0]: may not name a `latchkey:`"));
    }

    #[test]
    fn each_fault_names_its_field() {
        let mut policy = Policy {
            bound_ms: 1,
            grace_ms: u64::MAX,
            accepted_prefixes: vec!["X".into()],
            ..Policy::default()
        };
        policy.scopes[0].implies = vec!["memory:reed".into()];
        policy.scopes[1].name = "memory".into();
        policy.plans[1].name = "free".into();
        policy.plans[2].rate_limit = Some(RateLimit { requests_per_second: f64::NAN, burst: 0 });
        let fault = fault(&policy);
        for part in [
            "policy.bound:",
            "policy.grace:",
            "policy.accepted_prefixes[0]:",
            "policy.scopes[0].implies[0]:",
            "policy.scopes[1].name:",
            "policy.plans[1].name:",
            "policy.plans[2].rate_limit.requests_per_second:",
            "policy.plans[2].rate_limit.burst:",
        ] {
            assert!(fault.contains(part), "{part} in {fault}");
        }
    }
}

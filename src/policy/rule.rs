//! Rules as they are written: what a gateway asks of the requests to each route.

use serde::{Deserialize, Serialize};

use super::routes::PathPattern;
use super::target::{host_name, is_method};
use super::{COST_MAX, UNPRINTABLE, has_unprintable};
use crate::error::Violations;
use crate::token::{self, Environment};

/// The most rules of a policy.
pub const RULES_MAX: usize = 1_000;
/// The most hosts, methods or tools of one rule.
const LIST_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;
const PATH_BYTES_MAX: usize = 1_000;
const MCP_BYTES_MAX: usize = 128;

/// What a gateway asks of the requests to one route. It matches a request if every list and the path do; what is
/// empty matches any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What logs and answers call it.
    pub name: String,
    /// Hosts without a port, as in `api.example.com` or `*.example.com`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// HTTP methods, as in `GET`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// `/v1/items/{id}` or `/v1/{*rest}`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Methods of the Model Context Protocol, as in `tools/call`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_methods: Vec<String>,
    /// Tools of the Model Context Protocol, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_tools: Vec<String>,
    /// What the request needs; exactly one of four.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_scope: Option<String>,
    /// A key, whatever it may do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub authenticate_only: bool,
    /// Nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// Nothing helps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deny: bool,
    /// The environment that the key must belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_environment: Option<Environment>,
    /// What the request counts; absent means the highest cost of the scopes named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// Whether it is enforced.
    #[serde(default, skip_serializing_if = "RuleMode::is_enforced")]
    pub mode: RuleMode,
}

/// What the decision of a rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    /// A denial is a denial.
    #[default]
    Enforce,
    /// The request passes, and what would have been denied is counted and logged.
    Observe,
}

impl RuleMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_enforced(&self) -> bool {
        *self == Self::Enforce
    }
}

/// Checks rules by themselves; whether their scopes exist is seen when they are compiled.
pub(super) fn check(rules: &[Rule], prefix: &str, violations: &mut Violations) {
    if rules.len() > RULES_MAX {
        violations.add(format!("{prefix}rules"), format!("may hold {RULES_MAX} rules at most"));
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (index, rule) in rules.iter().enumerate() {
        let prefix = format!("{prefix}rules[{index}].");
        if !seen.insert(rule.name.as_str()) {
            violations.add(format!("{prefix}name"), "is the name of another rule already");
        }
        rule.check(&prefix, violations);
    }
}

impl Rule {
    fn check(&self, prefix: &str, violations: &mut Violations) {
        if !is_name(&self.name) {
            let told = "must be 1 to 63 characters of a-z, 0-9, `.`, `_` and `-`";
            violations.add(format!("{prefix}name"), told);
        }
        let mut check_list = |name: &str, list: &[String], is_right: fn(&str) -> bool, told| {
            let field = format!("{prefix}{name}");
            if list.len() > LIST_MAX {
                violations.add(field, format!("may hold {LIST_MAX} at most"));
                return;
            }
            for (index, item) in list.iter().enumerate() {
                if !is_right(item) {
                    violations.add(format!("{field}[{index}]"), told);
                } else if list[..index].contains(item) {
                    violations.add(format!("{field}[{index}]"), "stands in the list already");
                }
            }
        };
        check_list(
            "hosts",
            &self.hosts,
            is_host,
            "must be a host in lower case without a port, as in `api.example.com` or `*.example.com`",
        );
        check_list(
            "methods",
            &self.methods,
            is_method,
            "must be an HTTP method in capitals, as in `GET`",
        );
        let told = "must be 1 to 128 printable characters";
        check_list("mcp_methods", &self.mcp_methods, is_mcp_name, told);
        check_list("mcp_tools", &self.mcp_tools, is_mcp_name, told);
        self.check_path(prefix, violations);
        self.check_requirement(prefix, violations);
    }

    fn check_path(&self, prefix: &str, violations: &mut Violations) {
        let field = || format!("{prefix}path");
        if self.path.len() > PATH_BYTES_MAX {
            violations.add(field(), format!("may have {PATH_BYTES_MAX} bytes at most"));
        } else if has_unprintable(&self.path) {
            violations.add(field(), UNPRINTABLE);
        } else if !self.path.is_empty()
            && let Err(fault) = PathPattern::parse(&self.path)
        {
            violations.add(field(), fault);
        }
    }

    fn check_requirement(&self, prefix: &str, violations: &mut Violations) {
        let given = [
            ("required_scope", self.required_scope.is_some()),
            ("authenticate_only", self.authenticate_only),
            ("public", self.public),
            ("deny", self.deny),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        match given[..] {
            [_] => {}
            [] => violations.add(
                format!("{prefix}required_scope"),
                "is missing: say `required_scope`, `authenticate_only`, `public` or `deny`",
            ),
            [first, second, ..] => violations.add(
                format!("{prefix}{second}"),
                format!("stands beside `{first}`: a rule has one of them"),
            ),
        }
        let needs_key = self.required_scope.is_some() || self.authenticate_only;
        let of_keys = [
            ("required_environment", self.required_environment.is_some()),
            ("cost", self.cost.is_some()),
        ];
        for (name, _) in of_keys.iter().filter(|(_, is)| *is && !given.is_empty() && !needs_key) {
            let told =
                "only goes with `required_scope` or `authenticate_only`: no key is looked at";
            violations.add(format!("{prefix}{name}"), told);
        }
        if self.cost.is_some_and(|cost| cost > COST_MAX) {
            violations.add(format!("{prefix}cost"), "may be 1,000,000 at most");
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) && !token::is_in(text)
}

/// Whether it is written as hosts are compared.
fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name = host_name(name).is_some_and(|compared| compared == name);
    let is_address = name.starts_with('[');
    text.len() <= HOST_BYTES_MAX && is_name && (text == name || !is_address)
}

fn is_mcp_name(text: &str) -> bool {
    (1..=MCP_BYTES_MAX).contains(&text.len()) && !has_unprintable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(toml: &str) -> String {
        let rules: std::collections::BTreeMap<String, Vec<Rule>> =
            toml::from_str(&format!("[[rule]]\n{toml}")).unwrap();
        let mut violations = Violations::default();
        check(&rules["rule"], "", &mut violations);
        violations.finish().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        let full = "name = \"items\"\nhosts = [\"api.example.com\", \"*.example.org\", \"[::1]\"]\n\
             methods = [\"GET\", \"M-SEARCH\"]\npath = \"/v1/{id}/{*rest}\"\nmcp_methods = [\"tools/call\"]\n\
             mcp_tools = [\"a b\"]\nrequired_scope = \"memory:read\"\nrequired_environment = \"live\"\n\
             cost = 0\nmode = \"observe\"";
        assert_eq!(fault(full), "");
        assert_eq!(fault("name = \"a\"\npublic = true"), "");
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field() {
        for (rule, told) in [
            ("name = \"A\"\ndeny = true", "rules[0].name: must be 1 to 63"),
            ("name = \"a\"", "rules[0].required_scope: is missing"),
            ("name = \"a\"\ndeny = true\npublic = true", "rules[0].deny: stands beside `public`"),
            ("name = \"a\"\ndeny = true\nhosts = [\"A.b\"]", "rules[0].hosts[0]: must be a host"),
            ("name = \"a\"\ndeny = true\nhosts = [\"a:80\"]", "rules[0].hosts[0]: must be a host"),
            ("name = \"a\"\ndeny = true\nhosts = [\"*\"]", "rules[0].hosts[0]: must be a host"),
            ("name = \"a\"\ndeny = true\nhosts = [\"a.\"]", "rules[0].hosts[0]: must be a host"),
            ("name = \"a\"\ndeny = true\nhosts = [\"[::01]\"]", "rules[0].hosts[0]: must be a"),
            ("name = \"a\"\ndeny = true\nhosts = [\"*.[::1]\"]", "rules[0].hosts[0]: must be a"),
            ("name = \"a\"\ndeny = true\nmethods = [\"get\"]", "rules[0].methods[0]: must be an"),
            (
                "name = \"a\"\ndeny = true\nmethods = [\"GET\", \"GET\"]",
                "rules[0].methods[1]: stands in the list already",
            ),
            ("name = \"a\"\ndeny = true\npath = \"v1\"", "rules[0].path: must begin with `/`"),
            (
                "name = \"a\"\ndeny = true\nrequired_environment = \"live\"",
                "rules[0].required_environment: only goes with",
            ),
            ("name = \"a\"\nauthenticate_only = true\ncost = 1000001", "rules[0].cost: may be"),
            ("name = \"a\"\npublic = true\ncost = 0", "rules[0].cost: only goes with"),
            ("name = \"a\"\ndeny = true\nmcp_tools = [\"\"]", "rules[0].mcp_tools[0]: must be 1"),
        ] {
            let fault = fault(rule);
            assert!(fault.contains(told), "{rule}: {fault}");
        }
        let twice = "name = \"a\"\ndeny = true\n[[rule]]\nname = \"a\"\ndeny = true";
        assert!(fault(twice).contains("rules[1].name: is the name of another rule"));
    }
}

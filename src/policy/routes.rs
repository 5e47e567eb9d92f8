//! Rules made ready to choose by: the first in the list that matches a request answers.

use std::sync::Arc;

use super::rule::{Rule, RuleMode};
use super::target::{Ambiguity, Clear, Target, check_segments};
use crate::error::Violations;
use crate::scope::expression::{Expression, Resolve};
use crate::token::Environment;

/// The rules of a policy.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

/// One rule, ready to be compared.
#[derive(Debug)]
pub struct Route {
    /// What logs and answers call it.
    pub name: Arc<str>,
    /// What the request needs.
    pub needs: Needs,
    /// The environment that the key must belong to.
    pub environment: Option<Environment>,
    /// What the request counts; `None` means the highest cost of the scopes named.
    pub cost: Option<u32>,
    /// Whether a denial is only counted and logged.
    pub is_observed: bool,
    hosts: Vec<HostPattern>,
    methods: Vec<String>,
    path: Option<PathPattern>,
    mcp_methods: Vec<String>,
    mcp_tools: Vec<String>,
}

/// What a request needs.
#[derive(Debug)]
pub enum Needs {
    /// A key that may do this.
    Scope(Arc<Expression>),
    /// A key, whatever it may do.
    AuthenticateOnly,
    /// Nothing.
    Public,
    /// Nothing helps.
    Deny,
}

/// What the rules say of a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// This rule is the first that matches.
    Rule(&'a Route),
    /// This rule would be the first that matches, but goes by what the request says in the Model Context Protocol,
    /// and that is not known. What comes after it is not looked at: it could be meant for less. One that is only
    /// observed is passed over, unless none comes after it.
    Blind(&'a Route),
    /// None matches.
    NoRule,
    /// The request could be read in two ways, for this reason.
    Ambiguous(Ambiguity),
}

/// What an answer comes to, before any key is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a> {
    /// The key decides: it is a rule that needs one.
    Key(&'a Route),
    /// Everybody passes.
    Open(&'a Route),
    /// Nobody passes; by this rule, if by one.
    Closed(Option<&'a Route>),
}

impl<'a> Answer<'a> {
    /// What it comes to.
    #[must_use]
    pub const fn gate(self) -> Gate<'a> {
        match self {
            Self::Rule(route) => match route.needs {
                Needs::Scope(_) | Needs::AuthenticateOnly => Gate::Key(route),
                Needs::Public => Gate::Open(route),
                Needs::Deny => Gate::Closed(Some(route)),
            },
            Self::Blind(route) => Gate::Closed(Some(route)),
            Self::NoRule | Self::Ambiguous(_) => Gate::Closed(None),
        }
    }

    /// Why no rule could be held against the request.
    #[must_use]
    pub const fn ambiguity(self) -> Option<Ambiguity> {
        match self {
            Self::Ambiguous(ambiguity) => Some(ambiguity),
            Self::Rule(_) | Self::Blind(_) | Self::NoRule => None,
        }
    }
}

// === Patterns ===

/// `/v1/items/{id}` or `/v1/{*rest}`.
#[derive(Debug)]
pub struct PathPattern {
    /// What stands before the first parameter: most paths differ in it.
    start: String,
    router: matchit::Router<()>,
}

impl PathPattern {
    /// Reads a pattern; the error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("must begin with `/`".into());
        }
        if text.contains(['%', '?', '#', ';', '\\', ' ']) {
            return Err(
                "is compared with decoded paths: it may hold no `%`, `?`, `#`, `;`, `\\` or space"
                    .into(),
            );
        }
        check_segments(text)
            .map_err(|_| "may have no `.`, `..` or empty segment: such paths are always denied")?;
        let mut router = matchit::Router::new();
        router.insert(text, ()).map_err(|_| {
            "must be as `/v1/items/{id}`, where `{id}` is one segment, or `/v1/{*rest}`, where `{*rest}` is all that \
             follows"
        })?;
        let start = text.split(['{', '}']).next().unwrap_or_default().to_owned();
        Ok(Self { start, router })
    }

    fn matches(&self, path: &str) -> bool {
        path.starts_with(&self.start) && self.router.at(path).is_ok()
    }
}

#[derive(Debug)]
enum HostPattern {
    Exactly(String),
    /// What follows the `*`, its dot included.
    Below(String),
}

impl HostPattern {
    fn read(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some(end) => Self::Below(end.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exactly(name) => name == host,
            Self::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        }
    }
}

// === Choosing ===

impl Routes {
    /// Compiles rules that were found right by themselves; scopes are resolved in this catalogue.
    pub(super) fn compile(
        rules: &[Rule],
        catalogue: &impl Resolve,
        prefix: &str,
        violations: &mut Violations,
    ) -> Self {
        let compile = |(index, rule): (usize, &Rule)| {
            let needs = match &rule.required_scope {
                Some(text) => {
                    let field = format!("{prefix}rules[{index}].required_scope");
                    let expression = violations.check(field, Expression::parse(text, catalogue))?;
                    Needs::Scope(Arc::new(expression))
                }
                None if rule.authenticate_only => Needs::AuthenticateOnly,
                None if rule.public => Needs::Public,
                None => Needs::Deny,
            };
            let path = match rule.path.as_str() {
                "" => None,
                text => {
                    let field = format!("{prefix}rules[{index}].path");
                    Some(violations.check(field, PathPattern::parse(text))?)
                }
            };
            Some(Route {
                name: rule.name.as_str().into(),
                needs,
                environment: rule.required_environment,
                cost: rule.cost,
                is_observed: rule.mode == RuleMode::Observe,
                hosts: rule.hosts.iter().map(|host| HostPattern::read(host)).collect(),
                methods: rule.methods.clone(),
                path,
                mcp_methods: rule.mcp_methods.clone(),
                mcp_tools: rule.mcp_tools.clone(),
            })
        };
        Self(rules.iter().enumerate().filter_map(compile).collect())
    }

    /// What the rules say of this request.
    #[must_use]
    pub fn answer(&self, target: &Target<'_>) -> Answer<'_> {
        let request = match target.clear() {
            Ok(request) => request,
            Err(ambiguity) => return Answer::Ambiguous(ambiguity),
        };
        let mut unseen = None;
        for route in self.0.iter().filter(|route| route.matches(request)) {
            if request.mcp.is_some() || !route.goes_by_mcp() {
                return Answer::Rule(route);
            }
            // One that is only observed opens nothing that one after it closes: it may not be the one that is meant.
            if !route.is_observed {
                return Answer::Blind(route);
            }
            unseen.get_or_insert(route);
        }
        unseen.map_or(Answer::NoRule, Answer::Blind)
    }
}

impl Route {
    fn matches(&self, request: &Clear<'_>) -> bool {
        let Clear { host, method, path, mcp } = request;
        let is_any_of =
            |list: &[String], word: &str| list.is_empty() || list.iter().any(|it| it == word);
        is_any_of(&self.methods, method)
            && (self.hosts.is_empty() || self.hosts.iter().any(|it| it.matches(host)))
            && self.path.as_ref().is_none_or(|pattern| pattern.matches(path))
            // One that goes by what is not known is taken for a match: what comes after it could ask for less.
            && mcp.is_none_or(|mcp| {
                is_any_of(&self.mcp_methods, mcp.method)
                    && (self.mcp_tools.is_empty()
                        || mcp.tool.is_some_and(|tool| is_any_of(&self.mcp_tools, tool)))
            })
    }

    fn goes_by_mcp(&self) -> bool {
        !self.mcp_methods.is_empty() || !self.mcp_tools.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::target::Mcp;
    use crate::policy::{Catalogue, Policy};

    fn catalogue(rules: &str) -> Catalogue {
        let policy = Policy::from_toml(&format!("{}\n{rules}", Policy::default().to_toml()));
        Catalogue::compile(policy.unwrap(), "").unwrap()
    }

    /// The name of the rule that answers; `!` before it when it cannot see what it goes by.
    fn answer(catalogue: &Catalogue, target: &Target<'_>) -> String {
        match catalogue.routes().answer(target) {
            Answer::Rule(route) => route.name.to_string(),
            Answer::Blind(route) => format!("!{}", route.name),
            Answer::NoRule => "none".into(),
            Answer::Ambiguous(_) => "ambiguous".into(),
        }
    }

    /// Of requests by method, host and target, each with the rule that must answer.
    fn assert_answers(catalogue: &Catalogue, asked: &[(&str, &str, &str, &str)]) {
        for (method, host, target, rule) in asked {
            let target = Target::new(host, method, target, None);
            assert_eq!(answer(catalogue, &target), *rule, "{target:?}");
        }
    }

    fn get<'a>(host: &'a str, path: &'a str) -> Target<'a> {
        Target::new(host, "GET", path, None)
    }

    #[test]
    fn the_first_rule_that_matches_answers() {
        assert_eq!(answer(&catalogue(""), &get("a.b", "/")), "none");
        let catalogue = catalogue(
            r#"
            [[rules]]
            name = "health"
            path = "/health"
            public = true
            [[rules]]
            name = "own"
            hosts = ["api.example.com", "*.example.org"]
            methods = ["GET", "HEAD"]
            path = "/v1/items/{id}"
            required_scope = "memory:read"
            [[rules]]
            name = "special"
            path = "/v1/items/special"
            deny = true
            [[rules]]
            name = "rest"
            path = "/v1/{*rest}"
            authenticate_only = true
            "#,
        );
        let asked = [
            ("GET", "a.b", "/health", "health"),
            ("GET", "a.b", "/health?x=/v1/items", "health"),
            ("GET", "a.b", "/health/", "none"),
            ("GET", "API.example.com.:8080", "/v1/items/7", "own"),
            ("HEAD", "x.y.example.org", "/v1/items/special", "own"),
            ("GET", "example.org", "/v1/items/special", "special"),
            ("POST", "api.example.com", "/v1/items/7", "rest"),
            ("GET", "api.example.com", "/v1/%69tems/7", "own"),
            ("GET", "a.b", "/v1/items/%73pecial", "special"),
            ("GET", "a.b", "/v1/items/7/more", "rest"),
            ("GET", "a.b", "/v1/", "none"),
            ("GET", "a.b", "/V1/items/7", "none"),
        ];
        assert_answers(&catalogue, &asked);
    }

    #[test]
    fn what_could_be_read_in_two_ways_matches_nothing() {
        let catalogue = catalogue(
            "[[rules]]\nname = \"no\"\nhosts = [\"a.b\", \"[::1]\"]\nmethods = [\"DELETE\"]\ndeny = true\n\
             [[rules]]\nname = \"all\"\npublic = true\n",
        );
        let asked = [
            ("DELETE", "A.b.:80", "/", "no"),
            ("DELETE", "[0:0::0001]", "/", "no"),
            ("DELETE", "a", "/", "all"),
            ("GET", "a.b", "/", "all"),
            ("delete", "a.b", "/", "ambiguous"),
            ("DELETE", "a.b..", "/", "ambiguous"),
            ("DELETE", "a.b", "/a//b", "ambiguous"),
        ];
        assert_answers(&catalogue, &asked);
        assert_eq!(answer(&catalogue, &Target::INCOMPLETE), "ambiguous");
    }

    #[test]
    fn one_url_with_many_tools_has_a_rule_for_each() {
        let catalogue = catalogue(
            r#"
            [[rules]]
            name = "listen"
            methods = ["GET"]
            path = "/mcp"
            authenticate_only = true
            [[rules]]
            name = "store"
            path = "/mcp"
            mcp_tools = ["memory_store"]
            required_scope = "memory:write"
            [[rules]]
            name = "list"
            path = "/mcp"
            mcp_methods = ["tools/list", "initialize"]
            authenticate_only = true
            [[rules]]
            name = "rest"
            public = true
            "#,
        );
        let mcp = |method, tool| Some(Mcp { method, tool });
        for (mcp, rule) in [
            (mcp("tools/call", Some("memory_store")), "store"),
            (mcp("tools/list", None), "list"),
            (mcp("tools/call", Some("other")), "rest"),
            (mcp("tools/call", None), "rest"),
            (None, "!store"),
        ] {
            assert_eq!(answer(&catalogue, &Target::new("a", "POST", "/mcp", mcp)), rule, "{mcp:?}");
        }
        assert_eq!(answer(&catalogue, &get("a", "/mcp")), "listen");
        assert_eq!(answer(&catalogue, &get("a", "/other")), "rest");
    }

    #[test]
    fn a_rule_that_is_only_observed_and_sees_nothing_opens_nothing() {
        let observed =
            "[[rules]]\nname = \"new\"\nmcp_tools = [\"new\"]\ndeny = true\nmode = \"observe\"\n";
        let closed = "[[rules]]\nname = \"old\"\nmcp_tools = [\"old\"]\nauthenticate_only = true\n";
        let rest = "[[rules]]\nname = \"rest\"\npath = \"/mcp\"\nauthenticate_only = true\n";
        for (rules, answers) in [
            (vec![observed], "!new"),
            (vec![observed, closed], "!old"),
            (vec![observed, rest], "rest"),
            (vec![observed, closed, rest], "!old"),
        ] {
            let catalogue = catalogue(&rules.concat());
            let target = Target::new("a", "POST", "/mcp", None);
            assert_eq!(answer(&catalogue, &target), answers, "{rules:?}");
            let mcp = Some(Mcp { method: Mcp::CALL, tool: Some("new") });
            assert_eq!(answer(&catalogue, &Target::new("a", "POST", "/mcp", mcp)), "new");
        }
    }

    #[test]
    fn a_scope_that_there_is_not_is_told_by_its_rule() {
        let rules = "[[rules]]\nname = \"a\"\nrequired_scope = \"memory:reed\"\n";
        let policy = Policy::from_toml(&format!("{}\n{rules}", Policy::default().to_toml()));
        let error = Catalogue::compile(policy.unwrap(), "policy.").unwrap_err().to_string();
        assert!(error.contains("policy.rules[0].required_scope"), "{error}");
        assert!(error.contains("did you mean `memory:read`?"), "{error}");
    }

    proptest! {
        /// Escapes change nothing: whoever escapes a letter comes to the same rule, or to none.
        #[test]
        fn escaping_a_letter_leads_nowhere_else(at in 1_usize..9) {
            let catalogue = catalogue(
                "[[rules]]\nname = \"no\"\npath = \"/admin/it\"\ndeny = true\n\
                 [[rules]]\nname = \"all\"\npublic = true\n",
            );
            let path = "/admin/it";
            let escaped = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
            let answer = answer(&catalogue, &get("a", &escaped));
            prop_assert!(answer == "no" || (answer == "ambiguous" && path.as_bytes()[at] == b'/'));
        }
    }
}

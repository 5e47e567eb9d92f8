//! One thing that the rules have against requests that passed: the requests to which it is common are counted.

use std::fmt::Write as _;

use super::super::RuleBook;
use super::super::log::{Logged, LoggedKey};
use crate::decision::Denial;
use crate::policy::target::Ambiguity;
use crate::token;

/// How much of what a log says is shown.
const SHOWN_CHARS_MAX: usize = 120;
/// A longer segment of a path is taken for a value.
const NAME_CHARS_MAX: usize = 40;
/// Stands for a segment that looks like a value.
const VALUE: &str = "{…}";

/// What requests have in common that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    /// The number of the rule that answers, if one does.
    pub(super) rule: Option<usize>,
    /// Method, host and path, with values left out; empty where others were put together.
    pub(super) route: String,
    pub(super) key: Option<String>,
}

/// What would become of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Verdict {
    Refused,
    /// They would be refused, were the rule enforced.
    Observed,
    /// The log does not tell.
    NotKnown,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    NoRule,
    Ambiguous(Ambiguity),
    Blind,
    /// The rule denies whatever it matches.
    Closed,
    /// A key is needed, and what was brought is refused.
    Denied(Denial),
    KeyNotTold,
    KeyUnknown,
    KeyNotLookedUp,
}

/// How often, and where first.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) line: u64,
    pub(super) example: String,
    pub(super) why: String,
}

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Observed => "observed",
            Self::NotKnown => "not known",
        }
    }
}

impl Finding {
    pub(super) fn new(
        rule: Option<usize>,
        is_observed: bool,
        reason: Reason,
        logged: &Logged<'_>,
    ) -> Self {
        let verdict = match reason {
            Reason::KeyNotTold | Reason::KeyUnknown | Reason::KeyNotLookedUp => Verdict::NotKnown,
            Reason::NoRule
            | Reason::Ambiguous(_)
            | Reason::Blind
            | Reason::Closed
            | Reason::Denied(_) => {
                if is_observed {
                    Verdict::Observed
                } else {
                    Verdict::Refused
                }
            }
        };
        let key = match &logged.key {
            LoggedKey::Id(id) => Some(shown(id)),
            LoggedKey::None | LoggedKey::NotTold => None,
        };
        Self { verdict, reason, rule, route: of_request(logged, &shape(path(logged))), key }
    }

    /// The same for whatever route and key.
    pub(super) fn without_details(self) -> Self {
        Self { route: String::new(), key: None, ..self }
    }

    /// The word for programs, where there is one.
    pub(super) const fn word(&self) -> &'static str {
        match self.reason {
            Reason::NoRule | Reason::Ambiguous(_) | Reason::Blind | Reason::Closed => {
                Denial::RouteDenied.as_str()
            }
            Reason::Denied(denial) => denial.as_str(),
            Reason::KeyNotTold | Reason::KeyUnknown | Reason::KeyNotLookedUp => "-",
        }
    }

    /// Why, as a clause; `held` is what of the key it is about.
    pub(super) fn why(&self, book: &RuleBook, held: Option<&str>) -> String {
        let rule = self.rule.and_then(|number| book.rules().get(number - 1));
        let needs = rule.and_then(|rule| rule.required_scope.as_deref()).unwrap_or("a key");
        let held = held.filter(|held| !held.is_empty()).unwrap_or("none");
        match self.reason {
            Reason::NoRule => "no rule matches".to_owned(),
            Reason::Ambiguous(ambiguity) => ambiguity.as_str().to_owned(),
            Reason::Blind => "it goes by the MCP message, and the log tells none".to_owned(),
            Reason::Closed => "the rule denies it".to_owned(),
            Reason::Denied(Denial::MissingCredential) => {
                format!("{needs} needed, and no key was found")
            }
            Reason::Denied(Denial::WrongEnvironment) => {
                let wanted = rule.and_then(|rule| rule.required_environment);
                let wanted = wanted.map_or("another", |wanted| wanted.as_str());
                format!("a {wanted} key needed, and this is a {held} key")
            }
            Reason::Denied(_) => format!("{needs} needed, and the key holds {held}"),
            Reason::KeyNotTold => format!("{needs} needed; the log does not tell whose key it was"),
            Reason::KeyUnknown => {
                format!("{needs} needed; the key is unknown to the server, or to your operator")
            }
            Reason::KeyNotLookedUp => format!("{needs} needed; the key was not looked up"),
        }
    }
}

/// The request as the first of its kind is shown: without the query, which may hold a secret.
pub(super) fn example(logged: &Logged<'_>) -> String {
    of_request(logged, path(logged))
}

fn of_request(logged: &Logged<'_>, path: &str) -> String {
    let host = logged.host.as_deref().unwrap_or_default();
    shown(&format!("{} {host}{path}", logged.method))
}

fn path<'a>(logged: &'a Logged<'_>) -> &'a str {
    logged.target.split('?').next().unwrap_or_default()
}

/// What a log says as it may be shown: a part of it, and no token.
pub(super) fn shown(text: &str) -> String {
    let text = token::without_tokens(text);
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The path with segments left out that look like values: they hold a digit, unless they are as `v1`, or are long.
fn shape(path: &str) -> String {
    let mut shape = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        let digits = segment.strip_prefix('v').unwrap_or(segment);
        let is_version = digits.len() < segment.len()
            && (1..=3).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_value = segment.bytes().any(|byte| byte.is_ascii_digit()) && !is_version;
        let slash = if index == 0 { "" } else { "/" };
        let segment = if is_value || segment.len() > NAME_CHARS_MAX { VALUE } else { segment };
        // Writing to a string does not fail.
        let _ = write!(shape, "{slash}{segment}");
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_a_path_without_its_values() {
        for (path, wanted) in [
            ("/", "/"),
            ("/v1/items/7", "/v1/items/{…}"),
            ("/v1/items/", "/v1/items/"),
            ("/a//b", "/a//b"),
            ("/u/3f2a-b/x", "/u/{…}/x"),
            ("*", "*"),
            ("/v1234/v", "/{…}/v"),
        ] {
            assert_eq!(shape(path), wanted);
        }
    }
}

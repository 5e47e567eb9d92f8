//! `latchkey policy test`: which rule answers a request, and why. It is found by the code that finds it on the server.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::console::{Console, Form, OutputArguments};
use crate::cli::rules::{RuleBook, needs};
use crate::cli::server::ServerArguments;
use crate::cli::tree::Tree;
use crate::cli::{Environment, Outcome};
use crate::decision::Denial;
use crate::failure::Failure;
use crate::grpc::convert::rule_to_proto;
use crate::policy::routes::{Answer, Gate, Needs, Route};
use crate::policy::target::{Mcp, Target};

pub(super) const EXIT_CODES: &str = "Exit codes: 0 a rule lets a key decide, or lets the request \
    pass; 1 the route is denied whatever the key, or the command failed; 2 not understood.";

/// The request, and whose rules.
#[derive(Debug, Args)]
pub(in crate::cli) struct TestArguments {
    /// The method, as in GET
    method: String,
    /// The URL as it is sent, with its host, escapes and all; the path will do if no rule goes by the host
    url: String,
    /// The tool that it calls by the Model Context Protocol
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Its method in the Model Context Protocol [default with --tool: tools/call]
    #[arg(long, value_name = "METHOD")]
    mcp_method: Option<String>,
    /// By the rules of this policy, as TOML, and not by the server's; - is stdin
    #[arg(long, value_name = "POLICY")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What becomes of the request.
#[derive(Clone, Copy)]
enum Outlook {
    KeyDecides,
    Passes,
    /// It passes whatever the key: the rule is only observed.
    Observed,
    Denied,
}

/// Does what the command says.
pub(super) fn run(
    arguments: &TestArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let TestArguments { method, url, tool, mcp_method, file, output, server } = arguments;
    let called = tool.as_ref().map(|_| Mcp::CALL);
    let mcp_method = mcp_method.as_deref().or(called);
    if tool.is_some() && mcp_method != called {
        let failure = Failure::new("--tool goes with no other method than tools/call");
        return Err(failure.help("leave --mcp-method out, or --tool").into());
    }
    let (host, path) = host_and_path(url)?;
    let (book, _) = RuleBook::open(file.as_ref(), server, environment)?;
    let host = match host {
        Some(host) => host,
        None => book.any_host().map_err(|failure| failure.help("write https://HOST/PATH"))?,
    };
    let target = Target::new(host, method, &path, Mcp::seen(mcp_method, tool.as_deref()));
    let answer = book.answer(&target);
    let outlook = outlook(answer);
    match output.output {
        Form::Json => console.json(&tree(&book, answer, outlook)),
        Form::Table => console.answer_rows(&rows(&book, answer, outlook)),
    }
    if matches!(answer, Answer::Blind(_)) {
        console.note("--tool and --mcp-method tell what the request says in that protocol.");
    }
    Ok(match outlook {
        Outlook::KeyDecides | Outlook::Passes | Outlook::Observed => ExitCode::SUCCESS,
        Outlook::Denied => ExitCode::FAILURE,
    })
}

/// The host, if there is one, and what a client would send as the target. Nothing is put right.
fn host_and_path(url: &str) -> Result<(Option<&str>, String), Failure> {
    let rest = ["https://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = rest else {
        if url.starts_with('/') {
            return Ok((None, url.to_owned()));
        }
        return Err(Failure::new("the URL begins with neither http:// nor https:// nor /")
            .help("write https://HOST/PATH, or /PATH if no rule goes by the host"));
    };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    let slash = if path.is_empty() || path.starts_with('?') { "/" } else { "" };
    Ok((Some(host), format!("{slash}{path}")))
}

fn outlook(answer: Answer<'_>) -> Outlook {
    match answer.gate() {
        Gate::Key(route) | Gate::Closed(Some(route)) if route.is_observed => Outlook::Observed,
        Gate::Key(_) => Outlook::KeyDecides,
        Gate::Open(_) => Outlook::Passes,
        Gate::Closed(_) => Outlook::Denied,
    }
}

impl Outlook {
    const fn as_str(self) -> &'static str {
        match self {
            Self::KeyDecides => "KEY_DECIDES",
            Self::Passes => "PASSES",
            Self::Observed => "OBSERVED",
            Self::Denied => "DENIED",
        }
    }

    fn told(self) -> String {
        match self {
            Self::KeyDecides => "the key decides".to_owned(),
            Self::Passes => "passes, with a key or without".to_owned(),
            Self::Observed => {
                "passes: the rule is only observed, and its denials are logged".to_owned()
            }
            Self::Denied => {
                let denial = Denial::RouteDenied;
                format!("denied: {}, HTTP {}", denial.as_str(), denial.http_status())
            }
        }
    }
}

fn route(answer: Answer<'_>) -> Option<&Route> {
    match answer {
        Answer::Rule(route) | Answer::Blind(route) => Some(route),
        Answer::NoRule | Answer::Ambiguous(_) => None,
    }
}

fn why(book: &RuleBook, answer: Answer<'_>) -> String {
    match answer {
        Answer::Rule(_) => "it is the first rule that matches".to_owned(),
        Answer::Blind(_) => "it goes by what the request says in the Model Context Protocol, and that is not known; \
                             rules after it are not looked at"
            .to_owned(),
        Answer::NoRule => {
            format!("none of {} rules matches; what no rule names is denied", book.rules().len())
        }
        Answer::Ambiguous(ambiguity) => {
            format!("{}: servers read that in more than one way", ambiguity.as_str())
        }
    }
}

fn cost(route: &Route) -> Option<u32> {
    match &route.needs {
        Needs::Scope(expression) => Some(route.cost.unwrap_or(expression.cost)),
        Needs::AuthenticateOnly => Some(route.cost.unwrap_or(0)),
        Needs::Public | Needs::Deny => None,
    }
}

fn rows(book: &RuleBook, answer: Answer<'_>, outlook: Outlook) -> Vec<(&'static str, String)> {
    let mut rows = vec![("answer", outlook.told())];
    let found = route(answer).and_then(|route| Some((route, book.rule(route)?)));
    if let Some((_, (number, rule))) = found {
        rows.push(("rule", format!("{}, number {number} of {}", rule.name, book.rules().len())));
    }
    rows.push(("why", why(book, answer)));
    if let Some((route, (_, rule))) = found {
        let environment = rule.required_environment.map_or("either", |it| it.as_str());
        let of_scopes = if rule.cost.is_none() { " (by its scopes)" } else { "" };
        rows.push(("needs", needs(rule)));
        if let Some(cost) = cost(route) {
            rows.push(("environment", environment.to_owned()));
            rows.push(("cost", format!("{cost}{of_scopes}")));
        }
        rows.push(("mode", if route.is_observed { "observe" } else { "enforce" }.to_owned()));
    }
    rows
}

/// The rule is told as `GetPolicy` tells it.
fn tree(book: &RuleBook, answer: Answer<'_>, outlook: Outlook) -> Tree {
    let kind = match answer {
        Answer::Rule(_) => "RULE",
        Answer::Blind(_) => "BLIND",
        Answer::NoRule => "NO_RULE",
        Answer::Ambiguous(_) => "AMBIGUOUS",
    };
    let mut fields = vec![
        ("outcome", Tree::text(outlook.as_str())),
        ("answer", Tree::text(kind)),
        ("why", Tree::text(why(book, answer))),
    ];
    let found = route(answer).and_then(|route| Some((route, book.rule(route)?)));
    if let Some((route, (number, rule))) = found {
        fields.push(("ruleNumber", Tree::Leaf(number.into())));
        fields.push(("rule", Tree::of(&rule_to_proto(rule))));
        fields.extend(cost(route).map(|cost| ("cost", Tree::Leaf(cost.into()))));
    }
    Tree::object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_not_put_right() {
        for (url, host, path) in [
            ("https://a.b", Some("a.b"), "/"),
            ("https://a.b?x=1", Some("a.b"), "/?x=1"),
            ("http://A.b:80/c//../%2e?x", Some("A.b:80"), "/c//../%2e?x"),
            ("https://a.b\\c", Some("a.b"), "\\c"),
            ("https://", Some(""), "/"),
            ("//a/b", None, "//a/b"),
        ] {
            assert_eq!(host_and_path(url), Ok((host, path.to_owned())), "{url}");
        }
        assert!(host_and_path("a.b/c").is_err());
    }
}

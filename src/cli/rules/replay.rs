//! `latchkey rules replay`: what the rules would refuse of what has passed. The log is read as a stream, and only
//! findings are kept: by route, rule, reason and key, up to a bound.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::finding::{Finding, Tally, Verdict};
use super::keys::{Keys, Known};
use super::log::{Lines, Logged, LoggedKey};
use super::{RuleBook, source};
use crate::cli::console::{Console, Form, OutputArguments};
use crate::cli::server::ServerArguments;
use crate::cli::{Environment, Outcome};
use crate::clock::Timestamp;
use crate::decision::{Ask, Denial, Facts, Requirement, decide};
use crate::failure::{Failure, Failures};
use crate::policy::routes::{Answer, Gate, Needs, Route};
use crate::policy::target::Target;

mod finding;
mod report;

pub(super) const EXIT_CODES: &str = "Exit codes: 0 nothing that passed would be refused; 1 something \
    would, or the command failed; 2 not understood.";

/// The most findings that are told apart; those that come later are put together by rule and reason.
const FINDINGS_MAX: usize = 10_000;
/// How many lines that are not understood are shown.
const MALFORMED_SHOWN_MAX: usize = 5;
/// How many lines are read before it is said how far it has come.
const LINES_PER_PROGRESS: u64 = 1 << 16;

/// The log, and whose rules.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArguments {
    /// The access log, of Envoy as JSON or of NGINX as `combined`; - is stdin
    access_log: PathBuf,
    /// By the rules of this policy, as TOML, and not by the server's; - is stdin
    #[arg(long, value_name = "POLICY")]
    file: Option<PathBuf>,
    /// The host of requests of which the log tells none
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What came of a log.
#[derive(Default)]
struct Replayed {
    lines: u64,
    passed: u64,
    refused_before: u64,
    malformed: u64,
    /// The first of those: line and fault.
    shown: Vec<(u64, String)>,
    findings: HashMap<Finding, Tally>,
}

/// Does what the command says.
pub(super) fn run(
    arguments: &ReplayArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let ReplayArguments { access_log, file, host, output, server } = arguments;
    let stdin = Path::new("-");
    if access_log == stdin && file.as_deref() == Some(stdin) {
        let failure = Failure::new("the log and the policy cannot both be stdin");
        return Err(failure.help("name a file for one of them").into());
    }
    let (log, size) = open(access_log)?;
    let (book, session) = RuleBook::open(file.as_ref(), server, environment)?;
    let mut judge = Judge {
        book: &book,
        host: host.as_deref(),
        keys: Keys::new(book.catalogue(), session, server, environment),
    };
    let replayed = replay(&mut Lines::new(log), size, access_log, &mut judge, console)?;
    if replayed.malformed > 0 && replayed.malformed == replayed.lines {
        let (line, why) = &replayed.shown[0];
        let name = source(access_log);
        let failure = Failure::new(format!("no line of {name} is understood: line {line}: {why}"));
        return Err(failure
            .help("docs/rules.md says which access logs can be read, and how to write them")
            .into());
    }
    match output.output {
        Form::Json => console.json(&report::tree(&replayed, &book)),
        Form::Table => report::tell(&replayed, &book, console),
    }
    let is_clean = replayed.count(Verdict::Refused) == 0;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let failed = |error: io::Error| Failure::reading(format!("the log {}", path.display()), &error);
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok((Box::new(BufReader::new(file)), about.is_file().then_some(about.len())))
}

fn replay(
    lines: &mut Lines<Box<dyn BufRead>>,
    size: Option<u64>,
    name: &Path,
    judge: &mut Judge<'_>,
    console: &mut Console,
) -> Result<Replayed, Failures> {
    let mut replayed = Replayed::default();
    loop {
        let failed =
            |error: io::Error| Failure::reading(format!("the log {}", source(name)), &error);
        let Some((number, line)) = lines.next().map_err(failed)? else { return Ok(replayed) };
        if line.as_ref().is_ok_and(|line| line.is_empty()) {
            continue;
        }
        replayed.lines += 1;
        match line.and_then(Logged::read) {
            Err(why) => replayed.misunderstood(number, &why),
            Ok(logged) if !logged.has_passed() => replayed.refused_before += 1,
            Ok(logged) => {
                replayed.passed += 1;
                if let Some(finding) = judge.judge(number, &logged, console)? {
                    replayed.found(finding, number, &logged, judge.book);
                }
            }
        }
        if number.is_multiple_of(LINES_PER_PROGRESS) {
            let of = size.map_or_else(String::new, |size| format!(" of {}", size >> 20));
            console.progress(&format!("{number} lines, {}{of} MiB …", lines.bytes >> 20));
        }
    }
}

impl Replayed {
    fn misunderstood(&mut self, line: u64, why: &str) {
        self.malformed += 1;
        if self.shown.len() < MALFORMED_SHOWN_MAX {
            self.shown.push((line, finding::shown(why)));
        }
    }

    fn found(&mut self, (finding, told): Found, line: u64, logged: &Logged<'_>, book: &RuleBook) {
        let is_full = self.findings.len() >= FINDINGS_MAX;
        let finding = if is_full && !self.findings.contains_key(&finding) {
            finding.without_details()
        } else {
            finding
        };
        let tally = self.findings.entry(finding).or_insert_with_key(|finding| {
            let why = finding.why(book, told.as_deref());
            Tally { count: 0, line, example: finding::example(logged), why }
        });
        tally.count += 1;
    }

    fn count(&self, verdict: Verdict) -> u64 {
        let of_verdict = self.findings.iter().filter(|(finding, _)| finding.verdict == verdict);
        of_verdict.map(|(_, tally)| tally.count).sum()
    }
}

/// A finding, and what its key holds, where that matters.
type Found = (Finding, Option<String>);

/// Holds requests against rules.
struct Judge<'a> {
    book: &'a RuleBook,
    host: Option<&'a str>,
    keys: Keys<'a>,
}

impl Judge<'_> {
    /// What the rules have against a request, if anything.
    fn judge(
        &mut self,
        line: u64,
        logged: &Logged<'_>,
        console: &mut Console,
    ) -> Result<Option<Found>, Failure> {
        let host = match logged.host.as_deref().or(self.host) {
            Some(host) => host,
            None => self.book.any_host().map_err(|failure| {
                failure.about(format!("line {line}")).help("name it with --host")
            })?,
        };
        let target = Target::new(host, &logged.method, &logged.target, logged.mcp());
        let answer = self.book.answer(&target);
        let (route, reason, told) = match answer.gate() {
            Gate::Open(_) => return Ok(None),
            Gate::Closed(route) => (route, finding::Reason::of_route(answer), None),
            Gate::Key(route) => match self.of_key(route, &logged.key, console) {
                None => return Ok(None),
                Some((reason, told)) => (Some(route), reason, told),
            },
        };
        let rule = route.and_then(|route| self.book.rule(route)).map(|(number, _)| number);
        let is_observed = route.is_some_and(|route| route.is_observed);
        Ok(Some((Finding::new(rule, is_observed, reason, logged), told)))
    }

    /// Rows 1, 9 and 10 of the decision table: what a change of the rules can change. Whether the key is good for
    /// anything now says nothing of then.
    fn of_key(
        &mut self,
        route: &Route,
        key: &LoggedKey,
        console: &mut Console,
    ) -> Option<(finding::Reason, Option<String>)> {
        use finding::Reason;
        let requirement = match &route.needs {
            Needs::Scope(expression) => Requirement::Scope(expression),
            Needs::AuthenticateOnly | Needs::Public | Needs::Deny => Requirement::AuthenticateOnly,
        };
        let id = match key {
            LoggedKey::NotTold => return Some((Reason::KeyNotTold, None)),
            LoggedKey::None => return Some((Reason::Denied(Denial::MissingCredential), None)),
            LoggedKey::Id(id) => id,
        };
        if matches!(requirement, Requirement::AuthenticateOnly) && route.environment.is_none() {
            return None;
        }
        let held = match self.keys.get(id, console) {
            Known::Held(held) => held,
            Known::Unknown => return Some((Reason::KeyUnknown, None)),
            Known::NotLookedUp => return Some((Reason::KeyNotLookedUp, None)),
        };
        let facts = Facts {
            revoked: false,
            disabled: false,
            expire_time: None,
            suspended: false,
            allowed_cidrs: &[],
            environment: held.environment,
            held: &held.set,
        };
        let ask = Ask { requirement, client_address: None, environment: route.environment };
        let denial = decide(&facts, &ask, Timestamp::EPOCH).err()?;
        let is_environment = denial == Denial::WrongEnvironment;
        let told = if is_environment { held.environment.as_str() } else { &held.scopes };
        Some((Reason::Denied(denial), Some(told.to_owned())))
    }
}

impl finding::Reason {
    fn of_route(answer: Answer<'_>) -> Self {
        match answer {
            Answer::Rule(_) => Self::Closed,
            Answer::Blind(_) => Self::Blind,
            Answer::NoRule => Self::NoRule,
            Answer::Ambiguous(ambiguity) => Self::Ambiguous(ambiguity),
        }
    }
}

//! `latchkey explain`: which row of the decision table answers for a key, and why, now or at an instant in
//! the past. Key, account and policy are put together from the audit trail as they were then, and judged
//! by the same function that decides on the server.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use self::case::{Ask, Case, Explanation, History, Need, Row, Verdict};
use super::arguments::EnvironmentName;
use super::console::{Console, Form, OutputArguments};
use super::server::ServerArguments;
use super::session::Session;
use super::table::{Table, Tone};
use super::time::{self, When};
use super::tree::Tree;
use super::{Environment, Outcome, secret};
use crate::clock::Timestamp;
use crate::decision::Denial;
use crate::failure::{Failure, Failures};
use crate::key::KeyId;
use crate::machine;
use crate::proto::v1::{
    AuditEntry, LookupKeyRequest, QueryAuditRequest, RecordKind, lookup_key_request,
};
use crate::token::{self, Token};

mod case;

/// Which key, asked what, and when.
#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The key's id; - reads its token from stdin
    key: String,
    /// What the request needs, as in `memory:read` or `a:b and (c:d or e:f)`
    #[arg(long, value_name = "SCOPE", required_unless_present = "authenticate_only")]
    scope: Option<String>,
    /// The request only asks whose key it is
    #[arg(long, conflicts_with = "scope")]
    authenticate_only: bool,
    #[arg(long, value_name = "WHEN", value_parser = When::parse, help = at_help())]
    at: Option<When>,
    /// The environment that the request demands
    #[arg(long, value_name = "ENVIRONMENT", value_enum)]
    environment: Option<EnvironmentName>,
    /// The address that the request comes from
    #[arg(long, value_name = "ADDRESS")]
    client_address: Option<IpAddr>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

fn at_help() -> String {
    format!("As it was then [default: now]: {} (ago); {}", time::SPAN_HELP, time::INSTANT_HELP)
}

/// What was named.
enum Target {
    /// A key by its id.
    Key(KeyId),
    /// A token; the key that has it is found by it.
    Token(Token),
    /// What is no token, and why.
    Malformed(token::Malformed),
}

/// When the request comes.
#[derive(Clone, Copy)]
struct Moment {
    /// The instant that was named.
    then: Option<Timestamp>,
    /// By this machine's clock.
    now: Timestamp,
}

impl Moment {
    /// The instant that was named, else now: not before a change that was made, as the server's clock may
    /// be ahead of this machine's.
    fn after(&self, changes: &[&[AuditEntry]]) -> Timestamp {
        let latest = changes.iter().filter_map(|entries| entries.first()?.time);
        let latest = latest
            .filter_map(|time| Timestamp::from_seconds_and_nanos(time.seconds, time.nanos))
            .fold(self.now, Timestamp::max);
        self.then.unwrap_or(latest)
    }
}

/// Does what the command says.
pub(super) fn run(
    arguments: &ExplainArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let ExplainArguments {
        key,
        scope,
        authenticate_only: _,
        at,
        environment: wanted,
        client_address,
        output,
        server,
    } = arguments;
    let target = target(key)?;
    let now = machine::wall_clock();
    let then = at.map(|at| at.before(now));
    if then.is_some_and(|then| then > now) {
        console.note("That is in the future: this is what things come to if nobody changes them.");
    }
    let ask = Ask {
        need: scope.clone().map_or(Need::Identity, Need::Scope),
        client_address: *client_address,
        environment: wanted.map(|wanted| match wanted {
            EnvironmentName::Live => token::Environment::Live,
            EnvironmentName::Test => token::Environment::Test,
        }),
    };
    let explanation = match target {
        Target::Malformed(fault) => Explanation::of_malformed(fault, then.unwrap_or(now)),
        Target::Key(_) | Target::Token(_) => {
            explain(&server.open(environment)?, &target, &ask, Moment { then, now }, console)?
        }
    };
    match output.output {
        Form::Json => console.json(&tree(&explanation)),
        Form::Table => tell(&explanation, console),
    }
    Ok(ExitCode::SUCCESS)
}

fn target(key: &str) -> Result<Target, Failure> {
    if key != "-" {
        return KeyId::parse(key).map(Target::Key).ok_or_else(|| {
            Failure::new(format!("{} is no key's id: it {}", token::quoted(key), KeyId::GRAMMAR))
                .help("`latchkey key list` shows ids; a token goes to stdin, with - for the key")
        });
    }
    let text = secret::read("Token")?;
    Ok(match Token::from_text(&String::from_utf8_lossy(&text)) {
        Ok(token) => Target::Token(token),
        Err(fault) => Target::Malformed(fault),
    })
}

fn explain(
    session: &Session,
    target: &Target,
    ask: &Ask,
    moment: Moment,
    console: &mut Console,
) -> Result<Explanation, Failures> {
    let (key_id, prefix) = match target {
        Target::Key(id) => (Some(id.to_string()), None),
        Target::Token(token) => {
            let parsed = token::parse(token.expose().as_bytes());
            (look_up(session, token)?, parsed.ok().map(|parsed| parsed.prefix.to_owned()))
        }
        Target::Malformed(_) => (None, None),
    };
    let Some(key_id) = key_id else { return Ok(Explanation::of_nobody(moment.after(&[]))) };
    // All of it, so that it can be told what became of the key later.
    let of_key = QueryAuditRequest { key_id: key_id.clone(), ..QueryAuditRequest::default() };
    let key = entries(session, of_key, console)?;
    let account_id = key.first().map(|entry| entry.account_id.clone()).unwrap_or_default();
    // Entries before the next microsecond: those of the instant count.
    let until = moment
        .then
        .map(|then| time::timestamp(Timestamp::from_micros(then.micros().saturating_add(1))));
    let of_account = QueryAuditRequest {
        account_id: account_id.clone(),
        record_kind: RecordKind::Account.into(),
        end_time: until,
        ..QueryAuditRequest::default()
    };
    let of_policy = QueryAuditRequest {
        record_kind: RecordKind::Policy.into(),
        end_time: until,
        ..QueryAuditRequest::default()
    };
    let account = entries(session, of_account, console)?;
    let policy = entries(session, of_policy, console)?;
    let at = moment.after(&[&key, &account, &policy]);
    let case = Case {
        key_id,
        account_id,
        prefix,
        key: History::of(key, at)?,
        account: History::of(account, at)?,
        policy: History::of(policy, at)?,
        at,
    };
    for contradiction in case.contradictions() {
        console.note(&format!(
            "The audit trail contradicts itself, on {contradiction}: `latchkey audit verify` says more."
        ));
    }
    Ok(case.explain(ask)?)
}

/// The id of the key that has this token.
fn look_up(session: &Session, token: &Token) -> Result<Option<String>, Failures> {
    let by = lookup_key_request::By::Token(token.expose().to_owned());
    let answer = session.call(LookupKeyRequest { by: Some(by) })?;
    Ok(answer.keys.into_iter().next().map(|key| key.key_id))
}

fn entries(
    session: &Session,
    query: QueryAuditRequest,
    console: &mut Console,
) -> Result<Vec<AuditEntry>, Failures> {
    Ok(session.pages(query, None, console)?.entries)
}

// === What is told ===

fn tell(explanation: &Explanation, console: &mut Console) {
    let Explanation { key_id, account_id, at, answer, why, rows, .. } = explanation;
    let told = match answer {
        None => "allowed".to_owned(),
        Some(denial) => format!("denied: {}", denial.as_str()),
    };
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    console.answer_rows(&[
        ("answer", format!("{told}, HTTP {}", status(*answer))),
        ("why", why.clone()),
        ("key", dash(key_id)),
        ("account", dash(account_id)),
        ("as of", shown(*at)),
    ]);
    console.answer("");
    let mut table = Table::new(&["ROW", "REASON", "RESULT", "WHY"]);
    for Row { number, denial, verdict, why } in rows {
        let tone = match verdict {
            Verdict::Passed => Tone::Good,
            Verdict::Answers => Tone::Bad,
            Verdict::NotReached | Verdict::NotLookedAt => Tone::Faint,
        };
        table.row([
            (number.to_string(), Tone::Plain),
            (denial.as_str().to_owned(), Tone::Plain),
            (verdict.as_str().to_owned(), tone),
            (dash(why), Tone::Plain),
        ]);
    }
    console.table(&table);
}

/// Named as the answer of `Authorize` is.
fn tree(explanation: &Explanation) -> Tree {
    let Explanation {
        key_id,
        account_id,
        at,
        answer,
        why,
        rows,
        key_revision,
        account_revision,
        policy_revision,
    } = explanation;
    let row = |Row { number, denial, verdict, why }: &Row| {
        Tree::object([
            ("row", Tree::Leaf((*number).into())),
            ("reason", Tree::text(reason(Some(*denial)))),
            ("result", Tree::text(verdict.as_str())),
            ("why", Tree::text(why)),
        ])
    };
    Tree::object([
        ("allowed", Tree::Leaf(answer.is_none().into())),
        ("reason", Tree::text(reason(*answer))),
        ("httpStatus", Tree::Leaf(status(*answer).into())),
        ("why", Tree::text(why)),
        ("keyId", Tree::text(key_id)),
        ("accountId", Tree::text(account_id)),
        ("time", Tree::text(shown(*at))),
        ("keyRevision", Tree::text(key_revision)),
        ("accountRevision", Tree::text(account_revision)),
        ("policyRevision", Tree::text(policy_revision)),
        ("rows", Tree::List(rows.iter().map(row).collect())),
    ])
}

fn reason(answer: Option<Denial>) -> String {
    format!("DECISION_REASON_{}", answer.map_or("ALLOWED", Denial::as_str))
}

fn status(answer: Option<Denial>) -> u16 {
    answer.map_or(200, Denial::http_status)
}

fn shown(at: Timestamp) -> String {
    let (seconds, nanos) = at.seconds_and_nanos();
    time::instant_text(seconds, nanos)
}

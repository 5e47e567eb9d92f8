//! `latchkey audit`: shows the trail, and verifies a store.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::console::{Console, Form, OutputArguments};
use super::server::ServerArguments;
use super::session::Session;
use super::settings::ConfigArguments;
use super::table::{Table, Tone};
use super::time::{self, SPAN_HELP, When};
use super::tree::Tree;
use super::{Environment, Outcome};
use crate::failure::{Failure, Failures};
use crate::machine;
use crate::proto::v1::{AuditEntry, QueryAuditRequest, RecordKind};
use crate::store::{self, Checked, Fault};

mod words;

/// How often `--follow` asks for what is new.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);
/// How seldom it asks a server that has been away for long.
const FOLLOW_PAUSE_MAX: Duration = Duration::from_secs(30);
/// As many faults as JSON holds; the rest are counted.
const FAULTS_MAX: usize = 1_000;

/// `latchkey audit …`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show who did what to which key, from where, with what change
    Log(LogArguments),
    /// Check that audit trail, feed and records of a store agree; reads it, beside a server or without
    Verify {
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        config: ConfigArguments,
    },
}

/// Which entries, and how.
#[derive(Debug, Args)]
pub(super) struct LogArguments {
    /// About this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// About this account or its keys
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// By this actor: key:ID or system:WHAT
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// About this kind of record
    #[arg(long, value_name = "KIND", value_enum)]
    kind: Option<KindArgument>,
    #[arg(long, value_name = "WHEN", value_parser = When::parse, help = since_help())]
    since: Option<When>,
    /// Before this; written as for --since
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    until: Option<When>,
    /// At most so many, the latest first; 0 means all
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// Go on with what is new, until it is interrupted; the latest last, and as JSON one entry a line
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

fn since_help() -> String {
    format!("At this instant or later: {SPAN_HELP}; {}", time::INSTANT_HELP)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArgument {
    /// Keys
    Key,
    /// Accounts themselves
    Account,
    /// The policy
    Policy,
}

/// Does what the command says.
pub(super) fn run(
    command: AuditCommand,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        AuditCommand::Log(arguments) => log(arguments, &environment, console),
        AuditCommand::Verify { output, config } => verify(output, config, environment, console),
    }
}

// === The log ===

fn log(arguments: LogArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let LogArguments { key, account, actor, kind, since, until, limit, follow, output, server } =
        arguments;
    let session = server.open(environment)?;
    let now = machine::wall_clock();
    let instant = |when: Option<When>| when.map(|when| time::timestamp(when.before(now)));
    let kind = match kind {
        None => RecordKind::Unspecified,
        Some(KindArgument::Key) => RecordKind::Key,
        Some(KindArgument::Account) => RecordKind::Account,
        Some(KindArgument::Policy) => RecordKind::Policy,
    };
    let query = QueryAuditRequest {
        account_id: account.unwrap_or_default(),
        key_id: key.unwrap_or_default(),
        actor: actor.unwrap_or_default(),
        start_time: instant(since),
        end_time: instant(until),
        record_kind: kind.into(),
        ..QueryAuditRequest::default()
    };
    let limit = Some(limit).filter(|limit| *limit > 0);
    let answer = session.pages(query.clone(), limit, console)?;
    if follow {
        return follow_up(&session, query, answer.entries, output.output, console);
    }
    match output.output {
        Form::Json => console.json(&Tree::of(&answer)),
        Form::Table => {
            let is_cut = !answer.next_page_token.is_empty();
            console.table(&table(&answer.entries));
            if is_cut {
                console.note("There are more: --limit 0 shows all.");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[AuditEntry]) -> Table {
    let mut table = Table::new(&["TIME", "ACTOR", "ACTION", "KEY", "ACCOUNT", "FROM", "CHANGE"]);
    for entry in entries {
        table.row(cells(entry));
    }
    table
}

/// An entry as a row of a table.
pub(super) fn cells(entry: &AuditEntry) -> [(String, Tone); 7] {
    let plain = |text: &str| {
        let text = if text.is_empty() { "-" } else { text };
        (text.to_owned(), Tone::of_word(text))
    };
    [
        plain(&time::shown(entry.time.as_ref())),
        plain(&entry.actor),
        plain(&entry.action),
        plain(&entry.key_id),
        plain(&entry.account_id),
        plain(&entry.peer),
        plain(&words::of(entry)),
    ]
}

/// Shows what there is, the latest last, and then what is new, again and again.
fn follow_up(
    session: &Session,
    mut query: QueryAuditRequest,
    mut entries: Vec<AuditEntry>,
    form: Form,
    console: &mut Console,
) -> Outcome {
    // Of the instant of the latest entry: those that were shown. Others of the same instant may follow.
    let mut shown: HashSet<String> = HashSet::new();
    loop {
        entries.retain(|entry| !shown.contains(&entry.revision));
        if let Some(latest) = entries.first() {
            if query.start_time != latest.time {
                shown.clear();
            }
            query.start_time = latest.time;
            let at_latest = entries.iter().filter(|entry| entry.time == latest.time);
            shown.extend(at_latest.map(|entry| entry.revision.clone()));
        }
        for entry in entries.iter().rev() {
            match form {
                Form::Json => console.line(&Tree::of(entry)),
                Form::Table => {
                    let mut table = Table::without_head();
                    table.row(cells(entry));
                    console.table(&table);
                }
            }
        }
        if console.is_lost() {
            return Ok(ExitCode::SUCCESS);
        }
        entries = new_entries(session, &query, console)?;
    }
}

/// What is new after a pause; while the server is away, after longer and longer ones.
fn new_entries(
    session: &Session,
    query: &QueryAuditRequest,
    console: &mut Console,
) -> Result<Vec<AuditEntry>, Failures> {
    let mut pause = FOLLOW_PAUSE;
    let mut is_told = false;
    loop {
        session.pause(pause);
        match session.pages(query.clone(), None, console) {
            Ok(answer) => {
                if is_told {
                    console.note("the server answers again");
                }
                return Ok(answer.entries);
            }
            Err(refusal) if refusal.is_passing() => {
                if !is_told {
                    let why = refusal.message();
                    console.note(&format!("no answer, asking again until one comes: {why}"));
                    is_told = true;
                }
                pause = (pause * 2).min(FOLLOW_PAUSE_MAX);
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

// === Verification ===

fn verify(
    output: OutputArguments,
    config: ConfigArguments,
    environment: Environment,
    console: &mut Console,
) -> Outcome {
    let url = config.load(environment)?.config.store.url;
    let mut kept: Vec<Fault> = Vec::new();
    let is_json = output.output == Form::Json;
    let tell = |fault: Fault| {
        if is_json {
            kept.extend((kept.len() < FAULTS_MAX).then_some(fault));
        } else {
            console.answer(&format!("fault: {fault}"));
        }
    };
    let checked = runtime()?
        .block_on(store::verify(url.expose(), tell))
        .map_err(|error| Failure::of("the store cannot be verified", &error))?;
    let Checked { changes, keys, accounts, policies, faults } = checked;
    if is_json {
        let number = |count: u64| Tree::Leaf(count.into());
        console.json(&Tree::object([
            ("whole", Tree::Leaf((faults == 0).into())),
            ("changes", number(changes)),
            ("keys", number(keys)),
            ("accounts", number(accounts)),
            ("policies", number(policies)),
            ("faultCount", number(faults)),
            ("faults", Tree::List(kept.into_iter().map(tree).collect())),
        ]));
    } else {
        let verdict = if faults == 0 {
            "The store is whole".to_owned()
        } else {
            format!("The store is not whole, with {faults} faults")
        };
        console.answer(&format!(
            "{verdict}: {changes} changes with their entries, {keys} keys, {accounts} accounts and \
             {policies} policy compared."
        ));
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tree(fault: Fault) -> Tree {
    let Fault { place, what, expected, found } = fault;
    Tree::object(
        [("place", place), ("what", what), ("expected", expected), ("found", found)]
            .map(|(name, text)| (name, Tree::text(text))),
    )
}

fn runtime() -> Result<tokio::runtime::Runtime, Failures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of("cannot start a runtime", &error).into())
}

//! `latchkey account`: makes, shows, lists, changes and suspends accounts.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use prost_types::FieldMask;

use super::arguments::{Label, labels, request_id};
use super::console::{Console, Form, OutputArguments};
use super::server::ServerArguments;
use super::session::Session;
use super::table::Table;
use super::time::shown;
use super::tree::{Tree, plain};
use super::{Environment, Outcome, receipt};
use crate::error::Reason;
use crate::failure::{Failure, Failures};
use crate::proto::v1::{
    Account, CreateAccountRequest, CreateAccountResponse, GetAccountRequest, ListAccountsRequest,
    UpdateAccountRequest, UpdateAccountResponse,
};

/// `latchkey account …`.
#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Make an account
    Create(CreateArguments),
    /// Show an account
    Get {
        /// The account
        account_id: String,
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List accounts
    List(ListArguments),
    /// Change what is named, and nothing else
    Update(UpdateArguments),
    /// Refuse all keys of an account until it is resumed
    Suspend(SuspendArguments),
    /// Take a suspension back
    Resume {
        /// The account
        account_id: String,
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Its id, which is never used again [default: one is made]
    #[arg(default_value = "", hide_default_value = true)]
    account_id: String,
    /// A name for people [default: the id]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// A plan of the policy [default: free]
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = Label::parse)]
    labels: Vec<Label>,
    /// A UUID by which the same request is known again [default: one is made]
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only accounts on this plan
    #[arg(long, default_value = "", hide_default_value = true)]
    plan: String,
    /// At most so many [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArguments {
    /// The account
    account_id: String,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// A plan of the policy
    #[arg(long)]
    plan: Option<String>,
    /// A label; may be repeated. All labels are replaced
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = Label::parse)]
    labels: Vec<Label>,
    /// Leave this empty
    #[arg(long, value_name = "WHAT", value_enum)]
    clear: Vec<Clear>,
    /// Change it only if it still has this revision
    #[arg(
        long,
        value_name = "REVISION",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    expected_revision: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// What can be left empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clear {
    Labels,
}

#[derive(Debug, Args)]
pub(super) struct SuspendArguments {
    /// The account
    account_id: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Does what the command says.
pub(super) fn run(
    command: AccountCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        AccountCommand::Create(arguments) => create(arguments, environment, console),
        AccountCommand::Get { account_id, output, server } => {
            let answer = server.open(environment)?.call(GetAccountRequest { account_id })?;
            console.show(&answer, answer.account.as_ref(), output);
            Ok(ExitCode::SUCCESS)
        }
        AccountCommand::List(arguments) => list(arguments, environment, console),
        AccountCommand::Update(arguments) => update(arguments, environment, console),
        AccountCommand::Suspend(arguments) => suspend(arguments, environment, console),
        AccountCommand::Resume { account_id, output, server } => {
            let account = Account { account_id, ..Account::default() };
            let session = server.open(environment)?;
            show_change(&change_suspension(&session, account)?, output, console);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn create(arguments: CreateArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let CreateArguments { account_id, name, plan, labels: given, request_id: id, output, server } =
        arguments;
    let request = CreateAccountRequest {
        account_id,
        display_name: name,
        plan,
        labels: labels(given),
        request_id: request_id(id),
    };
    let session = server.open(environment)?;
    let answer = match session.call(request) {
        Ok(answer) => answer,
        // It was made, and only the answer was lost: here, or when the same was asked before.
        Err(refusal) if refusal.is(Reason::AlreadyCreated) => {
            let Some(account_id) = refusal.variable("account_id") else {
                return Err(refusal.into());
            };
            let account = session.call(GetAccountRequest { account_id })?.account;
            CreateAccountResponse { account, ..CreateAccountResponse::default() }
        }
        Err(refusal) => return Err(refusal.into()),
    };
    console.show(&answer, answer.account.as_ref(), output);
    Ok(ExitCode::SUCCESS)
}

fn list(arguments: ListArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let ListArguments { plan, limit, output, server } = arguments;
    let request = ListAccountsRequest { plan, ..ListAccountsRequest::default() };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let answer = server.open(environment)?.pages(request, limit, console)?;
    if output.output == Form::Json {
        console.json(&Tree::of(&answer));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(&["ACCOUNT", "NAME", "PLAN", "STATE", "KEYS", "OF", "CREATED", "LABELS"]);
    for account in &answer.accounts {
        let labels = account.labels.iter().map(|(name, value)| format!("{name}={value}"));
        table.words([
            account.account_id.clone(),
            account.display_name.clone(),
            account.plan.clone(),
            plain(account.state().as_str_name()),
            account.counted_keys.to_string(),
            account.max_keys.map_or_else(|| "-".to_owned(), |most| most.to_string()),
            shown(account.create_time.as_ref()),
            labels.collect::<Vec<_>>().join(","),
        ]);
    }
    if answer.accounts.is_empty() {
        console.note("There is no such account.");
    } else {
        console.table(&table);
    }
    Ok(ExitCode::SUCCESS)
}

fn update(arguments: UpdateArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let UpdateArguments {
        account_id,
        name,
        plan,
        labels: given,
        clear,
        expected_revision,
        output,
        server,
    } = arguments;
    let mut paths = Vec::new();
    let mut named = |is_named: bool, path: &str| {
        if is_named {
            paths.push(path.to_owned());
        }
    };
    named(name.is_some(), "display_name");
    named(plan.is_some(), "plan");
    named(!given.is_empty() || clear.contains(&Clear::Labels), "labels");
    if paths.is_empty() {
        return Err(Failure::new("nothing was named that is to change")
            .help("name it: --name, --plan, --label or --clear")
            .into());
    }
    let account = Account {
        account_id,
        display_name: name.unwrap_or_default(),
        plan: plan.unwrap_or_default(),
        labels: labels(given),
        ..Account::default()
    };
    let update_mask = Some(FieldMask { paths });
    let request = UpdateAccountRequest { account: Some(account), update_mask, expected_revision };
    show_change(&server.open(environment)?.call(request)?, output, console);
    Ok(ExitCode::SUCCESS)
}

fn suspend(
    arguments: SuspendArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let SuspendArguments { account_id, reason, yes, output, server } = arguments;
    let session = server.open(environment)?;
    if !yes {
        console.confirm(&format!("Refuse all keys of account {account_id}?"))?;
    }
    let account =
        Account { account_id, suspended: true, suspend_reason: reason, ..Account::default() };
    show_change(&change_suspension(&session, account)?, output, console);
    Ok(ExitCode::SUCCESS)
}

fn change_suspension(
    session: &Session,
    account: Account,
) -> Result<UpdateAccountResponse, Failures> {
    let paths = vec!["suspended".to_owned(), "suspend_reason".to_owned()];
    Ok(session.call(UpdateAccountRequest {
        account: Some(account),
        update_mask: Some(FieldMask { paths }),
        expected_revision: String::new(),
    })?)
}

fn show_change(answer: &UpdateAccountResponse, output: OutputArguments, console: &mut Console) {
    console.show(answer, answer.account.as_ref(), output);
    if output.output == Form::Table
        && let Some(receipt) = &answer.receipt
    {
        console.answer_rows(&receipt::rows(receipt));
    }
}

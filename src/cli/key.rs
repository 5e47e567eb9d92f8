//! `latchkey key`: makes, shows, finds, lists, changes, rotates and revokes keys.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use prost::{Message, Name};
use zeroize::Zeroizing;

use self::form::FormArguments;
use super::arguments::{EnvironmentName, request_id};
use super::console::{Console, Form, OutputArguments};
use super::refusal::Refusal;
use super::server::ServerArguments;
use super::table::Table;
use super::time::{duration, shown, span};
use super::tree::{Tree, plain};
use super::{Environment, Outcome, receipt, secret};
use crate::error::Reason;
use crate::failure::{Failure, Failures};
use crate::proto::v1::lookup_key_request::By;
use crate::proto::v1::{
    GetKeyRequest, Key, KeyState, ListKeysRequest, LookupKeyRequest, Receipt, RotateKeyRequest,
};

mod create;
mod form;
pub(super) mod revoke;
mod update;

/// `latchkey key …`.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key, and print its token in the form in which it will be used
    Create(create::CreateArguments),
    /// Show a key
    Get {
        /// The key
        key_id: String,
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Find keys by a token, read from stdin, or by a hint
    Lookup {
        /// The hint that somebody was shown, of four characters at each end; without it, a token is read
        #[arg(long)]
        hint: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// List keys, oldest first
    List(ListArguments),
    /// Change what is named, and nothing else
    Update(update::UpdateArguments),
    /// End a key for good
    Revoke(revoke::RevokeArguments),
    /// Replace a key by one with a new token
    Rotate(RotateArguments),
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only keys of this account
    #[arg(long, value_name = "ACCOUNT_ID", default_value = "", hide_default_value = true)]
    account: String,
    /// Only keys in this state; may be repeated
    #[arg(long = "state", value_enum)]
    states: Vec<StateName>,
    /// Only keys made by this maker, as in key:ID
    #[arg(long, value_name = "MAKER", default_value = "", hide_default_value = true)]
    created_by: String,
    /// Only keys of this environment
    #[arg(long, value_enum)]
    environment: Option<EnvironmentName>,
    /// At most so many [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateName {
    Active,
    Disabled,
    Expired,
    Revoked,
}

impl StateName {
    fn to_proto(self) -> i32 {
        match self {
            Self::Active => KeyState::Active.into(),
            Self::Disabled => KeyState::Disabled.into(),
            Self::Expired => KeyState::Expired.into(),
            Self::Revoked => KeyState::Revoked.into(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    /// The key
    key_id: String,
    /// How long the old key works beside the new one, up to 7d; without it, the old key ends at once
    #[arg(long, value_name = "SPAN", value_parser = span)]
    overlap: Option<Duration>,
    /// A UUID by which the same request is known again [default: one is made]
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Does what the command says.
pub(super) fn run(
    command: KeyCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        KeyCommand::Create(arguments) => create::run(arguments, environment, console),
        KeyCommand::Get { key_id, output, server } => {
            let answer = server.open(environment)?.call(GetKeyRequest { key_id })?;
            console.show(&answer, answer.key.as_ref(), output);
            Ok(ExitCode::SUCCESS)
        }
        KeyCommand::Lookup { hint, output, server } => {
            lookup(hint, output, &server, environment, console)
        }
        KeyCommand::List(arguments) => list(arguments, environment, console),
        KeyCommand::Update(arguments) => update::run(arguments, environment, console),
        KeyCommand::Revoke(arguments) => revoke::run(arguments, environment, console),
        KeyCommand::Rotate(arguments) => rotate(arguments, environment, console),
    }
}

fn lookup(
    hint: Option<String>,
    output: OutputArguments,
    server: &ServerArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let by = match hint {
        Some(hint) => By::Hint(hint),
        None => By::Token(found_token()?.to_string()),
    };
    let answer = server.open(environment)?.call(LookupKeyRequest { by: Some(by) })?;
    show_list(&answer, &answer.keys, output, console);
    Ok(if answer.keys.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The token that somebody found, from stdin or a prompt; its form is right.
pub(super) fn found_token() -> Result<Zeroizing<String>, Failure> {
    let text = secret::read("Token")?;
    let token = super::token::well_formed(&text)?;
    Ok(Zeroizing::new(token.expose().to_owned()))
}

fn list(arguments: ListArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let ListArguments { account, states, created_by, environment: world, limit, output, server } =
        arguments;
    let request = ListKeysRequest {
        account_id: account,
        states: states.into_iter().map(StateName::to_proto).collect(),
        created_by,
        environment: EnvironmentName::of(world),
        ..ListKeysRequest::default()
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let answer = server.open(environment)?.pages(request, limit, console)?;
    show_list(&answer, &answer.keys, output, console);
    Ok(ExitCode::SUCCESS)
}

fn rotate(arguments: RotateArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let RotateArguments { key_id, overlap, request_id: id, yes, form, server } = arguments;
    form.check()?;
    let session = server.open(environment)?;
    if !yes && overlap.is_none_or(|overlap| overlap.is_zero()) {
        console.confirm(&format!(
            "End the old token of {key_id} at once? (--overlap 1h lets both work for an hour)"
        ))?;
    }
    let request =
        RotateKeyRequest { key_id, overlap: overlap.map(duration), request_id: request_id(id) };
    let answer = session.call(request).map_err(token_is_lost)?;
    let tree = Tree::of(&answer);
    let token = Zeroizing::new(answer.token);
    form.print(&tree, answer.key.as_ref(), &token, console)
}

/// A request that was carried out before made a key whose token nobody has.
fn token_is_lost(refusal: Refusal) -> Failures {
    let key_id = refusal.variable("key_id").filter(|_| refusal.is(Reason::AlreadyCreated));
    let Some(key_id) = key_id else { return refusal.into() };
    Failure::new(format!("this request made {key_id} before, whose token cannot be shown again"))
        .help(format!(
            "if the token was lost, revoke that key (`latchkey key revoke {key_id}`) and repeat \
             without --request-id"
        ))
        .into()
}

fn show_receipt(receipt: Option<&Receipt>, console: &mut Console) {
    if let Some(receipt) = receipt {
        console.answer_rows(&receipt::rows(receipt));
    }
}

fn show_list<M: Message + Name>(
    answer: &M,
    keys: &[Key],
    output: OutputArguments,
    console: &mut Console,
) {
    match output.output {
        Form::Json => console.json(&Tree::of(answer)),
        Form::Table if keys.is_empty() => console.note("There is no such key."),
        Form::Table => console.table(&table(keys)),
    }
}

/// Keys in rows.
pub(super) fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&[
        "KEY",
        "ACCOUNT",
        "NAME",
        "ENV",
        "STATE",
        "HINT",
        "CREATED",
        "EXPIRES",
        "LAST USED",
        "SCOPES",
    ]);
    for key in keys {
        table.words([
            key.key_id.clone(),
            key.account_id.clone(),
            key.display_name.clone(),
            plain(key.environment().as_str_name()),
            plain(key.state().as_str_name()),
            key.token_hint.clone(),
            shown(key.create_time.as_ref()),
            shown(key.expire_time.as_ref()),
            shown(key.last_used_time.as_ref()),
            key.scopes.join(","),
        ]);
    }
    table
}

//! `latchkey authorize`: asks, as a service would, whether a key may do something.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use zeroize::Zeroizing;

use super::arguments::EnvironmentName;
use super::console::{Console, Form, OutputArguments};
use super::server::{Credential, ServerArguments};
use super::tree::Tree;
use super::{Environment, Outcome, secret};
use crate::failure::Failure;
use crate::proto::v1::AuthorizeRequest;

/// The question. The token is read from stdin.
#[derive(Debug, Args)]
pub(super) struct AuthorizeArguments {
    /// What the key must be able to do: scopes joined by `and` and `or`, with parentheses
    #[arg(
        required_unless_present = "authenticate_only",
        default_value = "",
        hide_default_value = true
    )]
    scope: String,
    /// Only ask who it is
    #[arg(long, conflicts_with = "scope")]
    authenticate_only: bool,
    /// A file that holds the token to ask about [default: stdin]
    #[arg(long, value_name = "FILE")]
    key_token_file: Option<PathBuf>,
    /// The address that the request came from
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true)]
    client_address: String,
    /// The environment that the key must belong to [default: either]
    #[arg(long, value_enum)]
    environment: Option<EnvironmentName>,
    /// Decide by nothing older than this revision
    #[arg(
        long,
        value_name = "REVISION",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    min_revision: String,
    /// What the request counts [default: by its scopes]; 0 is a look
    #[arg(long, value_name = "NUMBER")]
    cost: Option<u32>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Exits with 0 when it is allowed, with 1 when it is not.
pub(super) fn run(
    arguments: AuthorizeArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let AuthorizeArguments {
        scope,
        authenticate_only,
        key_token_file,
        client_address,
        environment: world,
        min_revision,
        cost,
        output,
        server,
    } = arguments;
    let token = presented(key_token_file)?;
    let request = AuthorizeRequest {
        token: token.to_string(),
        required_scope: scope,
        authenticate_only,
        client_address,
        required_environment: EnvironmentName::of(world),
        min_revision,
        cost,
    };
    let answer = server.open_with(Credential::Welcome, environment)?.call(request)?;
    match output.output {
        Form::Json => console.json(&Tree::of(&answer)),
        Form::Table => {
            let verdict = if answer.allowed { "allowed" } else { "denied" };
            let mut rows = vec![("verdict".to_owned(), verdict.to_owned())];
            let fields = Tree::of(&answer).rows();
            rows.extend(fields.into_iter().filter(|(name, _)| name != "allowed"));
            console.answer_rows(&rows);
        }
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the client presented, whatever it is: the server says what it thinks of it.
fn presented(file: Option<PathBuf>) -> Result<Zeroizing<String>, Failure> {
    let text = match file {
        None => secret::read("Token to ask about")?,
        Some(path) => secret::read_file(&path)?,
    };
    Ok(Zeroizing::new(String::from_utf8_lossy(text.trim_ascii_end()).into_owned()))
}

//! `latchkey policy`: reads, checks, tries and replaces the policy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::test::TestArguments;
use super::console::{Console, Form, OutputArguments};
use super::receipt;
use super::server::ServerArguments;
use super::tree::Tree;
use super::{Environment, Outcome};
use crate::config::read_policy;
use crate::failure::Failure;
use crate::grpc::convert::{policy_from_proto, policy_to_proto};
use crate::policy::Policy;
use crate::proto::v1::{ApplyPolicyRequest, ApplyPolicyResponse, GetPolicyRequest};

mod test;

/// `latchkey policy …`.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the server's policy, as TOML for people
    Get {
        #[command(flatten)]
        output: OutputArguments,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Check a policy here, and with --address or --profile at a server too; nothing is changed
    Check {
        /// The policy as TOML; - is stdin
        file: PathBuf,
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Say which rule answers a request, and why
    #[command(after_help = test::EXIT_CODES)]
    Test(TestArguments),
    /// Replace the server's policy
    Apply(ApplyArguments),
}

/// What to replace the policy by, and when.
#[derive(Debug, Args)]
pub(super) struct ApplyArguments {
    /// The policy as TOML; - is stdin
    file: PathBuf,
    /// Replace the policy only if it still has this revision
    #[arg(long, value_name = "REVISION", allow_hyphen_values = true)]
    expected_revision: Option<String>,
    /// Accept that keys hold scopes which the new policy drops; those then allow nothing
    #[arg(long)]
    allow_orphans: bool,
    /// Let the server check everything, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

/// Does what the command says.
pub(super) fn run(
    command: PolicyCommand,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    match command {
        PolicyCommand::Get { output, server } => get(output, &server, environment, console),
        PolicyCommand::Check { file, server } => check(&file, &server, environment, console),
        PolicyCommand::Test(arguments) => test::run(&arguments, environment, console),
        PolicyCommand::Apply(arguments) => apply(arguments, environment, console),
    }
}

fn get(
    output: OutputArguments,
    server: &ServerArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let answer = server.open(environment)?.call(GetPolicyRequest {})?;
    if output.output == Form::Json {
        console.json(&Tree::of(&answer));
        return Ok(ExitCode::SUCCESS);
    }
    let policy = answer.policy.unwrap_or_default();
    let revision = policy.revision.clone();
    let policy = policy_from_proto(policy).map_err(|error| {
        Failure::of("this version cannot read the server's policy", &error)
            .help("use the latchkey of the server's version")
    })?;
    console.answer(&format!(
        "# Revision {revision}; replace exactly this one with:\n\
         # latchkey policy apply --expected-revision={revision} FILE\n\n{}",
        policy.without_own_scopes().to_toml(),
    ));
    Ok(ExitCode::SUCCESS)
}

fn check(
    file: &Path,
    server: &ServerArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let policy = read_policy(file)?;
    if server.address.is_some() || server.profile.is_some() {
        let message = ApplyPolicyRequest { validate_only: true, ..replacement(&policy) };
        let answer = server.open(environment)?.call(message)?;
        tell_notices(&answer, console);
    }
    let (scopes, plans, rules) = (policy.scopes.len(), policy.plans.len(), policy.rules.len());
    let told = format!("The policy is right: {scopes} scopes, {plans} plans, {rules} rules.");
    console.answer(&told);
    Ok(ExitCode::SUCCESS)
}

fn apply(arguments: ApplyArguments, environment: &Environment, console: &mut Console) -> Outcome {
    let ApplyArguments { file, expected_revision, allow_orphans, dry_run, output, server } =
        arguments;
    let policy = read_policy(&file)?;
    let message = ApplyPolicyRequest {
        expected_revision: expected_revision.unwrap_or_default(),
        validate_only: dry_run,
        allow_orphans,
        ..replacement(&policy)
    };
    let answer = server.open(environment)?.call(message)?;
    if output.output == Form::Json {
        console.json(&Tree::of(&answer));
        return Ok(ExitCode::SUCCESS);
    }
    if dry_run {
        console.answer("The server would accept the policy. Nothing was changed.");
    } else {
        console.answer("The policy is in force.");
        let policy = answer.policy.as_ref();
        let revision = policy.map(|policy| policy.revision.clone()).unwrap_or_default();
        let receipt = answer.receipt.as_ref().map(receipt::rows).unwrap_or_default();
        let rows: Vec<_> = [("revision", revision)].into_iter().chain(receipt).collect();
        console.answer_rows(&rows);
    }
    tell_notices(&answer, console);
    Ok(ExitCode::SUCCESS)
}

fn replacement(policy: &Policy) -> ApplyPolicyRequest {
    // The revision is the server's to say.
    let policy = policy_to_proto(policy, String::new());
    ApplyPolicyRequest { policy: Some(policy), ..ApplyPolicyRequest::default() }
}

fn tell_notices(answer: &ApplyPolicyResponse, console: &mut Console) {
    for notice in &answer.notices {
        console.answer(&format!("notice: {notice}"));
    }
}

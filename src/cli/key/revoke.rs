//! `latchkey key revoke`, and how its end is waited for on every node.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::console::{Console, Form, OutputArguments};
use crate::cli::refusal::Refusal;
use crate::cli::server::ServerArguments;
use crate::cli::session::Session;
use crate::cli::time::{duration, span};
use crate::cli::{Environment, Outcome, receipt};
use crate::machine::uptime;
use crate::proto::v1::revoke_key_request::Target;
use crate::proto::v1::{RevokeKeyRequest, RevokeKeyResponse, RevokeReason};

/// How long one call waits: then it is told how far it came.
const STEP: Duration = Duration::from_secs(1);
/// The pause after a call that waited for less than was asked.
const PAUSE: Duration = Duration::from_millis(100);

/// Which key, why, and how long to wait.
#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArguments {
    /// The key
    key_id: String,
    /// Why; kept with the key
    #[arg(long, value_enum)]
    reason: Option<ReasonName>,
    /// A remark to keep with the key; never write a token here
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Also revoke every key that this one made, and that those made
    #[arg(long)]
    revoke_created: bool,
    /// Wait until every node has applied it, for so long at most [default when given: 10s]
    #[arg(
        long,
        value_name = "SPAN",
        value_parser = span,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10s"
    )]
    wait: Option<Duration>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReasonName {
    /// Somebody has seen the token, or may have
    Compromised,
    /// Another key has taken its place
    Superseded,
    /// Nobody uses it
    Unused,
    /// A reason of your own
    Administrative,
}

impl ReasonName {
    fn to_proto(self) -> i32 {
        match self {
            Self::Compromised => RevokeReason::Compromised.into(),
            Self::Superseded => RevokeReason::Superseded.into(),
            Self::Unused => RevokeReason::Unused.into(),
            Self::Administrative => RevokeReason::Administrative.into(),
        }
    }
}

/// Does what the command says.
pub(super) fn run(
    arguments: RevokeArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let RevokeArguments { key_id, reason, comment, revoke_created, wait, yes, output, server } =
        arguments;
    let session = server.open(environment)?;
    if !yes {
        let more = if revoke_created { " and every key that it made" } else { "" };
        console.confirm(&format!("Revoke {key_id}{more} for good?"))?;
    }
    let request = RevokeKeyRequest {
        target: Some(Target::KeyId(key_id)),
        reason: reason.map_or_else(|| RevokeReason::Unspecified.into(), ReasonName::to_proto),
        comment,
        wait: None,
        revoke_created,
    };
    let answer = revoke(&session, request, wait.unwrap_or_default(), console)?;
    console.show(&answer, answer.key.as_ref(), output);
    if output.output == Form::Table {
        let ids = &answer.revoked_key_ids;
        let revoked =
            if ids.is_empty() { "none; it was before".to_owned() } else { ids.join(", ") };
        console.answer_rows(&[("revoked by this", revoked)]);
        super::show_receipt(answer.receipt.as_ref(), console);
        if let Some(receipt) = &answer.receipt {
            console.answer(&receipt::told(receipt));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Revokes, then waits until every node has applied it, and tells how many have not. The call is repeated for that: a
/// repeat changes nothing, and brings what is known by then.
pub(in crate::cli) fn revoke(
    session: &Session,
    mut request: RevokeKeyRequest,
    wait: Duration,
    console: &mut Console,
) -> Result<RevokeKeyResponse, Refusal> {
    let end = uptime().saturating_add(wait);
    request.wait = Some(duration(wait.min(STEP)));
    let mut answer = session.call(request.clone())?;
    while let Some(known) = &answer.receipt {
        let (awaited, left) = (known.pending_nodes.len(), end.saturating_sub(uptime()));
        if awaited == 0 || left.is_zero() {
            break;
        }
        let nodes = if awaited == 1 { "node" } else { "nodes" };
        console.progress(&format!("revoked; waiting for {awaited} {nodes} …"));
        session.pause(PAUSE.min(left));
        request.wait = Some(duration(left.min(STEP)));
        match session.call(request.clone()) {
            Ok(later) => answer.receipt = later.receipt.map(|later| receipt::later(known, later)),
            // It may have been the caller's own key.
            Err(refusal) => {
                console.note(&format!(
                    "It is revoked, but how far that came cannot be asked: {}",
                    refusal.message()
                ));
                break;
            }
        }
    }
    Ok(answer)
}

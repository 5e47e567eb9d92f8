//! `latchkey policy`: reads, checks and replaces the policy.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use super::console::Console;
use super::remote::{ServerArguments, address, connect, refused, request, wait};
use super::{ApplyArguments, Environment, Outcome};
use crate::clock::Timestamp;
use crate::config::read_policy;
use crate::failure::{Failure, Failures};
use crate::grpc::convert::{policy_from_proto, policy_to_proto};
use crate::policy::Policy;
use crate::proto::v1::policy_service_client::PolicyServiceClient;
use crate::proto::v1::{
    ApplyPolicyRequest, ApplyPolicyResponse, GetPolicyRequest, GetPolicyResponse, Receipt,
};

/// Long enough for a store that is slow today.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `latchkey policy get`.
pub(super) fn get(
    server: &ServerArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let authorization = server.authorization(environment)?;
    let address = address(server.address.as_deref(), environment)?;
    let GetPolicyResponse { policy } = wait(async {
        let mut client = PolicyServiceClient::new(connect(&address, TIMEOUT).await?);
        let answer = client.get_policy(request(GetPolicyRequest {}, &authorization)).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    })?;
    let policy = policy.unwrap_or_default();
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

/// `latchkey policy check`.
pub(super) fn check(
    file: &Path,
    server: &ServerArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let policy = read_policy(file)?;
    if let Some(given) = &server.address {
        let authorization = server.authorization(environment)?;
        let message = ApplyPolicyRequest { validate_only: true, ..replacement(&policy) };
        let answer = send(&address(Some(given), environment)?, message, &authorization)?;
        tell_notices(&answer, console);
    }
    let (scopes, plans) = (policy.scopes.len(), policy.plans.len());
    console.answer(&format!("The policy is right: {scopes} scopes, {plans} plans."));
    Ok(ExitCode::SUCCESS)
}

/// `latchkey policy apply`.
pub(super) fn apply(
    arguments: &ApplyArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let ApplyArguments { file, expected_revision, allow_orphans, dry_run, server } = arguments;
    let policy = read_policy(file)?;
    let authorization = server.authorization(environment)?;
    let message = ApplyPolicyRequest {
        expected_revision: expected_revision.clone().unwrap_or_default(),
        validate_only: *dry_run,
        allow_orphans: *allow_orphans,
        ..replacement(&policy)
    };
    let address = address(server.address.as_deref(), environment)?;
    let answer = send(&address, message, &authorization)?;
    if *dry_run {
        console.answer("The server would accept the policy. Nothing was changed.");
    } else {
        console.answer("The policy is in force.");
        let policy = answer.policy.as_ref();
        let revision = policy.map(|policy| policy.revision.clone()).unwrap_or_default();
        let receipt = answer.receipt.as_ref().map(rows).unwrap_or_default();
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

fn send(
    address: &str,
    message: ApplyPolicyRequest,
    authorization: &MetadataValue<Ascii>,
) -> Result<ApplyPolicyResponse, Failures> {
    wait(async {
        let mut client = PolicyServiceClient::new(connect(address, TIMEOUT).await?);
        let answer = client.apply_policy(request(message, authorization)).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    })
}

fn tell_notices(answer: &ApplyPolicyResponse, console: &mut Console) {
    for notice in &answer.notices {
        console.answer(&format!("notice: {notice}"));
    }
}

/// Where the change holds, and from when on everywhere.
fn rows(receipt: &Receipt) -> Vec<(&'static str, String)> {
    let Receipt {
        revision,
        applied_nodes,
        pending_nodes,
        effective_everywhere_time,
        effective_everywhere_in,
    } = receipt;
    let names = |nodes: &[String]| {
        if nodes.is_empty() { "none".to_owned() } else { nodes.join(", ") }
    };
    let time = effective_everywhere_time
        .and_then(|time| Timestamp::from_seconds_and_nanos(time.seconds, time.nanos));
    let everywhere = match (time, effective_everywhere_in) {
        (Some(time), Some(span)) if span.seconds > 0 || span.nanos > 0 => {
            format!("{time}, in {}.{:03} s", span.seconds, span.nanos / 1_000_000)
        }
        (Some(time), _) => format!("{time}, already"),
        (None, _) => "not said".to_owned(),
    };
    vec![
        ("change", revision.clone()),
        ("applied by", names(applied_nodes)),
        ("awaited", names(pending_nodes)),
        ("everywhere", everywhere),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_when_the_change_holds_everywhere() {
        let mut receipt = Receipt {
            revision: "r".into(),
            applied_nodes: vec!["a".into(), "b".into()],
            pending_nodes: Vec::new(),
            effective_everywhere_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            effective_everywhere_in: Some(prost_types::Duration { seconds: 0, nanos: 850_000_000 }),
        };
        assert_eq!(rows(&receipt)[1].1, "a, b");
        assert_eq!(rows(&receipt)[2].1, "none");
        assert_eq!(rows(&receipt)[3].1, "1970-01-01T00:00:00Z, in 0.850 s");
        receipt.effective_everywhere_in = None;
        assert_eq!(rows(&receipt)[3].1, "1970-01-01T00:00:00Z, already");
    }
}

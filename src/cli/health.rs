//! `latchkey health`: asks a server whether it serves, for probes in images that hold nothing else.

use std::process::ExitCode;
use std::time::Duration;

use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::console::Console;
use super::refusal::Refusal;
use super::server::Credential;
use super::{Environment, HealthArguments, Outcome};
use crate::failure::{Failure, Failures};

/// Probes are asked every few seconds: later is too late.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Exits with 0 when the server, or the service named, is serving.
pub(super) fn check(
    arguments: &HealthArguments,
    environment: &Environment,
    console: &mut Console,
) -> Outcome {
    let HealthArguments { server, service } = arguments;
    let session = server.open_with(Credential::Unused, environment)?;
    let (runtime, connection) = session.parts();
    let mut request = Request::new(HealthCheckRequest { service: service.clone() });
    request.set_timeout(TIMEOUT);
    let answer = runtime.block_on(HealthClient::new(connection).check(request));
    let status = match answer {
        Ok(answer) => answer.into_inner().status(),
        Err(status) if status.code() == Code::NotFound => return Err(unknown(service)),
        Err(status) => return Err(Refusal::new(status, session.address()).into()),
    };
    let address = session.address();
    let what =
        if service.is_empty() { address.to_owned() } else { format!("{service} at {address}") };
    match status {
        ServingStatus::Serving => {
            console.answer(&format!("{what} is serving"));
            Ok(ExitCode::SUCCESS)
        }
        ServingStatus::NotServing => Err(Failure::new(format!("{what} is not serving")).into()),
        ServingStatus::ServiceUnknown => Err(unknown(service)),
        ServingStatus::Unknown => {
            Err(Failure::new(format!("{what} does not know whether it is serving")).into())
        }
    }
}

fn unknown(service: &str) -> Failures {
    Failure::new(format!("the server knows no service {service:?}"))
        .help("leave --service out, or write its full name, as in latchkey.v1.AuthorizationService")
        .into()
}

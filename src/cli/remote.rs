//! Calling a server: its address, the operator's token, and what its errors mean for the person who called.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use zeroize::Zeroizing;

use super::Environment;
use crate::error::Reason;
use crate::failure::{Failure, Failures, chain};
use crate::token::Token;

const ADDRESS_DEFAULT: &str = "http://127.0.0.1:50051";
const ADDRESS_VARIABLE: &str = "LATCHKEY_ADDRESS";
const TOKEN_VARIABLE: &str = "LATCHKEY_TOKEN";
const GRPC_HELP: &str = "see whether the server goes on (its log says), and whether this is the address of \
     grpc.listen (port 50051 if nothing else was set); http.listen and operations.listen speak HTTP";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What `--help` says of `--address`.
pub(super) const ADDRESS_HELP: &str = "Where the server listens: http://HOST:PORT or unix:PATH \
     [default: $LATCHKEY_ADDRESS, else http://127.0.0.1:50051]";
/// What `--help` says of `--token-file`.
pub(super) const TOKEN_HELP: &str =
    "A file that holds the operator's token [default: the token itself in $LATCHKEY_TOKEN]";

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(super) struct ServerArguments {
    #[arg(long, value_name = "ADDRESS", help = ADDRESS_HELP)]
    pub(super) address: Option<String>,
    #[arg(long, value_name = "FILE", help = TOKEN_HELP)]
    pub(super) token_file: Option<PathBuf>,
}

impl ServerArguments {
    /// The `authorization` of a call: `Bearer` and the operator's token.
    pub(super) fn authorization(
        &self,
        environment: &Environment,
    ) -> Result<MetadataValue<Ascii>, Failure> {
        let (text, origin) = match &self.token_file {
            Some(path) => (read_token(path)?, path.display().to_string()),
            None => (variable(environment, TOKEN_VARIABLE)?, TOKEN_VARIABLE.to_owned()),
        };
        let Some(text) = text else {
            let help = format!("set {TOKEN_VARIABLE}, or name a file with --token-file");
            return Err(Failure::new("there is no operator's token to call with").help(help));
        };
        let bad = |fault: &dyn std::fmt::Display| {
            Failure::new(format!("the operator's token in {origin} cannot be right: {fault}"))
                .help("copy it again; `latchkey token inspect` says whether a token is well-formed")
        };
        let token = Token::from_text(text.trim_end()).map_err(|fault| bad(&fault))?;
        let header = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut value = MetadataValue::try_from(header.as_str()).map_err(|fault| bad(&fault))?;
        value.set_sensitive(true); // neither printed nor kept by header compression
        Ok(value)
    }
}

fn read_token(path: &Path) -> Result<Option<Zeroizing<String>>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) => Err(Failure::reading(format!("the token file {}", path.display()), &error)),
    }
}

fn variable(environment: &Environment, name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some((_, value)) = environment.iter().find(|(known, _)| known == name) else {
        return Ok(None);
    };
    let text = value.to_str().ok_or_else(|| {
        Failure::new(format!("{name} is not UTF-8")).help("set it anew, or unset it")
    })?;
    Ok((!text.is_empty()).then(|| Zeroizing::new(text.to_owned())))
}

/// The address that was given, else the environment's, else the default.
pub(super) fn address(given: Option<&str>, environment: &Environment) -> Result<String, Failure> {
    let from_environment = variable(environment, ADDRESS_VARIABLE)?;
    let address = given.or(from_environment.as_ref().map(|text| text.as_str()));
    let address = address.unwrap_or(ADDRESS_DEFAULT);
    if address.starts_with("https://") {
        let help = "write http://HOST:PORT, and let a proxy or a mesh encrypt";
        return Err(Failure::new(format!(
            "{address} needs TLS, which this version does not speak yet"
        ))
        .help(help));
    }
    let has_scheme = address.contains("://") || address.starts_with("unix:");
    Ok(if has_scheme { address.to_owned() } else { format!("http://{address}") })
}

/// A server that was connected to. An answer that is not of gRPC is not taken apart as if it were.
#[derive(Debug, Clone)]
pub(super) struct Server(Channel);

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(NoAnswer::Broken)?;
            let kind = answer.headers().get(http::header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                Ok(answer)
            } else {
                Err(NoAnswer::Foreign(answer.status()).into())
            }
        })
    }
}

/// A call that no server of gRPC has answered.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// Whoever answered speaks HTTP, and not gRPC.
    #[error("what listens there does not speak gRPC: it answered with HTTP {0}")]
    Foreign(http::StatusCode),
    /// The connection broke, or the time was up.
    #[error("no answer came")]
    Broken(#[source] tonic::transport::Error),
}

impl NoAnswer {
    /// Whether that is what became of a call.
    fn of(status: &Status) -> Option<&Self> {
        let mut cause = status.source();
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// Connects; every call on the channel ends after `timeout`.
pub(super) async fn connect(address: &str, timeout: Duration) -> Result<Server, Failure> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| {
        Failure::of(format!("{address} is no address of a server"), &error)
            .help("write http://HOST:PORT or unix:PATH")
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(timeout);
    endpoint.connect().await.map(Server).map_err(|error| {
        Failure::of(format!("cannot connect to {address}"), &error)
            .help("start a server there (`latchkey serve`), or name another with --address")
    })
}

/// Runs a call to its end, on a runtime of its own.
pub(super) fn wait<T>(call: impl Future<Output = Result<T, Failures>>) -> Result<T, Failures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of("cannot start a runtime", &error))?.block_on(call)
}

/// A request in the operator's name.
pub(super) fn request<T>(message: T, authorization: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.clone());
    request
}

/// What a server's error says to a person: the fields at fault, the reason, and what to do next.
pub(super) fn refused(status: &Status) -> Failures {
    if let Some(none) = NoAnswer::of(status) {
        return Failure::new(chain(none)).help(GRPC_HELP).into();
    }
    let reason = status.get_details_error_info().map(|info| info.reason);
    let word = reason.clone().unwrap_or_else(|| format!("{:?}", status.code()));
    let help = advice(status.code(), reason.as_deref());
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations);
    let violations = violations.unwrap_or_default();
    if violations.is_empty() {
        let message = format!("the server says: {} ({word})", status.message());
        return Failure { message, help: help.map(str::to_owned) }.into();
    }
    let told = violations.into_iter().map(|violation| {
        Failure::new(format!("{}: {} ({word})", violation.field, violation.description))
    });
    Failures(told.collect())
}

fn advice(code: Code, reason: Option<&str>) -> Option<&'static str> {
    let is = |reasons: &[Reason]| reasons.iter().any(|known| Some(known.as_str()) == reason);
    if is(&[Reason::RevisionMismatch]) {
        Some(
            "someone changed it in between: read it again (`latchkey policy get`), repeat your \
             change, and apply it with the new revision",
        )
    } else if is(&[Reason::ScopeInUse]) {
        Some(
            "keep the scope, or apply with --allow-orphans: keys that hold it then get nothing \
             for it",
        )
    } else if is(&[Reason::PlanInUse]) {
        Some("keep the plan, or move its accounts to another one first")
    } else if is(&[Reason::MissingCredential, Reason::InvalidCredential]) {
        Some("check the operator's token in LATCHKEY_TOKEN or --token-file")
    } else if is(&[Reason::PermissionDenied, Reason::NotFound]) {
        Some(
            "reading needs a key with latchkey:policy.read; replacing needs one with \
             latchkey:policy.write, of the account `latchkey`",
        )
    } else if is(&[Reason::OutcomeUnknown]) {
        Some("see with `latchkey policy get` whether it was changed, before you repeat it")
    } else if is(&[Reason::StoreUnavailable, Reason::NotReady]) {
        Some("try again in a moment; the server's log says what is wrong")
    } else if matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) {
        Some("see whether the server is well: `latchkey health`")
    } else {
        None
    }
}

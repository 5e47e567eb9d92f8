//! The one map from [`Error`] to gRPC: code, details and the line in the log.
//!
//! What the client reads is bounded, because it travels in headers; what caused it is for the log alone.

use std::collections::HashMap;
use std::fmt::Write as _;

use http::{HeaderName, Response};
use tokio::task::JoinError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};

use super::method::Method;
use crate::error::{Error, Reason, Violation};

const DOMAIN: &str = "latchkey";
/// The most bytes of a message; clients bound a header block at 8 KiB and see the text twice.
const MESSAGE_BYTES_MAX: usize = 1_024;
/// The most bytes of all violations.
const VIOLATIONS_BYTES_MAX: usize = 2_048;
/// The most bytes of one variable.
const VARIABLE_BYTES_MAX: usize = 256;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = code(error.reason);
        told(error, code)
    }
}

fn told(error: Error, code: Code) -> Status {
    log(&error);
    let Error { reason, message, violations, metadata, retry_after, source: _ } = error;
    let message = shortened(message, MESSAGE_BYTES_MAX);
    let mut details = ErrorDetails::new();
    if reason == Reason::PlanLimitReached {
        details.set_quota_failure(vec![quota_violation(&metadata, &message)]);
    }
    let metadata: HashMap<_, _> = metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), shortened(value, VARIABLE_BYTES_MAX)))
        .collect();
    details.set_error_info(reason.as_str(), DOMAIN, metadata);
    if !violations.is_empty() {
        details.set_bad_request(field_violations(violations));
    }
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    answer(code, message, details)
}

const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidField | Reason::RequestIdReused | Reason::MessageTooLarge => {
            Code::InvalidArgument
        }
        Reason::MissingCredential | Reason::InvalidCredential => Code::Unauthenticated,
        Reason::CallerSuspended
        | Reason::AddressNotAllowed
        | Reason::PermissionDenied
        | Reason::GrantExceeded => Code::PermissionDenied,
        Reason::NotFound => Code::NotFound,
        Reason::AlreadyCreated | Reason::AccountExists => Code::AlreadyExists,
        Reason::PlanLimitReached => Code::ResourceExhausted,
        Reason::KeyRevoked
        | Reason::KeyExpired
        | Reason::KeyRotated
        | Reason::AccountSuspended
        | Reason::ScopeInUse
        | Reason::PlanInUse
        | Reason::RevisionOfAnotherEpoch => Code::FailedPrecondition,
        Reason::RevisionMismatch => Code::Aborted,
        Reason::RevisionAhead | Reason::StoreUnavailable | Reason::NotReady => Code::Unavailable,
        Reason::OutcomeUnknown => Code::Unknown,
        Reason::UnknownMethod => Code::Unimplemented,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::Internal => Code::Internal,
    }
}

/// The name of the code of a reason.
pub(super) const fn name(reason: Reason) -> &'static str {
    code_name(code(reason))
}

/// The name of the code of an answer. One with a message has its status at the end, and that is OK.
pub(super) fn name_of<B>(answer: &Response<B>) -> &'static str {
    Status::from_header_map(answer.headers()).map_or("OK", |status| code_name(status.code()))
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A path that no service of ours has.
pub(super) fn no_such_method() -> Status {
    Error::new(Reason::UnknownMethod, "there is no such method").into()
}

/// A method that another listener of this server has.
pub(super) fn served_elsewhere() -> Status {
    let told = "this listener does not serve the method: decisions are served on grpc.listen, \
                administration on administration.listen";
    Error::new(Reason::UnknownMethod, told).into()
}

/// The caller's deadline, or our own, passed; the work goes on.
pub(super) fn deadline_exceeded(method: Method) -> Status {
    let late = "the answer took longer than the deadline";
    if method.changes() {
        let message =
            format!("{late}; a change may have been made: repeat it with the same request_id");
        told(Error::new(Reason::OutcomeUnknown, message), Code::DeadlineExceeded)
    } else {
        Error::new(Reason::DeadlineExceeded, late).into()
    }
}

/// A call of administration that ended without an answer: a defect, or the process is ending.
pub(super) fn broken_off(broken: &JoinError, method: Method) -> Status {
    // What a panic says goes to standard error by the panic's hook, and may hold anything.
    let error = if broken.is_panic() {
        Error::new(Reason::Internal, "internal error").caused_by("the handler panicked")
    } else if method.changes() {
        let told = "the server is shutting down; a change may have been made";
        Error::new(Reason::OutcomeUnknown, told).caused_by("the background runtime ended")
    } else {
        Error::new(Reason::NotReady, "the server is shutting down")
    };
    error.into()
}

/// An answer whose error, if it is one, carries its reason. Our own errors always do; what tonic says in
/// our place does not.
pub(super) fn with_reason<B>(mut answer: Response<B>) -> Response<B> {
    const CODE: HeaderName = HeaderName::from_static("grpc-status");
    const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
    let headers = answer.headers_mut();
    // An answer with a message has its status at the end, and that one is ours.
    let is_error = headers.get(CODE).is_some_and(|code| code != "0");
    if !is_error || headers.contains_key(DETAILS) {
        return answer;
    }
    let Some(status) = Status::from_header_map(headers) else { return answer };
    let is_encoding = headers.contains_key("grpc-accept-encoding");
    // What cannot be written as a header is not sent.
    let _ = of_tonic(&status, is_encoding).add_header(headers);
    answer
}

/// What tonic told by itself, in our words. It reads messages and knows of encodings; its companions
/// tell what they do not know.
fn of_tonic(status: &Status, is_encoding: bool) -> Status {
    match status.code() {
        Code::Internal => unreadable(status.message()).into(),
        // The code by which clients know that they must not compress.
        Code::Unimplemented if is_encoding => {
            told(Error::invalid("grpc-encoding", "must be `identity` or left out"), status.code())
        }
        Code::Unimplemented => no_such_method(),
        Code::NotFound => Error::new(Reason::NotFound, status.message()).into(),
        code => told(Error::new(Reason::Internal, status.message()), code),
    }
}

/// A message that prost cannot decode, with the field where it stopped, which it tells from the inside:
/// `failed to decode Protobuf message: Key.labels: UpdateKeyRequest.key: buffer underflow`.
fn unreadable(message: &str) -> Error {
    let text = message.strip_prefix("failed to decode Protobuf message: ").unwrap_or(message);
    let mut path: Vec<&str> = Vec::new();
    let mut fault = text;
    while let Some((place, rest)) = fault.split_once(": ")
        && let Some((_, field)) = place.split_once('.')
    {
        path.push(field);
        fault = rest;
    }
    if path.is_empty() {
        return Error::new(Reason::InvalidField, format!("the message cannot be read: {fault}"));
    }
    path.reverse();
    Error::invalid(path.join("."), format!("cannot be read: {fault}"))
}

/// Writes the one line on an error, with its causes. Errors hold no secrets, and of the caller's text
/// no more than is told to the caller.
pub(crate) fn log(error: &Error) {
    let reason = error.reason.as_str();
    let told = &error.message;
    let causes = causes(error);
    let cause = (!causes.is_empty()).then(|| tracing::field::display(&causes));
    if matches!(error.reason, Reason::Internal | Reason::OutcomeUnknown) {
        tracing::error!(reason, %told, cause, "a call failed");
    } else if error.reason == Reason::StoreUnavailable {
        tracing::warn!(reason, %told, cause, "a call failed");
    } else {
        tracing::debug!(reason, %told, cause, "a call was refused");
    }
}

fn causes(error: &Error) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let between = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{between}{cause}");
        next = cause.source();
    }
    text
}

fn quota_violation(metadata: &[(&'static str, String)], message: &str) -> QuotaViolation {
    let account = metadata.iter().find(|(name, _)| *name == "account_id");
    let account = account.map_or("", |(_, account)| account.as_str());
    QuotaViolation::new(format!("account:{account}"), message)
}

fn field_violations(violations: Vec<Violation>) -> Vec<FieldViolation> {
    let all = violations.len();
    let mut bytes = 0;
    let mut told: Vec<_> = violations
        .into_iter()
        .map(|Violation { field, description }| {
            (shortened(field, VARIABLE_BYTES_MAX), shortened(description, VARIABLE_BYTES_MAX))
        })
        .take_while(|(field, description)| {
            bytes += field.len() + description.len();
            bytes <= VIOLATIONS_BYTES_MAX
        })
        .map(|(field, description)| FieldViolation::new(field, description))
        .collect();
    let left = all - told.len();
    if left > 0 {
        told.push(FieldViolation::new("", format!("and {left} more")));
    }
    told
}

fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "this is the one map to gRPC codes")]
fn answer(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_carries_its_reason_and_its_fields() {
        let error = Error::invalid("key.scopes[2]", "is unknown").with("scope", "a:b");
        let status = Status::from(error.retry_after(Duration::from_secs(1)).caused_by("secret"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "latchkey"));
        assert_eq!(info.metadata["scope"], "a:b");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "key.scopes[2]");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
        assert!(!format!("{status:?}").contains("secret"));
    }

    #[test]
    fn a_plan_limit_names_the_account() {
        let error = Error::new(Reason::PlanLimitReached, "full").with("account_id", "acme");
        let details = Status::from(error).get_error_details();
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "account:acme");
    }

    #[test]
    fn an_error_fits_into_a_header_block() {
        let violations = (0..1_000)
            .map(|index| Violation {
                field: format!("f[{index}]"), description: "ä".repeat(2_000)
            })
            .collect();
        let status = Status::from(Error::invalid_fields(violations));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX + 3);
        assert!(status.details().len() <= 4_096, "{}", status.details().len());
        let details = status.get_error_details();
        let last = details.bad_request().unwrap().field_violations.last().unwrap().clone();
        assert!(last.description.ends_with("more"));
    }
}

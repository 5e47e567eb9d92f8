//! Why an operation could not be done.
//!
//! A denied key is not an error: it is a [`Decision`](crate::decision::Decision). An error says that
//! the service could not do what it was asked. What the client reads is the message, the reason, the
//! violations and the metadata; the source is for the log alone.

use std::fmt;
use std::time::Duration;

/// The one list of reasons; sent as `google.rpc.ErrorInfo.reason` in `UPPER_SNAKE_CASE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field is missing, malformed, out of bounds or names something that does not exist.
    InvalidField,
    /// The `request_id` was used before with other content.
    RequestIdReused,
    /// The call carries no operator's token.
    MissingCredential,
    /// The operator's token is malformed, unknown, revoked, disabled or expired.
    InvalidCredential,
    /// The caller's account is suspended.
    CallerSuspended,
    /// The caller's address is not among those its key is restricted to.
    AddressNotAllowed,
    /// The caller's key lacks the scope that the call needs.
    PermissionDenied,
    /// The call would hand out more than the caller's key may.
    GrantExceeded,
    /// No such resource, or not one that the caller may see.
    NotFound,
    /// The same request was carried out before; its token cannot be shown again.
    AlreadyCreated,
    /// The account id is taken.
    AccountExists,
    /// The plan's number of keys is reached.
    PlanLimitReached,
    /// The key is revoked, and that is final.
    KeyRevoked,
    /// The key has expired.
    KeyExpired,
    /// The key was rotated already; its successor is the one to change.
    KeyRotated,
    /// The account is suspended.
    AccountSuspended,
    /// A scope that the new policy drops is held by active keys.
    ScopeInUse,
    /// A plan that the new policy drops has accounts.
    PlanInUse,
    /// The resource changed since `expected_revision`.
    RevisionMismatch,
    /// `min_revision` belongs to another epoch of the store.
    RevisionOfAnotherEpoch,
    /// This node has not yet seen `min_revision`.
    RevisionAhead,
    /// The store cannot be reached or does not answer.
    StoreUnavailable,
    /// This node does not hold what it needs for an answer.
    NotReady,
    /// It is not known whether the change was committed; repeat with the same `request_id`.
    OutcomeUnknown,
    /// There is no such method.
    UnknownMethod,
    /// The message is larger than the method takes.
    MessageTooLarge,
    /// The call's deadline passed, or its message did not arrive in time.
    DeadlineExceeded,
    /// A defect of the service.
    Internal,
}

impl Reason {
    /// All of them, in their order.
    pub const ALL: [Self; Self::Internal as usize + 1] = [
        Self::InvalidField,
        Self::RequestIdReused,
        Self::MissingCredential,
        Self::InvalidCredential,
        Self::CallerSuspended,
        Self::AddressNotAllowed,
        Self::PermissionDenied,
        Self::GrantExceeded,
        Self::NotFound,
        Self::AlreadyCreated,
        Self::AccountExists,
        Self::PlanLimitReached,
        Self::KeyRevoked,
        Self::KeyExpired,
        Self::KeyRotated,
        Self::AccountSuspended,
        Self::ScopeInUse,
        Self::PlanInUse,
        Self::RevisionMismatch,
        Self::RevisionOfAnotherEpoch,
        Self::RevisionAhead,
        Self::StoreUnavailable,
        Self::NotReady,
        Self::OutcomeUnknown,
        Self::UnknownMethod,
        Self::MessageTooLarge,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// The word in `ErrorInfo.reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidField => "INVALID_FIELD",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::MissingCredential => "MISSING_CREDENTIAL",
            Self::InvalidCredential => "INVALID_CREDENTIAL",
            Self::CallerSuspended => "CALLER_SUSPENDED",
            Self::AddressNotAllowed => "ADDRESS_NOT_ALLOWED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::GrantExceeded => "GRANT_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyCreated => "ALREADY_CREATED",
            Self::AccountExists => "ACCOUNT_EXISTS",
            Self::PlanLimitReached => "PLAN_LIMIT_REACHED",
            Self::KeyRevoked => "KEY_REVOKED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::KeyRotated => "KEY_ROTATED",
            Self::AccountSuspended => "ACCOUNT_SUSPENDED",
            Self::ScopeInUse => "SCOPE_IN_USE",
            Self::PlanInUse => "PLAN_IN_USE",
            Self::RevisionMismatch => "REVISION_MISMATCH",
            Self::RevisionOfAnotherEpoch => "REVISION_OF_ANOTHER_EPOCH",
            Self::RevisionAhead => "REVISION_AHEAD",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::NotReady => "NOT_READY",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::UnknownMethod => "UNKNOWN_METHOD",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// A field at fault: its path as in the proto, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path, as in `key.labels` or `scopes[2]`.
    pub field: String,
    /// What was wrong and what would be right.
    pub description: String,
}

/// Why an operation could not be done; see the module.
#[derive(Debug)]
pub struct Error {
    /// The word a program acts on.
    pub reason: Reason,
    /// What a person reads.
    pub message: String,
    /// The fields at fault, if fields are.
    pub violations: Vec<Violation>,
    /// The variables of the message, for programs.
    pub metadata: Vec<(&'static str, String)>,
    /// When to try again, where waiting helps.
    pub retry_after: Option<Duration>,
    /// The cause, for the log alone.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message for the client.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            violations: Vec::new(),
            metadata: Vec::new(),
            retry_after: None,
            source: None,
        }
    }

    /// One field at fault.
    #[must_use]
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![Violation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// Several fields at fault.
    #[must_use]
    pub fn invalid_fields(violations: Vec<Violation>) -> Self {
        let message = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect::<Vec<_>>()
            .join("; ");
        Self { violations, ..Self::new(Reason::InvalidField, message) }
    }

    /// The one text for a foreign, unknown or unreadable id.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Reason::NotFound, "there is no such resource, or it is not yours to see")
    }

    /// The same error with a variable of its message.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((name, value.into()));
        self
    }

    /// The same error with a time after which it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Gathers violations, so that a caller hears of every field at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Notes a field at fault.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// Keeps what is right, and notes the field when it is not.
    pub fn check<T, E: fmt::Display>(
        &mut self,
        field: impl Into<String>,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }

    /// Fails when anything was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.0)) }
    }
}

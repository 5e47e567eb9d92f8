//! The decision: may this key do what the request asks?
//!
//! [`decide`] is pure, and its order is the contract: the first failure answers. A denial is a normal
//! answer. Absent on purpose: looking anything up, and the clock.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::account::{AccountId, Labels};
use crate::clock::Timestamp;
use crate::key::{KeyId, is_address_allowed, is_expired};
use crate::policy::target::Ambiguity;
use crate::scope::expression::Expression;
use crate::scope::{ScopePattern, ScopeSet};
use crate::token::Environment;

/// Why a request is refused, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The request carries no credential.
    MissingCredential,
    /// The credential is not a token of ours, or there are two.
    MalformedCredential,
    /// There is no such key.
    UnknownKey,
    /// The key is revoked.
    KeyRevoked,
    /// The key is disabled.
    KeyDisabled,
    /// The key has expired.
    KeyExpired,
    /// The key's account is suspended.
    AccountSuspended,
    /// The client's address is not in the key's networks, or is not known.
    AddressNotAllowed,
    /// The caller wants a key of the other environment.
    WrongEnvironment,
    /// The key lacks the scope.
    InsufficientScope,
    /// The key or its account asks too fast.
    RateLimited,
    /// The month's quota of a hard plan is used up.
    QuotaExceeded,
    /// The rules let nobody through there, whatever key they have. Looked at before everything else.
    RouteDenied,
}

impl Denial {
    /// The rows of the table, in their order, and what comes before it.
    pub const ALL: [Self; 13] = [
        Self::MissingCredential,
        Self::MalformedCredential,
        Self::UnknownKey,
        Self::KeyRevoked,
        Self::KeyDisabled,
        Self::KeyExpired,
        Self::AccountSuspended,
        Self::AddressNotAllowed,
        Self::WrongEnvironment,
        Self::InsufficientScope,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::RouteDenied,
    ];

    /// The word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingCredential => "MISSING_CREDENTIAL",
            Self::MalformedCredential => "MALFORMED_CREDENTIAL",
            Self::UnknownKey => "UNKNOWN_KEY",
            Self::KeyRevoked => "KEY_REVOKED",
            Self::KeyDisabled => "KEY_DISABLED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::AccountSuspended => "ACCOUNT_SUSPENDED",
            Self::AddressNotAllowed => "ADDRESS_NOT_ALLOWED",
            Self::WrongEnvironment => "WRONG_ENVIRONMENT",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::RateLimited => "RATE_LIMITED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::RouteDenied => "ROUTE_DENIED",
        }
    }

    /// The HTTP status that the client shall see.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::MissingCredential
            | Self::MalformedCredential
            | Self::UnknownKey
            | Self::KeyRevoked
            | Self::KeyDisabled
            | Self::KeyExpired => 401,
            Self::AccountSuspended
            | Self::AddressNotAllowed
            | Self::WrongEnvironment
            | Self::InsufficientScope
            | Self::RouteDenied => 403,
            Self::RateLimited | Self::QuotaExceeded => 429,
        }
    }

    /// What the outside client is told: one and the same for unknown, revoked, disabled and expired.
    #[must_use]
    pub const fn public(self) -> PublicDenial {
        match self {
            Self::MissingCredential => PublicDenial::Missing,
            Self::MalformedCredential => PublicDenial::Malformed,
            Self::UnknownKey | Self::KeyRevoked | Self::KeyDisabled | Self::KeyExpired => {
                PublicDenial::Invalid
            }
            Self::AccountSuspended
            | Self::AddressNotAllowed
            | Self::WrongEnvironment
            | Self::InsufficientScope
            | Self::RateLimited
            | Self::QuotaExceeded
            | Self::RouteDenied => PublicDenial::Exact(self),
        }
    }
}

/// A denial as the outside client may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicDenial {
    /// Bring a key.
    Missing,
    /// What was brought is no key.
    Malformed,
    /// The key is not valid, and why is nobody's business.
    Invalid,
    /// The key is valid, and this is what is in its way.
    Exact(Denial),
}

/// What is known of a key at the moment of decision.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Whether it is revoked.
    pub revoked: bool,
    /// Whether it is disabled.
    pub disabled: bool,
    /// When its time is over.
    pub expire_time: Option<Timestamp>,
    /// Whether its account is suspended.
    pub suspended: bool,
    /// From where it may be used; empty means anywhere.
    pub allowed_cidrs: &'a [IpNet],
    /// Production or development.
    pub environment: Environment,
    /// What it may do, implications followed.
    pub held: &'a ScopeSet,
}

/// What a request asks.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The scopes it needs.
    pub requirement: Requirement<'a>,
    /// From where the client comes, where known.
    pub client_address: Option<IpAddr>,
    /// The environment it must have, if it must.
    pub environment: Option<Environment>,
}

/// The scopes that a request needs.
#[derive(Debug, Clone, Copy)]
pub enum Requirement<'a> {
    /// These.
    Scope(&'a Expression),
    /// None: the caller only wants to know whose key it is.
    AuthenticateOnly,
}

/// Decides on a key that was found; rows 4 to 10 of the table. `Ok` means allow.
pub fn decide(facts: &Facts<'_>, ask: &Ask<'_>, now: Timestamp) -> Result<(), Denial> {
    if facts.revoked {
        return Err(Denial::KeyRevoked);
    }
    if facts.disabled {
        return Err(Denial::KeyDisabled);
    }
    if is_expired(facts.expire_time, now) {
        return Err(Denial::KeyExpired);
    }
    if facts.suspended {
        return Err(Denial::AccountSuspended);
    }
    if !is_address_allowed(facts.allowed_cidrs, ask.client_address) {
        return Err(Denial::AddressNotAllowed);
    }
    if ask.environment.is_some_and(|wanted| wanted != facts.environment) {
        return Err(Denial::WrongEnvironment);
    }
    match ask.requirement {
        Requirement::Scope(expression) if !expression.is_met_by(facts.held) => {
            Err(Denial::InsufficientScope)
        }
        Requirement::Scope(_) | Requirement::AuthenticateOnly => Ok(()),
    }
}

/// The answer to "may this key do this?"; allow and deny alike.
#[derive(Debug, Clone)]
pub struct Decision {
    /// `None` means allow.
    pub denial: Option<Denial>,
    /// Whose key it is, when a key was found: for the trusted caller, denied or not.
    pub identity: Option<Identity>,
    /// The scopes that were needed, joined by spaces; for the challenge of an insufficient scope.
    pub needed: Option<Arc<Expression>>,
    /// Whether the request is billed.
    pub billable: bool,
    /// The rule by which it was decided, where rules were asked and one answered.
    pub rule: Option<Arc<str>>,
    /// Why no rule could be held against the request.
    pub ambiguity: Option<Ambiguity>,
    /// What would have been the denial, had the rule been more than observed. Who it was is for the trusted caller
    /// alone then: nobody was found to be allowed.
    pub observed: Option<Denial>,
    /// Whether the node could not renew its lease on what it decided by: a later change may be missing, for no longer
    /// than the policy's grace.
    pub stale: bool,
    /// The revision of the store as of which this was decided.
    pub revision: crate::revision::Position,
}

/// Whose key it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The key.
    pub key_id: KeyId,
    /// Its account.
    pub account: AccountId,
    /// Production or development.
    pub environment: Environment,
    /// Its scopes, as they were given.
    pub scopes: Arc<[ScopePattern]>,
    /// Its account's plan.
    pub plan: Arc<str>,
    /// Its labels, when it has any.
    pub labels: Option<Arc<Labels>>,
    /// When its time is over.
    pub expire_time: Option<Timestamp>,
}

impl Decision {
    /// The HTTP status for the client: 200, 401, 403 or 429.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        self.denial.map_or(200, Denial::http_status)
    }

    /// The `WWW-Authenticate` challenge (RFC 6750 §3) of a 401, and of a 403 for want of scope.
    #[must_use]
    pub fn challenge(&self, realm: &str) -> Option<String> {
        let denial = self.denial?;
        let bearer = format!("Bearer realm=\"{realm}\"");
        match denial.public() {
            PublicDenial::Missing => Some(bearer),
            PublicDenial::Malformed => Some(format!(
                "{bearer}, error=\"invalid_request\", error_description=\"the credential is not one well-formed key\""
            )),
            PublicDenial::Invalid => Some(format!(
                "{bearer}, error=\"invalid_token\", error_description=\"the key is not valid\""
            )),
            PublicDenial::Exact(Denial::InsufficientScope) => {
                let needed = self.needed.as_ref().map_or("", |needed| needed.scopes.as_str());
                Some(format!("{bearer}, error=\"insufficient_scope\", scope=\"{needed}\""))
            }
            PublicDenial::Exact(_) => None,
        }
    }
}

#[cfg(test)]
impl Decision {
    /// One that is about no key.
    pub(crate) const fn nobodys(denial: Option<Denial>) -> Self {
        Self {
            denial,
            identity: None,
            needed: None,
            billable: false,
            rule: None,
            ambiguity: None,
            observed: None,
            stale: false,
            revision: crate::revision::Position { epoch: 1, n: 2, tag: 3 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Catalogue, Policy};
    use proptest::prelude::*;

    /// Each row of the table fails alone, and the first of several answers.
    #[test]
    fn the_first_failure_answers() {
        let catalogue = Catalogue::compile(Policy::default(), "").unwrap();
        let held = catalogue.held(&[ScopePattern::parse("memory:read").unwrap()]);
        let write = catalogue.expression("memory:write").unwrap();
        let now = Timestamp::from_micros(1_000);
        let net = ["192.0.2.0/24".parse().unwrap()];
        // From the last row to the first, each fault is added to those below it.
        let mut facts = Facts {
            revoked: false,
            disabled: false,
            expire_time: Some(Timestamp::from_micros(1_001)),
            suspended: false,
            allowed_cidrs: &[],
            environment: Environment::Live,
            held: &held,
        };
        let mut ask = Ask {
            requirement: Requirement::AuthenticateOnly,
            client_address: Some("198.51.100.1".parse().unwrap()),
            environment: None,
        };
        assert_eq!(decide(&facts, &ask, now), Ok(()));
        ask.requirement = Requirement::Scope(&write);
        assert_eq!(decide(&facts, &ask, now), Err(Denial::InsufficientScope));
        ask.environment = Some(Environment::Test);
        assert_eq!(decide(&facts, &ask, now), Err(Denial::WrongEnvironment));
        facts.allowed_cidrs = &net;
        assert_eq!(decide(&facts, &ask, now), Err(Denial::AddressNotAllowed));
        facts.suspended = true;
        assert_eq!(decide(&facts, &ask, now), Err(Denial::AccountSuspended));
        facts.expire_time = Some(now);
        assert_eq!(decide(&facts, &ask, now), Err(Denial::KeyExpired));
        facts.disabled = true;
        assert_eq!(decide(&facts, &ask, now), Err(Denial::KeyDisabled));
        facts.revoked = true;
        assert_eq!(decide(&facts, &ask, now), Err(Denial::KeyRevoked));
    }

    /// A key and a request in the plainest of terms.
    #[derive(Debug, Clone)]
    #[expect(clippy::struct_excessive_bools, reason = "each is a row of the table")]
    struct Case {
        revoked: bool,
        disabled: bool,
        expire_micros: Option<i64>,
        suspended: bool,
        /// First address and prefix length.
        networks: Vec<(u32, u8)>,
        address: Option<u32>,
        is_live: bool,
        wants_live: Option<bool>,
        /// Of the three scopes below; the first implies the second.
        held: Vec<usize>,
        needed: Option<usize>,
    }

    const SCOPES: [&str; 3] = ["memory:write", "memory:read", "latchkey:authorize"];
    const NOW: i64 = 1_000;

    /// A denial, and whether a case deserves it.
    type Row = (Denial, fn(&Case) -> bool);

    /// The table of the decision, row by row.
    const TABLE: [Row; 7] = [
        (Denial::KeyRevoked, |case| case.revoked),
        (Denial::KeyDisabled, |case| case.disabled),
        (Denial::KeyExpired, |case| case.expire_micros.is_some_and(|end| NOW >= end)),
        (Denial::AccountSuspended, |case| case.suspended),
        (Denial::AddressNotAllowed, |case| {
            let is_in = |(first, length): &(u32, u8)| {
                let last = u64::from(*first) + (1 << (32 - length)) - 1;
                case.address.is_some_and(|it| it >= *first && u64::from(it) <= last)
            };
            !case.networks.is_empty() && !case.networks.iter().any(is_in)
        }),
        (Denial::WrongEnvironment, |case| case.wants_live.is_some_and(|it| it != case.is_live)),
        (Denial::InsufficientScope, |case| {
            let holds = |scope| case.held.contains(&scope);
            let is_held = |needed| holds(needed) || needed == 1 && holds(0);
            case.needed.is_some_and(|needed| !is_held(needed))
        }),
    ];

    fn cases() -> impl Strategy<Value = Case> {
        let network = (0_u32..8, 29_u8..=32)
            .prop_map(|(address, length)| (address >> (32 - length) << (32 - length), length));
        let key = (
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            prop::option::of(NOW - 2..NOW + 8),
            prop::bool::weighted(0.2),
            prop::collection::vec(network, 0..3),
            any::<bool>(),
            prop::collection::vec(0_usize..3, 0..3),
        );
        let request = (
            prop::option::of(0_u32..8),
            prop::option::weighted(0.4, any::<bool>()),
            prop::option::of(0_usize..3),
        );
        (key, request).prop_map(|(key, (address, wants_live, needed))| {
            let (revoked, disabled, expire_micros, suspended, networks, is_live, held) = key;
            Case {
                revoked,
                disabled,
                expire_micros,
                suspended,
                networks,
                address,
                is_live,
                wants_live,
                held,
                needed,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn the_first_row_of_the_table_that_fails_answers(case in cases()) {
            let catalogue = Catalogue::compile(Policy::default(), "").unwrap();
            let held: Vec<_> =
                case.held.iter().map(|it| ScopePattern::parse(SCOPES[*it]).unwrap()).collect();
            let held = catalogue.held(&held);
            let expression = case.needed.map(|it| catalogue.expression(SCOPES[it]).unwrap());
            let environment =
                |is_live| if is_live { Environment::Live } else { Environment::Test };
            let address = |bits| IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
            let networks: Vec<_> = case
                .networks
                .iter()
                .map(|(first, length)| IpNet::new(address(*first), *length).unwrap())
                .collect();
            let facts = Facts {
                revoked: case.revoked,
                disabled: case.disabled,
                expire_time: case.expire_micros.map(Timestamp::from_micros),
                suspended: case.suspended,
                allowed_cidrs: &networks,
                environment: environment(case.is_live),
                held: &held,
            };
            let ask = Ask {
                requirement: expression
                    .as_deref()
                    .map_or(Requirement::AuthenticateOnly, Requirement::Scope),
                client_address: case.address.map(address),
                environment: case.wants_live.map(environment),
            };
            let first = TABLE.iter().find(|(_, fails)| fails(&case)).map(|(denial, _)| *denial);
            let decided = decide(&facts, &ask, Timestamp::from_micros(NOW)).err();
            prop_assert_eq!(decided, first);
        }
    }

    #[test]
    fn outsiders_cannot_tell_invalid_keys_apart() {
        let of = |denial| {
            let decision = Decision::nobodys(Some(denial));
            (decision.http_status(), decision.challenge("r"))
        };
        let unknown = of(Denial::UnknownKey);
        assert_eq!(unknown.0, 401);
        for denial in [Denial::KeyRevoked, Denial::KeyDisabled, Denial::KeyExpired] {
            assert_eq!(of(denial), unknown);
        }
        assert_eq!(of(Denial::MissingCredential).1.unwrap(), "Bearer realm=\"r\"");
        assert_eq!(of(Denial::AccountSuspended), (403, None));
    }
}

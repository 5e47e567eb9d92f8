//! Forward-auth: a proxy (nginx `auth_request`, Traefik, Caddy) asks before it passes a request on.
//!
//! The credential is the client's; what it must be good for stands in our own URL, which the proxy's
//! configuration writes. No header says it, because clients can send headers. 200 means pass on, 401,
//! 403 and 429 mean refuse; a mistake of the configuration is a 500, and what could not be found out a
//! 503: neither is ever taken for an allow. The client's address is not known here yet, because no proxy
//! is trusted to tell it: a key that is restricted to networks is denied.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use http::header::{AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::problem;
use crate::authorizer::{Authorizer, Credential, Question, Required};
use crate::decision::{Decision, Identity};
use crate::error::{Error, Reason};
use crate::gateway::{Refusal, identity_headers};
use crate::grpc::{Callers, status};
use crate::metrics::{Lookup, Outcome};
use crate::serve::Peer;
use crate::telemetry::{Ended, Observer};
use crate::token;
use crate::token::Environment;

const API_KEY: &str = "x-api-key";

#[derive(Clone)]
struct Parts {
    authorizer: Authorizer,
    callers: Callers,
    realm: Arc<str>,
    observer: Observer,
}

/// `/v1/forward-auth` for any method, and nothing else.
pub(super) fn router(
    authorizer: Authorizer,
    callers: Callers,
    realm: Arc<str>,
    observer: Observer,
) -> Router {
    let parts = Parts { authorizer, callers, realm, observer };
    Router::new().route("/v1/forward-auth", any(forward_auth)).with_state(parts)
}

async fn forward_auth(
    State(parts): State<Parts>,
    peer: Option<Extension<Peer>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let peer = peer.as_ref();
    let mut watch = parts.observer.http_decision(&method, &headers, peer);
    let asked = parts.ask(&uri, &headers, peer, &mut watch.lookup).await;
    let (outcome, who, response) = match asked {
        Ok(decision) => {
            let response = answer(&decision, &parts.realm);
            (Outcome::of(&decision), decision.identity, response)
        }
        Err(Unasked::Mistake(told)) => {
            (Outcome::Failed(Reason::InvalidField), None, mistake(&told))
        }
        Err(Unasked::Undecided(error)) => {
            status::log(&error);
            (Outcome::Failed(error.reason), None, refused(Refusal::undecided(&error)))
        }
    };
    watch.end(outcome, who.as_ref(), Ended::Http(response.status().as_u16()));
    response
}

/// Why there is no decision.
enum Unasked {
    /// The proxy's configuration asks for what cannot be.
    Mistake(String),
    /// It was asked wrongly, or could not be found out.
    Undecided(Error),
}

impl Parts {
    async fn ask(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        lookup: &mut Lookup,
    ) -> Result<Decision, Unasked> {
        match &self.callers {
            Callers::Any => {}
            Callers::Mtls(names) => {
                names.admit(peer).map_err(|error| Unasked::Mistake(error.message))?;
            }
            Callers::Key => {
                let told = "forward-auth cannot tell who asks yet, and `grpc.callers` demands it: \
                            set it to `any` where only proxies reach this listener";
                return Err(Unasked::Mistake(told.to_owned()));
            }
        }
        let asked = Asked::read(uri).map_err(Unasked::Mistake)?;
        let question = Question {
            credential: credential(headers),
            required: asked.scope.as_deref().map_or(Required::AuthenticateOnly, Required::Scope),
            client_address: None,
            environment: asked.environment,
            cost: None,
            min_revision: None,
        };
        let decision = self.authorizer.authorize_noting(&question, lookup).await;
        decision.map_err(Unasked::Undecided)
    }
}

fn credential(headers: &HeaderMap) -> Credential<'_> {
    let values = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    Credential::from_headers(values(AUTHORIZATION.as_str()), values(API_KEY))
}

// === The question ===

/// What the proxy's configuration asks, in the query of our own URL.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// `None` asks only who it is.
    scope: Option<String>,
    environment: Option<Environment>,
}

impl Asked {
    /// Every name once, none that is not known, and one of `scope` and `authenticate_only`.
    fn read(uri: &Uri) -> Result<Self, String> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| "the query cannot be read".to_owned())?;
        let (mut scope, mut authenticate_only, mut environment) = (None, None, None);
        for (name, value) in pairs {
            let is_repeated = match name.as_str() {
                "scope" => scope.replace(value).is_some(),
                "authenticate_only" => authenticate_only.replace(value).is_some(),
                "environment" => environment.replace(value).is_some(),
                _ => return Err(unknown(&name)),
            };
            if is_repeated {
                return Err(format!("the parameter `{name}` stands in the query twice"));
            }
        }
        let environment = match environment.as_deref() {
            None => None,
            Some(word) => Some(
                Environment::parse(word)
                    .ok_or_else(|| "`environment` must be `live` or `test`".to_owned())?,
            ),
        };
        match (&scope, authenticate_only.as_deref()) {
            (Some(_), None) | (None, Some("true")) => Ok(Self { scope, environment }),
            (None, None) => Err("name a `scope`, or send `authenticate_only=true`".to_owned()),
            (Some(_), Some(_)) => Err("send `scope` or `authenticate_only`, not both".to_owned()),
            (None, Some(_)) => Err("`authenticate_only` can only be `true`".to_owned()),
        }
    }
}

fn unknown(name: &str) -> String {
    let name = token::quoted(name);
    format!(
        "the parameter {name} is not known; there are `scope`, `authenticate_only` and \
         `environment`"
    )
}

// === The answer ===

fn answer(decision: &Decision, realm: &str) -> Response {
    match (decision.denial, &decision.identity) {
        (Some(denial), _) => refused(Refusal::denied(decision, denial, realm)),
        (None, Some(identity)) => {
            allowed(identity, decision.billable).unwrap_or_else(|| refused(Refusal::internal()))
        }
        // An allow is always somebody's.
        (None, None) => refused(Refusal::internal()),
    }
}

/// 200 and who it is. Every header is always there, so that none of the same name which the client sent
/// is left in its place.
fn allowed(identity: &Identity, billable: bool) -> Option<Response> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    for (name, value) in identity_headers(identity, billable) {
        headers.insert(name, HeaderValue::try_from(value).ok()?);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// What the client is told.
fn refused(refusal: Refusal) -> Response {
    let Refusal { status, reason, detail, challenge, retry_after } = refusal;
    let mut response =
        problem(StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), reason, &detail);
    let headers = response.headers_mut();
    if let Some(challenge) = challenge.and_then(|it| HeaderValue::try_from(it).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn mistake(told: &str) -> Response {
    tracing::debug!(told, "forward-auth was asked wrongly");
    refused(Refusal::wrong_question(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Denial;

    fn read(query: &str) -> Result<Asked, String> {
        Asked::read(&format!("/v1/forward-auth?{query}").parse().unwrap())
    }

    #[test]
    fn a_scope_is_decoded_and_an_environment_read() {
        let asked = read("scope=memory%3Aread+or%20memory:admin&environment=test").unwrap();
        assert_eq!(asked.scope.as_deref(), Some("memory:read or memory:admin"));
        assert_eq!(asked.environment, Some(Environment::Test));
        assert_eq!(read("authenticate_only=true").unwrap().scope, None);
    }

    #[test]
    fn a_query_that_is_not_exactly_right_is_a_mistake() {
        for query in [
            "",
            "scope=a:b&scope=c:d",
            "scope=a:b&authenticate_only=true",
            "authenticate_only=false",
            "authenticate_only=",
            "scope=a:b&environment=prod",
            "scope=a:b&enviroment=test",
            "Scope=a:b",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn keys_that_are_not_valid_cannot_be_told_apart() {
        let of = |denial| {
            let revision = crate::revision::Position { epoch: 0, n: 0, tag: 0 };
            let decision = Decision {
                denial: Some(denial),
                identity: None,
                needed: None,
                billable: false,
                rule: None,
                observed: None,
                revision,
            };
            let response = refused(Refusal::denied(&decision, denial, "latchkey"));
            let (head, body) = response.into_parts();
            (head.status, format!("{:?}", head.headers), format!("{body:?}"))
        };
        let unknown = of(Denial::UnknownKey);
        assert_eq!(unknown.0, StatusCode::UNAUTHORIZED);
        for denial in [Denial::KeyRevoked, Denial::KeyDisabled, Denial::KeyExpired] {
            assert_eq!(of(denial), unknown);
        }
        assert_ne!(of(Denial::MissingCredential), unknown);
    }
}

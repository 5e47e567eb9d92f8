//! Forward-auth: a proxy (NGINX `auth_request`, Traefik, Caddy, `HAProxy`, APISIX) asks before it passes a request on.
//!
//! The credential is the client's; what it must be good for stands in our own URL, which the proxy's configuration
//! writes, or in the policy's rules about the request that a trusted proxy forwards. 200 means pass on, 401, 403 and
//! 429 mean refuse; a mistake of the configuration is a 500, and what could not be found out a 503: neither is ever
//! taken for an allow.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use self::asked::{Asked, Forwarded, Needs, client_address, is_trusted};
use super::{Public, refused};
use crate::authorizer::{Credential, Question, Required};
use crate::decision::{Decision, Denial};
use crate::error::{Error, Reason};
use crate::gateway::{IDENTITY_HEADERS, Refusal, Secret, identity_headers};
use crate::grpc::Callers;
use crate::metrics::Lookup;
use crate::policy::target::Target;
use crate::serve::Peer;
use crate::telemetry::Ended;

mod asked;

const ROUTE: &str = "/v1/forward-auth";
/// What the answer would be, where the proxy can take 401 and 403 only.
const STATUS: HeaderName = HeaderName::from_static("x-latchkey-status");
/// Of an answer that may be too old, for the proxy's log: the node has not heard from the store for a while.
const STALE: HeaderName = HeaderName::from_static("x-latchkey-stale");
/// Envoy, where it asks by HTTP, takes these out of the request to the upstream.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// `/v1/forward-auth` for any method, and nothing else.
pub(super) fn router() -> Router<Public> {
    Router::new().route(ROUTE, any(forward_auth))
}

async fn forward_auth(
    State(public): State<Public>,
    peer: Option<Extension<Peer>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let peer = peer.as_ref();
    let mut watch = public.observer.http_decision(ROUTE, &method, &headers, peer);
    let (credential, found) = public.credential(&headers);
    let decided = public.ask(&uri, &headers, credential, peer, &mut watch.lookup).await;
    let response = match &decided {
        Ok((decision, asked)) => public.answer(decision, &headers, found, asked),
        Err(error) => {
            let refusal = Refusal::undecided(error);
            public.gateway.mistakes.log(error, &refusal);
            refused(refusal)
        }
    };
    let decided = decided.as_ref().map(|(decision, _)| decision).map_err(|error| error.reason);
    watch.end(decided, Ended::Http(response.status().as_u16()));
    response
}

/// What the proxy's configuration asks cannot be.
fn mistake(told: impl Into<String>) -> Error {
    Error::new(Reason::InvalidField, told)
}

impl Public {
    async fn ask(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        credential: Credential<'_>,
        peer: Option<&Peer>,
        lookup: &mut Lookup,
    ) -> Result<(Decision, Asked), Error> {
        match &self.callers {
            Callers::Any => {}
            Callers::Mtls(names) => names.admit(peer)?,
            Callers::Key => {
                let told = "forward-auth cannot tell who asks, for `authorization` is the client's, and \
                            `grpc.callers` demands it: set it to `any` or `mtls` where only proxies reach this \
                            listener";
                return Err(mistake(told));
            }
        }
        let asked = Asked::read(uri).map_err(mistake)?;
        let target;
        let required = match &asked.needs {
            Needs::Scope(scope) => Required::Scope(scope),
            Needs::AuthenticateOnly => Required::AuthenticateOnly,
            Needs::ByRules => {
                target = self.target(headers, peer).map_err(mistake)?;
                Required::ByRules(&target)
            }
        };
        let question = Question {
            credential,
            required,
            client_address: client_address(headers, peer, &self.gateway.trusted_proxies),
            environment: asked.environment,
            cost: asked.cost,
            min_revision: None,
        };
        let decision = self.authorizer.authorize_noting(&question, lookup).await;
        decision.map(|decision| (decision, asked))
    }

    /// The request that the proxy forwards; one that nobody can be sure of matches no rule.
    fn target<'a>(
        &self,
        headers: &'a HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<Target<'a>, String> {
        if !is_trusted(peer, &self.gateway.trusted_proxies) {
            return Err("without `scope` or `authenticate_only` the rules of the policy answer, and only a proxy in \
                        `gateway.trusted_proxies` may say what is asked"
                .to_owned());
        }
        let forwarded = Forwarded::read(headers)?;
        Ok(forwarded.map_or(Target::INCOMPLETE, |Forwarded { host, method, uri }| {
            Target::new(host, method, uri, None)
        }))
    }

    /// The client's credential, and the header that holds it.
    fn credential<'a>(&self, headers: &'a HeaderMap) -> (Credential<'a>, Option<&str>) {
        let headers =
            headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        self.gateway.credential_headers.find(headers)
    }

    fn answer(
        &self,
        decision: &Decision,
        headers: &HeaderMap,
        found: Option<&str>,
        asked: &Asked,
    ) -> Response {
        let mut response = match decision.denial {
            None => self
                .allowed(decision, headers, found)
                .unwrap_or_else(|| refused(Refusal::internal())),
            Some(denial) => self.denied(decision, denial, asked),
        };
        if decision.stale {
            response.headers_mut().insert(STALE, HeaderValue::from_static("true"));
        }
        response
    }

    fn denied(&self, decision: &Decision, denial: Denial, asked: &Asked) -> Response {
        let refusal = Refusal::denied(decision, denial, &self.gateway.realm);
        let status = refusal.status;
        let mut response = refused(refusal);
        if asked.folds {
            response.headers_mut().insert(STATUS, HeaderValue::from(status));
            if !matches!(status, 401 | 403) {
                *response.status_mut() = StatusCode::FORBIDDEN;
            }
        }
        response
    }

    /// 200 and who it is. Every header is always there, empty where there is nothing to tell, so that none of the same
    /// name which the client sent is left in its place.
    fn allowed(
        &self,
        decision: &Decision,
        headers: &HeaderMap,
        found: Option<&str>,
    ) -> Option<Response> {
        let mut response = Response::new(Body::empty());
        let told = response.headers_mut();
        // Of whom a rule only observes, nothing was found out that the upstream could go by.
        let who = decision.identity.as_ref().filter(|_| decision.observed.is_none());
        match who {
            Some(identity) => {
                for (name, value) in identity_headers(identity, decision.billable) {
                    told.insert(name, HeaderValue::try_from(value).ok()?);
                }
            }
            None => {
                for name in IDENTITY_HEADERS {
                    told.insert(name, HeaderValue::from_static(""));
                }
            }
        }
        let to_remove = self.to_remove(decision, headers, found);
        if !to_remove.is_empty() {
            told.insert(TO_REMOVE, HeaderValue::try_from(to_remove).ok()?);
        }
        told.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    /// The header in which the key was found; where a public rule looked for none, those that hold one all the same.
    fn to_remove(&self, decision: &Decision, headers: &HeaderMap, found: Option<&str>) -> String {
        if self.gateway.forwards_credential || decision.observed.is_some() {
            return String::new();
        }
        if decision.identity.is_some() {
            return found.unwrap_or_default().to_owned();
        }
        let secret = Secret { found, headers: &self.gateway.credential_headers };
        let is_secret = |(name, value): &(&HeaderName, &HeaderValue)| {
            secret.is_in(name.as_str().as_bytes(), value.as_bytes())
        };
        let names: Vec<_> =
            headers.iter().filter(is_secret).map(|(name, _)| name.as_str()).collect();
        names.join(",")
    }
}

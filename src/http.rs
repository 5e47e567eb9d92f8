//! The HTTP coats: forward-auth for proxies, decisions for services, and the endpoints of operations.
//!
//! Requests are answered within their connection's thread. A body is only read where the question is in it, and no
//! more of it than a question has.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::authorizer::Authorizer;
use crate::gateway::{self, Gateway, Refusal};
use crate::grpc::Callers;
use crate::telemetry::Observer;

mod authorize;
mod forward_auth;
mod introspect;
mod operations;

pub use operations::{Check, Checks, Operations, State};

/// What serves one HTTP listener.
pub type HttpService = Router;

/// What the public coats are made of. A cheap handle.
#[derive(Clone)]
pub struct Public {
    /// Decides.
    pub authorizer: Authorizer,
    /// Who may ask.
    pub callers: Callers,
    /// What holds for gateways.
    pub gateway: Gateway,
    /// Watches every question.
    pub observer: Observer,
}

/// Forward-auth for proxies, and decisions for services: `/v1/forward-auth`, `/v1/authorize`, `/oauth2/introspect`.
pub fn public(public: Public) -> HttpService {
    let routes = forward_auth::router().merge(authorize::router()).merge(introspect::router());
    closed(routes.with_state(public))
}

/// `/livez`, `/readyz`, `/metrics` and `/log-level`.
pub fn operations(parts: Operations) -> HttpService {
    closed(operations::router(parts))
}

/// What a client is told that is turned away.
fn refused(refusal: Refusal) -> Response {
    let Refusal { status, reason, detail, challenge, retry_after } = refusal;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = problem(status, reason, &detail);
    let headers = response.headers_mut();
    if let Some(challenge) = challenge.and_then(|it| HeaderValue::try_from(it).ok()) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A [`gateway::problem`] as an answer.
fn problem(status: StatusCode, reason: &str, detail: &str) -> Response {
    let body = gateway::problem(status.as_u16(), reason, detail);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers what no route of this router does.
fn closed(router: Router) -> Router {
    router
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "NOT_FOUND", "there is nothing at this path")
        })
        .method_not_allowed_fallback(|| async {
            let told = "this path does not answer this method";
            problem(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", told)
        })
}

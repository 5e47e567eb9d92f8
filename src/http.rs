//! The HTTP coats: forward-auth for proxies, and the endpoints of operations.
//!
//! Requests are answered within their connection's thread, and but for a new log level no request's body
//! is read: there is nothing in it that could matter here.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use crate::authorizer::Authorizer;
use crate::gateway;
use crate::grpc::Callers;
use crate::telemetry::Observer;

mod forward_auth;
mod operations;

pub use operations::{Check, Checks, Operations, State};

/// What serves one HTTP listener.
pub type HttpService = Router;

/// Forward-auth, for proxies that ask whether `callers` lets them; challenges carry this realm, which
/// holds no quotes or backslashes.
pub fn public(
    authorizer: Authorizer,
    callers: Callers,
    realm: Arc<str>,
    observer: Observer,
) -> HttpService {
    closed(forward_auth::router(authorizer, callers, realm, observer))
}

/// `/livez`, `/readyz`, `/metrics` and `/log-level`.
pub fn operations(parts: Operations) -> HttpService {
    closed(operations::router(parts))
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

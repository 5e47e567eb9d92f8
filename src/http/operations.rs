//! What operators and their machines ask: whether the process lives, whether calls should be sent to it,
//! what it has counted; and how much it logs, which can be changed.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::Semaphore;

use super::problem;
use crate::metrics::text;
use crate::serve::{Origin, Peer};
use crate::telemetry::{LogLevels, Scrape};

/// The most answers of `/metrics` that are written at once; a machine asks one at a time.
const SCRAPES_MAX: usize = 2;
/// The most bytes of a new log level, and how long they may take to arrive.
const LEVEL_BYTES_MAX: usize = 1_024;
const LEVEL_TIME_MAX: Duration = Duration::from_secs(5);

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should.
    Ok,
    /// Not as it should, but calls can be answered.
    Degraded,
    /// Calls should go elsewhere.
    Failed,
}

/// One thing that was looked at, and what was seen.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// Why, for a person.
    pub why: String,
}

/// Looks at everything that tells whether calls should be sent here.
pub type Checks = Arc<dyn Fn() -> Vec<Check> + Send + Sync>;

/// What the operations listener tells.
#[derive(Clone)]
pub struct Operations {
    /// Whether calls should be sent here.
    pub checks: Checks,
    /// All metrics.
    pub scrape: Scrape,
    /// What is logged.
    pub levels: LogLevels,
}

/// `/livez`, always 200; `/readyz`, 200 or 503 with a line for each check; `/metrics` for Prometheus;
/// `/log-level`, to be read and put.
pub(super) fn router(parts: Operations) -> Router {
    let Operations { checks, scrape, levels } = parts;
    let (shown, changed) = (levels.clone(), levels);
    let level = get(async move || text(StatusCode::OK, &shown.shown())).put(
        async move |peer: Option<Extension<Peer>>, headers: HeaderMap, body: Body| {
            let peer = peer.map(|Extension(peer)| peer);
            set_level(&changed, peer, &headers, body).await
        },
    );
    let places = Arc::new(Semaphore::new(SCRAPES_MAX));
    Router::new()
        .route("/livez", get(|| async { text(StatusCode::OK, "alive") }))
        .route("/readyz", get(async move || ready(&checks())))
        .route("/metrics", get(async move || metrics(scrape, places).await))
        .route("/log-level", level)
}

/// The first line is for programs, the others say why.
fn ready(checks: &[Check]) -> Response {
    let is_ready = checks.iter().all(|check| check.state != State::Failed);
    let (status, first) = if is_ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let lines = checks.iter().fold(first.to_owned(), |mut lines, check| {
        let mark = match check.state {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Failed => "failed",
        };
        // A String takes everything.
        let _ = write!(lines, "\n{} {mark}: {}", check.name, check.why);
        lines
    });
    text(status, &lines)
}

/// Not on the thread that decisions are made on: there is some adding up to do. Each at once is a thread more, with a
/// megabyte of its own.
async fn metrics(scrape: Scrape, places: Arc<Semaphore>) -> Response {
    let place = places.acquire_owned().await;
    let written = tokio::task::spawn_blocking(move || (text::write(&scrape()), place)).await;
    match written {
        Ok((lines, _place)) => answer(StatusCode::OK, text::CONTENT_TYPE, lines),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "internal error"),
    }
}

/// Whoever may scrape metrics may not have the log written full: only this machine changes the level, and
/// no page in a browser on it. A browser says on whose behalf it asks.
async fn set_level(
    levels: &LogLevels,
    peer: Option<Peer>,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let is_local = peer.is_some_and(|peer| match peer.origin {
        Origin::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Origin::Unix => true,
    });
    if !is_local || headers.contains_key(ORIGIN) {
        let told = "the log level is changed from this machine alone, and not by a web page";
        return problem(StatusCode::FORBIDDEN, "PERMISSION_DENIED", told);
    }
    let body = Limited::new(body, LEVEL_BYTES_MAX).collect();
    let Ok(Ok(body)) = tokio::time::timeout(LEVEL_TIME_MAX, body).await else {
        let told = format!(
            "the body must come within {LEVEL_TIME_MAX:?} and have {LEVEL_BYTES_MAX} bytes at most"
        );
        return problem(StatusCode::BAD_REQUEST, "INVALID_FIELD", &told);
    };
    match levels.set(&String::from_utf8_lossy(&body.to_bytes())) {
        Ok(()) => text(StatusCode::OK, &levels.shown()),
        Err(told) => problem(StatusCode::BAD_REQUEST, "INVALID_FIELD", &told),
    }
}

fn text(status: StatusCode, lines: &str) -> Response {
    answer(status, "text/plain; charset=utf-8", format!("{lines}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    // The operations listener is looked at by people, and a browser must not take text for a page.
    let headers: [(HeaderName, &str); 3] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

//! What an orchestrator asks: whether the process lives, and whether calls should be sent to it.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CACHE_CONTROL;

/// Whether calls should be sent here, and if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// `/livez`, always 200, and `/readyz`, 200 or 503 with a line on why; nothing else.
pub(super) fn router(readiness: Readiness) -> Router {
    let is_ready = move || {
        let readiness = readiness();
        async move {
            match readiness {
                Ok(()) => text(StatusCode::OK, "ready"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}")),
            }
        }
    };
    Router::new()
        .route("/livez", get(|| async { text(StatusCode::OK, "alive") }))
        .route("/readyz", get(is_ready))
}

fn text(status: StatusCode, line: &str) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], format!("{line}\n")).into_response()
}

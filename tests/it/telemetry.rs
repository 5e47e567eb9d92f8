//! What the program tells of itself: traces, metrics, its log and its state; and that telling costs no decision.

use std::process::Command;
use std::time::Duration;

use latchkey::proto::v1::AuthorizeRequest;

use crate::support::{Server, eventually};

pub(crate) mod collector;

mod log;
mod metrics;
mod state;
mod traces;

pub(crate) const IN_TIME: Duration = Duration::from_secs(20);

/// A caller's span, as `traceparent` has it, sampled or not.
fn traceparent(trace: u128, span: u64, is_sampled: bool) -> String {
    format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(is_sampled))
}

/// A question by a caller within this span.
fn question(token: &str, scope: &str, traceparent: &str) -> tonic::Request<AuthorizeRequest> {
    let (token, required_scope) = (token.to_owned(), scope.to_owned());
    let message = AuthorizeRequest { token, required_scope, ..Default::default() };
    let mut request = tonic::Request::new(message);
    if !traceparent.is_empty() {
        request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        request.metadata_mut().insert("tracestate", "vendor=opaque".parse().unwrap());
    }
    request
}

/// What curl got from the operations listener: the status and the body.
pub(crate) fn operations(server: &Server, path: &str, arguments: &[&str]) -> (u16, String) {
    let url = format!("http://{}/{path}", server.operations());
    let output = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}", "--max-time", "20"])
        .args(arguments)
        .arg(&url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// How often PostgreSQL was read.
pub(crate) const READS_OF_POSTGRES: &str = "latchkey_store_operation_duration_seconds_count{store=\"postgresql\",operation=\"read\",outcome=\"ok\"}";

/// All that there are are written down there.
const METRICS: &str = include_str!("../../src/metrics/table.rs");

/// What a metric says for these labels, written as on `/metrics`; 0 where it says nothing.
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = operations(server, "metrics", &[]);
    let family = name.split('{').next().unwrap_or_default();
    let family = family.strip_suffix("_count").unwrap_or(family);
    assert!(METRICS.contains(&format!("\"{family}\"")), "there is no metric {family}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until the log has a line with all of these.
pub(crate) async fn logged(server: &Server, parts: &[&str]) -> serde_json::Value {
    eventually(IN_TIME, &format!("{parts:?} in the log"), || {
        let log = server.log();
        let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)))?;
        Some(serde_json::from_str(line).unwrap())
    })
    .await
}

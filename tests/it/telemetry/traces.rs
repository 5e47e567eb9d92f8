//! Traces: from the caller's span through latchkey, and what a collector that is away costs.

use std::collections::BTreeSet;

use latchkey::proto::v1::CreateAccountRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::collector::{Collector, Manner, said};
use super::{IN_TIME, logged, metric, operations, question, traceparent};
use crate::support::{Server, eventually};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const CALLER: u64 = 0xb7ad_6b71_6920_3331;

async fn traced(collector: &Collector, protocol: &str) -> Server {
    let server = Server::build()
        .dev()
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .environment("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .environment("LATCHKEY__TELEMETRY__HEADERS", "x-tenant=a%2Cb")
        .environment("LATCHKEY__LOG__LEVEL", "debug");
    server.start().await
}

#[tokio::test]
async fn one_trace_goes_from_the_callers_span_through_authorize_by_grpc() {
    one_trace_goes_from_the_callers_span_through_authorize("grpc").await;
}

#[tokio::test]
async fn one_trace_goes_from_the_callers_span_through_authorize_by_http() {
    one_trace_goes_from_the_callers_span_through_authorize("http/protobuf").await;
}

async fn one_trace_goes_from_the_callers_span_through_authorize(protocol: &str) {
    let collector = Collector::start(Manner::Takes).await;
    let server = traced(&collector, protocol).await;
    let caller = Span {
        trace_id: TRACE.to_be_bytes().to_vec(),
        span_id: CALLER.to_be_bytes().to_vec(),
        name: "GET /things".to_owned(),
        kind: SpanKind::Client.into(),
        ..Span::default()
    };
    collector.tell(caller.clone()).await;
    let asked = question(&server.live_key(), "memory:write", &traceparent(TRACE, CALLER, true));
    let answer = server.decisions().await.authorize(asked).await.unwrap().into_inner();
    assert!(!answer.allowed, "a denial, so that it can be seen to be no error");

    let spans = collector.trace(TRACE, 2).await;
    assert_eq!(spans.len(), 2);
    let (resource, span) = spans.iter().find(|(_, span)| span.name != caller.name).unwrap();
    assert_eq!(span.name, "latchkey.v1.AuthorizationService/Authorize");
    assert_eq!((&span.parent_span_id, span.kind()), (&caller.span_id, SpanKind::Server));
    assert_eq!(span.trace_state, "vendor=opaque");
    assert_eq!(span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    assert!(span.start_time_unix_nano > 0);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (name, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.method", &span.name),
        ("rpc.response.status_code", "OK"),
        ("network.peer.address", "127.0.0.1"),
        ("server.port", &server.grpc().port().to_string()),
        ("latchkey.decision", "deny"),
        ("latchkey.reason", "INSUFFICIENT_SCOPE"),
        ("latchkey.cache", "hit"),
        ("latchkey.key_id", &answer.key_id),
        ("latchkey.account_id", "demo"),
    ] {
        assert_eq!(said(&span.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(said(&resource.attributes, "service.name").unwrap(), "latchkey");
    assert_eq!(said(&resource.attributes, "service.version").unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(said(&resource.attributes, "service.instance.id").unwrap().starts_with("node_"));
    let own = collector.headers().into_iter().filter(|headers| headers.contains_key("x-tenant"));
    let own: Vec<_> = own.collect();
    assert!(!own.is_empty() && own.iter().all(|headers| headers["x-tenant"] == "a,b"));
    assert!(own.iter().all(|headers| !headers.contains_key("traceparent")));

    let line = logged(&server, &["\"decided\"", "INSUFFICIENT_SCOPE"]).await;
    assert_eq!(line["trace_id"], format!("{TRACE:032x}"));
    let id = u64::from_be_bytes(span.span_id.as_slice().try_into().unwrap());
    assert_eq!(line["span_id"], format!("{id:016x}"));
    let told = format!("{:?}", collector.spans());
    assert!(!told.contains(&server.live_key()[12..40]), "{told}");
}

#[tokio::test]
async fn what_the_caller_does_not_trace_is_not_traced() {
    let collector = Collector::start(Manner::Takes).await;
    let server = traced(&collector, "grpc").await;
    let mut decisions = server.decisions().await;
    for (trace, is_sampled) in [(TRACE + 1, false), (TRACE, true)] {
        let parent = traceparent(trace, CALLER, is_sampled);
        let asked = question(&server.live_key(), "memory:read", &parent);
        assert!(decisions.authorize(asked).await.unwrap().into_inner().allowed);
    }
    // Spans come in the order of their calls.
    collector.trace(TRACE, 1).await;
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
async fn a_change_is_traced_down_to_the_store_and_into_the_log() {
    let collector = Collector::start(Manner::Takes).await;
    let server = traced(&collector, "grpc").await;
    let mut request = tonic::Request::new(CreateAccountRequest {
        account_id: "acme".into(),
        display_name: "Acme".into(),
        ..Default::default()
    });
    let parent = traceparent(TRACE, CALLER, true);
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    server.accounts(&server.root_token()).await.create_account(request).await.unwrap();

    let spans = collector.trace(TRACE, 2).await;
    let named = |name: &str| {
        let found = spans.iter().find(|(_, span)| span.name == name);
        found.map_or_else(|| panic!("no {name}: {spans:?}"), |(_, span)| span.clone())
    };
    let call = named("latchkey.v1.AccountService/CreateAccount");
    let store = named("mutate");
    assert_eq!(call.parent_span_id, CALLER.to_be_bytes());
    assert_eq!((&store.parent_span_id, store.kind()), (&call.span_id, SpanKind::Client));
    assert_eq!(said(&store.attributes, "db.system.name").unwrap(), "sqlite");
    let line = logged(&server, &["\"changed\"", "CreateAccount"]).await;
    assert_eq!(line["span"]["trace_id"], format!("{TRACE:032x}"), "{line}");
}

#[tokio::test]
async fn forward_auth_is_traced_as_http() {
    let collector = Collector::start(Manner::Takes).await;
    let server = traced(&collector, "http/protobuf").await;
    let output = std::process::Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["-H", &format!("authorization: Bearer {}", server.live_key())])
        .args(["-H", &format!("traceparent: {}", traceparent(TRACE, CALLER, true))])
        .arg(format!("http://{}/v1/forward-auth?scope=memory:read", server.http()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200");
    let spans = collector.trace(TRACE, 1).await;
    let (_, span) = &spans[0];
    assert_eq!(span.name, "GET /v1/forward-auth");
    assert_eq!(span.parent_span_id, CALLER.to_be_bytes());
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v1/forward-auth"),
        ("http.response.status_code", "200"),
        ("latchkey.decision", "allow"),
    ] {
        assert_eq!(said(&span.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(said(&span.attributes, "url.query"), None);
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_and_no_decision() {
    let collector = Collector::start(Manner::Hangs).await;
    ask_beside(&collector.url(), collector).await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_decision() {
    let collector = Collector::start(Manner::Takes).await;
    let url = collector.url();
    ask_beside(&url, collector).await;
}

/// Asks more than there is room for spans; a collector that hangs is kept, another is stopped first.
async fn ask_beside(url: &str, collector: Collector) {
    const ASKED: usize = 4_000;
    const AT_ONCE: usize = 50;
    let kept = collector.hangs().then_some(collector);
    let mut server = Server::build()
        .dev()
        .environment("LATCHKEY__TELEMETRY__ENDPOINT", url)
        .environment("LATCHKEY__TELEMETRY__PROTOCOL", "grpc")
        .environment("LATCHKEY__TELEMETRY__SAMPLER", "always_on")
        .environment("LATCHKEY__TELEMETRY__METRICS_INTERVAL_MS", "100")
        .start()
        .await;
    let (decisions, token) = (server.decisions().await, server.live_key());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut decisions, token) = (decisions.clone(), token.clone());
        callers.spawn(async move {
            for _ in 0..ASKED / AT_ONCE {
                let asked = question(&token, "memory:read", "");
                assert!(decisions.authorize(asked).await.unwrap().into_inner().allowed);
            }
        });
    }
    callers.join_all().await;
    // The queue has room for 2,048, and a batch of 512 is on its way.
    let dropped = metric(&server, "latchkey_telemetry_spans_total{result=\"dropped\"}");
    assert!(dropped >= 1_000.0, "{dropped}");
    let allowed = "{surface=\"grpc\",decision=\"allow\",reason=\"ALLOWED\"}";
    let allowed = metric(&server, &format!("latchkey_authorize_decisions_total{allowed}"));
    assert!((allowed - 4_000.0).abs() < 0.5, "{allowed}");
    assert_eq!(operations(&server, "readyz", &[]).0, 200);
    if kept.is_none() {
        let failed = "latchkey_telemetry_exports_total{signal=\"metrics\",result=\"failed\"}";
        eventually(IN_TIME, "failures counted", || (metric(&server, failed) >= 1.0).then_some(()))
            .await;
        let lines = |log: &str| log.matches("telemetry could not be exported; trying on").count();
        assert!((1..=2).contains(&lines(&server.log())), "one line for each signal");
    }
    // It does not wait for the collector either when it stops.
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_still_waiting_is_sent_when_the_process_ends() {
    let collector = Collector::start(Manner::Takes).await;
    let mut server = traced(&collector, "grpc").await;
    let asked = question(&server.live_key(), "memory:read", &traceparent(TRACE, CALLER, true));
    server.decisions().await.authorize(asked).await.unwrap();
    server.stop().await;
    let names: BTreeSet<_> = collector.spans().into_iter().map(|(_, span)| span.name).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

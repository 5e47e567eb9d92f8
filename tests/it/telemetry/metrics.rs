//! Metrics: on `/metrics`, over OTLP and in the documentation, all by the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use latchkey::metrics::{Kind, Metrics, TABLE};
use latchkey::store::{self, Observed, Store as _};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

use super::collector::{Collector, Manner, said};
use super::{metric, operations, question};
use crate::support::{Fault, FaultyStore, Folder, Server, tools_path};

/// Some of everything: decisions of all kinds, administration, a method that is not there.
async fn busy(server: &Server) {
    let mut decisions = server.decisions().await;
    let live = server.live_key();
    for (token, scope) in [
        (live.as_str(), "memory:read"),
        (live.as_str(), "memory:write"),
        ("hm_live_0000000000000000000000000000002dlYSp", "memory:read"),
        ("nonsense", "memory:read"),
        ("", "memory:read"),
        (live.as_str(), "no:such"),
    ] {
        drop(decisions.authorize(question(token, scope, "")).await);
    }
    let root = server.root_token();
    server.grpcurl_json(&root, "latchkey.v1.KeyService/ListKeys", "{}");
    let _refused = server.grpcurl("", "latchkey.v1.KeyService/ListKeys", "{}");
    let url = format!("http://{}/v1/forward-auth?scope=memory:read", server.http());
    let curl = Command::new("curl").args(["-sS", "-o", "/dev/null", &url]).status().unwrap();
    assert!(curl.success());
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .env("PATH", tools_path())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool cannot be started ({error}); `./check` installs it")
        });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(told).unwrap())
}

#[tokio::test]
async fn prometheus_is_content_with_the_metrics() {
    let server = Server::start_dev().await;
    busy(&server).await;
    let (status, text) = operations(&server, "metrics", &[]);
    assert_eq!(status, 200);
    assert_eq!(promtool(&["check", "metrics"], &text), (true, String::new()));
    // It would say so if something were wrong.
    assert!(!promtool(&["check", "metrics"], "# TYPE a counter\na 1\n").0);
}

#[test]
fn prometheus_is_content_with_the_alerts() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alerts.yaml");
    let (is_right, told) = promtool(&["check", "rules", path], "");
    assert!(is_right, "{told}");
    let alerts = std::fs::read_to_string(path).unwrap();
    for name in words(&alerts, |char| char.is_ascii_alphanumeric() || char == '_') {
        let is_ours = name.starts_with("latchkey_") || name.starts_with("rpc_server_");
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let is_there = |name: &str| TABLE.iter().any(|metric| metric.name == name);
        assert!(!is_ours || is_there(name) || base.is_some_and(is_there), "there is no {name}");
    }
}

fn words(text: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<&str> {
    text.split(|char| !is_part(char)).filter(|word| !word.is_empty()).collect()
}

#[tokio::test]
async fn decisions_are_counted_by_what_came_of_them() {
    let server = Server::start_dev().await;
    busy(&server).await;
    for (labels, count) in [
        ("surface=\"grpc\",decision=\"allow\",reason=\"ALLOWED\"", 1.0),
        ("surface=\"grpc\",decision=\"deny\",reason=\"INSUFFICIENT_SCOPE\"", 1.0),
        ("surface=\"grpc\",decision=\"deny\",reason=\"UNKNOWN_KEY\"", 1.0),
        ("surface=\"grpc\",decision=\"deny\",reason=\"MALFORMED_CREDENTIAL\"", 1.0),
        ("surface=\"grpc\",decision=\"deny\",reason=\"MISSING_CREDENTIAL\"", 1.0),
        ("surface=\"grpc\",decision=\"error\",reason=\"INVALID_FIELD\"", 1.0),
        ("surface=\"http\",decision=\"deny\",reason=\"MISSING_CREDENTIAL\"", 1.0),
    ] {
        let told = metric(&server, &format!("latchkey_authorize_decisions_total{{{labels}}}"));
        assert!((told - count).abs() < 0.5, "{labels}: {told}");
    }
    for (name, count) in [
        ("latchkey_authorize_duration_seconds_count{surface=\"grpc\",cache=\"hit\"}", 2.0),
        ("latchkey_authorize_duration_seconds_count{surface=\"grpc\",cache=\"negative\"}", 1.0),
        ("latchkey_cache_requests_total{result=\"hit\"}", 2.0),
        ("latchkey_feed_lag_changes", 0.0),
        ("latchkey_store_up{store=\"sqlite\"}", 1.0),
        ("latchkey_cache_entries{kind=\"account\"}", 2.0),
    ] {
        let told = metric(&server, name);
        assert!((told - count).abs() < 0.5, "{name}: {told}");
    }
    let method =
        "rpc_server_call_duration_seconds_count{rpc_method=\"latchkey.v1.KeyService/ListKeys\"";
    for status in ["OK", "UNAUTHENTICATED"] {
        let name = format!("{method},rpc_response_status_code=\"{status}\"}}");
        assert!(metric(&server, &name) > 0.5, "{status}");
    }
}

#[tokio::test]
async fn no_metric_names_a_key_an_account_or_a_token() {
    let server = Server::start_dev().await;
    busy(&server).await;
    let (_, text) = operations(&server, "metrics", &[]);
    for secret in ["key_0", "demo", "hm_live", "hm_test", "no:such", "memory:", "127.0.0.1"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[tokio::test]
async fn every_metric_is_documented_and_there() {
    let server = Server::start_dev().await;
    let (_, text) = operations(&server, "metrics", &[]);
    let on_page: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let known: BTreeMap<_, _> = TABLE.iter().map(|it| (it.name, kind(it.kind))).collect();
    assert_eq!(on_page, known);

    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/telemetry.md"));
    let page = page.unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let documented: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| Some((row.first()?.trim_matches('`'), *row.get(1)?, *row.get(2)?)))
        .filter(|(_, kind, _)| ["counter", "gauge", "histogram"].contains(kind))
        .map(|(name, kind, labels)| (name, kind, labels.replace('`', "")))
        .collect();
    let labels = |labels: &[&str]| labels.join(", ").replace('.', "_");
    let known: BTreeSet<_> =
        TABLE.iter().map(|it| (it.name, kind(it.kind), labels(it.labels))).collect();
    assert_eq!(documented, known, "docs/telemetry.md on the left");
}

#[tokio::test]
async fn metrics_arrive_over_otlp() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start(Manner::Takes).await;
        let server = Server::build()
            .dev()
            .environment("LATCHKEY__TELEMETRY__ENDPOINT", &collector.url())
            .environment("LATCHKEY__TELEMETRY__PROTOCOL", protocol)
            .environment("LATCHKEY__TELEMETRY__TRACES", "none")
            .environment("OTEL_METRIC_EXPORT_INTERVAL", "100")
            .start()
            .await;
        let asked = question(&server.live_key(), "memory:read", "");
        assert!(server.decisions().await.authorize(asked).await.unwrap().into_inner().allowed);
        let metrics = collector.metrics(|metrics| {
            let decisions = metrics.iter().find(|it| it.name == "latchkey.authorize.decisions");
            let Some(Data::Sum(sum)) = decisions.and_then(|it| it.data.clone()) else {
                return false;
            };
            assert!(sum.is_monotonic);
            sum.data_points.iter().any(|point| {
                said(&point.attributes, "decision").unwrap() == "allow"
                    && point.value == Some(Value::AsInt(1))
            })
        });
        let metrics = metrics.await;
        for metric in &metrics {
            let known = TABLE.iter().find(|known| known.otlp == metric.name).unwrap();
            assert_eq!((metric.unit.as_str(), &*metric.description), (known.unit, known.help));
        }
        let duration = metrics.iter().find(|it| it.name == "latchkey.authorize.duration").unwrap();
        let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
        let hits = histogram.data_points.iter().find(|point| {
            let of = |name| said(&point.attributes, name).unwrap();
            (of("surface"), of("cache")) == ("grpc".to_owned(), "hit".to_owned())
        });
        let hits = hits.unwrap();
        assert_eq!((hits.count, hits.bucket_counts.iter().sum::<u64>()), (1, 1));
        assert_eq!(hits.bucket_counts.len(), hits.explicit_bounds.len() + 1);
        assert!(collector.spans().is_empty());
    }
}

#[tokio::test]
async fn a_store_that_did_not_do_its_part_is_not_up() {
    let folder = Folder::new();
    let url = format!("sqlite://{}", folder.path().join("latchkey.db").display());
    let faulty = FaultyStore::new(store::open(&url).await.unwrap());
    let store = Observed::new(Arc::clone(&faulty) as _, "sqlite", Arc::<Metrics>::default());
    for (fault, is_up) in [
        (Fault::Unavailable, false),
        (Fault::Unknown { is_made: true }, false),
        (Fault::Unusable, false),
        (Fault::Corrupt, true),
    ] {
        faulty.disturb(1, fault);
        assert!(store.kept_time().await.is_err());
        assert_eq!(store.is_up(), is_up);
        store.kept_time().await.unwrap();
        assert!(store.is_up());
    }
    // One that hangs says nothing; whoever asked gives up.
    faulty.disturb(1, Fault::HangsBefore);
    tokio::select! {
        _ = store.kept_time() => panic!("it hangs"),
        () = faulty.a_call_hangs() => {}
    }
    assert!(!store.is_up());
    faulty.recover();
    store.kept_time().await.unwrap();
    assert!(store.is_up());
    store.close().await;
}

//! A collector on OpenTelemetry's own messages and services: gRPC and HTTP on one port.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::IN_TIME;
use crate::support::eventually;

/// A running collector; it ends when it is dropped.
pub(crate) struct Collector {
    address: SocketAddr,
    seen: Seen,
    task: JoinHandle<()>,
}

/// Whether it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Takes,
    Hangs,
}

#[derive(Clone)]
struct Seen {
    manner: Manner,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<(Resource, Span)>,
    metrics: Vec<Vec<Metric>>,
    headers: Vec<HeaderMap>,
}

impl Collector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let seen = Seen { manner, received: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(TraceServiceServer::new(seen.clone()))
            .add_service(MetricsServiceServer::new(seen.clone()))
            .into_axum_router()
            .route("/v1/traces", post(http_traces).with_state(seen.clone()))
            .route("/v1/metrics", post(http_metrics).with_state(seen.clone()));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn hangs(&self) -> bool {
        self.seen.manner == Manner::Hangs
    }

    /// Receives a span from somebody else.
    pub(super) async fn tell(&self, span: Span) {
        let mut client = TraceServiceClient::connect(self.url()).await.unwrap();
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..Default::default() }];
        client.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();
    }

    /// The spans of this trace, as soon as there are so many.
    pub(super) async fn trace(&self, trace: u128, count: usize) -> Vec<(Resource, Span)> {
        eventually(IN_TIME, &format!("{count} spans of one trace"), || {
            let spans: Vec<_> = self
                .spans()
                .into_iter()
                .filter(|(_, span)| span.trace_id == trace.to_be_bytes())
                .collect();
            (spans.len() >= count).then_some(spans)
        })
        .await
    }

    pub(crate) fn spans(&self) -> Vec<(Resource, Span)> {
        self.seen.received.lock().unwrap().spans.clone()
    }

    /// The metrics of the last export, as soon as they are so.
    pub(super) async fn metrics(&self, are_so: impl Fn(&[Metric]) -> bool) -> Vec<Metric> {
        eventually(IN_TIME, "metrics that are so", || {
            let received = self.seen.received.lock().unwrap();
            received.metrics.last().filter(|metrics| are_so(metrics)).cloned()
        })
        .await
    }

    /// The headers of everything that came.
    pub(super) fn headers(&self) -> Vec<HeaderMap> {
        self.seen.received.lock().unwrap().headers.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an attribute of this name says.
pub(super) fn said(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

impl Seen {
    async fn answer(&self) {
        if self.manner == Manner::Hangs {
            std::future::pending::<()>().await;
        }
    }

    async fn take_traces(&self, headers: HeaderMap, request: ExportTraceServiceRequest) {
        self.answer().await;
        let mut received = self.received.lock().unwrap();
        received.headers.push(headers);
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            received.spans.extend(spans.map(|span| (resource.clone(), span)));
        }
    }

    async fn take_metrics(&self, headers: HeaderMap, request: ExportMetricsServiceRequest) {
        self.answer().await;
        let scopes = request.resource_metrics.into_iter().flat_map(|all| all.scope_metrics);
        let metrics = scopes.flat_map(|scope| scope.metrics).collect();
        let mut received = self.received.lock().unwrap();
        received.headers.push(headers);
        received.metrics.push(metrics);
    }
}

#[tonic::async_trait]
impl TraceService for Seen {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.take_traces(metadata.into_headers(), message).await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Seen {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.take_metrics(metadata.into_headers(), message).await;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn http_traces(State(seen): State<Seen>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let message = ExportTraceServiceRequest::decode(body).unwrap();
    seen.take_traces(headers, message).await;
    ExportTraceServiceResponse::default().encode_to_vec()
}

async fn http_metrics(State(seen): State<Seen>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    let message = ExportMetricsServiceRequest::decode(body).unwrap();
    seen.take_metrics(headers, message).await;
    ExportMetricsServiceResponse::default().encode_to_vec()
}

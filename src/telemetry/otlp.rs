//! Metrics and spans as OTLP has them.

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::trace::attribute;
use crate::clock::Timestamp;
use crate::metrics::{Family, Kind, Point, Snapshot, Value};

/// A kind of thing that is exported.
pub(super) trait Signal: prost::Message + Clone + Default + 'static {
    type Answer: prost::Message + Default + Send + 'static;
    /// The value of the label.
    const NAME: &'static str;
    const GRPC_PATH: &'static str;
    const HTTP_PATH: &'static str;

    /// How many of what was sent the other side did not take.
    fn rejected(answer: &Self::Answer) -> u64;
}

impl Signal for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;
    const NAME: &'static str = "traces";
    const GRPC_PATH: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    const HTTP_PATH: &'static str = "/v1/traces";

    fn rejected(answer: &Self::Answer) -> u64 {
        let partial = answer.partial_success.as_ref();
        partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
    }
}

impl Signal for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;
    const NAME: &'static str = "metrics";
    const GRPC_PATH: &'static str =
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
    const HTTP_PATH: &'static str = "/v1/metrics";

    fn rejected(answer: &Self::Answer) -> u64 {
        let partial = answer.partial_success.as_ref();
        partial.map_or(0, |partial| u64::try_from(partial.rejected_data_points).unwrap_or(0))
    }
}

/// The process, as everything that is exported names it.
pub(super) fn resource(attributes: &[(String, String)]) -> Resource {
    let text = |(name, value): &(String, String)| {
        attribute(name, any_value::Value::StringValue(value.clone()))
    };
    Resource { attributes: attributes.iter().map(text).collect(), ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    let (name, version) = ("latchkey".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

pub(super) fn spans(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let of_scope = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
    let (resource, scope_spans) = (Some(resource), vec![of_scope]);
    let all = ResourceSpans { resource, scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![all] }
}

/// All metrics, as counted since `start`.
pub(super) fn metrics(
    resource: Resource,
    snapshot: &Snapshot,
    start: Timestamp,
    now: Timestamp,
) -> ExportMetricsServiceRequest {
    let times = (nanos(start), nanos(now));
    let said = snapshot.families().iter().filter(|family| !family.points.is_empty());
    let metrics = said.map(|family| metric(family, times)).collect();
    let of_scope = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
    let (resource, scope_metrics) = (Some(resource), vec![of_scope]);
    let all = ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![all] }
}

fn nanos(time: Timestamp) -> u64 {
    u64::try_from(time.micros()).unwrap_or(0) * 1_000
}

fn metric(family: &Family, times: (u64, u64)) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let numbers = || {
        let points = family.points.iter();
        points.filter_map(|point| number(family, point, times)).collect()
    };
    let data = match family.metric.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => {
            let points = family.points.iter();
            Data::Histogram(Histogram {
                data_points: points.filter_map(|point| histogram(family, point, times)).collect(),
                aggregation_temporality: temporality,
            })
        }
    };
    Metric {
        name: family.metric.otlp.to_owned(),
        description: family.metric.help.to_owned(),
        unit: family.metric.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn attributes(
    family: &Family,
    point: &Point,
) -> Vec<opentelemetry_proto::tonic::common::v1::KeyValue> {
    let pairs = family.metric.labels.iter().zip(&point.labels);
    pairs
        .map(|(name, value)| attribute(name, any_value::Value::StringValue(value.clone())))
        .collect()
}

fn number(family: &Family, point: &Point, (start, now): (u64, u64)) -> Option<NumberDataPoint> {
    let value = match point.value {
        Value::Count(count) => {
            number_data_point::Value::AsInt(i64::try_from(count).unwrap_or(i64::MAX))
        }
        Value::Amount(amount) => number_data_point::Value::AsDouble(amount),
        Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(family, point),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(
    family: &Family,
    point: &Point,
    (start, now): (u64, u64),
) -> Option<HistogramDataPoint> {
    let Value::Histogram(tally) = &point.value else { return None };
    Some(HistogramDataPoint {
        attributes: attributes(family, point),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: tally.count(),
        sum: Some(tally.sum_seconds),
        bucket_counts: tally.buckets.clone(),
        explicit_bounds: tally.bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}

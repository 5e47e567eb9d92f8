//! What this process tells of itself, put together: who is watched, what is exported, and as whom.

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;

use crate::clock::{Clock, Entropy};
use crate::config::{self, Config, Export};
use crate::failure::Failure;
use crate::machine;
use crate::metrics::Metrics;
use crate::telemetry::{Exporter, Exporting, Numbers, Observer, Scrape, Tracer};

/// What watches calls, and what it has to tell.
pub(super) struct Telling {
    pub(super) observer: Observer,
    pub(super) numbers: Numbers,
    spans: Option<mpsc::Receiver<Span>>,
}

impl Telling {
    /// Watches calls; traces them where traces are exported.
    pub(super) fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Self {
        let telemetry = &config.telemetry;
        let is_traced = telemetry.endpoint.is_some() && telemetry.traces == Export::Otlp;
        let (tracer, spans) = is_traced
            .then(|| Tracer::new(telemetry.sampler(), Arc::clone(clock), Arc::clone(entropy)))
            .unzip();
        let observer = Observer::new(Arc::clone(metrics), tracer.clone());
        Self { observer, numbers: Numbers::new(tracer), spans }
    }

    /// Begins to export, where that is wanted.
    pub(super) fn export(
        &mut self,
        config: &Config,
        node: &str,
        scrape: Scrape,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Exporter>, Failure> {
        let telemetry = &config.telemetry;
        let Some(endpoint) = &telemetry.endpoint else { return Ok(None) };
        let interval = std::time::Duration::from_millis(telemetry.metrics_interval_ms);
        let exporting = Exporting {
            endpoint: endpoint.uri().clone(),
            protocol: telemetry.protocol(),
            headers: telemetry.headers.as_ref().map_or(vec![], |it| it.expose().to_vec()),
            timeout: std::time::Duration::from_millis(telemetry.timeout_ms),
            resource: resource(telemetry, node),
            metrics_every: (telemetry.metrics == Export::Otlp).then_some(interval),
        };
        let spans = self.spans.take();
        let started = Exporter::start(exporting, spans, scrape, Arc::clone(clock), &self.numbers);
        let exporter = started
            .map_err(|error| Failure::new(format!("telemetry.endpoint cannot be used: {error}")))?;
        tracing::info!(endpoint = %endpoint.uri(), "telemetry is exported");
        Ok(Some(exporter))
    }
}

/// Who we are, as OpenTelemetry has it; what was configured wins.
fn resource(telemetry: &config::Telemetry, node: &str) -> Vec<(String, String)> {
    let own = [
        ("service.name", telemetry.service_name.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", node.to_owned()),
        ("host.name", machine::host_name().unwrap_or_default()),
        ("os.type", std::env::consts::OS.to_owned()),
        ("process.pid", std::process::id().to_string()),
        ("process.executable.name", "latchkey".to_owned()),
    ];
    let given = telemetry.resource_attributes.pairs();
    // A name of its own, where one was given, stands above the one among the attributes.
    let is_named = telemetry.service_name != config::Telemetry::default().service_name;
    let wins = |name: &str| {
        given.iter().any(|(other, _)| other == name) && !(is_named && name == "service.name")
    };
    let own = own.into_iter().filter(|(name, value)| !value.is_empty() && !wins(name));
    let given = given.iter().filter(|(name, _)| wins(name)).cloned();
    own.map(|(name, value)| (name.to_owned(), value)).chain(given).collect()
}

//! Sends spans and metrics to a collector, in batches, from the background.
//!
//! A collector that is away costs spans, never a decision: the queue of spans is bounded, and what finds
//! no room in it is counted. Metrics are sums since the start, so one export that is lost loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::otlp::{self, Signal};
use super::trace::Tracer;
pub use super::wire::Protocol;
use super::wire::{Unsent, Wire};
use crate::clock::Clock;
use crate::metrics::{Snapshot, Value, table};
use crate::token;

/// The most spans of one message.
const BATCH_MAX: usize = 512;
/// How often it is looked whether a batch is full, so that the queue has room for what comes meanwhile.
const LOOK_TIME: Duration = Duration::from_millis(100);
/// How often that is looked, before what there is is sent.
const LOOKS: u32 = 10;
/// How often a batch is sent; then it is given up.
const ATTEMPTS_MAX: u32 = 3;
/// The pause before the second attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The most characters that are told of why an export failed: the collector may have written them.
const WHY_CHARS_MAX: usize = 200;
/// How long the last spans and metrics may take to be sent, when the process ends.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// Where and how to export.
pub struct Exporting {
    /// The collector: scheme and host, and a path in front of OTLP's own.
    pub endpoint: Uri,
    /// What it speaks.
    pub protocol: Protocol,
    /// What each message carries besides; may be secret.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one message may take.
    pub timeout: Duration,
    /// What is exporting.
    pub resource: Vec<(String, String)>,
    /// How often metrics are sent; `None` sends none.
    pub metrics_every: Option<Duration>,
}

/// What is counted of exports; a cheap handle.
#[derive(Clone, Default)]
pub struct Numbers {
    tally: Arc<Tally>,
    tracer: Option<Arc<Tracer>>,
}

#[derive(Default)]
struct Tally {
    spans_sent: AtomicU64,
    spans_failed: AtomicU64,
    traces: Attempts,
    metrics: Attempts,
}

/// Attempts to export one signal.
#[derive(Default)]
struct Attempts {
    succeeded: AtomicU64,
    failed: AtomicU64,
    is_failing: AtomicBool,
}

impl Numbers {
    /// Nothing yet; the tracer counts what it drops.
    #[must_use]
    pub fn new(tracer: Option<Arc<Tracer>>) -> Self {
        Self { tally: Arc::default(), tracer }
    }

    /// What has become of spans and exports.
    pub fn collect(&self, into: &mut Snapshot) {
        let Tally { spans_sent, spans_failed, traces, metrics } = &*self.tally;
        let dropped = self.tracer.as_ref().map_or(0, |tracer| tracer.dropped());
        let of = |count: &AtomicU64| Value::Count(count.load(Ordering::Relaxed));
        into.add(&table::TELEMETRY_SPANS, ["sent"], of(spans_sent));
        into.add(&table::TELEMETRY_SPANS, ["failed"], of(spans_failed));
        into.add(&table::TELEMETRY_SPANS, ["dropped"], Value::Count(dropped));
        for (signal, attempts) in [("traces", traces), ("metrics", metrics)] {
            into.add(&table::TELEMETRY_EXPORTS, [signal, "ok"], of(&attempts.succeeded));
            into.add(&table::TELEMETRY_EXPORTS, [signal, "failed"], of(&attempts.failed));
        }
    }
}

impl Attempts {
    /// Counts one. The first failure after a success is worth a line, and so is the reverse.
    fn book<T>(&self, signal: &'static str, attempt: &Result<T, Unsent>) {
        match attempt {
            Ok(_) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(signal, "telemetry is exported again");
                }
            }
            Err(Unsent { why, may_retry: _ }) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let why = told(why);
                if self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::debug!(signal, why, "telemetry could not be exported");
                } else {
                    tracing::warn!(signal, why, "telemetry could not be exported; trying on");
                }
            }
        }
    }
}

/// What a stranger may have written, as the log may repeat it.
fn told(why: &str) -> String {
    let cut = if why.chars().nth(WHY_CHARS_MAX).is_some() { "…" } else { "" };
    let start: String = why.chars().take(WHY_CHARS_MAX).collect();
    let start: String =
        token::without_tokens(&start).chars().flat_map(char::escape_debug).collect();
    start + cut
}

/// Asks for all metrics.
pub type Scrape = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Exports at work; dropping this ends them.
pub struct Exporter {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Exporter {
    /// Begins to export these spans, and metrics. Must be called on a tokio runtime.
    pub fn start(
        exporting: Exporting,
        spans: Option<mpsc::Receiver<Span>>,
        scrape: Scrape,
        clock: Arc<dyn Clock>,
        numbers: &Numbers,
    ) -> Result<Self, String> {
        let Exporting { endpoint, protocol, headers, timeout, resource, metrics_every } = exporting;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            wire: Wire::new(endpoint, protocol, headers, timeout)?,
            resource: otlp::resource(&resource),
            tally: Arc::clone(&numbers.tally),
        });
        let mut tasks = JoinSet::new();
        if let Some(spans) = spans {
            tasks.spawn(send_spans(Arc::clone(&shared), spans, stopped.clone()));
        }
        if let Some(every) = metrics_every {
            tasks.spawn(send_metrics(shared, every, scrape, clock, stopped));
        }
        Ok(Self { tasks, stop })
    }

    /// Sends what is left, for a moment.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH_TIME_MAX, finished).await.is_err() {
            tracing::warn!("the last spans and metrics could not be exported in time");
        }
    }
}

struct Shared {
    wire: Wire,
    resource: Resource,
    tally: Arc<Tally>,
}

async fn send_spans(
    shared: Arc<Shared>,
    mut spans: mpsc::Receiver<Span>,
    mut stopped: watch::Receiver<bool>,
) {
    while let Some(batch) = gather(&mut spans, &mut stopped).await {
        let count = batch.len() as u64;
        let message = otlp::spans(shared.resource.clone(), batch);
        let sent = shared.send_again_and_again(message, &mut stopped).await;
        let failed = sent.map_or(count, |rejected| rejected.min(count));
        shared.tally.spans_failed.fetch_add(failed, Ordering::Relaxed);
        shared.tally.spans_sent.fetch_add(count - failed, Ordering::Relaxed);
    }
}

/// The spans of one message; `None` when there will be no more.
async fn gather(
    spans: &mut mpsc::Receiver<Span>,
    stopped: &mut watch::Receiver<bool>,
) -> Option<Vec<Span>> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let is_over = async { drop(stopped.wait_for(|is_over| *is_over).await) };
    let full = async {
        spans.recv_many(&mut batch, BATCH_MAX).await;
        // Whoever waits at the queue is woken for each span, at the cost of the thread that makes it; so the
        // others are looked for from time to time.
        for _ in 0..LOOKS {
            if batch.len() + spans.len() >= BATCH_MAX || spans.is_closed() {
                break;
            }
            tokio::time::sleep(LOOK_TIME).await;
        }
    };
    tokio::select! {
        () = full => {}
        () = is_over => {}
    }
    // When it is over, what is left goes without waiting.
    while batch.len() < BATCH_MAX
        && let Ok(span) = spans.try_recv()
    {
        batch.push(span);
    }
    (!batch.is_empty()).then_some(batch)
}

async fn send_metrics(
    shared: Arc<Shared>,
    every: Duration,
    scrape: Scrape,
    clock: Arc<dyn Clock>,
    mut stopped: watch::Receiver<bool>,
) {
    let start = clock.now();
    let mut is_over = false;
    while !is_over {
        let wait = stopped.wait_for(|is_over| *is_over);
        is_over = tokio::time::timeout(every, wait).await.is_ok();
        let message = otlp::metrics(shared.resource.clone(), &scrape(), start, clock.now());
        let sent = shared.wire.send(message).await;
        shared.tally.metrics.book("metrics", &sent);
    }
}

impl Shared {
    /// How much was not taken; the error means that all of it was lost.
    async fn send_again_and_again<S: Signal>(
        &self,
        message: S,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<u64, Unsent> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            let sent = self.wire.send(message.clone()).await;
            self.tally.traces.book(S::NAME, &sent);
            if !matches!(&sent, Err(Unsent { may_retry: true, .. })) {
                return sent;
            }
            let is_over = stopped.wait_for(|is_over| *is_over);
            let _ = tokio::time::timeout(pause, is_over).await;
            pause *= 2;
        }
        let sent = self.wire.send(message).await;
        self.tally.traces.book(S::NAME, &sent);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_says_is_told_in_part_and_moves_no_cursor() {
        assert_eq!(told("Unavailable: try\n\u{1b}[2Jlater"), "Unavailable: try\\n\\u{1b}[2Jlater");
        assert_eq!(told(&"x".repeat(9_000)).chars().count(), WHY_CHARS_MAX + 1);
        assert!(!told("no hm_live_0000000000000000000000000000002dlYSp").contains("2dlYSp"));
    }
}

//! Spans: which calls get one, what is noted on it, and the queue in which it waits to be sent.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as proto, status::StatusCode};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::context::{Parent, to_hex};
use crate::clock::{Clock, Entropy};
use crate::metrics::Stopwatch;

pub(super) use proto::span::SpanKind;

/// How many spans may wait to be sent; what comes on top is dropped and counted.
const WAITING_MAX: usize = 2_048;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `…_IS_REMOTE_MASK`.
const REMOTE_IS_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// Which calls are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Whether the caller's choice holds where there is one.
    pub follows_parent: bool,
    /// The part of all others, from 0 to 1.
    pub ratio: f64,
}

impl Sampler {
    fn takes(&self, draw: u64) -> bool {
        // Both have 53 bits, so the part of 1 takes all and that of 0 takes none.
        #[expect(clippy::cast_precision_loss, reason = "it is what the shift makes exact")]
        let draw = (draw >> 11) as f64 / (1_u64 << 53) as f64;
        draw < self.ratio
    }
}

/// Makes spans.
pub struct Tracer {
    sampler: Sampler,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    queue: mpsc::Sender<proto::Span>,
    dropped: AtomicU64,
}

impl Tracer {
    /// A tracer, and where its spans come out.
    #[must_use]
    pub fn new(
        sampler: Sampler,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> (Arc<Self>, mpsc::Receiver<proto::Span>) {
        let (queue, spans) = mpsc::channel(WAITING_MAX);
        let dropped = AtomicU64::new(0);
        (Arc::new(Self { sampler, clock, entropy, queue, dropped }), spans)
    }

    /// Spans that found no room in the queue, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The span of a call with these headers, if it is sampled.
    pub(super) fn server(self: &Arc<Self>, headers: &HeaderMap, name: &str) -> Option<Span> {
        let parent = Parent::read(headers);
        // One trace is drawn alike by all whom it passes.
        let draw = parent.as_ref().map_or_else(|| self.draw(), Parent::draw);
        let is_sampled = match &parent {
            Some(parent) if self.sampler.follows_parent => parent.is_sampled,
            Some(_) | None => self.sampler.takes(draw),
        };
        is_sampled.then(|| {
            let origin = parent.unwrap_or_else(|| self.root(draw));
            self.span(origin, IS_REMOTE, SpanKind::Server, name)
        })
    }

    /// A trace of our own. Its lower half is what it was drawn by, as samplers elsewhere expect.
    fn root(&self, draw: u64) -> Parent {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&self.entropy.number().to_be_bytes());
        trace_id[8..].copy_from_slice(&draw.to_be_bytes());
        Parent { trace_id, span_id: [0; 8], is_sampled: true, state: String::new() }
    }

    fn span(self: &Arc<Self>, parent: Parent, remote: u32, kind: SpanKind, name: &str) -> Span {
        let is_root = parent.span_id == [0; 8];
        let micros = u64::try_from(self.clock.now().micros()).unwrap_or(0);
        let record = proto::Span {
            trace_id: parent.trace_id.to_vec(),
            span_id: self.entropy.number().max(1).to_be_bytes().to_vec(),
            parent_span_id: if is_root { Vec::new() } else { parent.span_id.to_vec() },
            trace_state: parent.state,
            flags: SAMPLED | REMOTE_IS_KNOWN | if is_root { 0 } else { remote },
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: micros * 1_000,
            ..proto::Span::default()
        };
        Span { tracer: Arc::clone(self), record, watch: Stopwatch::start() }
    }

    /// 64 bits that need not be unguessable, without asking the operating system for each call.
    fn draw(&self) -> u64 {
        thread_local! {
            static STATE: Cell<u64> = const { Cell::new(0) };
        }
        let state = match STATE.get() {
            0 => self.entropy.number(),
            state => state,
        };
        // Steele, Lea, Flood: SplitMix64.
        let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        STATE.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// A span that is under way. It ends, and goes to the queue, when it is dropped.
pub struct Span {
    tracer: Arc<Tracer>,
    record: proto::Span,
    watch: Stopwatch,
}

impl Span {
    /// Notes a text.
    pub fn note(&mut self, name: &str, value: impl Into<String>) {
        self.set(name, any_value::Value::StringValue(value.into()));
    }

    /// Notes a number.
    pub fn note_number(&mut self, name: &str, value: impl Into<i64>) {
        self.set(name, any_value::Value::IntValue(value.into()));
    }

    /// Notes that it failed, and by which kind of error.
    pub fn fail(&mut self, kind: &str) {
        self.note("error.type", kind);
        let status = proto::Status { code: StatusCode::Error.into(), ..proto::Status::default() };
        self.record.status = Some(status);
    }

    /// Its trace and itself, as they are written.
    pub(super) fn ids(&self) -> (String, String) {
        (to_hex(&self.record.trace_id), to_hex(&self.record.span_id))
    }

    /// What the spans below it, and the lines of the log, go by.
    pub(super) fn context(&self) -> Context {
        let (trace_id, span_id) = self.ids();
        let log = tracing::error_span!("call", trace_id, span_id);
        let parent = Parent {
            trace_id: self.record.trace_id.as_slice().try_into().unwrap_or_default(),
            span_id: self.record.span_id.as_slice().try_into().unwrap_or_default(),
            is_sampled: true,
            state: self.record.trace_state.clone(),
        };
        Context { tracer: Arc::clone(&self.tracer), parent, log }
    }

    fn set(&mut self, name: &str, value: any_value::Value) {
        self.record.attributes.push(attribute(name, value));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut span = std::mem::take(&mut self.record);
        let took = u64::try_from(self.watch.elapsed().as_nanos()).unwrap_or(0);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took);
        if self.tracer.queue.try_send(span).is_err() {
            self.tracer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An attribute as OTLP has it.
pub(super) fn attribute(name: &str, value: any_value::Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

// === Within a call ===

tokio::task_local! {
    static CURRENT: Context;
}

/// The call that is being answered, when it is sampled.
#[derive(Clone)]
pub(super) struct Context {
    tracer: Arc<Tracer>,
    parent: Parent,
    log: tracing::Span,
}

impl Context {
    /// Does this as a part of the call.
    pub(super) async fn scope<F: Future>(self, work: F) -> F::Output {
        let log = self.log.clone();
        CURRENT.scope(self, work.instrument(log)).await
    }
}

/// Takes the call that is being answered along into another task.
pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let context = CURRENT.try_with(Clone::clone).ok();
    async move {
        match context {
            Some(context) => context.scope(work).await,
            None => work.await,
        }
    }
}

/// A span below the call that is being answered, if that is sampled: for what is asked of others.
#[must_use]
pub fn child(name: &str) -> Option<Span> {
    let context = CURRENT.try_with(Clone::clone).ok()?;
    Some(context.tracer.span(context.parent, 0, SpanKind::Client, name))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::clock::Timestamp;

    struct At(i64);

    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0)
        }
    }

    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(u8::try_from(self.0.fetch_add(1, Ordering::Relaxed) % 200).unwrap() + 1);
        }
    }

    fn tracer(follows_parent: bool, ratio: f64) -> (Arc<Tracer>, mpsc::Receiver<proto::Span>) {
        let sampler = Sampler { follows_parent, ratio };
        Tracer::new(sampler, Arc::new(At(5)), Arc::<Counting>::default())
    }

    fn headers(flags: &str) -> HeaderMap {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        HeaderMap::from_iter([
            (http::HeaderName::from_static("traceparent"), parent.parse().unwrap()),
            (http::HeaderName::from_static("tracestate"), "a=1".parse().unwrap()),
        ])
    }

    #[test]
    fn the_parent_decides_where_there_is_one() {
        let (never, mut spans) = tracer(true, 0.0);
        drop(never.server(&headers("01"), "A/B").unwrap());
        let span = spans.try_recv().unwrap();
        assert_eq!(to_hex(&span.parent_span_id), "b7ad6b7169203331");
        assert_eq!(to_hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&*span.trace_state, &*span.name, span.flags), ("a=1", "A/B", 0x301));
        assert_eq!(span.start_time_unix_nano, 5_000);
        assert!(never.server(&HeaderMap::new(), "A/B").is_none());
        let (always, _spans) = tracer(true, 1.0);
        assert!(always.server(&headers("00"), "A/B").is_none());
        let (deaf, _spans) = tracer(false, 1.0);
        assert!(deaf.server(&headers("00"), "A/B").is_some());
    }

    #[test]
    fn without_a_say_of_the_parent_its_trace_decides() {
        let (tracer, _spans) = tracer(false, 0.5);
        for (lower_half, is_sampled) in [("7fffffffffffffff", true), ("8000000000000000", false)] {
            let parent = format!("00-0af7651916cd43dd{lower_half}-b7ad6b7169203331-01");
            let name = http::HeaderName::from_static("traceparent");
            let headers = HeaderMap::from_iter([(name, parent.parse().unwrap())]);
            assert!((0..99).all(|_| tracer.server(&headers, "A/B").is_some() == is_sampled));
        }
    }

    #[test]
    fn a_part_of_the_rest_is_sampled() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.1, 800, 1_200), (1.0, 10_000, 10_000)] {
            let (tracer, _spans) = tracer(true, ratio);
            let none = HeaderMap::new();
            let count = (0..10_000).filter(|_| tracer.server(&none, "A/B").is_some()).count();
            assert!((least..=most).contains(&count), "{ratio}: {count}");
        }
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (tracer, mut spans) = tracer(true, 1.0);
        for _ in 0..WAITING_MAX + 3 {
            drop(tracer.server(&HeaderMap::new(), "A/B"));
        }
        assert_eq!(tracer.dropped(), 3);
        assert!(spans.try_recv().unwrap().parent_span_id.is_empty());
    }
}

//! Every metric there is: its names for Prometheus and for OpenTelemetry, its kind, unit, labels and meaning.
//!
//! `/metrics`, the export over OTLP and the test of `docs/telemetry.md` all go by this table.

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name on `/metrics`.
    pub name: &'static str,
    /// Its name in OpenTelemetry; a Prometheus behind a collector gives it the other one.
    pub otlp: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// The unit, in UCUM as OpenTelemetry has it.
    pub unit: &'static str,
    /// The names of its labels; a dot in one is an underscore on `/metrics`.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// What a metric's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number as it is now.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// Seconds. A hit takes less than the first few; who waits for the store is in the later ones; gateways
/// give up at 0.2.
pub const AUTHORIZE_BUCKETS: [f64; 16] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.05,
    0.1,
    0.25,
];
/// The same in nanoseconds: what the hot path compares.
pub(super) const AUTHORIZE_BUCKETS_NANOS: [u64; AUTHORIZE_BUCKETS.len()] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
];
/// Seconds, for what waits for a disk or a network.
pub const CALL_BUCKETS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal, $otlp:literal, $unit:literal, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Metric = Metric {
                name: $name,
                otlp: $otlp,
                kind: Kind::$kind,
                unit: $unit,
                labels: &$labels,
                help: $help,
            };
        )*

        /// All of them.
        pub static TABLE: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    AUTHORIZE_DECISIONS = Counter "latchkey_authorize_decisions_total", "latchkey.authorize.decisions",
        "{decision}", ["surface", "decision", "reason"],
        "Decisions, and questions that could not be decided, by where they were asked and why they came out so.";
    AUTHORIZE_DURATION = Histogram "latchkey_authorize_duration_seconds", "latchkey.authorize.duration",
        "s", ["surface", "cache"],
        "How long a decision took, from the whole question to the answer, by how the cache could help.";
    CALL_DURATION = Histogram "rpc_server_call_duration_seconds", "rpc.server.call.duration",
        "s", ["rpc.method", "rpc.response.status_code"],
        "How long calls of administration, health and reflection took, by method and status.";

    CACHE_REQUESTS = Counter "latchkey_cache_requests_total", "latchkey.cache.requests",
        "{request}", ["result"],
        "Decisions by what the cache knew of their key.";
    CACHE_ENTRIES = Gauge "latchkey_cache_entries", "latchkey.cache.entries",
        "{entry}", ["kind"],
        "What the cache holds: keys, the accounts they belong to, digests known to be nobody's, and (listed) how many keys it knows to be in the store, held or not.";
    CACHE_EVICTIONS = Counter "latchkey_cache_evictions_total", "latchkey.cache.evictions",
        "{entry}", [],
        "Keys dropped from the cache for want of room.";
    CACHE_COMPLETE = Gauge "latchkey_cache_complete", "latchkey.cache.complete",
        "1", [],
        "1 when every key of the store is in the cache.";

    FEED_POSITION = Gauge "latchkey_feed_position", "latchkey.feed.position",
        "{change}", [],
        "The number of the last change of the store that this node applied; absent when it knows nothing.";
    FEED_LAG_CHANGES = Gauge "latchkey_feed_lag_changes", "latchkey.feed.lag.changes",
        "{change}", [],
        "Changes committed here that this node has not applied yet.";
    FEED_LAG = Gauge "latchkey_feed_lag_seconds", "latchkey.feed.lag.time",
        "s", [],
        "For how long the store has been asked for what is new and has not told it; 0 when it told.";
    FEED_READ_AGE = Gauge "latchkey_feed_read_age_seconds", "latchkey.feed.read.age",
        "s", [],
        "The time since a read of the store was applied. An idle store is not read.";
    FEED_READS_GIVEN_UP = Counter "latchkey_feed_reads_given_up_total", "latchkey.feed.reads.given_up",
        "{read}", [],
        "Reads of the store that took too long.";
    FEED_FENCES = Counter "latchkey_feed_fences_total", "latchkey.feed.fences",
        "{fence}", [],
        "How often the store was found to have gone back in time or out of order.";
    FEED_UNREADABLE_ROWS = Counter "latchkey_feed_unreadable_rows_total", "latchkey.feed.unreadable_rows",
        "{row}", [],
        "Rows of the store that make no sense, or that a newer version wrote: nothing is allowed by them. Each is logged once; 1,000 are counted at most.";
    FEED_FILLS = Counter "latchkey_feed_fills_total", "latchkey.feed.fills",
        "{key}", [],
        "Keys that a read of the store looked up because somebody waited for them.";
    FEED_FILLING = Gauge "latchkey_feed_filling", "latchkey.feed.filling",
        "{request}", [],
        "Requests that wait for a key to be read from the store.";
    FEED_FILLS_REFUSED = Counter "latchkey_feed_fills_refused_total", "latchkey.feed.fills.refused",
        "{request}", ["cause"],
        "Requests whose key was not looked for: too many that nobody has are (admission), or too many requests wait (waiters).";

    VERIFIER_LOOKS = Counter "latchkey_verifier_looks_total", "latchkey.verifier.looks",
        "{look}", ["result"],
        "Keys that were changed a little while ago, compared with the store: they agree, nothing can be said, or a violation, which must never be.";

    LEASE_AGE = Gauge "latchkey_lease_age_seconds", "latchkey.lease.age",
        "s", [],
        "For how long what is cached may lack what other nodes changed; absent where there can be none.";
    LEASE_FRESH = Gauge "latchkey_lease_fresh", "latchkey.lease.fresh",
        "1", [],
        "1 while that is less than the policy's bound: every acknowledged change older than it is heeded here.";

    STORE_UP = Gauge "latchkey_store_up", "latchkey.store.up",
        "1", ["store"],
        "1 when the store did its part when it was last asked.";
    STORE_OPERATION_DURATION = Histogram "latchkey_store_operation_duration_seconds", "latchkey.store.operation.duration",
        "s", ["store", "operation", "outcome"],
        "How long operations of the store took, by how they ended.";

    REDIS_UP = Gauge "latchkey_redis_up", "latchkey.redis.up",
        "1", [],
        "1 while Redis is used, 0 while it is left alone; absent when none is configured.";
    REDIS_BREAKER_OPENINGS = Counter "latchkey_redis_breaker_openings_total", "latchkey.redis.breaker.openings",
        "{opening}", [],
        "How often Redis was left alone because calls came to nothing or took too long.";
    REDIS_LOOKUPS = Counter "latchkey_redis_lookups_total", "latchkey.redis.lookups",
        "{lookup}", ["result"],
        "Keys that were looked for in Redis, by what came of it.";
    REDIS_WRITES = Counter "latchkey_redis_writes_total", "latchkey.redis.writes",
        "{record}", ["result"],
        "Records that were to be kept in Redis, by what came of it.";
    REDIS_PUSHES = Counter "latchkey_redis_pushes_total", "latchkey.redis.pushes",
        "{message}", ["result"],
        "What nodes published of their changes, as it was heard here.";
    REDIS_OPERATION_DURATION = Histogram "latchkey_redis_operation_duration_seconds", "latchkey.redis.operation.duration",
        "s", ["operation", "outcome"],
        "How long calls of Redis took, by how they ended.";

    CONNECTIONS = Gauge "latchkey_connections", "latchkey.connections",
        "{connection}", ["listener"],
        "Connections open now.";
    CONNECTIONS_ACCEPTED = Counter "latchkey_connections_accepted_total", "latchkey.connections.accepted",
        "{connection}", ["listener"],
        "Connections accepted.";
    CONNECTIONS_ENDED = Counter "latchkey_connections_ended_total", "latchkey.connections.ended",
        "{connection}", ["listener", "cause"],
        "Connections that this side ended: of age, because the handshake took too long, because TLS was refused, because answers were not taken, or because frames or TLS records flooded it.";
    TLS_CERTIFICATE_EXPIRY = Gauge "latchkey_tls_certificate_expiry_timestamp_seconds", "latchkey.tls.certificate.expiry",
        "s", ["listener"],
        "When the certificate in use expires, in seconds since the Unix epoch.";
    TLS_RELOADS = Counter "latchkey_tls_reloads_total", "latchkey.tls.reloads",
        "{reload}", ["listener", "result"],
        "Changed certificate files by what became of them: taken, or refused because something in them is wrong.";

    TELEMETRY_SPANS = Counter "latchkey_telemetry_spans_total", "latchkey.telemetry.spans",
        "{span}", ["result"],
        "Spans by what became of them: sent, dropped for want of room, or failed to be sent.";
    TELEMETRY_EXPORTS = Counter "latchkey_telemetry_exports_total", "latchkey.telemetry.exports",
        "{export}", ["signal", "result"],
        "Attempts to export, by signal and success.";
    LOG_LINES_DROPPED = Counter "latchkey_log_lines_dropped_total", "latchkey.log.lines.dropped",
        "{line}", [],
        "Lines of the log that were dropped, because they were not read as fast as they came.";

    BUILD_INFO = Gauge "latchkey_build_info", "latchkey.build.info",
        "1", ["version", "revision"],
        "Always 1; the labels say what is running.";
    PROCESS_START_TIME = Gauge "process_start_time_seconds", "process.start_time",
        "s", [],
        "When the process was started, in seconds since the Unix epoch.";
    PROCESS_CPU = Counter "process_cpu_seconds_total", "process.cpu.time",
        "s", [],
        "The CPU time that the process used.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes", "process.memory.usage",
        "By", [],
        "The memory that the process has resident.";
    PROCESS_FILES = Gauge "process_open_fds", "process.unix.file_descriptor.count",
        "{file_descriptor}", [],
        "Open file descriptors.";
    PROCESS_FILES_MAX = Gauge "process_max_fds", "process.unix.file_descriptor.limit",
        "{file_descriptor}", [],
        "The most file descriptors that may be open.";
}

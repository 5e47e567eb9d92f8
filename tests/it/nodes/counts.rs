//! What a node counts itself.

use crate::support::Server;
use crate::telemetry::{READS_OF_POSTGRES, metric};

/// Numbers that only grow, save for the memory.
#[derive(Debug)]
pub(super) struct Counts {
    /// Questions about keys that were at hand, and about those that were not.
    pub(super) hits: f64,
    pub(super) misses: f64,
    /// Keys that reads of the store looked up.
    pub(super) fills: f64,
    /// Keys that were found in Redis.
    pub(super) redis_hits: f64,
    /// Reads of the store.
    pub(super) reads: f64,
    /// Bytes.
    pub(super) memory: f64,
}

impl Counts {
    pub(super) fn of(node: &Server) -> Self {
        let of = |name| metric(node, name);
        Self {
            hits: of("latchkey_cache_requests_total{result=\"hit\"}"),
            misses: of("latchkey_cache_requests_total{result=\"miss\"}"),
            fills: of("latchkey_feed_fills_total"),
            redis_hits: of("latchkey_redis_lookups_total{result=\"hit\"}"),
            reads: of(READS_OF_POSTGRES),
            memory: of("process_resident_memory_bytes"),
        }
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            fills: self.fills - earlier.fills,
            redis_hits: self.redis_hits - earlier.redis_hits,
            reads: self.reads - earlier.reads,
            memory: self.memory - earlier.memory,
        }
    }
}

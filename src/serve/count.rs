//! What is counted while serving, for the metrics to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The counts of one listener.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub open: Gauge,
    /// Connections accepted since the start.
    pub accepted: Counter,
    /// Connections dropped because they did not complete the handshake in time.
    pub handshake_timeouts: Counter,
    /// Connections dropped because they made no TLS: without a certificate that is trusted, of an old
    /// version, or in plaintext.
    pub tls_refused: Counter,
    /// Connections sent away because of their age, or because their certificate expired.
    pub aged: Counter,
    /// Connections dropped because the peer did not take its answers in time.
    pub answer_timeouts: Counter,
    /// Connections dropped because the peer sent too many frames, or TLS records, that ask for nothing.
    pub floods: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// How often it has been incremented since the start.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A number of things that are there now. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// How many there are.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more until the answer is dropped.
    pub(super) fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self.clone())
    }
}

/// One of the things that a [`Gauge`] counts.
#[derive(Debug)]
pub(super) struct Entered(Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

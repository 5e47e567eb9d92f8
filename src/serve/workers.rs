//! The threads that serve connections, each with a single-threaded runtime of its own.
//!
//! A connection and its calls stay on one thread: nothing is stolen, so nothing is shared between the
//! threads but what the service itself shares.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::count::{Entered, Gauge};

/// The serving threads. Clones are the same threads; they stop when the last clone is dropped.
#[derive(Clone)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    connections: Gauge,
    /// Dropped with the last handle, which ends the thread.
    _stop: oneshot::Sender<Infallible>,
}

impl Workers {
    /// Starts `threads` threads, or as many as the machine runs at once.
    pub fn start(threads: Option<NonZeroUsize>) -> io::Result<Self> {
        let threads = threads.map_or_else(thread::available_parallelism, Ok)?;
        let workers: io::Result<_> = (0..threads.get()).map(Worker::start).collect();
        Ok(Self(workers?))
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let worker =
            Self { runtime: runtime.handle().clone(), connections: Gauge::default(), _stop: stop };
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || runtime.block_on(stopped))?;
        Ok(worker)
    }
}

/// The seats of one listener on the threads.
pub(super) struct Seats {
    workers: Workers,
    taken: Vec<Gauge>,
    turn: usize,
}

/// A connection's claim on its thread.
pub(super) struct Seat {
    _of_listener: Entered,
    _of_worker: Entered,
}

impl Seats {
    pub(super) fn new(workers: Workers) -> Self {
        let taken = workers.0.iter().map(|_| Gauge::default()).collect();
        Self { workers, taken, turn: 0 }
    }

    /// A seat on the thread with the fewest connections of this listener, then of all listeners, then
    /// in turn: two connections are always on two threads.
    pub(super) fn take(&mut self) -> (Seat, Handle) {
        let Self { workers: Workers(workers), taken, turn } = self;
        let count = workers.len();
        let crowd = |index: &usize| (taken[*index].get(), workers[*index].connections.get());
        let in_turn = (0..count).map(|step| (*turn + step) % count);
        let index = in_turn.min_by_key(crowd).unwrap_or_default();
        *turn = index + 1;
        let seat = Seat {
            _of_listener: taken[index].enter(),
            _of_worker: workers[index].connections.enter(),
        };
        (seat, workers[index].runtime.clone())
    }
}

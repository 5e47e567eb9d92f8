//! Lines on their way to stderr: a thread of its own writes them.
//!
//! Nobody who has something to say waits for whoever reads it. A line that finds no room on the way is dropped and
//! counted, and that is told once there is room again.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// The most lines that wait to be written.
const LINES_MAX: usize = 8_192;
/// How long the last lines may take to be written when the process ends.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// Lines on their way. Dropping this waits, for a moment, until they are written.
pub(super) struct Lines {
    writer: NonBlocking,
    worker: Option<WorkerGuard>,
}

/// How many lines found no room; a cheap handle.
#[derive(Clone)]
pub struct LinesDropped(ErrorCounter);

impl LinesDropped {
    /// Since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.dropped_lines() as u64
    }
}

impl Lines {
    /// Lines to here.
    pub(super) fn to(out: impl Write + Send + 'static) -> Self {
        let dropped = Arc::new(OnceLock::new());
        let (writer, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name("log")
            .finish(Telling { out, dropped: Arc::clone(&dropped), told: 0 });
        let lines = Self { writer, worker: Some(worker) };
        // Set once, here.
        let _ = dropped.set(lines.dropped());
        lines
    }

    /// Where lines are put.
    pub(super) fn writer(&self) -> NonBlocking {
        self.writer.clone()
    }

    pub(super) fn dropped(&self) -> LinesDropped {
        LinesDropped(self.writer.error_counter())
    }
}

impl Drop for Lines {
    /// On a thread of its own, for where nobody reads stderr the library says so on stdout, and perhaps nobody reads
    /// that either.
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        let worker = self.worker.take();
        let flush = move || {
            drop(worker);
            let _ = done.send(());
        };
        if thread::Builder::new().spawn(flush).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIME_MAX);
        }
    }
}

/// Writes lines, and tells of those that were dropped.
struct Telling<W> {
    out: W,
    dropped: Arc<OnceLock<LinesDropped>>,
    told: u64,
}

impl<W: Write> Write for Telling<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    /// Comes when no line waits any more, so there is room to tell.
    fn flush(&mut self) -> io::Result<()> {
        let dropped = self.dropped.get().map_or(0, LinesDropped::count);
        if dropped > self.told {
            let lines = dropped - self.told;
            tracing::warn!(
                lines,
                "lines of the log were dropped: they were not read as fast as they came"
            );
            self.told = dropped;
        }
        self.out.flush()
    }
}

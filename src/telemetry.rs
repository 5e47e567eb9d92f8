//! What latchkey tells of itself: its log, its metrics over OTLP, and the traces it takes part in.
//!
//! A call that is not sampled costs two looks at the clock and a few counts; nothing here is waited for
//! by a decision. What cannot be told is dropped and counted.

pub use self::export::{Exporter, Exporting, Numbers, Protocol, Scrape};
pub use self::log::{LinesDropped, LogLevels, Logging, start};
pub use self::observer::{CallWatch, DecisionWatch, Ended, Observer};
pub use self::trace::{Sampler, Span, Tracer, carry, child};

pub mod log;

mod observer;

mod context;
mod trace;

mod export;
mod otlp;
mod wire;

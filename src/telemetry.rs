//! Logging: what is written to stderr, and how.
//!
//! Other crates are held at `warn` whatever the level: at `debug`, HTTP libraries write headers, and so tokens.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, FormatFields, Writer};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry;

use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging to stderr for the whole process. A second call changes nothing.
pub fn start(log: &Log) {
    let terminal = io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let targets = targets(log.level);
    // Fails where a subscriber was set before, which is then the one to keep.
    let _ = if text {
        let subscriber = registry().with(text_layer(io::stderr, terminal).with_filter(targets));
        tracing::subscriber::set_global_default(subscriber)
    } else {
        let subscriber = registry().with(json_layer(io::stderr).with_filter(targets));
        tracing::subscriber::set_global_default(subscriber)
    };
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(own.min(LevelFilter::WARN)).with_target("latchkey", own)
}

fn text_layer<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .fmt_fields(escaping_fields())
        .with_writer(writer)
}

fn json_layer<S, W>(writer: W) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer)
}

/// Fields as `name=value`. Control characters are escaped, so that no value can begin a line of its
/// own or move the cursor.
fn escaping_fields() -> impl for<'a> FormatFields<'a> + 'static {
    use tracing_subscriber::field::MakeExt as _;

    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(writer, "{}=", field.name())?;
        }
        let value = format!("{value:?}");
        value.chars().try_for_each(|char| {
            if crate::policy::has_unprintable(char.encode_utf8(&mut [0; 4])) {
                write!(writer, "{}", char.escape_default())
            } else {
                writer.write_char(char)
            }
        })
    };
    format::debug_fn(write).delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_value_cannot_begin_a_line_or_colour_the_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = registry().with(text_layer(move || writer.clone(), false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(name = %"a\nb\u{1b}[31m", "told");
        });
        let text = lines.text();
        assert!(text.ends_with("told name=a\\nb\\u{1b}[31m\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_has_one_object_on_a_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = registry().with(json_layer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(name = %"a\nb", "told");
        });
        let event: serde_json::Value = serde_json::from_str(lines.text().trim_end()).unwrap();
        assert_eq!((&event["message"], &event["name"]), (&"told".into(), &"a\nb".into()));
        assert_eq!(event["level"], "INFO");
    }

    #[test]
    fn other_crates_are_held_at_warn() {
        let targets = targets(LogLevel::Trace);
        assert!(targets.would_enable("latchkey::serve", &tracing::Level::TRACE));
        assert!(!targets.would_enable("h2::codec", &tracing::Level::INFO));
        assert!(!self::targets(LogLevel::Error).would_enable("h2", &tracing::Level::WARN));
    }
}

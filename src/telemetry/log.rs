//! Logging: what is written to stderr, and how.
//!
//! Other crates are held at `warn` whatever the level: at `debug`, HTTP libraries write headers, and so tokens.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{self, FormatFields, Writer};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, registry, reload};

use self::lines::Lines;
pub use self::lines::LinesDropped;
use crate::config::{Log, LogFormat, LogLevel};

mod lines;

/// The log at work. What waits to be written is written when this is dropped, also by a panic.
pub struct Logging {
    levels: LogLevels,
    lines: Lines,
}

impl Logging {
    /// The hold on what is logged.
    #[must_use]
    pub fn levels(&self) -> LogLevels {
        self.levels.clone()
    }

    /// How many lines found no room on their way.
    #[must_use]
    pub fn lines_dropped(&self) -> LinesDropped {
        self.lines.dropped()
    }
}

/// Starts logging to stderr for the whole process. A second call changes nothing, and what it gives has no
/// effect.
#[must_use]
pub fn start(log: &Log) -> Logging {
    let terminal = io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let lines = Lines::to(io::stderr());
    let levels = Levels::from(log.level);
    let (filter, reload) = reload::Layer::new(levels.targets());
    // Fails where a subscriber was set before, which is then the one to keep.
    let _ = if text {
        let layer = text_layer(lines.writer(), terminal).boxed().with_filter(filter);
        tracing::subscriber::set_global_default(registry().with(layer))
    } else {
        let layer = json_layer(lines.writer()).boxed().with_filter(filter);
        tracing::subscriber::set_global_default(registry().with(layer))
    };
    Logging { levels: LogLevels { reload, now: Arc::new(Mutex::new(levels)) }, lines }
}

/// The hold on what is logged; a cheap handle.
#[derive(Clone)]
pub struct LogLevels {
    reload: reload::Handle<Targets, Registry>,
    now: Arc<Mutex<Levels>>,
}

impl LogLevels {
    /// What is logged now, as [`LogLevels::set`] takes it.
    #[must_use]
    pub fn shown(&self) -> String {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).to_string()
    }

    /// Changes what is logged: `info`, or `info,latchkey::feed=debug`. The error says what is wrong and
    /// what would be right.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let levels = Levels::parse(text)?;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = (now.to_string(), levels.to_string());
        let tell = || tracing::warn!(before, after, "the log level is changed");
        // On the side of the change on which the line is written, if there is one.
        let is_heard = now.own >= LevelFilter::WARN;
        if is_heard {
            tell();
        }
        self.reload.reload(levels.targets()).map_err(|error| error.to_string())?;
        if !is_heard {
            tell();
        }
        *now = levels;
        Ok(())
    }
}

/// The least severe events that are logged: of latchkey, and of parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    own: LevelFilter,
    parts: Vec<(String, LevelFilter)>,
}

/// The most parts that can be named.
const PARTS_MAX: usize = 16;

impl Levels {
    /// Other crates cannot be named: at `debug`, HTTP libraries write headers, and so tokens.
    fn parse(text: &str) -> Result<Self, String> {
        const RIGHT: &str = "write a level (error, warn, info, debug or trace), and after it parts of \
                             latchkey with levels of their own: info,latchkey::feed=debug";
        let mut words = text.trim().split(',').map(str::trim);
        let own = words.next().and_then(level);
        let own = own.ok_or_else(|| format!("{} is no level: {RIGHT}", quoted(text)))?;
        let mut parts = Vec::new();
        for word in words {
            let Some((part, level)) = word.split_once('=').map(|(part, of)| (part, level(of)))
            else {
                return Err(format!("{} names no part and level: {RIGHT}", quoted(word)));
            };
            let is_ours = part == "latchkey" || part.starts_with("latchkey::");
            let is_path =
                part.chars().all(|char| char.is_ascii_alphanumeric() || ":_".contains(char));
            if !is_ours || !is_path {
                return Err(format!(
                    "{} is no part of latchkey, and of others no more is logged, because they would \
                     write what is secret: {RIGHT}",
                    quoted(part)
                ));
            }
            let level =
                level.ok_or_else(|| format!("{} has no such level: {RIGHT}", quoted(word)))?;
            parts.push((part.to_owned(), level));
        }
        if parts.len() > PARTS_MAX {
            return Err(format!("{} parts are too many; {PARTS_MAX} can be named", parts.len()));
        }
        Ok(Self { own, parts })
    }

    fn targets(&self) -> Targets {
        Targets::new()
            .with_default(self.own.min(LevelFilter::WARN))
            // What these warn of, a peer can do a million times.
            .with_targets([("h2", LevelFilter::ERROR), ("hyper", LevelFilter::ERROR)])
            .with_target("latchkey", self.own)
            .with_targets(self.parts.iter().cloned())
    }
}

fn quoted(text: &str) -> String {
    crate::token::quoted(text)
}

fn level(word: &str) -> Option<LevelFilter> {
    match word {
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

impl From<LogLevel> for Levels {
    fn from(level: LogLevel) -> Self {
        let own = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        Self { own, parts: Vec::new() }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.own)?;
        self.parts.iter().try_for_each(|(part, level)| write!(f, ",{part}={level}"))
    }
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
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(writer)
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
        let targets = Levels::from(LogLevel::Trace).targets();
        assert!(targets.would_enable("latchkey::serve", &tracing::Level::TRACE));
        assert!(!targets.would_enable("h2::codec", &tracing::Level::INFO));
        let errors = Levels::from(LogLevel::Error).targets();
        assert!(!errors.would_enable("h2", &tracing::Level::WARN));
    }

    #[test]
    fn levels_are_read_as_they_are_shown() {
        for text in ["info", "warn,latchkey::feed=debug,latchkey::store=trace"] {
            assert_eq!(Levels::parse(text).unwrap().to_string(), text);
        }
        let targets = Levels::parse("error,latchkey::feed=debug").unwrap().targets();
        assert!(targets.would_enable("latchkey::feed", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("latchkey::serve", &tracing::Level::WARN));
    }

    #[test]
    fn levels_that_are_none_or_would_write_secrets_are_refused() {
        for bad in [
            "",
            "loud",
            "info,",
            "info,latchkey::feed",
            "info,h2=trace",
            "latchkey=info",
            "info,latchkeyx=trace",
            "info,latchkey::a b=info",
            "info,latchkey::feed=loud",
        ] {
            let told = Levels::parse(bad).unwrap_err();
            assert!(told.contains("info,latchkey::feed=debug"), "{bad}: {told}");
        }
        let many = format!("info{}", ",latchkey::feed=debug".repeat(17));
        assert!(Levels::parse(&many).is_err());
    }
}

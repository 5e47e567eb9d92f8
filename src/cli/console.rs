//! What is written to stdout and stderr, what is asked, and the exit code that follows from it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, ValueEnum};
use prost::{Message, Name};

use super::table::{Table, Tone};
use super::tree::Tree;
use super::{Environment, Outcome, time};
use crate::failure::{Failure, Failures};
use crate::policy::has_unprintable;
use crate::token;

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    Always,
    Never,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people
    Table,
    /// For programs: protobuf's JSON, as grpcurl prints it
    Json,
}

/// How an answer is to look.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArguments {
    /// The form of the answer
    #[arg(long, short, value_name = "FORM", value_enum, default_value_t = Form::Table)]
    pub(super) output: Form,
}

/// Stdout and stderr. What could not be written is remembered, and makes the command fail.
#[derive(Debug)]
pub(super) struct Console {
    lost: Option<io::Error>,
    colours_out: bool,
    colours_err: bool,
    has_progress: bool,
}

impl Console {
    /// Colours as wished for, and as the environment allows.
    pub(super) fn new(colour: Colour, environment: &Environment) -> Self {
        let environment: HashMap<&OsString, &OsString> =
            environment.iter().map(|(name, value)| (name, value)).collect();
        let value =
            |name: &str| environment.get(&OsString::from(name)).map(|value| value.as_os_str());
        let is_plain = value("NO_COLOR").is_some_and(|value| !value.is_empty())
            || value("TERM") == Some(OsStr::new("dumb"));
        let colours = |is_terminal: bool| match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && !is_plain,
        };
        Self {
            lost: None,
            colours_out: colours(io::stdout().is_terminal()),
            colours_err: colours(io::stderr().is_terminal()),
            has_progress: false,
        }
    }

    /// Writes an answer to stdout; a line break is added.
    pub(super) fn answer(&mut self, text: &str) {
        self.write(&printable(text.trim_end()));
    }

    /// Writes a document to stdout.
    pub(super) fn json(&mut self, tree: &Tree) {
        self.write(&tree.to_json());
    }

    /// Writes an answer to stdout: the whole of it for programs, for people the record in it.
    pub(super) fn show<A: Message + Name, R: Message + Name>(
        &mut self,
        answer: &A,
        record: Option<&R>,
        output: OutputArguments,
    ) {
        match output.output {
            Form::Json => self.json(&Tree::of(answer)),
            Form::Table => {
                self.answer_rows(&record.map(|it| Tree::of(it).rows()).unwrap_or_default());
            }
        }
    }

    /// Whether something of the answer could not be written, for whatever reason.
    pub(super) const fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Writes a document in one line to stdout.
    pub(super) fn line(&mut self, tree: &Tree) {
        self.write(&tree.to_json_line());
    }

    /// Writes names and values to stdout, in two columns.
    pub(super) fn answer_rows<N: AsRef<str>>(&mut self, rows: &[(N, String)]) {
        let mut table = Table::without_head();
        for (name, value) in rows {
            let tone = Tone::of_word(value);
            table.row([(name.as_ref().to_owned(), Tone::Faint), (value.clone(), tone)]);
        }
        self.table(&table);
    }

    /// Writes a table to stdout.
    pub(super) fn table(&mut self, table: &Table) {
        let text = table.render(self.colours_out);
        self.write(text.trim_end_matches('\n'));
    }

    fn write(&mut self, text: &str) {
        self.end_progress();
        let mut stdout = io::stdout().lock();
        let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
        if let Err(error) = written {
            self.lost.get_or_insert(error);
        }
    }

    /// Writes something beside the answer to stderr.
    pub(super) fn note(&mut self, text: &str) {
        self.end_progress();
        // When stderr is gone, nobody wants notes.
        drop(writeln!(io::stderr(), "{}", printable(text)));
    }

    /// Says how far long work has come; each time in place of the last. Only where somebody watches.
    pub(super) fn progress(&mut self, text: &str) {
        if io::stderr().is_terminal() {
            self.has_progress = true;
            drop(write!(io::stderr(), "\r\u{1b}[K{}", printable(text)));
        }
    }

    fn end_progress(&mut self) {
        if std::mem::take(&mut self.has_progress) {
            drop(write!(io::stderr(), "\r\u{1b}[K"));
        }
    }

    /// Asks whether to go on with what cannot be undone. Without a terminal nobody can be asked.
    pub(super) fn confirm(&mut self, question: &str) -> Result<(), Failure> {
        self.end_progress();
        // Stdin may carry a token; the terminal is asked itself.
        let terminal = io::stderr().is_terminal().then(|| File::open("/dev/tty").ok()).flatten();
        let Some(terminal) = terminal else {
            let message = format!(
                "not done: this needs a yes, and there is no terminal to ask at: {question}"
            );
            return Err(Failure::new(message).help("say --yes if it is what you want"));
        };
        let ask = format!("{} [y/N] ", printable(question));
        drop(write!(io::stderr(), "{}", Tone::Warn.paint(&ask, self.colours_err)));
        let mut answer = String::new();
        // An answer that cannot be read is none.
        drop(BufReader::new(terminal.take(1_024)).read_line(&mut answer));
        if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new("not done: the answer was not yes"))
    }

    /// Writes each failure to stderr, and what to do.
    pub(super) fn failures(&mut self, failures: &Failures) {
        self.end_progress();
        let (error, help) = (
            Tone::Bad.paint("error:", self.colours_err),
            Tone::Good.paint("help:", self.colours_err),
        );
        let mut stderr = io::stderr().lock();
        for failure in &failures.0 {
            // When stderr is gone as well, the exit code has to do.
            let message = token::without_tokens(&failure.message);
            drop(writeln!(stderr, "{error} {}", printable(&message)));
            if let Some(text) = &failure.help {
                drop(writeln!(stderr, "{help} {}", printable(&token::without_tokens(text))));
            }
        }
    }

    /// Writes what clap has to say, which may repeat an argument.
    pub(super) fn misunderstood(mut error: clap::Error) {
        if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
            && error.kind() == ErrorKind::UnknownArgument
            && time::span(word).is_ok()
        {
            let tip =
                format!("a span that may be left out is written with `=`, as in --wait={word}");
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        let text = error.render().to_string();
        let shown = token::without_tokens(&text);
        // Nobody is left to hear that it could not be printed.
        drop(if shown == text { error.print() } else { write!(io::stderr(), "{shown}") });
    }

    /// The exit code, after what went wrong was written.
    pub(super) fn finish(mut self, outcome: Outcome) -> ExitCode {
        let code = outcome.unwrap_or_else(|failures| {
            self.failures(&failures);
            ExitCode::FAILURE
        });
        match self.lost.take() {
            // Whoever reads, as in `latchkey config show | head`, has enough.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
            Some(error) => {
                drop(writeln!(io::stderr(), "error: cannot write to stdout: {error}"));
                ExitCode::FAILURE
            }
            None => code,
        }
    }
}

/// The text with characters escaped that could play with a terminal: some of it comes from files and servers.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, char| {
        if char != '\n' && has_unprintable(char.encode_utf8(&mut [0; 4])) {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_play_with_the_terminal() {
        assert_eq!(printable("a\nb\u{1b}[2J\u{202e}"), "a\nb\\u{1b}[2J\\u{202e}");
    }
}

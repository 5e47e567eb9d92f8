//! What is written to stdout and stderr, and the exit code that follows from it.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::Outcome;
use crate::failure::Failures;
use crate::policy::has_unprintable;

/// Stdout and stderr. What could not be written is remembered, and makes the command fail.
#[derive(Debug, Default)]
pub(super) struct Console {
    lost: Option<io::Error>,
}

impl Console {
    /// Writes an answer to stdout; a line break is added.
    pub(super) fn answer(&mut self, text: &str) {
        let mut stdout = io::stdout().lock();
        let written =
            writeln!(stdout, "{}", printable(text.trim_end())).and_then(|()| stdout.flush());
        if let Err(error) = written {
            self.lost.get_or_insert(error);
        }
    }

    /// Writes names and values to stdout, in two columns.
    pub(super) fn answer_rows(&mut self, rows: &[(&str, String)]) {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in rows {
            self.answer(&format!("{name:width$}  {value}"));
        }
    }

    /// Writes each failure to stderr, and what to do.
    pub(super) fn failures(failures: &Failures) {
        let mut stderr = io::stderr().lock();
        for failure in &failures.0 {
            // When stderr is gone as well, the exit code has to do.
            drop(writeln!(stderr, "error: {}", printable(&failure.message)));
            if let Some(help) = &failure.help {
                drop(writeln!(stderr, "help: {}", printable(help)));
            }
        }
    }

    /// The exit code, after what went wrong was written.
    pub(super) fn finish(mut self, outcome: Outcome) -> ExitCode {
        let code = outcome.unwrap_or_else(|failures| {
            Self::failures(&failures);
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
fn printable(text: &str) -> String {
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

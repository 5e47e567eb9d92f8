//! What a person at a terminal is told: what went wrong, and what to do next.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a command or a start was refused. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, without a full stop; shown after `error: `.
    pub message: String,
    /// What to do next; shown after `help: `.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with no advice.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    /// What was being done, and the error it ended with, its causes included.
    #[must_use]
    pub fn of(doing: impl fmt::Display, error: &dyn Error) -> Self {
        Self::new(format!("{doing}: {}", chain(error)))
    }

    /// A file that was named could not be read.
    #[must_use]
    pub fn reading(what: impl fmt::Display, error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, IsADirectory, NotFound, PermissionDenied};
        Self::of(format!("cannot read {what}"), error).help(match error.kind() {
            NotFound => {
                "name a file that is there; a relative path starts in the working directory"
            }
            PermissionDenied => {
                "give this user the right to read the file, and to enter its folder"
            }
            IsADirectory => "name a file in the folder",
            InvalidData => "write it as UTF-8 text",
            FileTooLarge => "name the right file; none that is right is so large",
            _ => "name a file that can be read",
        })
    }

    /// The same failure, with what it is about in front of it.
    #[must_use]
    pub fn about(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), help: self.help }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

impl Error for Failure {}

/// Why a command or a start was refused, every fault at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures(pub Vec<Failure>);

impl Failures {
    /// Fails when anything was noted.
    pub fn finish(noted: Vec<Failure>) -> Result<(), Self> {
        if noted.is_empty() { Ok(()) } else { Err(Self(noted)) }
    }
}

impl From<Failure> for Failures {
    fn from(failure: Failure) -> Self {
        Self(vec![failure])
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&failures.join("; "))
    }
}

impl Error for Failures {}

/// An error and its causes, each said once: many libraries repeat the cause in the error's own text.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

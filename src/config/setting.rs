//! One field of the configuration: what it takes, from a file or as text, and how it is shown.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::gateway::{CredentialHeaders, Networks};
use crate::grpc::{CallerNames, InvalidCallerName};
use crate::serve::Listen;

/// A field that can be given a value and shown.
pub(super) trait Setting {
    /// Takes a value, or says what would be right.
    fn set(&mut self, given: Given<'_>) -> Result<(), String>;

    /// What it is now.
    fn shown(&self) -> Shown;

    /// Whether a wrong value may be repeated in the error.
    fn may_be_repeated(&self) -> bool {
        true
    }
}

/// A value on its way into a field.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// From the file, with a type of its own.
    Toml(&'a toml::Value),
    /// From the environment or a flag, where everything is text.
    Text(&'a str),
}

/// A field as it is shown.
pub(super) enum Shown {
    /// TOML.
    Value(String),
    /// A secret, which is not shown.
    Hidden,
    /// Nothing was given, and there is no default.
    Absent,
}

impl<'a> Given<'a> {
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Text(text) => Some(text),
        }
        .filter(|text| !text.is_empty())
    }

    /// Texts in an array, or between commas.
    fn list(self) -> Option<Vec<&'a str>> {
        match self {
            Self::Toml(value) => value.as_array()?.iter().map(toml::Value::as_str).collect(),
            Self::Text(text) => Some(text.split(',').map(str::trim).collect()),
        }
    }

    /// The value and its kind, for an error.
    pub(super) fn described(self) -> String {
        match self {
            Self::Toml(value) => match value {
                toml::Value::Table(_) => "a table".to_owned(),
                toml::Value::Array(_) => "an array".to_owned(),
                toml::Value::String(_) => format!("the string {}", shortened(&value.to_string())),
                _ => format!("the {} {value}", value.type_str()),
            },
            Self::Text(text) => format!("{:?}", shortened(text)),
        }
    }

    /// The kind alone, for an error about a secret.
    pub(super) fn kind(self) -> String {
        match self {
            Self::Toml(value) => format!("a value of type {}", value.type_str()),
            Self::Text("") => "nothing".to_owned(),
            Self::Text(_) => "another text".to_owned(),
        }
    }
}

/// The first characters of a text, for an error.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

pub(super) fn quoted(text: &str) -> Shown {
    Shown::Value(toml::Value::String(text.to_owned()).to_string())
}

fn list(texts: impl Iterator<Item = String>) -> Shown {
    Shown::Value(toml::Value::Array(texts.map(toml::Value::String).collect()).to_string())
}

impl Setting for String {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        given.text().ok_or("a string that is not empty")?.clone_into(self);
        Ok(())
    }

    fn shown(&self) -> Shown {
        quoted(self)
    }
}

impl Setting for Option<PathBuf> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str = "the path of a file, as a string, and not what is in the file";
        let path = given.text().filter(|text| !text.contains('\n')).ok_or(RIGHT)?;
        *self = Some(path.into());
        Ok(())
    }

    /// It may be a private key, given in place of its path.
    fn may_be_repeated(&self) -> bool {
        false
    }

    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Absent, |path| quoted(&path.display().to_string()))
    }
}

impl Setting for CallerNames {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        let names = given.list().ok_or(InvalidCallerName).and_then(Self::read);
        *self = names.map_err(|error| format!("a list of {error}, between commas as text"))?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        list(self.iter())
    }
}

impl Setting for CredentialHeaders {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str = "a list of names of headers, 8 at most, each of letters, digits and `-` and none of them \
                             `authorization`, between commas as text";
        *self = given.list().and_then(Self::read).ok_or(RIGHT)?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        list(self.iter().map(ToString::to_string))
    }
}

impl Setting for Networks {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str = "a list of addresses and networks (192.0.2.7, 192.0.2.0/24, 2001:db8::/32), IPv4 not \
                             written as IPv6, 64 at most, between commas as text";
        *self = given.list().and_then(Self::read).ok_or(RIGHT)?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        list(self.iter().map(ToString::to_string))
    }
}

impl Setting for Option<SecretString> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        *self = Some(given.text().ok_or("a string that is not empty")?.into());
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Absent, |_| Shown::Hidden)
    }

    fn may_be_repeated(&self) -> bool {
        false
    }
}

impl Setting for u64 {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        let number = match given {
            Given::Toml(value) => value.as_integer().and_then(|number| number.try_into().ok()),
            // As TOML does, and as the defaults are written.
            Given::Text(text) => text.replace('_', "").parse().ok(),
        };
        *self = number.ok_or("a whole number, 0 or more")?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        Shown::Value(self.to_string())
    }
}

impl Setting for bool {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        let value = match given {
            Given::Toml(value) => value.as_bool(),
            Given::Text(text) => text.parse().ok(),
        };
        *self = value.ok_or("true or false")?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        Shown::Value(self.to_string())
    }
}

impl Setting for Listen {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        const RIGHT: &str = "IP:PORT (127.0.0.1:50051, [::1]:50051), unix:PATH or off, as a string";
        *self = given.text().and_then(|text| text.parse().ok()).ok_or(RIGHT)?;
        Ok(())
    }

    fn shown(&self) -> Shown {
        quoted(&self.to_string())
    }
}

/// The store's URL. It may hold a password, so only [`StoreUrl::expose`] shows all of it.
#[derive(PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// The whole URL: for opening the store.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file that the store is kept in, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.strip_prefix("sqlite://").map(Path::new)
    }

    /// The kind of database, as OpenTelemetry calls it.
    #[must_use]
    pub fn system(&self) -> &'static str {
        if self.file().is_some() { "sqlite" } else { "postgresql" }
    }
}

impl From<String> for StoreUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl Default for StoreUrl {
    fn default() -> Self {
        Self("sqlite://latchkey.db".to_owned())
    }
}

impl fmt::Display for StoreUrl {
    /// The URL without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_passwords(&self.0))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({:?})", without_passwords(&self.0))
    }
}

impl Setting for StoreUrl {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        given.text().ok_or("sqlite://PATH or postgres://…, as a string")?.clone_into(&mut self.0);
        Ok(())
    }

    fn shown(&self) -> Shown {
        quoted(&self.to_string())
    }

    fn may_be_repeated(&self) -> bool {
        false
    }
}

/// Hides what stands after the user's name, and the values of parameters that are called passwords.
pub(super) fn without_passwords(url: &str) -> String {
    const HIDDEN: &str = "[hidden]";
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last `@`: a password may hold one that nobody escaped.
    let rest = match rest.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
        Some((Some((name, _)), host)) => format!("{name}:{HIDDEN}@{host}"),
        Some((None, _)) | None => rest.to_owned(),
    };
    let Some((place, query)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let shown: Vec<_> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("pass") => {
                format!("{name}={HIDDEN}")
            }
            Some(_) | None => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{place}?{}", shown.join("&"))
}

/// A field that takes one of a few words.
pub(super) trait Words: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn read(given: Given<'_>) -> Result<Self, String> {
        let word = given.text();
        let found = Self::ALL.iter().find(|(name, _)| Some(*name) == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("one of {}", names.join(", "))
        })
    }

    fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, value)| *value == self);
        found.map_or("", |(name, _)| name)
    }
}

/// Who may ask for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Whoever can connect.
    Any,
    /// Whoever sends a key of their own with `latchkey:authorize`.
    Key,
    /// Whoever has a client certificate that is trusted.
    Mtls,
}

impl Words for Callers {
    const ALL: &'static [(&'static str, Self)] =
        &[("any", Self::Any), ("key", Self::Key), ("mtls", Self::Mtls)];
}

impl Setting for Option<Callers> {
    fn set(&mut self, given: Given<'_>) -> Result<(), String> {
        *self = Some(Callers::read(given)?);
        Ok(())
    }

    fn shown(&self) -> Shown {
        self.map_or(Shown::Absent, |callers| quoted(callers.word()))
    }
}

/// The least severe events that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// What someone has to look at.
    Error,
    /// What someone may have to look at.
    Warn,
    /// Starting, stopping, and what changes in between.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl Words for LogLevel {
    const ALL: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// A line for people.
    Text,
    /// A JSON object on a line.
    Json,
}

impl Words for LogFormat {
    const ALL: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("text", Self::Text), ("json", Self::Json)];
}

macro_rules! setting_of_words {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn set(&mut self, given: Given<'_>) -> Result<(), String> {
                *self = <$type>::read(given)?;
                Ok(())
            }

            fn shown(&self) -> Shown {
                quoted(self.word())
            }
        }
    )*};
}

pub(super) use setting_of_words;

setting_of_words!(LogLevel, LogFormat);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_a_url_are_not_shown() {
        for (url, shown) in [
            ("sqlite:///var/lib/latchkey.db", "sqlite:///var/lib/latchkey.db"),
            ("postgres://me:s3@cr/et@db:5432/keys", "postgres://me:[hidden]@db:5432/keys"),
            ("postgres://me@db/keys", "postgres://me@db/keys"),
            (
                "postgres://db/keys?user=me&password=s3cret",
                "postgres://db/keys?user=me&password=[hidden]",
            ),
        ] {
            assert_eq!(StoreUrl(url.to_owned()).to_string(), shown);
            assert!(!format!("{:?}", StoreUrl(url.to_owned())).contains("s3"));
        }
    }
}

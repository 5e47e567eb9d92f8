//! Reads the layers, lowest first, and remembers where each value came from.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use super::Config;
use super::setting::{Given, Shown};
use super::telemetry::{STANDARD, STANDARD_OFF};
use crate::bounded::read_file_text;
use crate::failure::{Failure, Failures};
use crate::policy::catalogue::nearest;
use crate::token;

const PREFIX: &str = "LATCHKEY__";
const FILE_SUFFIX: &str = "_FILE";

/// What a configuration is made of.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment; only names that begin with `LATCHKEY__` are looked at, and a few of OpenTelemetry's.
    pub environment: Vec<(OsString, OsString)>,
    /// Values from the command line.
    pub flags: Vec<Flag>,
}

/// A value from the command line.
#[derive(Debug)]
pub struct Flag {
    /// How it is written, as in `--store-url`.
    pub name: &'static str,
    /// The field it sets, as in `store.url`.
    pub path: &'static str,
    /// What it sets it to.
    pub value: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A configuration, and where what is not a default came from.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where the values came from, by path; what is absent is a default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Which of OpenTelemetry's variables are passed over, why, and what holds instead.
    pub passed_over: Vec<String>,
}

impl Config {
    /// Reads the layers; every fault is told at once. The rules between fields are left to
    /// [`Config::check`].
    pub fn load(sources: &Sources) -> Result<Loaded, Failures> {
        let mut loading = Loading::default();
        let passed_over = loading.read_standard(&sources.environment);
        if let Some(path) = &sources.file {
            loading.read_file(path);
        }
        loading.read_environment(&sources.environment);
        for Flag { name, path, value } in &sources.flags {
            loading.set(path, Given::Text(value), &Origin::Flag(name));
        }
        Failures::finish(loading.failures)?;
        let mut loaded = loading.loaded;
        loaded.passed_over =
            passed_over.into_iter().filter_map(|it| it.told(&mut loaded.config)).collect();
        Ok(loaded)
    }

    /// The path of every field.
    pub(super) fn paths() -> Vec<&'static str> {
        Self::default().settings().into_iter().map(|(path, _)| path).collect()
    }
}

/// A variable of OpenTelemetry's whose value cannot be taken.
struct PassedOver {
    name: &'static str,
    path: &'static str,
    text: String,
}

impl PassedOver {
    /// Why, and what holds instead, in this configuration.
    fn told(self, config: &mut Config) -> Option<String> {
        let Self { name, path, text } = self;
        let given = Given::Text(&text);
        let right = standard_fault(path, given).unwrap_or_else(|| "UTF-8".to_owned());
        let (_, setting) = config.settings().into_iter().find(|(known, _)| *known == path)?;
        let wrong = if setting.may_be_repeated() { given.described() } else { given.kind() };
        let holds = match setting.shown() {
            Shown::Value(value) => format!("is {value}"),
            Shown::Hidden => "is as it was set elsewhere".to_owned(),
            Shown::Absent => "is not set".to_owned(),
        };
        Some(token::without_tokens(&format!(
            "{name} is passed over: `{path}` cannot be {wrong} (it must be {right}), and {holds}"
        )))
    }
}

/// What a field would have to be, where a value of OpenTelemetry's is none for it.
fn standard_fault(path: &'static str, given: Given<'_>) -> Option<String> {
    let mut config = Config::default();
    let (_, setting) = config.settings().into_iter().find(|(known, _)| *known == path)?;
    setting.set(given).err().or_else(|| config.bounds_fault(path))
}

#[derive(Default)]
struct Loading {
    loaded: Loaded,
    failures: Vec<Failure>,
}

impl Loading {
    /// OpenTelemetry's own variables; what is empty counts as unset, as it has it. They are set for whole fleets of
    /// programs, so what latchkey does not have is passed over, as it has that too.
    fn read_standard(&mut self, environment: &[(OsString, OsString)]) -> Vec<PassedOver> {
        let find = |name: &str| {
            let found = environment.iter().find(|(given, _)| given == name);
            found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
        };
        let mut passed_over = Vec::new();
        if find(STANDARD_OFF).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return passed_over;
        }
        for (name, path) in STANDARD {
            let Some(value) = find(name) else { continue };
            // Their words may be in capitals.
            let lower = value.to_ascii_lowercase();
            let mut texts = [value, &lower].into_iter().filter_map(OsStr::to_str).map(Given::Text);
            if let Some(text) = texts.find(|text| standard_fault(path, *text).is_none()) {
                self.set(path, text, &Origin::Environment(name.to_owned()));
            } else {
                let text = value.to_string_lossy().into_owned();
                passed_over.push(PassedOver { name, path, text });
            }
        }
        passed_over
    }

    fn read_file(&mut self, path: &Path) {
        let what = format!("the configuration file {}", path.display());
        let text = match read_file_text(path) {
            Ok(text) => text,
            Err(error) => return self.failures.push(Failure::reading(what, &error)),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.read_table(&table, "", path),
            // Not the error's own text, which repeats the line: there may be a secret in it.
            Err(error) => {
                let place = error.span().map(|span| place(&text, span.start)).unwrap_or_default();
                let message = error.message();
                let message = format!("cannot read {what}: it is no TOML{place}: {message}");
                let help = "mend that line; deploy/latchkey.toml shows how each field is written";
                self.failures.push(Failure::new(message).help(help));
            }
        }
    }

    fn read_table(&mut self, table: &toml::Table, section: &str, file: &Path) {
        let paths = Config::paths();
        for (name, value) in table {
            let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            let below = format!("{path}.");
            if let Some(known) = paths.iter().find(|known| **known == path) {
                self.set(known, Given::Toml(value), &Origin::File(file.to_owned()));
            } else if !paths.iter().any(|known| known.starts_with(&below)) {
                let sections = paths.iter().filter_map(|known| known.split_once('.'));
                let known = sections.map(|(section, _)| section).chain(paths.iter().copied());
                let message = format!("{}: there is no `{path}`", file.display());
                self.unknown(message, &path, known);
            } else if let Some(table) = value.as_table() {
                self.read_table(table, &path, file);
            } else {
                let file = file.display();
                let message = format!("{file}: `{path}` is a section, not a value");
                let help = format!("write [{path}] on a line of its own, and its fields below it");
                self.failures.push(Failure::new(message).help(help));
            }
        }
    }

    fn read_environment(&mut self, environment: &[(OsString, OsString)]) {
        let paths = Config::paths();
        let names: Vec<_> = paths.iter().map(|path| variable(path)).collect();
        let mut given: Vec<_> = environment
            .iter()
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.as_os_str()))
            .collect();
        given.sort_unstable(); // faults are told in one order; a variable comes before its `…_FILE`
        for (name, value) in given {
            let find = |name: &str| names.iter().position(|known| known == name);
            if let Some(index) = find(&name) {
                self.set_variable(paths[index], &name, value);
            } else if let Some(index) = name.strip_suffix(FILE_SUFFIX).and_then(find) {
                self.set_from_file(paths[index], &name, value);
            } else {
                let message = format!("the environment variable {name} is not one of latchkey's");
                self.unknown(message, &name, names.iter().map(String::as_str));
            }
        }
    }

    fn set_variable(&mut self, path: &'static str, name: &str, value: &OsStr) {
        let Some(text) = value.to_str() else {
            let failure = Failure::new(format!("{name}: the value is not UTF-8"));
            return self
                .failures
                .push(failure.help(format!("it sets `{path}`; write it in UTF-8")));
        };
        self.set(path, Given::Text(text), &Origin::Environment(name.to_owned()));
    }

    /// `name` ends in `_FILE`, and the value names a file that holds the value of the field.
    fn set_from_file(&mut self, path: &'static str, name: &str, file: &OsStr) {
        let plain = variable(path);
        if self.loaded.origins.get(path) == Some(&Origin::Environment(plain.clone())) {
            let message = format!("both {plain} and {name} are set");
            return self.failures.push(Failure::new(message).help("unset one of them"));
        }
        let file = Path::new(file);
        match read_file_text(file) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                self.set(path, Given::Text(text), &Origin::Environment(name.to_owned()));
            }
            Err(error) => {
                let failure = Failure::reading(file.display(), &error);
                self.failures.push(failure.about(name));
            }
        }
    }

    fn set(&mut self, path: &'static str, given: Given<'_>, origin: &Origin) {
        let mut settings = self.loaded.config.settings();
        let Some((_, setting)) = settings.iter_mut().find(|(known, _)| *known == path) else {
            return self.failures.push(Failure::new(format!("{origin}: there is no `{path}`")));
        };
        // Noted also when the value is wrong, so that `…_FILE` beside it is still found.
        self.loaded.origins.insert(path, origin.clone());
        if let Err(right) = setting.set(given) {
            let wrong = if setting.may_be_repeated() { given.described() } else { given.kind() };
            let message = format!("{origin}: `{path}` cannot be {wrong}");
            self.failures.push(Failure::new(message).help(format!("it must be {right}")));
        }
    }

    fn unknown<'a>(&mut self, message: String, name: &str, known: impl Iterator<Item = &'a str>) {
        let help = nearest(name, known).map(|near| format!("did you mean `{near}`?"));
        self.failures.push(Failure { message, help });
    }
}

/// `grpc.listen` as an environment variable: `LATCHKEY__GRPC__LISTEN`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Line and column of a byte, counted from 1.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|char| *char != '\n').count() + 1;
    format!(" (line {line}, column {column})")
}

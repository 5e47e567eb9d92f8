//! What several commands take in the same form: labels, environments, ids of requests.

use std::collections::BTreeMap;

use clap::ValueEnum;

use crate::clock::Entropy as _;
use crate::machine::MachineEntropy;
use crate::proto::v1;

/// `NAME=VALUE`.
#[derive(Debug, Clone)]
pub(super) struct Label(String, String);

impl Label {
    /// For clap.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

/// As a message has them.
pub(super) fn labels(given: Vec<Label>) -> BTreeMap<String, String> {
    given.into_iter().map(|Label(name, value)| (name, value)).collect()
}

/// The world that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EnvironmentName {
    /// Production
    Live,
    /// Trying things out
    Test,
}

impl EnvironmentName {
    /// As a message has it.
    pub(super) fn to_proto(self) -> i32 {
        match self {
            Self::Live => v1::Environment::Live.into(),
            Self::Test => v1::Environment::Test.into(),
        }
    }

    /// As a message has it, in which it may be left open.
    pub(super) fn of(given: Option<Self>) -> i32 {
        given.map_or_else(|| v1::Environment::Unspecified.into(), Self::to_proto)
    }
}

/// The id that was given, else a new one, so that a request can be repeated.
pub(super) fn request_id(given: Option<String>) -> String {
    given.unwrap_or_else(|| {
        let mut bytes = [0; 16];
        MachineEntropy.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    })
}

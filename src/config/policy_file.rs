//! Reads a policy as people write it, from a file or from stdin.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Violation;
use crate::failure::{Failure, Failures};
use crate::policy::Policy;

/// The most bytes of a policy: as many as the API takes in one message.
const POLICY_BYTES_MAX: u64 = 1 << 20;

/// Reads a policy and checks all that can be seen in the document itself. `-` is stdin.
pub fn read_policy(path: &Path) -> Result<Policy, Failures> {
    let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
    let text = read(path)
        .map_err(|error| Failure::of(format!("cannot read the policy {name}"), &error))?;
    let policy = Policy::from_toml(&text)
        .map_err(|error| Failure::new(format!("{name} is no policy: {error}")))?;
    let Err(error) = policy.validate("") else { return Ok(policy) };
    let told = |fault: Violation| format!("{name}: {}: {}", fault.field, fault.description);
    Err(Failures(error.violations.into_iter().map(|fault| Failure::new(told(fault))).collect()))
}

fn read(path: &Path) -> io::Result<String> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    source.take(POLICY_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > POLICY_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

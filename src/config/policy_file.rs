//! Reads a policy as people write it, from a file or from stdin.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use super::Config;
use crate::bounded::{self, FILE_BYTES_MAX};
use crate::error::Violation;
use crate::failure::{Failure, Failures};
use crate::policy::{Catalogue, Policy};

impl Config {
    /// The policy that an empty store starts with: that of `policy.file`, else the built-in one.
    pub fn first_policy(&self) -> Result<Policy, Failures> {
        let Some(path) = &self.policy.file else { return Ok(Policy::default()) };
        let advised = |failure: Failure| {
            let help = failure.help.clone().unwrap_or_else(|| {
                format!(
                    "mend it (`latchkey policy check {}` checks it), or leave policy.file out and \
                     start with the built-in policy",
                    path.display()
                )
            });
            failure.about("policy.file").help(help)
        };
        read_policy(path).map_err(|Failures(all)| Failures(all.into_iter().map(advised).collect()))
    }
}

/// Reads a policy and checks all that can be seen in the document itself. `-` is stdin.
pub fn read_policy(path: &Path) -> Result<Policy, Failures> {
    let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
    let text =
        read(path).map_err(|error| Failure::reading(format!("the policy {name}"), &error))?;
    let policy = Policy::from_toml(&text)
        .map_err(|error| Failure::new(format!("{name} is no policy: {error}")))?;
    let Err(error) = Catalogue::compile(policy.clone(), "") else { return Ok(policy) };
    let told = |fault: Violation| format!("{name}: {}: {}", fault.field, fault.description);
    Err(Failures(error.violations.into_iter().map(|fault| Failure::new(told(fault))).collect()))
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    if path == Path::new("-") {
        return bounded::read_text(io::stdin(), FILE_BYTES_MAX);
    }
    bounded::read_file_text(path)
}

//! `deploy/compose`: what is there fits together, and the same is run with the programs of this machine.
//!
//! Absent on purpose: containers. No engine is needed to run the tests, so images, their users and the health checks in
//! them are not tried.

mod files;
mod local;

use std::path::PathBuf;
use std::process::Command;

use crate::support::tools_path;

/// A file of the folder.
fn at(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/compose").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(at(name)).unwrap()
}

/// A program of the folder or of the machine, with nothing in its environment but where programs are.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", tools_path());
    command
}

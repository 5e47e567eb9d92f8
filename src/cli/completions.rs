//! `latchkey completions`: what a shell needs to complete our command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;
use super::console::Console;

/// Prints the script for this shell.
pub(super) fn print(shell: Shell, console: &mut Console) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "latchkey", &mut script);
    console.answer(&String::from_utf8_lossy(&script));
}

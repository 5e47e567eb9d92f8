//! Hands the command line and the environment to [`latchkey::cli`], and its exit code back.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
    let environment = std::env::vars_os();
    latchkey::cli::run(std::env::args_os(), environment.collect())
}

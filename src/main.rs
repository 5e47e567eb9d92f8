//! Hands the command line and the environment to [`latchkey::cli`], and its exit code back.

use std::process::ExitCode;

/// A decision makes dozens of small blocks, and calls come in bursts. glibc keeps seven blocks of a size
/// at hand for a thread; what goes beyond costs an eighth of the CPU of a decision.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment enters")]
    let environment = std::env::vars_os();
    latchkey::cli::run(std::env::args_os(), environment.collect())
}

//! Starts the real program on free ports in a folder of its own, and real clients beside it.
//!
//! ```ignore
//! let server = Server::start().await;
//! let keys = server.keys(&server.root_token()).await;      // a tonic client with that operator's token
//! let said = server.grpcurl(&token, "latchkey.v1.KeyService/ListKeys", "{}"); // the real grpcurl
//! ```
//!
//! A server is ended when it is dropped, and its folder removed. Nothing is shared between tests.

use std::path::{Path, PathBuf};

mod client;
pub(crate) mod cluster;
mod dice;
mod disk;
mod echo;
mod faulty;
pub(crate) mod frames;
pub(crate) mod liar;
pub(crate) mod pgbouncer;
pub(crate) mod pki;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod relay;
mod server;
pub(crate) mod wall_clock;

pub(crate) use client::{Authed, Caller, message_of, reason_of};
pub(crate) use dice::Dice;
pub(crate) use disk::{Disk, Disturbance, Does, Survivors};
pub(crate) use echo::{Echo, Received, plain};
pub(crate) use faulty::{Fault, FaultyStore};
pub(crate) use server::{Builder, Server, eventually, eventually_each};

/// The program under test.
pub(crate) fn latchkey() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_latchkey"))
}

/// A line for whoever runs a test with `--nocapture`, as `tests/crash/run` does.
#[expect(clippy::print_stdout, reason = "this is what a long run has to say")]
pub(crate) fn say(line: impl std::fmt::Display) {
    println!("{line}");
}

/// A `PATH` on which the tools are found that `./check` installs, and the program itself.
pub(crate) fn tools_path() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = latchkey().parent().unwrap().display().to_string();
    let tools = root.join("target/tools/bin").display().to_string();
    #[expect(clippy::disallowed_methods, reason = "the path of the machine is part of it")]
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{own}:{tools}:{path}")
}

/// A folder that is removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("latchkey-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! The signals that end the process, and how often they came.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// How often we were told to stop.
pub(super) struct Stop(watch::Receiver<u8>);

impl Stop {
    /// Counts SIGTERM, SIGINT and SIGHUP from here on; the last is what closing the terminal sends.
    pub(super) fn listen() -> Result<Self, Failure> {
        let refused = |error| Failure::of("cannot take signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut hang_up = if ignores_hang_up() {
            None
        } else {
            Some(signal(SignalKind::hangup()).map_err(refused)?)
        };
        let (count, told) = watch::channel(0_u8);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = received(hang_up.as_mut()) => {}
                }
                count.send_modify(|times| *times = times.saturating_add(1));
            }
        });
        Ok(Self(told))
    }

    pub(super) fn told(&self) -> watch::Receiver<u8> {
        self.0.clone()
    }
}

/// Whether whoever started us wants us to outlive the terminal, as `nohup` does.
fn ignores_hang_up() -> bool {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & SIGHUP_BIT != 0)
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Waits until we were told so often.
pub(super) async fn wait_for(mut told: watch::Receiver<u8>, times: u8) {
    // The sender lives as long as the process; should it not, that is a reason to stop as well.
    let _ = told.wait_for(|count| *count >= times).await;
}

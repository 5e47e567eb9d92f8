//! The signals that end the process, and how far they have brought its end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// How far the end has come; each stage is also reached by going past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// There is nobody yet to be given notice.
    Starting,
    Serving,
    /// Whoever sends calls here is told to send them elsewhere, and those that come are answered still.
    Notice,
    /// No new connections are taken; calls in flight may end.
    Draining,
    /// Nothing is waited for.
    AtOnce,
}

/// Where we are on the way to the end. A cheap handle.
#[derive(Clone)]
pub(super) struct Stop(watch::Sender<Stage>);

impl Stop {
    /// Heeds SIGTERM, SIGINT and SIGHUP from here on; the last two are what a terminal sends.
    pub(super) fn listen() -> Result<Self, Failure> {
        let refused = |error| Failure::of("cannot take signals", &error);
        let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut hang_up = if ignores_hang_up() {
            None
        } else {
            Some(signal(SignalKind::hangup()).map_err(refused)?)
        };
        let stop = Self(watch::Sender::new(Stage::Starting));
        let told = stop.clone();
        tokio::spawn(async move {
            loop {
                let sender = tokio::select! {
                    _ = terminate.recv() => Sender::Supervisor,
                    _ = interrupt.recv() => Sender::Terminal,
                    () = received(hang_up.as_mut()) => Sender::Terminal,
                };
                told.0.send_modify(|stage| *stage = stage.after(sender));
            }
        });
        Ok(stop)
    }

    /// Waits until the end has come so far.
    pub(super) async fn reaches(&self, stage: Stage) {
        let mut told = self.0.subscribe();
        // The sender lives as long as the process; should it not, that is a reason to stop as well.
        let _ = told.wait_for(|reached| *reached >= stage).await;
    }

    /// How far the end has come.
    pub(super) fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Brings the end so far, unless it is further.
    pub(super) fn advance(&self, to: Stage) {
        self.0.send_modify(|stage| *stage = to.max(*stage));
    }
}

/// Who sends a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// Whoever runs this beside others, and restarts it.
    Supervisor,
    /// Somebody at a terminal, who wants it to end.
    Terminal,
}

impl Stage {
    /// Each signal ends what is waited for at this stage.
    fn after(self, sender: Sender) -> Self {
        match self {
            Self::Serving if sender == Sender::Supervisor => Self::Notice,
            Self::Starting | Self::Serving | Self::Notice => Self::Draining,
            Self::Draining | Self::AtOnce => Self::AtOnce,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(stage: Stage, signals: &[Sender]) -> Stage {
        signals.iter().fold(stage, |stage, sender| stage.after(*sender))
    }

    #[test]
    fn a_supervisor_is_given_time_to_notice_and_a_terminal_is_not_kept_waiting() {
        use Sender::{Supervisor, Terminal};
        assert_eq!(after(Stage::Serving, &[Supervisor]), Stage::Notice);
        assert_eq!(after(Stage::Serving, &[Supervisor, Supervisor]), Stage::Draining);
        assert_eq!(after(Stage::Serving, &[Supervisor, Terminal, Terminal]), Stage::AtOnce);
        assert_eq!(after(Stage::Serving, &[Terminal]), Stage::Draining);
        assert_eq!(after(Stage::Serving, &[Terminal, Supervisor]), Stage::AtOnce);
    }

    #[test]
    fn a_start_that_is_told_twice_goes_no_further() {
        use Sender::{Supervisor, Terminal};
        assert_eq!(after(Stage::Starting, &[Supervisor]), Stage::Draining);
        assert_eq!(after(Stage::Starting, &[Supervisor, Terminal]), Stage::AtOnce);
    }
}

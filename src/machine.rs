//! Where the machine's clocks and randomness enter; everything else is handed a `Clock` or an `Entropy`. And what
//! the machine is told of us: that our memory, which holds tokens, is nobody's to look at.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::TryRng as _;
use rand::rngs::SysRng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, Timespec};

use crate::clock::{Clock, Entropy, SteadyClock, Timestamp};

/// A clock that goes on from this instant as this machine does, and tells no time before `persisted`.
#[must_use]
pub fn clock(now: Timestamp, persisted: Timestamp) -> Arc<dyn Clock> {
    let anchor = uptime();
    let elapsed = move || uptime().saturating_sub(anchor);
    Arc::new(SteadyClock::new(elapsed, now, persisted))
}

/// The time since the machine was started, in which it slept included. Steps of the wall clock do not move it.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is made")]
#[must_use]
pub fn uptime() -> Duration {
    // Linux stops its monotonic clock while the machine sleeps; others do not.
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;

    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(CLOCK);
    let (seconds, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// What the wall clock says. It may be stepped, so this is only asked for an anchor.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is made")]
#[must_use]
pub fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::EPOCH.after(since_epoch.unwrap_or(Duration::ZERO))
}

// === The process, as the system sees it; Linux tells, others may not. ===

/// The CPU time that the process used.
#[expect(clippy::disallowed_methods, reason = "no instant, but a measure of work")]
#[must_use]
pub fn cpu_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The memory that is resident.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Open file descriptors.
#[must_use]
pub fn open_files() -> Option<u64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // The folder itself is open while it is read.
    u64::try_from(count).ok()?.checked_sub(1)
}

/// As many open files as we are allowed: a connection each, and the usual soft limit is low.
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit { current: maximum, maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

/// The most file descriptors that may be open; `None` when there is no bound.
#[must_use]
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

/// Sees to it that this process leaves no core dump, and that no other process of this user reads its memory or its
/// environment. Buffers of libraries cannot be wiped, so this is what keeps the tokens in them.
pub fn shield() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineEntropy;

impl Entropy for MachineEntropy {
    /// Panics when the operating system has no random bytes: a token that can be guessed is worse than none.
    fn fill(&self, buffer: &mut [u8]) {
        SysRng.try_fill_bytes(buffer).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_above_what_was_persisted_and_rises() {
        let later = wall_clock().after(Duration::from_hours(1));
        let clock = clock(wall_clock(), later);
        let first = clock.now();
        assert!(first >= later && clock.now() >= first);
        assert!(first.since(later) < Duration::from_mins(1));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_shielded_process_is_not_dumped() {
        shield().unwrap();
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(MachineEntropy.number(), MachineEntropy.number());
    }
}

//! One connection for commands, and when there is none: a breaker.
//!
//! Closed means that there is a connection. When calls come to nothing it is dropped, with whatever was on its way,
//! and Redis is left alone: nobody waits for it. Once a second a new one is tried, and is used when it has done, in
//! time and several times in a row, what it is for.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::address::Servers;
use super::breaker::{SLOW, Verdict, Window};
use super::{ANSWER_TIME_MAX, CONNECT_TIME_MAX};
use crate::clock::Entropy;
use crate::metrics::{Durations, Stopwatch};

/// How often a connection is tried while there is none.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How often a new connection has to do what it is for before it is used.
const TRIALS: usize = 3;

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The connection in use, if there is one.
#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    opened: Notify,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    window: Window,
    /// Which connection this is: what is said of another does not count.
    number: u64,
    /// Why there is none.
    why: Option<String>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was not made.
    Skipped,
    TooSlow,
    Error(RedisError),
}

impl Link {
    async fn call<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failed> {
        let answer = async {
            match self {
                Self::One(connection) => command.query_async(connection).await,
                Self::Cluster(connection) => command.query_async(connection).await,
            }
        };
        timeout(ANSWER_TIME_MAX, answer).await.map_err(|_| Failed::TooSlow)?.map_err(Failed::Error)
    }

    /// Whether it does what it is for: what is written is read back, and soon. The very first answer may take its
    /// time.
    async fn try_out(&mut self, name: &str) -> Result<(), Failed> {
        let _ = self.call::<redis::Value>(&super::read_command(name)).await;
        for trial in 0..TRIALS {
            let (value, since) = (trial.to_string(), Stopwatch::start());
            let mut write = redis::cmd("SET");
            write.arg(name).arg(&value).arg("PX").arg(10_000);
            self.call::<()>(&write).await?;
            let read: String = self.call(&super::read_command(name)).await?;
            if read != value {
                let told = "what was written to it is not what is read back";
                return Err(Failed::Error((ErrorKind::Client, told).into()));
            }
            if since.elapsed() > 2 * SLOW {
                return Err(Failed::TooSlow);
            }
        }
        Ok(())
    }
}

impl Breaker {
    /// Makes a call, unless Redis is left alone.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
        durations: &Durations<2>,
    ) -> Result<T, Failed> {
        let (mut link, number) = {
            let state = self.state();
            (state.link.clone().ok_or(Failed::Skipped)?, state.number)
        };
        let timing = durations.begin(operation, "cancelled");
        let answer = link.call(command).await;
        let took = timing.elapsed();
        timing.end(match &answer {
            Ok(_) => "ok",
            Err(Failed::TooSlow) => "timeout",
            Err(Failed::Error(_) | Failed::Skipped) => "error",
        });
        match &answer {
            Ok(_) => self.note(number, Some(took), &"its answers take too long", Verdict::GoOn),
            Err(failed) => self.note(number, None, failed, failed.verdict()),
        }
        answer
    }

    /// Whether there is a connection.
    pub(super) fn is_closed(&self) -> bool {
        self.state().link.is_some()
    }

    /// Why there is no connection, if there is none.
    pub(super) fn why_open(&self) -> Option<String> {
        let state = self.state();
        match state.link {
            Some(_) => None,
            None => Some(state.why.clone().unwrap_or_else(|| "it was not reached yet".to_owned())),
        }
    }

    /// Makes connections whenever there is none; `opening` is told when one that was in use is given up.
    pub(super) async fn keep_closed(
        &self,
        mut servers: Servers,
        entropy: &dyn Entropy,
        opening: impl Fn(),
    ) {
        // Each node tries by itself, under a name of its own.
        let name = format!("latchkey:trial:{:016x}", entropy.number());
        loop {
            let since = Stopwatch::start();
            match in_time(connect(&mut servers, &name)).await {
                Ok(link) => {
                    self.close(link);
                    tracing::info!("Redis is used");
                    self.opened.notified().await;
                    opening();
                    let why = self.why_open().unwrap_or_default();
                    tracing::warn!(why, "Redis is left alone; it is tried again each second");
                }
                Err(failed) => self.note_failure(&failed),
            }
            let jitter = Duration::from_millis(entropy.number() % 200);
            tokio::time::sleep((TRY_EVERY + jitter).saturating_sub(since.elapsed())).await;
        }
    }

    fn close(&self, link: Link) {
        let mut state = self.state();
        let number = state.number + 1;
        *state = State { link: Some(link), number, ..State::default() };
    }

    fn note_failure(&self, failed: &Failed) {
        let told = failed.to_string();
        let before = self.state().why.replace(told.clone());
        if before.as_ref() == Some(&told) {
            tracing::debug!(why = told, "Redis cannot be used still");
        } else {
            tracing::warn!(why = told, "Redis cannot be used; it is tried again each second");
        }
    }

    fn note(
        &self,
        number: u64,
        answered: Option<Duration>,
        why: &dyn fmt::Display,
        verdict: Verdict,
    ) {
        let mut state = self.state();
        if state.number != number || state.link.is_none() {
            return;
        }
        let judged = state.window.note(answered);
        if verdict == Verdict::Stop || judged == Verdict::Stop {
            state.link = None;
            state.why = Some(why.to_string());
            self.opened.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failed {
    /// What this failure says by itself, whatever was before.
    fn verdict(&self) -> Verdict {
        match self {
            // Another server has taken its place, or it has gone.
            Self::Error(error)
                if error.is_unrecoverable_error() || error.code() == Some("READONLY") =>
            {
                Verdict::Stop
            }
            Self::Error(_) | Self::TooSlow | Self::Skipped => Verdict::GoOn,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped => f.write_str("it was not asked"),
            Self::TooSlow => f.write_str("it does not answer in time"),
            Self::Error(error) => write!(f, "{error}"),
        }
    }
}

async fn connect(servers: &mut Servers, name: &str) -> Result<Link, Failed> {
    let mut link = servers.connect().await.map_err(Failed::Error)?;
    link.try_out(name).await?;
    Ok(link)
}

/// What takes too long to connect is given up.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    timeout(CONNECT_TIME_MAX, work).await.unwrap_or(Err(Failed::TooSlow))
}

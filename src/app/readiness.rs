//! Whether calls should be sent here: what `/readyz` says, and gRPC health in step with it.
//!
//! A store that is away makes no node unready while it can answer from its cache: if all nodes went at
//! once, gateways would find nobody, where most answers could still be given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::cache::Cache;
use crate::cache::redis::Redis;
use crate::clock::Clock;
use crate::feed::Feed;
use crate::grpc::Health;
use crate::http::{Check, State};
use crate::lease::Freshness;
use crate::store::Observed;

/// What tells whether calls should be sent here.
#[derive(Clone)]
pub(super) struct Readiness {
    pub(super) cache: Arc<Cache>,
    pub(super) feed: Feed,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Arc<Observed>,
    pub(super) redis: Option<Arc<Redis>>,
    pub(super) is_stopping: Arc<AtomicBool>,
}

impl Readiness {
    /// A look at everything.
    pub(super) fn checks(&self) -> Vec<Check> {
        let redis = self.redis.as_deref().map(redis);
        let own = [self.serving(), self.feed(), self.lease(), self.store(), self.durability()];
        own.into_iter().chain(redis).collect()
    }

    fn serving(&self) -> Check {
        let (state, why) = if self.is_stopping.load(Ordering::Relaxed) {
            (State::Failed, "stopping: calls in flight may end, new ones should go elsewhere")
        } else {
            (State::Ok, "calls are answered")
        };
        Check { name: "serving", state, why: why.to_owned() }
    }

    fn feed(&self) -> Check {
        let Some(applied) = self.cache.applied() else {
            let why = "nothing of the store is known: it was not read yet, or it went back in time";
            return Check { name: "feed", state: State::Failed, why: why.to_owned() };
        };
        let progress = self.feed.progress();
        let (state, why) = match (progress.trying, progress.applied) {
            (Some(since), _) if self.feed.is_failing() => {
                (State::Degraded, format!("no read for {} s", since.elapsed().as_secs()))
            }
            (_, Some(since)) => (State::Ok, format!("read {} s ago", since.elapsed().as_secs())),
            (_, None) => (State::Ok, "read".to_owned()),
        };
        Check { name: "feed", state, why: format!("up to change {}, {why}", applied.n) }
    }

    /// Whoever cannot renew its lease is no less ready while it can answer most questions.
    fn lease(&self) -> Check {
        let freshness = self.cache.standing().map(|standing| standing.freshness(self.clock.now()));
        let (state, why) = match freshness {
            Some(Freshness::Fresh) => (State::Ok, "what others changed is heeded"),
            Some(Freshness::Stale) => (
                State::Degraded,
                "the store is out of reach: answers are stale, strict scopes get none",
            ),
            Some(Freshness::Expired) | None => {
                (State::Failed, "what is held, if anything, is too old to answer from")
            }
        };
        Check { name: "lease", state, why: why.to_owned() }
    }

    fn durability(&self) -> Check {
        let (state, why) = match self.store.last_caveat() {
            None => (State::Ok, "what was acknowledged is kept".to_owned()),
            Some(caveat) => (State::Degraded, caveat),
        };
        Check { name: "durability", state, why }
    }

    fn store(&self) -> Check {
        let (state, why) = if self.store.is_up() {
            (State::Ok, "it did its part when it was last asked")
        } else {
            (State::Degraded, "it cannot be reached; what is cached is answered")
        };
        Check { name: "store", state, why: why.to_owned() }
    }
}

/// Nothing needs it: without it more is read of the store, and changes are seen a little later.
fn redis(redis: &Redis) -> Check {
    let (state, why) = match redis.why_left_alone() {
        None => (State::Ok, "it is used".to_owned()),
        Some(why) => (State::Degraded, format!("it is left alone: {why}")),
    };
    Check { name: "redis", state, why }
}

/// Tells gRPC health what the feed knows, from now until this is dropped.
pub(super) async fn keep_in_step(health: &Health, mut knows: watch::Receiver<bool>) {
    loop {
        if *knows.borrow_and_update() {
            health.set_serving().await;
        } else {
            health.set_not_serving().await;
        }
        if knows.changed().await.is_err() {
            // The feed lives as long as whoever answers.
            std::future::pending::<()>().await;
        }
    }
}

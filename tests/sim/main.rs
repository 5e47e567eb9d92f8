//! Several nodes in one process, on a store and a Redis that fail on demand, in a time of their own: what happens is drawn
//! from a seed, and a seed does the same each time.
//!
//! The nodes are what ships: reader, cache, authorizer, keyring, verifier, and the driver of Redis. In place of
//! PostgreSQL stands a store in memory behind the same door, and in place of Redis a liar.
//!
//!     cargo test --test sim                                     500 seeds
//!     LATCHKEY_SIM_SEED=17 cargo test --test sim                one, and all that happened
//!     tests/sim/run --seeds 50000                               many, in a release build
//!     tests/sim/rules                                           which seed notices that a rule is not kept
//!
//! `nth` draws nothing: it plays scripts, and disturbs the calls that nodes make in them one after the other.

#![expect(clippy::unwrap_used, reason = "a simulation that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::world::Outcome;

mod books;
mod calls;
mod chaos;
#[expect(dead_code, reason = "the dice of all tests can do more than is done here")]
#[path = "../it/support/dice.rs"]
mod dice;
mod judge;
mod node;
mod nth;
mod people;
mod redis;
mod scripts;
mod stage;
mod store;
mod world;

/// How long each goes on, in its own time.
const SPAN: Duration = Duration::from_secs(20);
const SEEDS: u64 = 500;

#[test]
fn nothing_that_was_promised_is_broken() {
    if let Some(seed) = asked("SEED") {
        let outcome = world::run(seed, span(), true);
        say(&outcome.to_string());
        assert!(outcome.faults.is_empty(), "{:#?}", outcome.faults);
        return;
    }
    let first = asked("FIRST").unwrap_or(1);
    let last = first + asked("SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let sums = Mutex::new(Sums::default());
    let threads = asked("THREADS").unwrap_or(2);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_enough = sums.lock().unwrap_or_else(PoisonError::into_inner).is_enough();
                    if seed >= last || is_enough {
                        return;
                    }
                    let run = AssertUnwindSafe(|| world::run(seed, span(), false));
                    let outcome = catch_unwind(run).unwrap_or_else(|_| Outcome::panicked());
                    sums.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome);
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    say(&format!("SUMMARY {} seeds of {:?}: {}", sums.seeds, span(), sums.all));
    assert!(
        sums.faulty.is_empty(),
        "what was promised was broken; LATCHKEY_SIM_SEED=NUMBER shows how: {:#?}",
        sums.faulty
    );
    sums.all.demand_all_was_seen();
}

#[test]
fn a_seed_does_the_same_each_time() {
    for seed in [1, 2, 3] {
        let [first, second, third] = [(); 3].map(|()| world::run(seed, span(), false));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.trace, third.trace, "seed {seed}");
    }
}

/// What came of all seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    all: Outcome,
    faulty: BTreeMap<u64, Vec<String>>,
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.all.count(&outcome);
        if !outcome.faults.is_empty() {
            self.faulty.insert(seed, outcome.faults);
        }
    }

    /// One failure says that something is wrong; what it is, is seen in its seed.
    fn is_enough(&self) -> bool {
        !self.faulty.is_empty()
    }
}

fn span() -> Duration {
    asked("SECONDS").map_or(SPAN, Duration::from_secs)
}

fn asked(name: &str) -> Option<u64> {
    let asked = asked_text(name)?;
    Some(asked.parse().unwrap_or_else(|_| panic!("LATCHKEY_SIM_{name} is no number: {asked}")))
}

#[expect(clippy::disallowed_methods, reason = "how much is simulated is chosen from outside")]
fn asked_text(name: &str) -> Option<String> {
    std::env::var(format!("LATCHKEY_SIM_{name}")).ok()
}

#[expect(clippy::print_stdout, reason = "whoever runs it wants to see it")]
fn say(what: &str) {
    println!("{what}");
}

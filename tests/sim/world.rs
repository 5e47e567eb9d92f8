//! The world that nodes live in: its time, the store's history, the ways to it, and notes of all that was said.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use latchkey::clock::{Entropy, Timestamp};
use latchkey::store::MacKey;
use latchkey::store::MacKeys;
use tokio::time::Instant;

use crate::books::Books;
use crate::calls::{Call, Calls, Whom};
use crate::chaos;
use crate::dice::Dice;
use crate::judge;
use crate::people::{self, Act, Check};
use crate::redis::Lies;

/// How soon a node answers as before when a call of its has ended that was disturbed.
pub(crate) const HEALED_AFTER: Duration = Duration::from_millis(500);
/// When it begins.
const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

pub(crate) struct World {
    started: Instant,
    pub(crate) dice: Dice,
    is_told: bool,
    pub(crate) shape: Shape,
    state: Mutex<State>,
    calls: Mutex<Calls>,
}

/// What differs from one seed to the next, and stays as it is.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    /// Room for keys in each cache.
    pub(crate) room: usize,
    pub(crate) has_redis: bool,
    /// Whether the store may go back in time.
    pub(crate) may_revert: bool,
    /// Whether all that happens stands in a script. Clocks are right then, and nothing is drawn but how long messages take.
    pub(crate) is_scripted: bool,
}

pub(crate) struct State {
    /// What stands in the store.
    pub(crate) books: Arc<Books>,
    /// What stood in it, from when on.
    pub(crate) eras: Vec<(Duration, Arc<Books>)>,
    /// When it went back in time.
    pub(crate) reverts: Vec<Duration>,
    /// The store stands still until then.
    pub(crate) stalled_until: Duration,
    /// Of each node to the store.
    pub(crate) links: Vec<Link>,
    pub(crate) lies: Lies,
    pub(crate) checks: Vec<Check>,
    pub(crate) acts: Vec<Act>,
    pub(crate) counts: Counts,
    trace: DefaultHasher,
}

/// A node's way to the store.
#[derive(Default)]
pub(crate) struct Link {
    /// Nothing comes through.
    pub(crate) is_cut: bool,
    /// How often it was cut: what was on its way then is lost.
    pub(crate) cuts: u64,
    /// One in so many messages takes its time; none at 0.
    pub(crate) slow_one_in: u64,
    /// The node is with a server that was the primary once, and has this.
    pub(crate) fork: Option<Arc<Books>>,
    /// Until when nobody can expect an answer of the node.
    pub(crate) troubled_until: Duration,
}

/// How often what happened.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// What came of a seed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What was promised and not kept.
    pub(crate) faults: Vec<String>,
    /// The same for two runs that did the same.
    pub(crate) trace: u64,
    pub(crate) counts: Counts,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, span: Duration, is_told: bool) -> Outcome {
    simulate(is_told, async {
        let world = World::drawn(seed, is_told);
        let cast = people::Cast::assemble(&world).await;
        chaos::rule(&world, &cast, span).await;
        let mut faults = cast.end().await;
        let state = world.state();
        faults.extend(judge::judge(&state));
        Outcome { faults, trace: state.trace.finish(), counts: state.counts.clone() }
    })
}

/// Has this happen in a time of its own.
pub(crate) fn simulate<T>(is_told: bool, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // What the nodes say goes where the rest of it goes.
    let log = tracing_subscriber::fmt().with_ansi(false).without_time().finish();
    let _told = is_told.then(|| tracing::subscriber::set_default(log));
    runtime.block_on(work)
}

impl World {
    /// One that differs from seed to seed.
    fn drawn(seed: u64, is_told: bool) -> Arc<Self> {
        let dice = Dice::new(seed);
        let mut drawn = dice.apart(1);
        let shape = Shape {
            nodes: 3 + usize::try_from(drawn.below(3)).unwrap(),
            room: if drawn.is_one_of(1, 2) {
                1_000
            } else {
                4 + usize::try_from(drawn.below(10)).unwrap()
            },
            has_redis: !drawn.is_one_of(1, 6),
            may_revert: drawn.is_one_of(1, 3),
            is_scripted: false,
        };
        let world = Self::new(dice, shape, is_told);
        world.note(format_args!("seed {seed}: {:?}", world.shape));
        world
    }

    /// One in which nothing has happened.
    #[expect(clippy::disallowed_methods, reason = "this is where time begins")]
    pub(crate) fn new(dice: Dice, shape: Shape, is_told: bool) -> Arc<Self> {
        let entropy = Chance::new(dice.apart(2));
        let mac_keys = MacKeys { current: MacKey::generate(&entropy), previous: None };
        let books = Arc::new(Books::new(entropy.number() >> 1, mac_keys));
        let links = (0..shape.nodes).map(|_| Link::default()).collect();
        let state = State {
            eras: vec![(Duration::ZERO, Arc::clone(&books))],
            books,
            reverts: Vec::new(),
            stalled_until: Duration::ZERO,
            links,
            lies: Lies::default(),
            checks: Vec::new(),
            acts: Vec::new(),
            counts: Counts::default(),
            trace: DefaultHasher::new(),
        };
        let started = Instant::now();
        let (state, calls) = (Mutex::new(state), Mutex::default());
        Arc::new(Self { started, dice, is_told, shape, state, calls })
    }

    /// Since it began.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// By the store's clock.
    pub(crate) fn time(&self) -> Timestamp {
        BEGIN.after(self.now())
    }

    /// When this was, by the store's clock.
    pub(crate) fn since_begin(time: Timestamp) -> Duration {
        time.since(BEGIN)
    }

    /// What a node goes by: it counts this much of each second.
    pub(crate) fn clock_at_rate(
        self: &Arc<Self>,
        node: usize,
        rate: f64,
    ) -> impl Fn() -> Duration + Send + Sync + 'static {
        let world = Arc::clone(self);
        move || {
            let _ = world.call(node, Whom::Clock, "now", Duration::ZERO);
            world.calls().clock(node, world.now().mul_f64(rate))
        }
    }

    /// A node calls, and waits for so long for the answer.
    pub(crate) fn call(&self, node: usize, whom: Whom, what: &str, waits: Duration) -> Call {
        let now = self.now();
        let fault = self.calls().count(node, whom, what, now);
        if let Some(fault) = fault {
            self.note(format_args!("node {node}: what it calls, {whom:?} {what}: {fault:?}"));
            if fault.is_trouble(whom) {
                self.excuse(node, now + fault.lasts(waits) + HEALED_AFTER);
            }
        }
        Call::new(fault, waits)
    }

    pub(crate) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Something happened.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>11.6} {what}", self.now().as_secs_f64());
        if self.is_told {
            crate::say(&line);
        }
        line.hash(&mut self.state().trace);
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    /// Nobody can expect an answer of this node for so long, and for a moment after that.
    pub(crate) fn trouble(&self, node: usize, span: Duration) {
        const AFTER: Duration = Duration::from_secs(3);
        self.excuse(node, self.now() + span + AFTER);
    }

    /// Nobody can expect an answer of this node until then.
    pub(crate) fn excuse(&self, node: usize, until: Duration) {
        let link = &mut self.state().links[node];
        link.troubled_until = link.troubled_until.max(until);
    }

    /// The store holds again what it held before.
    pub(crate) fn revert(&self, books: Books) {
        self.count("store went back");
        self.note(format_args!("the store goes back to {}", books.position().n));
        for node in 0..self.shape.nodes {
            self.trouble(node, Duration::from_secs(1));
        }
        self.state().reverts.push(self.now());
        self.put(books);
    }

    /// The store holds this from now on.
    pub(crate) fn put(&self, books: Books) {
        let now = self.now();
        let mut state = self.state();
        state.books = Arc::new(books);
        let books = Arc::clone(&state.books);
        state.eras.push((now, books));
    }
}

impl State {
    /// What stood in the store then.
    pub(crate) fn era_at(&self, when: Duration) -> usize {
        self.eras.partition_point(|(from, _)| *from <= when).saturating_sub(1)
    }
}

impl Outcome {
    pub(crate) fn panicked() -> Self {
        Self { faults: vec!["it panicked".to_owned()], ..Self::default() }
    }

    pub(crate) fn count(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// Where something never happened, nothing is shown of it.
    pub(crate) fn demand_all_was_seen(&self) {
        const ALL: [&str; 19] = [
            "allowed",
            "allowed, stale",
            "denied",
            "denied, unknown",
            "unavailable",
            "given up",
            "changed",
            "changed, not known",
            "refused",
            "receipt, all at once",
            "receipt, later",
            "store cut",
            "store stalled",
            "store deposed",
            "store went back",
            "node crashed",
            "node stopped",
            "Redis lied",
            "fence",
        ];
        let missing: Vec<_> = ALL.iter().filter(|what| !self.counts.contains_key(*what)).collect();
        assert!(missing.is_empty(), "it never happened: {missing:?}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (what, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{what} {count}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Randomness that a seed repeats.
pub(crate) struct Chance(Mutex<Dice>);

impl Chance {
    pub(crate) const fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }
}

impl Entropy for Chance {
    fn fill(&self, buffer: &mut [u8]) {
        let mut dice = self.0.lock().unwrap();
        for chunk in buffer.chunks_mut(8) {
            let bytes = dice.draw().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

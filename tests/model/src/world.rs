//! One node, its store, a Redis that says anything that was ever true, and time. One node is enough: all that others do
//! to it, they do through the store and Redis, and that is any order here.

use std::sync::atomic::{AtomicU32, Ordering};

use stateright::{Model, Property};

use crate::broken::Broken;
use crate::node::{BOUND, GRACE, Node, Outcome, Own, Phase, Read, Request};
use crate::store::{Change, Key, Keys, Log, Position, Record, START};

/// How often each may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub ticks: u8,
    /// Changes of the key made elsewhere, and of other things.
    pub changes: u8,
    pub others: u8,
    pub own: u8,
    pub requests: u8,
    pub reads: u8,
    pub redis: u8,
    pub given_up: u8,
    pub restarts: u8,
    pub evictions: u8,
    /// The store goes back in time.
    pub reverts: u8,
    /// A primary is deposed, and goes on answering.
    pub failovers: u8,
    pub receipts: u8,
}

/// A search.
pub struct Search {
    pub budget: Budget,
    pub broken: Option<Broken>,
    pub seen: AtomicU32,
}

/// What has to be seen at least once, or the search shows nothing.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    OldAllow,
    Allow,
    Unknown,
    Stale,
    Fence,
    OwnShown,
    Effective,
    FromRedis,
}

impl Seen {
    pub const ALL: [Self; 8] = [
        Self::OldAllow,
        Self::Allow,
        Self::Unknown,
        Self::Stale,
        Self::Fence,
        Self::OwnShown,
        Self::Effective,
        Self::FromRedis,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    now: u8,
    /// What the key was within each tick.
    truth: Vec<Keys>,
    log: Log,
    /// The history of a primary that was deposed.
    deposed: Option<Log>,
    next_tag: u8,
    /// All that was ever true.
    ever: Vec<Record>,
    node: Node,
    /// The node's row: what it states, and when it was written.
    row: Option<(Option<Position>, u8)>,
    receipt: Option<Receipt>,
    left: Budget,
    wrong: Option<&'static str>,
}

/// Of a change that turned the key off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Receipt {
    position: Position,
    since: Keys,
    is_effective: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// Somebody else changes the key, or something else.
    Change {
        touches: bool,
    },
    Revert(u8),
    Failover,
    Send {
        is_lease: bool,
    },
    WriteRow,
    Answer,
    AnswerLate,
    Apply {
        keeps: bool,
    },
    ApplyLate,
    Settle,
    GiveUp {
        is_on_deposed: bool,
    },
    Restart {
        is_on_deposed: bool,
    },
    Evict,
    Begin {
        is_strict: bool,
    },
    LookUp,
    Finish,
    FromRedis(Record),
    SendOwn,
    CommitOwn,
    LearnOwn,
    LoseOwn,
    Acknowledge,
}

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            truth: vec![Key::Absent.into()],
            log: Log::default(),
            deposed: None,
            next_tag: 1,
            ever: vec![Record { position: START, key: Key::Absent }],
            node: Node::default(),
            row: None,
            receipt: None,
            left: self.budget,
            wrong: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.wrong.is_none() {
            world.of_store(actions);
            world.of_reader(actions, self.broken);
            world.of_callers(actions, self.broken);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.take(action, self);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing is answered that must not be", |_, world: &World| {
            world.wrong.is_none()
        })]
    }
}

impl Search {
    fn saw(&self, seen: Seen) {
        self.seen.fetch_or(1 << seen as u32, Ordering::Relaxed);
    }
}

// === What can happen ===

impl World {
    fn of_store(&self, actions: &mut Vec<Action>) {
        let left = self.left;
        let mut add = |may: bool, action| {
            if may {
                actions.push(action);
            }
        };
        add(left.ticks > 0, Action::Tick);
        add(left.changes > 0, Action::Change { touches: true });
        add(left.others > 0, Action::Change { touches: false });
        if left.reverts > 0 {
            (0..self.log.len()).for_each(|n| add(true, Action::Revert(n)));
        }
        add(left.failovers > 0, Action::Failover);
        add(self.may_acknowledge(), Action::Acknowledge);
        match self.node.own.map(|own| own.phase) {
            Some(Phase::Sent) => {
                add(true, Action::CommitOwn);
                add(true, Action::LoseOwn);
            }
            Some(Phase::Committed(_)) => {
                add(true, Action::LearnOwn);
                add(true, Action::LoseOwn);
            }
            Some(Phase::Lost) => add(true, Action::CommitOwn),
            Some(Phase::Known(_)) | None => {}
        }
    }

    fn of_reader(&self, actions: &mut Vec<Action>, broken: Option<Broken>) {
        let (node, left) = (&self.node, self.left);
        let mut add = |may: bool, action| {
            if may {
                actions.push(action);
            }
        };
        for is_lease in [true, false] {
            add(left.reads > 0 && node.may_send(is_lease, broken), Action::Send { is_lease });
        }
        if let Some(read) = &node.read {
            let is_last = broken == Some(Broken::RowAfterRead);
            let needs_row = read.is_lease && read.row_at.is_none();
            let is_answered = read.batch.is_some();
            // Only a primary that can commit takes a row.
            add(needs_row && is_answered == is_last && !node.is_on_deposed, Action::WriteRow);
            add(!is_answered && (!needs_row || is_last), Action::Answer);
            for keeps in [true, false] {
                let may_overtake =
                    node.unsettled.is_none() || broken == Some(Broken::CheckedThenInstalled);
                add(is_answered && !needs_row && may_overtake, Action::Apply { keeps });
            }
            for is_on_deposed in [false, true] {
                let is_there = !is_on_deposed || self.deposed.is_some();
                add(left.given_up > 0 && is_there, Action::GiveUp { is_on_deposed });
            }
        }
        let is_late_applied =
            matches!(broken, Some(Broken::OverlappingReads | Broken::GivenUpReadApplied));
        if let (Some(late), true) = (&node.late, is_late_applied) {
            add(
                late.batch.is_none() && (!late.is_lease || late.row_at.is_some()),
                Action::AnswerLate,
            );
            add(late.batch.is_some(), Action::ApplyLate);
        }
        add(node.unsettled.is_some(), Action::Settle);
        for is_on_deposed in [false, true] {
            let is_there = !is_on_deposed || self.deposed.is_some();
            add(
                left.restarts > 0 && is_there && node.applied.is_some(),
                Action::Restart { is_on_deposed },
            );
        }
        add(left.evictions > 0 && node.holds_entry(), Action::Evict);
    }

    fn of_callers(&self, actions: &mut Vec<Action>, broken: Option<Broken>) {
        let (node, left) = (&self.node, self.left);
        match node.request {
            None if left.requests > 0 && node.serves() => {
                actions.extend([
                    Action::Begin { is_strict: true },
                    Action::Begin { is_strict: false },
                ]);
            }
            Some(Request { judged: Some(_), .. }) => actions.push(Action::Finish),
            Some(_) if node.applied.is_some() && node.look_up(broken).is_some() => {
                actions.push(Action::LookUp)
            }
            _ => {}
        }
        if left.redis > 0 && node.waits() && node.unsettled.is_none() {
            let usable = self.ever.iter().filter(|record| node.may_use(**record, broken));
            actions.extend(usable.map(|record| Action::FromRedis(*record)));
        }
        if left.own > 0 && node.own.is_none() && node.serves() {
            actions.push(Action::SendOwn);
        }
    }

    fn may_acknowledge(&self) -> bool {
        self.receipt.is_some_and(|receipt| !receipt.is_effective)
    }
}

// === What it leads to ===

impl World {
    fn take(&mut self, action: Action, search: &Search) {
        let broken = search.broken;
        match action {
            Action::Tick => {
                self.left.ticks -= 1;
                self.now += 1;
                self.truth.push(self.log.key().into());
            }
            Action::Change { touches } => {
                if touches {
                    self.left.changes -= 1
                } else {
                    self.left.others -= 1
                }
                self.commit(touches);
            }
            Action::Revert(n) => self.revert(n),
            Action::Failover => {
                self.left.failovers -= 1;
                self.deposed = Some(self.log.clone());
                self.node.is_on_deposed = true;
            }
            Action::Acknowledge => self.acknowledge(search),
            Action::SendOwn | Action::CommitOwn | Action::LearnOwn | Action::LoseOwn => {
                self.take_own(action, search)
            }
            Action::Begin { .. } | Action::LookUp | Action::Finish | Action::FromRedis(_) => {
                self.take_of_callers(action, search);
            }
            _ => self.take_of_reader(action, broken, search),
        }
    }

    fn take_of_reader(&mut self, action: Action, broken: Option<Broken>, search: &Search) {
        match action {
            Action::Send { is_lease } => {
                self.left.reads -= 1;
                self.node.send(self.now, is_lease);
            }
            Action::WriteRow => self.write_row(broken),
            Action::Answer => {
                let mut read = self.node.read.take().expect("one is under way");
                self.answer(&mut read);
                self.node.read = Some(read);
            }
            Action::AnswerLate => {
                let mut read = self.node.late.take().expect("one is late");
                self.answer(&mut read);
                self.node.late = Some(read);
            }
            Action::Apply { keeps } => {
                let read = self.node.read.take().expect("one is answered");
                self.apply(&read, keeps, search);
            }
            Action::ApplyLate => {
                let read = self.node.late.take().expect("one is late");
                self.apply(&read, true, search);
            }
            Action::Settle => {
                let entry = self.node.unsettled.take();
                self.node.settle(entry);
            }
            Action::GiveUp { is_on_deposed } => {
                self.left.given_up -= 1;
                self.node.give_up(is_on_deposed);
            }
            Action::Restart { is_on_deposed } => {
                self.left.restarts -= 1;
                self.node.restart(is_on_deposed);
            }
            Action::Evict => {
                self.left.evictions -= 1;
                self.node.evict(broken);
            }
            _ => unreachable!("it is another's"),
        }
    }

    /// Commits a change: the key is made, turned off, on, off.
    fn commit(&mut self, touches: bool) -> Position {
        let key = match (touches, self.log.key()) {
            (false, key) => key,
            (true, Key::Absent | Key::Off) => Key::On,
            (true, Key::On) => Key::Off,
        };
        self.log.push(Change { tag: self.next_tag, touches, key });
        self.next_tag += 1;
        let position = self.log.position();
        self.note_truth();
        let record = Record { position, key };
        self.ever.push(record);
        if touches && key == Key::Off && self.left.receipts > 0 {
            self.left.receipts -= 1;
            self.receipt = Some(Receipt { position, since: key.into(), is_effective: false });
        }
        position
    }

    fn revert(&mut self, n: u8) {
        self.left.reverts -= 1;
        self.log.truncate(n);
        self.note_truth();
        self.receipt = self.receipt.filter(|receipt| self.log.holds(receipt.position));
    }

    fn note_truth(&mut self) {
        let key = self.log.key();
        self.truth.last_mut().expect("there is a tick").add(key);
        let Node { own, floor, .. } = &mut self.node;
        let since = own.as_mut().map(|own| &mut own.since);
        let receipt = self.receipt.as_mut().map(|receipt| &mut receipt.since);
        [since, floor.as_mut(), receipt].into_iter().flatten().for_each(|keys| keys.add(key));
    }

    fn write_row(&mut self, broken: Option<Broken>) {
        let position = self.log.position();
        let now = self.now;
        let read = self.node.read.as_mut().expect("one is under way");
        if broken == Some(Broken::RowStatesFuture) {
            read.states = Some(position);
        }
        // `lease_from` is the time before the row was sent.
        read.row_at = Some(if broken == Some(Broken::RowAfterRead) { now } else { read.sent_at });
        self.row = Some((read.states, now));
    }

    fn answer(&self, read: &mut Read) {
        let log = if self.node.is_on_deposed { self.deposed.as_ref() } else { None };
        self.node.answer(read, log.unwrap_or(&self.log));
    }

    fn apply(&mut self, read: &Read, keeps: bool, search: &Search) {
        match self.node.apply(read, self.now, keeps, search.broken) {
            Outcome::Taken => {}
            Outcome::Fenced => {
                search.saw(Seen::Fence);
                // Its caller is told that the outcome is not known.
                if matches!(self.node.own, Some(Own { phase: Phase::Known(_), .. })) {
                    self.node.own = None;
                }
            }
            Outcome::OwnShown => {
                search.saw(Seen::OwnShown);
                self.own_answered();
            }
        }
    }

    fn own_answered(&mut self) {
        if let Some(own) = self.node.own.take() {
            self.node.raise_floor(own.since);
        }
    }

    fn take_own(&mut self, action: Action, search: &Search) {
        match action {
            Action::SendOwn => {
                self.left.own -= 1;
                self.node.own = Some(Own { phase: Phase::Sent, since: Keys::default() });
            }
            Action::CommitOwn => {
                let position = self.commit(true);
                let own = self.node.own.expect("one is sent");
                let since = self.log.key().into();
                self.node.own = (own.phase != Phase::Lost)
                    .then_some(Own { phase: Phase::Committed(position), since });
            }
            Action::LearnOwn => {
                let own = self.node.own.as_mut().expect("one is committed");
                if let Phase::Committed(position) = own.phase {
                    own.phase = Phase::Known(position);
                }
                if search.broken == Some(Broken::AnsweredWithoutRead) {
                    self.own_answered();
                }
            }
            Action::LoseOwn => {
                let own = self.node.own.as_mut().expect("one is sent");
                if own.phase == Phase::Sent {
                    own.phase = Phase::Lost;
                } else {
                    self.own_answered();
                }
                self.node.is_told_unknown(search.broken);
            }
            _ => unreachable!("it is another's"),
        }
    }

    /// The store says that a change is effective everywhere, if every row says so or is silent for long enough.
    fn acknowledge(&mut self, search: &Search) {
        let Some(receipt) = &mut self.receipt else { return };
        let silent =
            if search.broken == Some(Broken::ForgetsSilent) { 1 } else { BOUND.max(GRACE) };
        let has_applied = self.row.is_none_or(|(stated, at)| {
            let is_stated = stated.is_some_and(|stated| {
                stated.n >= receipt.position.n
                    && (self.log.holds(stated)
                        || search.broken == Some(Broken::RowCountsWithoutTag))
            });
            is_stated || self.now - at >= silent
        });
        if has_applied {
            receipt.is_effective = true;
            search.saw(Seen::Effective);
        }
    }

    fn take_of_callers(&mut self, action: Action, search: &Search) {
        let broken = search.broken;
        match action {
            Action::Begin { is_strict } => {
                self.left.requests -= 1;
                self.node.request = Some(Request {
                    is_strict,
                    lease_from: self.node.lease_from,
                    judged: None,
                    has_floor: self.node.floor.is_some(),
                    is_after_receipt: self.receipt.is_some_and(|receipt| receipt.is_effective),
                });
            }
            Action::LookUp => {
                let judged = self.node.look_up(broken);
                self.node.request.as_mut().expect("one has begun").judged = judged;
            }
            Action::FromRedis(record) => {
                self.left.redis -= 1;
                search.saw(Seen::FromRedis);
                if broken == Some(Broken::CheckedThenInstalled) {
                    self.node.check(record.key);
                } else {
                    self.node.install(record.key);
                }
            }
            Action::Finish => self.finish(search),
            _ => unreachable!("it is another's"),
        }
    }

    // === What is right ===

    fn finish(&mut self, search: &Search) {
        let request = self.node.request.take().expect("one has begun");
        let key = request.judged.expect("it was looked up");
        let after = search.broken == Some(Broken::LeaseAfterLookUp);
        let Some(lease_from) = (if after { self.node.lease_from } else { request.lease_from })
        else {
            return;
        };
        let age = self.now - lease_from;
        let is_fresh = age < BOUND;
        let is_strict = request.is_strict && search.broken != Some(Broken::StaleDespiteStrict);
        if !is_fresh && (is_strict || age >= GRACE || key == Key::Absent) {
            return; // UNAVAILABLE
        }
        let bound = if is_fresh || request.is_strict { BOUND } else { GRACE };
        self.see(key, is_fresh, search);
        if !self.was_true_within(bound).has(key) {
            self.wrong = Some("later than its bound");
        } else if request.has_floor && self.node.floor.is_some_and(|floor| !floor.has(key)) {
            self.wrong = Some("as it was before an own change that was answered");
        } else if request.is_after_receipt
            && key == Key::On
            && self.receipt.is_some_and(|receipt| !receipt.since.has(key))
        {
            self.wrong = Some("against a receipt");
        }
    }

    fn was_true_within(&self, bound: u8) -> Keys {
        self.truth
            .iter()
            .rev()
            .take(bound.into())
            .fold(Keys::default(), |all, keys| all.union(*keys))
    }

    fn see(&self, key: Key, is_fresh: bool, search: &Search) {
        search.saw(match key {
            _ if !is_fresh => Seen::Stale,
            Key::Absent => Seen::Unknown,
            Key::On if self.log.key() != Key::On => Seen::OldAllow,
            Key::On | Key::Off => Seen::Allow,
        });
    }
}

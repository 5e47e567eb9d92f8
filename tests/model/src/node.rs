//! A node, as the rules N1 to N10 have it. Each step here is one that the real one takes under one lock.

use crate::broken::Broken;
use crate::store::{Key, Keys, Log, Position, Record};

/// B and M, in ticks.
pub const BOUND: u8 = 2;
pub const GRACE: u8 = 3;
/// W: the changes that a node keeps in mind.
const RECENT_MAX: usize = 2;

/// What a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    pub applied: Option<Position>,
    /// The last changes, each with whether it was one of the key.
    recent: Vec<(Position, bool)>,
    pub lease_from: Option<u8>,
    entry: Option<Key>,
    load: Load,
    must_fetch: bool,
    /// A commit of the key has an outcome that is not known.
    is_in_doubt: bool,
    /// It is connected to a primary that was deposed.
    pub is_on_deposed: bool,
    /// Something was read on this connection, its row first.
    pub is_connection_proven: bool,
    pub read: Option<Read>,
    /// What was given up, and may still come.
    pub late: Option<Read>,
    pub request: Option<Request>,
    pub own: Option<Own>,
    /// What the key was since the last own change was answered: earlier answers must not return.
    pub floor: Option<Keys>,
    /// What is still to be put into the cache, where that is not done in one step.
    pub unsettled: Option<Entry>,
}

/// How much of the first load is in: of two pages, the second has the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Load {
    #[default]
    Nothing,
    FirstPage,
    Complete,
    /// Something was dropped.
    Never,
}

/// What becomes of the key's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    key: Option<Key>,
    must_fetch: bool,
}

/// A read, from its sending to its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    pub sent_at: u8,
    /// The row is written first.
    pub is_lease: bool,
    pub row_at: Option<u8>,
    pub states: Option<Position>,
    after: Option<Position>,
    page: Load,
    is_wanted: bool,
    is_after_doubt: bool,
    is_after_own: bool,
    pub batch: Option<Batch>,
}

/// What a read brings: one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    position: Position,
    found: Option<u8>,
    changes: Vec<(Position, bool)>,
    key: Key,
    shows_own: bool,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub is_strict: bool,
    pub lease_from: Option<u8>,
    pub judged: Option<Key>,
    /// It began after an own change was answered.
    pub has_floor: bool,
    /// It began after a receipt said that it is effective everywhere.
    pub is_after_receipt: bool,
}

/// A change that this node makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    pub phase: Phase,
    /// What the key was since the commit.
    pub since: Keys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Sent,
    Committed(Position),
    /// The node knows.
    Known(Position),
    /// The caller was told that the outcome is not known, and it may still be committed.
    Lost,
}

/// What applying a read came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Taken,
    OwnShown,
    Fenced,
}

impl Node {
    // === Reading ===

    pub fn may_send(&self, is_lease: bool, broken: Option<Broken>) -> bool {
        let may_overlap = broken == Some(Broken::OverlappingReads) && self.late.is_none();
        let is_free = self.read.is_none() || may_overlap;
        let is_proven = self.is_connection_proven && self.applied.is_some();
        let may_skip = match broken {
            Some(Broken::LeaseWithoutRow | Broken::ServesWithoutRow) => true,
            _ => is_proven,
        };
        is_free && (is_lease || may_skip)
    }

    pub fn send(&mut self, now: u8, is_lease: bool) {
        let read = Read {
            sent_at: now,
            is_lease,
            row_at: None,
            states: self.applied,
            after: self.applied,
            page: self.load,
            is_wanted: self.waits(),
            is_after_doubt: self.is_in_doubt,
            is_after_own: matches!(self.own, Some(Own { phase: Phase::Known(_), .. })),
            batch: None,
        };
        if let Some(before) = self.read.replace(read) {
            self.late = Some(before);
        }
    }

    /// Takes a snapshot of this history for a read.
    pub fn answer(&self, read: &mut Read, log: &Log) {
        let own = self.own.and_then(Own::position);
        let from = read.after.map_or_else(
            || log.len().saturating_sub(u8::try_from(RECENT_MAX).expect("is small")),
            |after| after.n,
        );
        read.batch = Some(Batch {
            position: log.position(),
            found: read.after.and_then(|after| log.tag_at(after.n)),
            changes: log
                .after(from)
                .map(|(n, change)| (Position { n, tag: change.tag }, change.touches))
                .collect(),
            key: log.key(),
            shows_own: own.is_none_or(|own| log.holds(own)),
        });
    }

    /// Applies a read that was answered; `keeps` says whether a record that changed is kept.
    pub fn apply(&mut self, read: &Read, now: u8, keeps: bool, broken: Option<Broken>) -> Outcome {
        let batch = read.batch.as_ref().expect("it was answered");
        let awaits_own = matches!(self.own, Some(Own { phase: Phase::Known(_), .. }));
        if went_back(read, batch, broken) || (read.is_after_own && awaits_own && !batch.shows_own) {
            self.fence(broken);
            return Outcome::Fenced;
        }
        let entry = self.entry_after(read, batch, keeps, broken);
        let last = batch.changes.first().map_or(u8::MAX, |(position, _)| position.n);
        self.recent.retain(|(position, _)| position.n < last);
        self.recent.extend(&batch.changes);
        let forgotten = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..forgotten);
        self.applied = Some(batch.position);
        if broken == Some(Broken::AppliedBeforeCache) {
            self.unsettled = entry;
        } else {
            self.settle(entry);
        }
        self.load = match (read.page, self.load) {
            (_, Load::Never) | (Load::Complete | Load::Never, _) => self.load,
            (Load::Nothing, _) => Load::FirstPage,
            (Load::FirstPage, _) => Load::Complete,
        };
        self.renew(read, now, broken);
        let is_shown =
            awaits_own && (read.is_after_own || broken == Some(Broken::AnsweredByEarlierRead));
        if is_shown { Outcome::OwnShown } else { Outcome::Taken }
    }

    fn entry_after(
        &self,
        read: &Read,
        batch: &Batch,
        keeps: bool,
        broken: Option<Broken>,
    ) -> Option<Entry> {
        // The first read brings the window of changes without their records.
        let is_changed = read.after.is_some() && batch.changes.iter().any(|(_, touches)| *touches);
        let is_on_page = read.page == Load::FirstPage && self.load != Load::Never;
        let is_brought = read.is_wanted || (is_on_page && batch.key != Key::Absent);
        if is_brought || (is_changed && keeps) {
            Some(Entry { key: Some(batch.key), must_fetch: false })
        } else if is_changed {
            Some(Entry { key: None, must_fetch: broken != Some(Broken::DroppedWithoutMark) })
        } else {
            None
        }
    }

    pub fn settle(&mut self, entry: Option<Entry>) {
        if let Some(Entry { key, must_fetch }) = entry {
            (self.entry, self.must_fetch) = (key, must_fetch);
        }
    }

    fn renew(&mut self, read: &Read, now: u8, broken: Option<Broken>) {
        let from = match broken {
            Some(Broken::LeaseFromAnswer) if read.is_lease => Some(now),
            Some(Broken::LeaseWithoutRow) => Some(read.sent_at),
            Some(Broken::ServesWithoutRow) if self.lease_from.is_none() => Some(read.sent_at),
            _ => read.row_at,
        };
        self.lease_from = self.lease_from.max(from);
        self.is_connection_proven |= read.is_lease;
        if read.is_lease && read.is_after_doubt {
            self.is_in_doubt = false;
        }
    }

    /// Drops everything and starts over (N10). What callers were told stays so.
    fn fence(&mut self, broken: Option<Broken>) {
        let before = std::mem::take(self);
        *self = Self {
            is_on_deposed: before.is_on_deposed,
            is_in_doubt: before.is_in_doubt,
            request: before.request,
            own: before.own,
            floor: before.floor,
            ..Self::default()
        };
        if broken == Some(Broken::FenceKeepsCache) {
            *self = Self { applied: None, recent: Vec::new(), read: None, ..before };
        }
    }

    /// Gives a read up, and its connection with it.
    pub fn give_up(&mut self, is_on_deposed: bool) {
        self.late = self.read.take();
        self.is_on_deposed = is_on_deposed;
        self.is_connection_proven = false;
    }

    pub fn restart(&mut self, is_on_deposed: bool) {
        *self = Self { is_on_deposed, floor: self.floor, ..Self::default() };
    }

    pub fn evict(&mut self, broken: Option<Broken>) {
        self.entry = None;
        if broken != Some(Broken::CompleteAtEviction) {
            self.load = Load::Never;
        }
    }

    pub fn holds_entry(&self) -> bool {
        self.entry.is_some()
    }

    // === Redis ===

    /// Whether N4 lets this record count.
    pub fn may_use(&self, record: Record, broken: Option<Broken>) -> bool {
        if broken == Some(Broken::RedisWithoutPosition) {
            return true;
        }
        let Some(applied) = self.applied else { return false };
        let Record { position, key: _ } = record;
        if position.n > applied.n {
            return broken == Some(Broken::RedisAhead);
        }
        let known = if position.n == applied.n {
            Some(applied.tag)
        } else {
            self.recent.iter().find(|(it, _)| it.n == position.n).map(|(it, _)| it.tag)
        };
        let is_same = match known {
            Some(tag) => tag == position.tag || broken == Some(Broken::RedisWithoutTag),
            None => broken == Some(Broken::RedisBeforeStart),
        };
        let is_changed = self.recent.iter().any(|(it, touches)| *touches && it.n > position.n);
        is_same && (!is_changed || broken == Some(Broken::RedisDespiteChange)) && !self.is_in_doubt
    }

    pub fn install(&mut self, key: Key) {
        self.settle(Some(Entry { key: Some(key), must_fetch: false }));
    }

    pub fn check(&mut self, key: Key) {
        self.unsettled = Some(Entry { key: Some(key), must_fetch: false });
    }

    // === Requests ===

    /// Whether it serves (N9).
    pub fn serves(&self) -> bool {
        self.applied.is_some() && self.lease_from.is_some()
    }

    /// What the cache says of the key, if anything.
    pub fn look_up(&self, broken: Option<Broken>) -> Option<Key> {
        if self.is_in_doubt || self.must_fetch {
            return None;
        }
        let is_complete = self.load == Load::Complete
            || (self.load == Load::FirstPage && broken == Some(Broken::AbsentBeforeComplete));
        self.entry.or(is_complete.then_some(Key::Absent))
    }

    /// Whether the request waits for a record.
    pub fn waits(&self) -> bool {
        matches!(self.request, Some(Request { judged: None, .. })) && self.look_up(None).is_none()
    }

    // === Own changes ===

    pub fn is_told_unknown(&mut self, broken: Option<Broken>) {
        self.is_in_doubt |= broken != Some(Broken::NoMarkAfterUnknown);
    }

    /// Nothing earlier may be answered from here on.
    pub fn raise_floor(&mut self, since: Keys) {
        self.floor = Some(since);
        if let Some(request) = &mut self.request {
            request.has_floor = false;
        }
    }
}

impl Own {
    fn position(self) -> Option<Position> {
        match self.phase {
            Phase::Committed(position) | Phase::Known(position) => Some(position),
            Phase::Sent | Phase::Lost => None,
        }
    }
}

/// Whether the store went back in time (N10).
fn went_back(read: &Read, batch: &Batch, broken: Option<Broken>) -> bool {
    let Some(after) = read.after else { return false };
    match batch.found {
        None => broken != Some(Broken::FenceWithoutNumber),
        Some(tag) => tag != after.tag && broken != Some(Broken::FenceWithoutTag),
    }
}

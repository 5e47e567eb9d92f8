//! What is searched: worlds in which some things happen and others do not. Together they have all.

use crate::world::Budget;

/// A world.
pub struct World {
    pub name: &'static str,
    small: Budget,
    /// What is added to each of the small one's numbers.
    more: Budget,
}

#[derive(Clone, Copy)]
pub enum Size {
    Small,
    Large,
}

const PLAIN: Budget = Budget {
    ticks: 4,
    changes: 2,
    others: 0,
    own: 0,
    requests: 1,
    reads: 3,
    redis: 0,
    given_up: 0,
    restarts: 0,
    evictions: 0,
    reverts: 0,
    failovers: 0,
    receipts: 0,
};
const NONE: Budget = Budget { ticks: 0, changes: 0, requests: 0, reads: 0, ..PLAIN };
const MORE: Budget = Budget { ticks: 1, changes: 1, requests: 0, reads: 1, ..NONE };

pub const WORLDS: [World; 12] = [
    World { name: "plain", small: PLAIN, more: MORE },
    World { name: "requests", small: Budget { requests: 2, ticks: 3, ..PLAIN }, more: MORE },
    World { name: "given up", small: Budget { given_up: 1, ticks: 3, ..PLAIN }, more: MORE },
    World {
        name: "started",
        small: Budget { redis: 1, restarts: 1, others: 2, ticks: 2, reads: 2, ..PLAIN },
        more: Budget { ticks: 1, reads: 1, ..NONE },
    },
    World { name: "evicted", small: Budget { evictions: 1, ticks: 2, ..PLAIN }, more: MORE },
    World { name: "redis", small: Budget { redis: 1, requests: 2, ticks: 2, ..PLAIN }, more: MORE },
    World { name: "own", small: Budget { own: 1, ticks: 1, changes: 1, ..PLAIN }, more: MORE },
    World {
        name: "back in time",
        small: Budget { reverts: 1, others: 1, redis: 1, ticks: 2, reads: 2, ..PLAIN },
        more: Budget { ticks: 1, changes: 1, reads: 1, ..NONE },
    },
    World {
        name: "fenced",
        small: Budget { reverts: 1, others: 1, ticks: 2, reads: 4, ..PLAIN },
        more: Budget { ticks: 1, ..NONE },
    },
    World {
        name: "deposed",
        small: Budget { failovers: 1, ticks: 3, ..PLAIN },
        more: Budget { given_up: 1, ..NONE },
    },
    World { name: "receipts", small: Budget { receipts: 1, ..PLAIN }, more: MORE },
    World {
        name: "receipts, back in time",
        small: Budget { receipts: 1, reverts: 1, others: 1, ticks: 1, reads: 2, ..PLAIN },
        more: Budget { ticks: 1, reads: 1, ..NONE },
    },
];

impl World {
    pub fn budget(&self, size: Size) -> Budget {
        match size {
            Size::Small => self.small,
            Size::Large => self.small.plus(self.more),
        }
    }
}

impl Budget {
    fn plus(self, more: Self) -> Self {
        Self {
            ticks: self.ticks + more.ticks,
            changes: self.changes + more.changes,
            others: self.others + more.others,
            own: self.own + more.own,
            requests: self.requests + more.requests,
            reads: self.reads + more.reads,
            redis: self.redis + more.redis,
            given_up: self.given_up + more.given_up,
            restarts: self.restarts + more.restarts,
            evictions: self.evictions + more.evictions,
            reverts: self.reverts + more.reverts,
            failovers: self.failovers + more.failovers,
            receipts: self.receipts + more.receipts,
        }
    }
}

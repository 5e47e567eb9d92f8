//! When pages of the first load are read: nodes that start at once, or find the same fence, take turns to begin.

use std::time::Duration;

use super::SharedFeed;

/// How far apart they begin at most.
const LOADS_APART: Duration = Duration::from_millis(500);

impl SharedFeed {
    /// Whether there are pages to be read, and it is this node's turn.
    pub(super) fn must_load(&self) -> bool {
        self.cache.is_loading() && self.may_load()
    }

    /// The first page, which is all where keys are few, comes with the first read; the others are for later.
    pub(super) fn may_load(&self) -> bool {
        self.begun.elapsed() >= self.apart()
    }

    /// The part of [`LOADS_APART`] that is this node's; nothing where it is alone.
    pub(super) fn apart(&self) -> Duration {
        if self.store.is_shared() { turn(self.boot.id) } else { Duration::ZERO }
    }
}

/// When the node of this number begins: they are spread evenly, as the numbers are drawn.
fn turn(boot_id: u64) -> Duration {
    let part = u32::try_from(boot_id >> 56).unwrap_or(0);
    LOADS_APART * part / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_begin_at_times_of_their_own() {
        assert_eq!(turn(0), Duration::ZERO);
        assert_eq!(turn(1 << 63), LOADS_APART / 2);
        assert!(turn(u64::MAX) < LOADS_APART && turn(u64::MAX) > LOADS_APART * 9 / 10);
    }
}

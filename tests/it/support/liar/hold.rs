//! A pause between what Redis answered and its use: answers are held up until the same node has written what came of a
//! change since, or for as long as it is told.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Liar, Shared};

/// Where the number of the last change stands in a record.
const N: std::ops::Range<usize> = 9..17;

/// Answers that are held up, by the names of their records.
#[derive(Default)]
pub(super) struct Hold {
    at_most: Duration,
    held: HashMap<Vec<u8>, Held>,
}

/// An answer that was held up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// What Redis said; empty where it has no record.
    record: Vec<u8>,
    /// What the node has written of the key since it asked.
    written: Option<Vec<u8>>,
    /// Whether it was let go because of that, and not because of the time.
    is_outdated: bool,
}

impl Held {
    /// Whether the node got a record of a time before a change that it had applied.
    pub(crate) fn was_outdated(&self) -> bool {
        let n = |record: &[u8]| u64::from_be_bytes(record[N].try_into().unwrap());
        let is_later = |written: &Vec<u8>| n(written) > n(&self.record);
        self.is_outdated && self.written.as_ref().is_some_and(is_later)
    }
}

impl Liar {
    /// Holds answers up from now on, each for no longer than this.
    pub(crate) fn hold(&self, at_most: Duration) {
        self.shared.hold.send_replace(Some(Hold { at_most, held: HashMap::new() }));
    }

    /// Waits until so many records were asked for since.
    pub(crate) async fn until_asked(&self, count: usize) {
        let are_asked =
            |hold: &Option<Hold>| hold.as_ref().is_some_and(|it| it.held.len() >= count);
        self.shared.hold.subscribe().wait_for(are_asked).await.unwrap();
    }

    /// Holds nothing up any more; what was.
    pub(crate) fn let_go(&self) -> HashMap<Vec<u8>, Held> {
        self.shared.hold.send_replace(None).unwrap_or_default().held
    }
}

impl Shared {
    pub(super) fn note_asked(&self, name: &[u8]) {
        self.hold.send_if_modified(|hold| {
            let Some(Hold { held, .. }) = hold else { return false };
            let is_new = !held.contains_key(name);
            held.entry(name.to_vec()).or_default();
            is_new
        });
    }

    pub(super) fn note_written(&self, name: &[u8], value: &[u8]) {
        self.hold.send_if_modified(|hold| {
            let held = hold.as_mut().and_then(|hold| hold.held.get_mut(name));
            held.is_some_and(|held| held.written.replace(value.to_vec()).is_none())
        });
    }

    /// Waits as long as an answer is to be held up.
    pub(super) async fn hold_up(&self, name: &[u8], since: Instant, record: Option<&[u8]>) {
        let Some(record) = record.filter(|record| !record.is_empty()) else { return };
        let mut at_most = None;
        self.hold.send_if_modified(|hold| {
            let Some(Hold { at_most: most, held }) = hold else { return false };
            let Some(answer) = held.get_mut(name) else { return false };
            at_most = Some(*most);
            answer.record = record.to_vec();
            false
        });
        let Some(at_most) = at_most else { return };
        let mut watched = self.hold.subscribe();
        let is_written = watched.wait_for(|hold| {
            let held = hold.as_ref().and_then(|hold| hold.held.get(name));
            held.is_none_or(|held| held.written.is_some())
        });
        let is_outdated = tokio::time::timeout_at(since + at_most, is_written).await.is_ok();
        self.hold.send_if_modified(|hold| {
            if let Some(held) = hold.as_mut().and_then(|hold| hold.held.get_mut(name)) {
                held.is_outdated = is_outdated;
            }
            false
        });
    }
}

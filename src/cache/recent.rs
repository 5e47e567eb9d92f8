//! The latest changes, as a window: the tag of each by its number, and by which of them something was changed last.
//!
//! By it is judged whether what was true at an earlier position still is. What was changed is kept as hashes with a
//! random key: two that meet by chance make something look changed that is not, which costs a read and no more.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;

use crate::account::AccountId;
use crate::key::KeyId;
use crate::store::{Change, RECENT_CHANGES_MAX, Subject};
use crate::token::Digest;

/// The window; it ends with the last change that was applied.
#[derive(Default)]
pub(super) struct Recent {
    /// The number of the first change in it.
    first: u64,
    window: VecDeque<Remembered>,
    /// The last change of whatever one in the window changed.
    last: HashMap<u64, u64, DefaultHashBuilder>,
    hasher: DefaultHashBuilder,
}

struct Remembered {
    tag: u64,
    /// What was changed, as hashes: the subject, and the digest of a key.
    marks: [u64; 2],
}

/// What a change changes.
#[derive(Hash)]
pub(super) enum Mark<'a> {
    Key(KeyId),
    Account(&'a AccountId),
    Policy,
    Digest(&'a Digest),
}

impl Recent {
    /// These follow; the first ones go when it grows too long.
    pub(super) fn remember(&mut self, changes: &[Change]) {
        for change in changes {
            let n = change.position.n;
            if self.window.is_empty() {
                self.first = n;
            }
            let subject = self.hash(&match &change.subject {
                Subject::Key(id) => Mark::Key(*id),
                Subject::Account(id) => Mark::Account(id),
                Subject::Policy => Mark::Policy,
            });
            let digest = change.digest.as_ref();
            let digest = digest.map_or(subject, |digest| self.hash(&Mark::Digest(digest)));
            let marks = [subject, digest];
            self.last.extend(marks.map(|mark| (mark, n)));
            self.window.push_back(Remembered { tag: change.position.tag, marks });
        }
        while self.window.len() > RECENT_CHANGES_MAX {
            self.forget_first();
        }
    }

    /// The tag of the change of this number, if it is in the window.
    pub(super) fn tag_at(&self, n: u64) -> Option<u64> {
        let at = usize::try_from(n.checked_sub(self.first)?).ok()?;
        self.window.get(at).map(|change| change.tag)
    }

    /// Whether a change in the window after this number changed it.
    pub(super) fn is_changed_after(&self, n: u64, mark: &Mark<'_>) -> bool {
        self.last.get(&self.hash(mark)).is_some_and(|last| *last > n)
    }

    fn forget_first(&mut self) {
        let Some(first) = self.window.pop_front() else { return };
        for mark in first.marks {
            if self.last.get(&mark) == Some(&self.first) {
                self.last.remove(&mark);
            }
        }
        self.first += 1;
    }

    fn hash(&self, mark: &Mark<'_>) -> u64 {
        self.hasher.hash_one(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::revision::Position;

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    /// The change `n`, of the account `a`, which has this many digits.
    fn change(n: u64, account: u64) -> Change {
        let id = AccountId::parse(&format!("a{account}")).unwrap();
        let position = Position { epoch: 1, n, tag: n * 100 };
        Change { position, subject: Subject::Account(id), digest: None }
    }

    fn of_key(n: u64, number: u64) -> Change {
        let subject = Subject::Key(KeyId::new(Timestamp::EPOCH, number, 0));
        Change { subject, digest: Some(digest(number)), ..change(n, 0) }
    }

    #[test]
    fn the_last_change_of_something_is_what_counts() {
        let mut recent = Recent::default();
        recent.remember(&[of_key(5, 1), of_key(6, 2), of_key(7, 1)]);
        let id = KeyId::new(Timestamp::EPOCH, 1, 0);
        for mark in [Mark::Key(id), Mark::Digest(&digest(1))] {
            assert!(recent.is_changed_after(6, &mark) && !recent.is_changed_after(7, &mark));
        }
        assert!(!recent.is_changed_after(0, &Mark::Digest(&digest(3))));
        assert_eq!([4, 5, 7, 8].map(|n| recent.tag_at(n)), [None, Some(500), Some(700), None]);
    }

    #[test]
    fn what_leaves_the_window_is_forgotten_and_no_more() {
        let mut recent = Recent::default();
        let most = RECENT_CHANGES_MAX as u64;
        let changes: Vec<_> = (1..=most).map(|n| change(n, n % 1_000)).collect();
        recent.remember(&changes);
        recent.remember(&[of_key(most + 1, 1)]);
        assert_eq!((recent.tag_at(1), recent.tag_at(2)), (None, Some(200)));
        assert_eq!(recent.window.len(), RECENT_CHANGES_MAX);
        // A thousand accounts and one key with its digest.
        assert_eq!(recent.last.len(), 1_002);
        let key: Vec<_> = (1..=most).map(|at| of_key(most + 1 + at, 1)).collect();
        recent.remember(&key);
        assert_eq!((recent.window.len(), recent.last.len()), (RECENT_CHANGES_MAX, 2));
    }
}

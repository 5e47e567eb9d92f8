//! Which digests are somebody's, of all keys of the store and in little memory: by this, whoever asks for a key that is
//! not held is told from whoever makes tokens up.
//!
//! Filters after Bloom (1970), each twice as large as the one before, so that none is ever built anew. Nothing is taken out:
//! no key is ever deleted. It may take a digest for listed that is not, never the other way round; so nothing is answered
//! by it, and only who is looked for first depends on it.

use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;

use crate::token::Digest;

/// How many digests the first filter is for.
const FIRST_FILTER: usize = 4_096;
/// Bits for each digest, and how many of them it sets: one in a hundred thousand others sets no more.
const BITS_PER_DIGEST: usize = 32;
const PROBES: u64 = 8;

/// The list.
pub(super) struct Roll {
    filters: Vec<Filter>,
    /// Randomly keyed: the bits of a digest can be ground.
    hasher: DefaultHashBuilder,
    listed: usize,
    most: usize,
}

struct Filter {
    words: Vec<u64>,
    left: usize,
}

impl Roll {
    /// An empty one, for so many at most.
    pub(super) fn new(hasher: DefaultHashBuilder, most: usize) -> Self {
        Self { filters: Vec::new(), hasher, listed: 0, most }
    }

    /// Lists it, unless there is no room.
    pub(super) fn add(&mut self, digest: &Digest) {
        let hash = self.hasher.hash_one(digest);
        if self.is_full() || self.has(hash) {
            return;
        }
        if self.filters.last().is_none_or(|filter| filter.left == 0) {
            self.filters.push(Filter::of(FIRST_FILTER << self.filters.len()));
        }
        if let Some(filter) = self.filters.last_mut() {
            filter.add(hash);
            self.listed += 1;
        }
    }

    /// Whether it is listed, or looks as if it were.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.has(self.hasher.hash_one(digest))
    }

    pub(super) const fn is_full(&self) -> bool {
        self.listed >= self.most
    }

    pub(super) const fn len(&self) -> usize {
        self.listed
    }

    fn has(&self, hash: u64) -> bool {
        self.filters.iter().any(|filter| filter.has(hash))
    }
}

impl Filter {
    /// For so many digests, a power of two.
    fn of(digests: usize) -> Self {
        Self { words: vec![0; digests * BITS_PER_DIGEST / 64], left: digests }
    }

    fn add(&mut self, hash: u64) {
        for (word, bit) in self.places(hash) {
            self.words[word] |= bit;
        }
        self.left -= 1;
    }

    fn has(&self, hash: u64) -> bool {
        self.places(hash).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Two hashes make all, after Kirsch and Mitzenmacher (2006).
    fn places(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let words = self.words.len();
        let step = hash.rotate_left(32) | 1;
        (0..PROBES).map(move |probe| {
            let place = hash.wrapping_add(probe.wrapping_mul(step));
            let word = usize::try_from(place >> 6 & 0xffff_ffff).unwrap_or(0) & (words - 1);
            (word, 1 << (place & 63))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn what_was_listed_is_found_and_hardly_anything_else() {
        let mut roll = Roll::new(DefaultHashBuilder::default(), usize::MAX);
        assert!(!roll.holds(&digest(0)));
        for number in 0..100_000 {
            roll.add(&digest(number));
        }
        assert!((0..100_000).all(|number| roll.holds(&digest(number))));
        let others = (100_000..200_000).filter(|number| roll.holds(&digest(*number))).count();
        assert!(others < 30, "{others} of 100,000 look as if they were listed");
        // One that looked so was not counted.
        assert!((99_970..=100_000).contains(&roll.len()), "{}", roll.len());
    }

    #[test]
    fn what_is_listed_again_takes_no_room() {
        let mut roll = Roll::new(DefaultHashBuilder::default(), 3);
        for _ in 0..9 {
            roll.add(&digest(1));
            roll.add(&digest(2));
        }
        assert_eq!((roll.len(), roll.is_full()), (2, false));
        for number in 3..9 {
            roll.add(&digest(number));
        }
        assert!(roll.is_full() && roll.len() == 3 && roll.holds(&digest(3)));
    }
}

//! Random choices that a seed repeats.

/// `SplitMix64`, by Steele and others.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for a part of the whole: what others draw does not move it.
    pub(crate) fn apart(&self, part: u64) -> Self {
        let mut seed = Self(self.0 ^ part.wrapping_mul(0xa076_1d64_78bd_642f));
        Self(seed.draw())
    }

    pub(crate) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `below`.
    pub(crate) const fn below(&mut self, below: u64) -> u64 {
        self.draw() % below
    }

    /// True `times` out of `of`.
    pub(crate) const fn is_one_of(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).unwrap()]
    }

    /// Any order.
    pub(crate) fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            let other = self.below(last as u64 + 1);
            of.swap(last, usize::try_from(other).unwrap());
        }
    }
}

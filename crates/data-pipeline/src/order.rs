//! The order of samples: a keyed permutation in constant memory, with random access to any position of any epoch.
//!
//! Sources are read by index, so shuffling needs no buffer: every epoch is a permutation of all samples, and a position
//! is two numbers.

use file_ext::random::mix;

/// A permutation of `0..len` that a key selects: a Feistel network over the next power of four with cycle walking
/// (Black and Rogaway 2002).
///
/// ```
/// use data_pipeline::order::Permutation;
/// let order = Permutation::new(10, 42);
/// let mut indices = (0..10).map(|place| order.at(place)).collect::<Vec<_>>();
/// indices.sort();
/// assert_eq!(indices, (0..10).collect::<Vec<_>>());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

const ROUNDS: u64 = 4;

impl Permutation {
    /// Creates the permutation of `0..len` for a key.
    pub fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Permutation { len, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Returns the image of `index`, which must be below the length.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mut value = self.scramble(index);
        // The domain is less than four times the length, so this ends after a few iterations.
        while value >= self.len {
            value = self.scramble(value);
        }
        value
    }

    fn scramble(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(&[self.key, round, right]) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_index_occurs_once(len in 1u64..3000, key: u64) {
            let permutation = Permutation::new(len, key);
            let mut seen = (0..len).map(|i| permutation.at(i)).collect::<Vec<_>>();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..len));
        }
    }

    #[test]
    fn neighbours_are_separated() {
        // In a shuffled order, about half of all neighbouring pairs ascend.
        let permutation = Permutation::new(10_000, 5);
        let ascending = (1..10_000).filter(|&i| permutation.at(i) > permutation.at(i - 1)).count();
        assert!((4_700..5_300).contains(&ascending), "{ascending}");
        assert_ne!(Permutation::new(100, 1).at(0), Permutation::new(100, 2).at(0));
    }
}

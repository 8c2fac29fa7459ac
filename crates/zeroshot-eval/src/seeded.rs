//! Random orders and selections that are equal on every machine.

use file_ext::SplitMix64;

/// A stream of random draws.
pub(crate) struct Seeded(SplitMix64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Seeded(SplitMix64::new(seed))
    }

    /// Draws a number below `count`; 0 if `count` is 0.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.0.below(count as usize) as u64
    }

    /// Returns the numbers below `count` in random order.
    pub(crate) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order = (0..count).collect::<Vec<_>>();
        for last in (1..count).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }

    /// Returns at most `limit` random numbers below `count`, in ascending order.
    pub(crate) fn some(&mut self, count: usize, limit: usize) -> Vec<usize> {
        if count <= limit {
            return (0..count).collect();
        }
        let mut taken = self.order(count);
        taken.truncate(limit);
        taken.sort_unstable();
        taken
    }
}

/// Random rows between -1 and 1, for tests.
#[cfg(test)]
pub(crate) fn made_up(rows: usize, width: usize, seed: u64) -> ndarray::Array2<f32> {
    let mut draws = Seeded::new(seed);
    ndarray::Array2::from_shape_simple_fn((rows, width), || draws.below(2_000_001) as f32 / 1e6 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_contains_each_number_once() {
        let order = Seeded::new(3).order(100);
        assert_eq!(order, Seeded::new(3).order(100));
        assert_ne!(order, Seeded::new(4).order(100));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert!(Seeded::new(0).order(0).is_empty());
        assert_eq!(Seeded::new(0).some(3, 3), [0, 1, 2]);
        let some = Seeded::new(0).some(100, 10);
        assert!(some.len() == 10 && some.is_sorted() && some != Seeded::new(1).some(100, 10));
        assert_eq!(Seeded::new(0).below(0), 0);
    }
}

//! Draws that are the same on every machine: SplitMix64 (Steele et al. 2014).

/// A stream of draws.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Seeded(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the numbers below `count`; 0 where there is none.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// The numbers below `count` in an order that is drawn.
    pub(crate) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order = (0..count).collect::<Vec<_>>();
        for last in (1..count).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }

    /// At most `limit` of the numbers below `count`, in growing order.
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

/// Rows between -1 and 1, for tests.
#[cfg(test)]
pub(crate) fn made_up(rows: usize, width: usize, seed: u64) -> ndarray::Array2<f32> {
    let mut draws = Seeded::new(seed);
    ndarray::Array2::from_shape_simple_fn((rows, width), || draws.below(2_000_001) as f32 / 1e6 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_first_values() {
        // SplitMix64 from seed 1234567, as in Rosetta Code's entry.
        let mut draws = Seeded::new(1_234_567);
        assert_eq!(draws.next(), 6_457_827_717_110_365_317);
        assert_eq!(draws.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn an_order_has_every_number_once() {
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

//! Spearman's rank correlation, of lists and of similarity matrices.

use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::seeded::Seeded;
use crate::{Error, Result};

/// Computes Spearman's correlation of two lists, -1 to 1: Pearson's correlation of their ranks. Equal values share the
/// mean of their ranks. `None` if a list has fewer than two distinct values.
///
/// ```
/// use zeroshot_eval::fidelity::spearman;
///
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0])?, Some(1.0));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::Input`] for an empty list or NaN.
pub fn spearman(a: &[f64], b: &[f64]) -> Result<Option<f64>> {
    if a.len() != b.len() {
        return Err(Error::shape("values of the second list", a.len(), b.len()));
    }
    if a.is_empty() {
        return Err(Error::Input("a rank correlation needs at least one value".into()));
    }
    if let Some(index) = a.iter().zip(b).position(|(a, b)| a.is_nan() || b.is_nan()) {
        return Err(Error::Input(format!("value {index} of a rank correlation is not a number")));
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let norms = (product(&a, &a) * product(&b, &b)).sqrt();
    Ok((norms > 0.0).then(|| (product(&a, &b) / norms).clamp(-1.0, 1.0)))
}

/// Returns the ranks, which start at 1.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order = (0..values.len()).collect::<Vec<_>>();
    order.par_sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|index| ranks[*index] = rank);
        start += equal.len();
    }
    ranks
}

/// Returns the pairs above the diagonal of `[rows, rows]`, or `limit` of them.
pub(super) fn pairs_within(rows: usize, limit: usize, seed: u64) -> Vec<(usize, usize)> {
    let count = rows as u64 * (rows as u64).saturating_sub(1) / 2;
    let (mut row, mut first) = (0, 0);
    let pair = |index: u64| {
        // Indices ascend, so the row only moves forward.
        while index - first >= (rows - 1 - row) as u64 {
            first += (rows - 1 - row) as u64;
            row += 1;
        }
        (row, row + 1 + (index - first) as usize)
    };
    drawn(count, limit, seed).map(pair).collect()
}

/// Returns the pairs of `[rows, columns]`, or `limit` of them.
pub(super) fn pairs_between(rows: usize, columns: usize, limit: usize, seed: u64) -> Vec<(usize, usize)> {
    let width = columns as u64;
    let pair = |index: u64| ((index / width) as usize, (index % width) as usize);
    drawn(rows as u64 * width, limit, seed).map(pair).collect()
}

/// Returns all indices below `count`, or a random one from each of `limit` equal parts, in ascending order.
fn drawn(count: u64, limit: usize, seed: u64) -> impl Iterator<Item = u64> {
    let taken = count.min(limit as u64);
    let mut draws = Seeded::new(seed);
    (0..taken).map(move |index| {
        let edge = |index: u64| (u128::from(index) * u128::from(count) / u128::from(taken)) as u64;
        let (start, end) = (edge(index), edge(index + 1));
        start + draws.below(end - start)
    })
}

/// Returns the cosines of pairs of unit rows.
pub(super) fn cosines(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, pairs: &[(usize, usize)]) -> Vec<f64> {
    let cosine = |&(i, j): &(usize, usize)| {
        let product = a.row(i).iter().zip(b.row(j)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        // Round to single precision, so that cosines that differ only by rounding tie.
        f64::from(product as f32)
    };
    pairs.par_iter().map(cosine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn by_hand() {
        let found = |a: &[f64], b: &[f64]| spearman(a, b).unwrap();
        assert_eq!(found(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), Some(1.0));
        assert_eq!(found(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        // Without ties 1 - 6 Σd² / (n (n² - 1)): d = (0, 1, -1, 0).
        let value = found(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
        assert!((value - 0.8).abs() < 1e-12);
        // Ranks (1.5, 1.5, 3) and (1, 2, 3): products 1.5 and 2 of length sqrt(1.5 · 2).
        let value = found(&[5.0, 5.0, 7.0], &[1.0, 2.0, 3.0]).unwrap();
        assert!((value - 1.5 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(ranks(&[0.0, -0.0, 3.0, -1.0]), [2.5, 2.5, 4.0, 1.0]);
    }

    #[test]
    fn constant_lists_have_no_correlation() {
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]).unwrap(), None);
        assert_eq!(spearman(&[1.0], &[2.0]).unwrap(), None);
    }

    #[test]
    fn bad_lists_are_errors() {
        assert!(matches!(spearman(&[], &[]), Err(Error::Input(_))));
        assert!(matches!(spearman(&[1.0], &[1.0, 2.0]), Err(Error::Shape { .. })));
        assert!(matches!(spearman(&[1.0, 2.0], &[1.0, f64::NAN]), Err(Error::Input(_))));
    }

    #[test]
    fn all_pairs_below_the_limit() {
        assert_eq!(pairs_within(4, 6, 0), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]);
        assert_eq!(pairs_between(2, 2, 9, 0), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert!(pairs_within(1, 9, 0).is_empty());
        assert!(pairs_within(0, 9, 0).is_empty());
    }

    proptest! {
        #[test]
        fn a_draw_has_distinct_pairs_within_bounds(rows in 2usize..60, limit in 1usize..200, seed in 0u64..99) {
            let pairs = pairs_within(rows, limit, seed);
            prop_assert_eq!(pairs.len(), limit.min(rows * (rows - 1) / 2));
            prop_assert!(pairs.iter().all(|(i, j)| i < j && *j < rows));
            prop_assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len());
            prop_assert_eq!(&pairs, &pairs_within(rows, limit, seed));
            let pairs = pairs_between(rows, 7, limit, seed);
            prop_assert_eq!(pairs.len(), limit.min(rows * 7));
            prop_assert!(pairs.iter().all(|(i, j)| *i < rows && *j < 7));
        }

        #[test]
        fn only_the_order_of_values_matters(values in prop::collection::vec((-9i32..9, -9i32..9), 2..60)) {
            let a = values.iter().map(|(a, _)| f64::from(*a)).collect::<Vec<_>>();
            let b = values.iter().map(|(_, b)| f64::from(*b)).collect::<Vec<_>>();
            let found = spearman(&a, &b).unwrap();
            let transformed = a.iter().map(|a| a.exp() * 3.0 - 1.0).collect::<Vec<_>>();
            prop_assert_eq!(spearman(&transformed, &b).unwrap(), found);
            prop_assert_eq!(spearman(&b, &a).unwrap(), found);
            let negated = a.iter().map(|a| -a).collect::<Vec<_>>();
            let opposite = spearman(&negated, &b).unwrap();
            prop_assert!(found.is_none() || (found.unwrap() + opposite.unwrap()).abs() < 1e-12);
        }
    }
}

//! A k-NN classifier on image embeddings, which needs no training.

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::neighbors::nearest;
use crate::rows::{self, check_labels};
use crate::{Error, Result};

/// Number of test embeddings whose neighbours are in memory at once.
const BLOCK: usize = 1024;

/// Settings of the k-NN classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KnnOptions {
    /// Number of neighbours that vote. If there are fewer training images, all of them vote.
    pub neighbors: usize,
    /// Temperature of the votes, which are weighted by exp(cosine / temperature).
    pub temperature: f64,
}

impl Default for KnnOptions {
    fn default() -> Self {
        KnnOptions { neighbors: 20, temperature: 0.07 }
    }
}

/// A k-NN classifier: labelled training embeddings vote on the class of a test embedding, as in Wu et al. 2018
/// (Unsupervised Feature Learning via Non-Parametric Instance Discrimination, section 3.4) and in DINO's evaluation
/// (Caron et al. 2021).
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::{Knn, KnnOptions};
///
/// let train = array![[1.0, 0.0], [0.0, 1.0]];
/// let knn = Knn::new(train.view(), &[0, 1], 2, KnnOptions::default())?;
/// let scores = knn.scores(array![[0.9, 0.1]].view())?;
/// assert!(scores[[0, 0]] > scores[[0, 1]]);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Knn {
    rows: Array2<f32>,
    labels: Vec<usize>,
    classes: usize,
    options: KnnOptions,
}

impl KnnOptions {
    /// Sets the number of neighbours.
    pub fn with_neighbors(mut self, neighbors: usize) -> Self {
        self.neighbors = neighbors;
        self
    }

    /// Sets the temperature.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }
}

impl Knn {
    /// Creates a classifier from training embeddings `[n, D]`, which it normalises, and their labels.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of embeddings and labels differ, [`Error::Input`] for an empty array, a value that is
    /// not finite, a label that is not below `classes`, or an option that is not positive.
    pub fn new(
        rows: ArrayView2<'_, f32>,
        labels: &[usize],
        classes: usize,
        options: KnnOptions,
    ) -> Result<Self> {
        if options.neighbors == 0 || !(options.temperature.is_finite() && options.temperature > 0.0) {
            return Err(Error::Input(format!(
                "a k-NN classifier needs a positive number of neighbours and a positive temperature, not {} and {}",
                options.neighbors, options.temperature
            )));
        }
        check_labels(labels, rows.nrows(), classes)?;
        let rows = rows::unit("training row", rows)?;
        Ok(Knn { rows, labels: labels.to_vec(), classes, options })
    }

    /// Returns each class's fraction of the votes, `[n, classes]`, for embeddings `[n, D]`; see [`crate::Accuracy::add`].
    ///
    /// Among equally near neighbours, the first ones vote. Classes with equal votes tie, and a tie counts as wrong.
    ///
    /// # Errors
    /// [`Error::Shape`] if the widths differ, [`Error::Input`] for an empty array or a value that is not finite.
    pub fn scores(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        if rows.ncols() != self.rows.ncols() {
            return Err(Error::shape("width of the test embeddings", self.rows.ncols(), rows.ncols()));
        }
        let rows = rows::unit("test row", rows)?;
        let mut scores = Array2::zeros((rows.nrows(), self.classes));
        let blocks = scores.axis_chunks_iter_mut(Axis(0), BLOCK).zip(rows.axis_chunks_iter(Axis(0), BLOCK));
        for (mut scores, rows) in blocks {
            let found = nearest(rows, self.rows.view(), self.options.neighbors, false);
            for (mut scores, neighbors) in scores.axis_iter_mut(Axis(0)).zip(found) {
                // Relative to the nearest neighbour, so that the exponentials do not overflow.
                let best = neighbors.first().map_or(0.0, |(_, cosine)| f64::from(*cosine));
                let mut votes = vec![0.0; self.classes];
                for (row, cosine) in neighbors {
                    votes[self.labels[row]] += ((f64::from(cosine) - best) / self.options.temperature).exp();
                }
                let total = votes.iter().sum::<f64>();
                scores.zip_mut_with(&ndarray::aview1(&votes), |score, vote| *score = (vote / total) as f32);
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Firsts;
    use crate::seeded::made_up;
    use ndarray::{ArrayView1, array};
    use proptest::prelude::*;

    fn single_best(scores: ArrayView1<'_, f32>) -> Option<usize> {
        Firsts::distinct(scores.len()).single_best(scores)
    }

    fn options(neighbors: usize, temperature: f64) -> KnnOptions {
        KnnOptions { neighbors, temperature }
    }

    #[test]
    fn by_hand() {
        let train = array![[2.0, 0.0], [0.6, 0.8], [0.6, 0.8], [-1.0, 0.0]];
        let labels = [0, 1, 1, 2];
        let knn = |options| Knn::new(train.view(), &labels, 4, options).unwrap();
        // Cosines with (5, 0): 1, 0.6, 0.6. At temperature 1 the votes are e against 2 e^0.6.
        let found = knn(options(3, 1.0)).scores(array![[5.0, 0.0]].view()).unwrap();
        let (one, two) = (1f64.exp(), 2.0 * 0.6f64.exp());
        assert!((f64::from(found[[0, 0]]) - one / (one + two)).abs() < 1e-6);
        assert!((f64::from(found[[0, 1]]) - two / (one + two)).abs() < 1e-6);
        assert_eq!((found[[0, 2]], found[[0, 3]]), (0.0, 0.0));
        // At 0.07 the nearest outvotes both: e^(0.4 / 0.07) is 303.
        let found = knn(options(3, 0.07)).scores(array![[5.0, 0.0]].view()).unwrap();
        assert_eq!(single_best(found.row(0)), Some(0));
        let found = knn(options(1, 1.0)).scores(array![[0.0, 1.0]].view()).unwrap();
        assert_eq!(found.row(0).to_vec(), [0.0, 1.0, 0.0, 0.0]);
        // At this temperature, a plain exponential would overflow.
        let found = knn(options(9, 1e-9)).scores(array![[5.0, 0.0]].view()).unwrap();
        assert_eq!(found.row(0).to_vec(), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_votes_tie() {
        let train = array![[1.0, 0.0], [1.0, 0.0]];
        let knn = Knn::new(train.view(), &[0, 1], 2, KnnOptions::default()).unwrap();
        assert_eq!(single_best(knn.scores(train.view()).unwrap().row(0)), None);
        // Of equally near rows, the first votes.
        let knn = Knn::new(train.view(), &[1, 0], 2, options(1, 0.07)).unwrap();
        assert_eq!(single_best(knn.scores(train.view()).unwrap().row(0)), Some(1));
    }

    #[test]
    fn bad_input_is_an_error() {
        let train = made_up(4, 3, 0);
        let new = |rows: &Array2<f32>, labels: &[usize], options| Knn::new(rows.view(), labels, 2, options);
        let usual = KnnOptions::default();
        let knn = new(&train, &[0, 1, 0, 1], usual).unwrap();
        assert!(matches!(new(&train, &[0, 1], usual), Err(Error::Shape { .. })));
        assert!(matches!(new(&train, &[0, 1, 0, 2], usual), Err(Error::Input(_))));
        assert!(new(&Array2::zeros((0, 3)), &[], usual).is_err());
        assert!(new(&Array2::from_elem((1, 3), f32::NAN), &[0], usual).is_err());
        assert!(new(&train, &[0, 1, 0, 1], options(0, 0.07)).is_err());
        assert!(new(&train, &[0, 1, 0, 1], options(1, 0.0)).is_err());
        assert!(new(&train, &[0, 1, 0, 1], options(1, f64::NAN)).is_err());
        assert!(matches!(knn.scores(made_up(2, 4, 0).view()), Err(Error::Shape { .. })));
        assert!(knn.scores(Array2::zeros((0, 3)).view()).is_err());
        assert!(knn.scores(Array2::from_elem((1, 3), f32::NAN).view()).is_err());
        // One row votes for itself.
        let one = new(&made_up(1, 3, 0), &[1], usual).unwrap();
        assert_eq!(one.scores(train.view()).unwrap().column(1).sum(), 4.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn norms_and_order_of_training_embeddings_do_not_matter(n in 2usize..50, seed in 0u64..999) {
            let (train, test) = (made_up(n, 4, seed), made_up(9, 4, seed + 1));
            let labels = (0..n).map(|i| i % 3).collect::<Vec<_>>();
            let knn = Knn::new(train.view(), &labels, 3, options(5, 0.07)).unwrap();
            let found = knn.scores(test.view()).unwrap();
            let order = crate::seeded::Seeded::new(seed).order(n);
            let other_labels = order.iter().map(|index| labels[*index]).collect::<Vec<_>>();
            let other = train.select(Axis(0), &order) * 2.0;
            let knn = Knn::new(other.view(), &other_labels, 3, options(5, 0.07)).unwrap();
            let other = knn.scores((&test * 8.0).view()).unwrap();
            prop_assert!((&found - &other).iter().all(|difference| difference.abs() < 1e-5));
            prop_assert!(found.sum_axis(Axis(1)).iter().all(|sum| (sum - 1.0).abs() < 1e-5));
        }
    }
}

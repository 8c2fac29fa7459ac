//! Confusion matrices: the classes that a model confuses.

use std::cmp::Reverse;

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::names::Firsts;
use crate::rows::{check_labels, check_scores};
use crate::{Error, Result};

/// A running confusion matrix.
///
/// ```
/// use zeroshot_eval::Confusion;
///
/// let mut confusion = Confusion::new(&["cat".into(), "dog".into()])?;
/// confusion.add_predictions(&[0, 0], &[0, 1])?;
/// assert_eq!(confusion.most_confused(1)[0].class, "dog");
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Confusion {
    classes: Vec<String>,
    firsts: Firsts,
    counts: Array2<u64>,
}

/// Counts, recall and precision of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCounts {
    /// Name of the class.
    pub class: String,
    /// Number of its images.
    pub support: u64,
    /// Number of images predicted as this class.
    pub predicted: u64,
    /// Number of its images predicted as this class.
    pub right: u64,
    /// Fraction of its images predicted correctly; `None` without images.
    pub recall: Option<f64>,
    /// Fraction of its predictions that are correct; `None` without predictions.
    pub precision: Option<f64>,
}

/// A pair of confused classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfusedPair {
    /// The label.
    pub class: String,
    /// The predicted class.
    pub predicted: String,
    /// Number of images.
    pub count: u64,
    /// Fraction of the label's images.
    pub share: f64,
}

impl Confusion {
    /// Creates an empty matrix.
    ///
    /// # Errors
    /// [`Error::Input`] without classes.
    pub fn new(classes: &[String]) -> Result<Self> {
        if classes.is_empty() {
            return Err(Error::Input("a confusion matrix needs at least one class".into()));
        }
        let counts = Array2::zeros((classes.len(), classes.len()));
        Ok(Confusion { classes: classes.to_vec(), firsts: Firsts::of(classes), counts })
    }

    /// Counts scores `[batch, classes]` with the label of each row.
    ///
    /// The prediction is the class with the highest score. If several tie, it is the first wrong one, so the diagonal agrees
    /// with [`crate::Accuracy`]. Among classes with the same name, only the first one counts.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes differ, [`Error::Input`] for an empty batch, a score that is not finite, or a label that
    /// is not a class. The counts then stay unchanged.
    pub fn add(&mut self, scores: ArrayView2<'_, f32>, labels: &[usize]) -> Result<()> {
        if scores.ncols() != self.classes.len() {
            return Err(Error::shape("columns of scores", self.classes.len(), scores.ncols()));
        }
        check_scores(scores, labels)?;
        for (row, &label) in scores.axis_iter(Axis(0)).zip(labels) {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let is_wrong = |class: usize| row[class] == best && self.firsts.is_ahead(row, class, label);
            let wrong = (0..row.len()).find(|class| is_wrong(*class));
            self.counts[[label, wrong.unwrap_or(label)]] += 1;
        }
        Ok(())
    }

    /// Counts predictions with their labels.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ, [`Error::Input`] for an index that is not a class. The counts then stay
    /// unchanged.
    pub fn add_predictions(&mut self, predictions: &[usize], labels: &[usize]) -> Result<()> {
        check_labels(labels, predictions.len(), self.classes.len())?;
        check_labels(predictions, predictions.len(), self.classes.len())?;
        for (&predicted, &label) in predictions.iter().zip(labels) {
            self.counts[[label, predicted]] += 1;
        }
        Ok(())
    }

    /// Returns the numbers of images, `[label, prediction]`.
    pub fn counts(&self) -> ArrayView2<'_, u64> {
        self.counts.view()
    }

    /// Returns counts, recall and precision of all classes, in order.
    pub fn per_class(&self) -> Vec<ClassCounts> {
        let share = |part: u64, total: u64| (total > 0).then(|| part as f64 / total as f64);
        let class = |(index, name): (usize, &String)| {
            let support = self.counts.row(index).sum();
            let predicted = self.counts.column(index).sum();
            let right = self.counts[[index, index]];
            ClassCounts {
                class: name.clone(),
                support,
                predicted,
                right,
                recall: share(right, support),
                precision: share(right, predicted),
            }
        };
        self.classes.iter().enumerate().map(class).collect()
    }

    /// Returns at most `limit` pairs of different classes, those with the most images first; ties keep the order of the
    /// classes.
    pub fn most_confused(&self, limit: usize) -> Vec<ConfusedPair> {
        let mut cells = self
            .counts
            .indexed_iter()
            .filter(|((class, predicted), count)| class != predicted && **count > 0)
            .map(|(cell, count)| (cell, *count))
            .collect::<Vec<_>>();
        cells.sort_by_key(|(cell, count)| (Reverse(*count), *cell));
        cells.truncate(limit);
        let pair = |((class, predicted), count): ((usize, usize), u64)| ConfusedPair {
            class: self.classes[class].clone(),
            predicted: self.classes[predicted].clone(),
            count,
            share: count as f64 / self.counts.row(class).sum() as f64,
        };
        cells.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Accuracy;
    use crate::seeded::made_up;
    use ndarray::array;
    use proptest::prelude::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn by_hand() {
        let mut confusion = Confusion::new(&names(&["cat", "dog", "fox", "owl"])).unwrap();
        confusion.add_predictions(&[0, 1, 1, 1, 0, 2], &[0, 0, 0, 1, 1, 2]).unwrap();
        // Fox and dog tie: an image of a fox counts as a dog, and an image of a dog as a fox.
        let scores = array![[0.0, 0.5, 0.5, 0.1], [0.0, 0.5, 0.5, 0.1]];
        confusion.add(scores.view(), &[2, 1]).unwrap();
        assert_eq!(confusion.counts(), array![[1, 2, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]);
        let found = confusion.per_class();
        assert_eq!((found[0].support, found[0].predicted, found[0].right), (3, 2, 1));
        assert_eq!((found[0].recall, found[0].precision), (Some(1.0 / 3.0), Some(0.5)));
        assert_eq!((found[3].recall, found[3].precision), (None, None));
        let pairs = confusion.most_confused(2);
        assert_eq!((pairs[0].class.as_str(), pairs[0].predicted.as_str(), pairs[0].count), ("cat", "dog", 2));
        assert_eq!(pairs[0].share, 2.0 / 3.0);
        assert_eq!((pairs[1].class.as_str(), pairs[1].predicted.as_str()), ("dog", "cat"));
        assert_eq!(confusion.most_confused(99).len(), 4);
        assert!(confusion.most_confused(0).is_empty());
    }

    #[test]
    fn images_of_a_duplicate_name_count_for_its_first_class() {
        let mut confusion = Confusion::new(&names(&["missile", "cat", "missile"])).unwrap();
        let missile = [0.9, 0.1, 0.9];
        confusion.add(ndarray::arr2(&[missile; 3]).view(), &[0, 1, 2]).unwrap();
        assert_eq!(confusion.counts(), array![[1, 0, 0], [1, 0, 0], [1, 0, 0]]);
    }

    #[test]
    fn bad_input_is_an_error_and_counts_nothing() {
        assert!(matches!(Confusion::new(&[]), Err(Error::Input(_))));
        let mut confusion = Confusion::new(&names(&["a", "b"])).unwrap();
        assert!(matches!(confusion.add(array![[0.1]].view(), &[0]), Err(Error::Shape { .. })));
        assert!(matches!(confusion.add(array![[0.1, 0.2]].view(), &[0, 1]), Err(Error::Shape { .. })));
        assert!(confusion.add(array![[0.1, 0.2]].view(), &[2]).is_err());
        assert!(confusion.add(array![[0.3, 0.1], [0.1, f32::NAN]].view(), &[0, 0]).is_err());
        assert!(confusion.add(Array2::zeros((0, 2)).view(), &[]).is_err());
        assert!(matches!(confusion.add_predictions(&[0], &[0, 1]), Err(Error::Shape { .. })));
        assert!(confusion.add_predictions(&[0, 2], &[0, 1]).is_err());
        assert!(confusion.add_predictions(&[0, 1], &[0, 2]).is_err());
        assert_eq!(confusion.counts().sum(), 0);
        assert!(confusion.most_confused(5).is_empty());
        assert_eq!(confusion.per_class()[0].recall, None);
    }

    proptest! {
        #[test]
        fn the_diagonal_agrees_with_accuracy(n in 1usize..60, seed in 0u64..999) {
            // A few distinct scores, so that ties occur.
            let scores = made_up(n, 4, seed).mapv(|score| (score * 2.0).round());
            let labels = (0..n).map(|i| (i * 3 + i / 5) % 4).collect::<Vec<_>>();
            let classes = names(&["a", "b", "c", "a"]);
            let mut confusion = Confusion::new(&classes).unwrap();
            confusion.add(scores.view(), &labels).unwrap();
            let mut accuracy = Accuracy::new(&classes);
            accuracy.add(scores.view(), &labels).unwrap();
            let found = accuracy.finish().unwrap();
            for (counts, class) in confusion.per_class().iter().zip(&found.per_class) {
                prop_assert_eq!(counts.recall, class.recall);
                prop_assert_eq!(counts.support, class.samples);
            }
            let wrong = confusion.most_confused(99).iter().map(|pair| pair.count).sum::<u64>();
            prop_assert_eq!(wrong + confusion.counts().diag().sum(), n as u64);
        }
    }
}

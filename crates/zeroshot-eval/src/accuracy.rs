//! Top-1 and top-5 accuracy and mean per-class recall, counted batch by batch.

use ndarray::{ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::names::Firsts;
use crate::{Error, Result};

/// Results of a classification; fractions are 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    /// Fraction of images whose class has the highest score.
    pub top1: f64,
    /// Fraction of images whose class is among the best five; `None` for at most five classes.
    pub top5: Option<f64>,
    /// Mean recall of the classes that have images.
    pub mean_per_class_recall: f64,
    /// Number of images.
    pub samples: u64,
    /// The recall of each class, in order.
    pub per_class: Vec<ClassRecall>,
}

/// The recall of one class of a [`Classification`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRecall {
    /// Name of the class.
    pub class: String,
    /// Fraction of its images that are classified correctly; `None` without images.
    pub recall: Option<f64>,
    /// Number of its images.
    pub samples: u64,
}

/// Running counts for top-1, top-5 and per-class recall.
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::Accuracy;
///
/// let mut accuracy = Accuracy::new(&["cat".into(), "dog".into()]);
/// accuracy.add(array![[0.9, 0.1], [0.6, 0.4]].view(), &[0, 1])?;
/// assert_eq!(accuracy.finish()?.top1, 0.5);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Accuracy {
    classes: Vec<(String, u64, u64)>, // name, images, right
    firsts: Firsts,
    top5: u64,
}

impl Accuracy {
    /// Creates empty counts.
    pub fn new(classes: &[String]) -> Self {
        let counts = classes.iter().map(|name| (name.clone(), 0, 0)).collect();
        Accuracy { classes: counts, firsts: Firsts::of(classes), top5: 0 }
    }

    /// Counts scores `[batch, classes]` with the label of each image. An image with a NaN score counts as wrong.
    ///
    /// A class with the same score as the label ranks before it. Among classes with the same name, the first one wins: an
    /// image of a later one is wrong at top-1.
    ///
    /// # Errors
    /// [`Error::Shape`] if the sizes differ, [`Error::Input`] for a label that is not a class.
    pub fn add(&mut self, scores: ArrayView2<'_, f32>, labels: &[usize]) -> Result<()> {
        if scores.ncols() != self.classes.len() {
            return Err(Error::shape("columns of scores", self.classes.len(), scores.ncols()));
        }
        if scores.nrows() != labels.len() {
            return Err(Error::shape("rows of scores", labels.len(), scores.nrows()));
        }
        if let Some(label) = labels.iter().find(|label| **label >= self.classes.len()) {
            return Err(Error::Input(format!("label {label} is not one of {} classes", self.classes.len())));
        }
        for (row, &label) in scores.axis_iter(Axis(0)).zip(labels) {
            let before = (0..row.len()).filter(|class| self.firsts.is_ahead(row, *class, label)).count();
            self.classes[label].1 += 1;
            self.classes[label].2 += u64::from(before == 0);
            self.top5 += u64::from(before < 5);
        }
        Ok(())
    }

    /// Returns the results.
    ///
    /// # Errors
    /// [`Error::Input`] without images.
    pub fn finish(self) -> Result<Classification> {
        let samples = self.classes.iter().map(|(_, images, _)| images).sum::<u64>();
        if samples == 0 {
            return Err(Error::Input("a classification needs at least one labelled image".into()));
        }
        let fraction = |part: u64, total: u64| part as f64 / total as f64;
        let right = self.classes.iter().map(|(_, _, right)| right).sum::<u64>();
        let top5 = (self.classes.len() > 5).then(|| fraction(self.top5, samples));
        let per_class = self
            .classes
            .into_iter()
            .map(|(class, samples, right)| {
                let recall = (samples > 0).then(|| fraction(right, samples));
                ClassRecall { class, recall, samples }
            })
            .collect::<Vec<_>>();
        let recalls = per_class.iter().filter_map(|class| class.recall).collect::<Vec<_>>();
        Ok(Classification {
            top1: fraction(right, samples),
            top5,
            mean_per_class_recall: recalls.iter().sum::<f64>() / recalls.len() as f64,
            samples,
            per_class,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("class {i}")).collect()
    }

    #[test]
    fn by_hand() {
        let mut accuracy = Accuracy::new(&names(3));
        let scores = array![[0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.0, 0.6, 0.5], [0.3, 0.3, 0.1]];
        // Right, wrong, right, and a tie, which is wrong.
        accuracy.add(scores.view(), &[0, 0, 1, 0]).unwrap();
        let found = accuracy.finish().unwrap();
        assert_eq!(found.top1, 0.5);
        assert_eq!(found.top5, None);
        // Class 0: one of three; class 1: one of one; class 2 has no image.
        assert_eq!(found.mean_per_class_recall, (1.0 / 3.0 + 1.0) / 2.0);
        assert_eq!(found.per_class[2].recall, None);
        assert_eq!(found.samples, 4);
    }

    #[test]
    fn top_5_counts_the_rank() {
        let mut accuracy = Accuracy::new(&names(7));
        let scores = array![[7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]];
        accuracy.add(scores.view(), &[4, 5]).unwrap();
        assert_eq!(accuracy.finish().unwrap().top5, Some(0.5));
    }

    #[test]
    fn the_first_of_equal_names_wins() {
        let classes = ["missile", "cat", "dog", "missile"].map(String::from);
        let count = |rows: ndarray::Array2<f32>, labels: &[usize]| {
            let mut accuracy = Accuracy::new(&classes);
            accuracy.add(rows.view(), labels).unwrap();
            accuracy.finish().unwrap()
        };
        // Equal prompts give equal scores. Four missiles, two of each class, and a cat that looks like one.
        let missile = [0.9, 0.1, 0.2, 0.9];
        let found = count(ndarray::arr2(&[missile; 5]), &[0, 0, 3, 3, 1]);
        assert_eq!(found.top1, 2.0 / 5.0);
        assert_eq!(
            found.per_class.iter().map(|c| c.recall).collect::<Vec<_>>(),
            [Some(1.0), Some(0.0), None, Some(0.0)]
        );
        assert_eq!(found.mean_per_class_recall, 1.0 / 3.0);
        // A tie with a different class also makes the first class wrong, and so does a collapsed model.
        assert_eq!(count(array![[0.9, 0.9, 0.2, 0.9]], &[0]).top1, 0.0);
        assert_eq!(count(ndarray::Array2::zeros((4, 4)), &[0, 1, 2, 3]).top1, 0.0);
    }

    #[test]
    fn top_5_counts_the_rank_among_equal_names() {
        let mut classes = names(7);
        classes[6] = classes[4].clone();
        let rank_of = |label| {
            let mut accuracy = Accuracy::new(&classes);
            // Classes 0 to 3 score higher than 4 and 6, which share a name and get ranks 4 and 5.
            accuracy.add(array![[7.0, 6.0, 5.0, 4.0, 3.0, 1.0, 3.0]].view(), &[label]).unwrap();
            accuracy.finish().unwrap().top5
        };
        assert_eq!((rank_of(4), rank_of(6)), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn nan_counts_as_wrong() {
        let mut accuracy = Accuracy::new(&names(2));
        accuracy.add(array![[f32::NAN, 0.0], [0.0, f32::NAN]].view(), &[0, 0]).unwrap();
        assert_eq!(accuracy.finish().unwrap().top1, 0.0);
    }

    #[test]
    fn wrong_sizes_and_labels_are_errors() {
        let mut accuracy = Accuracy::new(&names(2));
        assert!(matches!(accuracy.add(array![[0.0]].view(), &[0]), Err(Error::Shape { .. })));
        assert!(matches!(accuracy.add(array![[0.0, 1.0]].view(), &[0, 1]), Err(Error::Shape { .. })));
        assert!(matches!(accuracy.add(array![[0.0, 1.0]].view(), &[2]), Err(Error::Input(_))));
        assert!(matches!(accuracy.finish(), Err(Error::Input(_))));
    }
}

//! Calibration: whether a model's confidence matches its accuracy.

use ndarray::{ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::names::Firsts;
use crate::rows::check_scores;
use crate::{Error, Result};

/// The number of bins that papers usually use.
pub const BINS: usize = 15;

/// Expected calibration error with its bins; fractions are 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean over all samples of |confidence − accuracy| of their bin.
    pub expected_calibration_error: f64,
    /// Mean probability of the predicted class.
    pub confidence: f64,
    /// Fraction of samples whose class has the highest score.
    pub accuracy: f64,
    /// Number of samples.
    pub samples: u64,
    /// Bins of equal width, for a reliability plot.
    pub bins: Vec<Bin>,
}

/// A bin of a [`Calibration`]: the samples whose confidence is above `from` and at most `to`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower edge (exclusive).
    pub from: f64,
    /// Upper edge (inclusive).
    pub to: f64,
    /// Number of samples.
    pub samples: u64,
    /// Mean confidence; `None` without samples.
    pub confidence: Option<f64>,
    /// Fraction that is classified correctly; `None` without samples.
    pub accuracy: Option<f64>,
}

/// Running counts for the expected calibration error.
#[derive(Clone, Debug)]
pub struct Reliability {
    logit_scale: f64,
    firsts: Option<Firsts>,
    bins: Vec<(u64, f64, u64)>, // samples, sum of confidences, right
}

impl Reliability {
    /// Creates empty counts. [`BINS`] is the usual number of bins.
    ///
    /// # Errors
    /// [`Error::Input`] if the logit scale is not a positive number or the number of bins is 0.
    pub fn new(logit_scale: f64, bins: usize) -> Result<Self> {
        if !(logit_scale.is_finite() && logit_scale > 0.0) {
            return Err(Error::Input(format!("the logit scale {logit_scale} is not a number above zero")));
        }
        if bins == 0 {
            return Err(Error::Input("calibration needs at least one bin".into()));
        }
        Ok(Reliability { logit_scale, firsts: None, bins: vec![(0, 0.0, 0); bins] })
    }

    /// Sets the class names. Among classes with the same name, the first one wins, as in [`crate::Accuracy`]. Each class
    /// keeps its own probability: a model that is certain of a name shared by two classes gives each a confidence of one
    /// half.
    pub fn with_classes(self, classes: &[String]) -> Self {
        Reliability { firsts: Some(Firsts::of(classes)), ..self }
    }

    /// Counts scores `[batch, classes]` with the label of each row. A label whose score does not exceed all others is
    /// wrong.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of scores and labels differ, [`Error::Input`] for an empty batch, a score that is not
    /// finite, or a label that is not a class. The counts then stay unchanged.
    pub fn add(&mut self, scores: ArrayView2<'_, f32>, labels: &[usize]) -> Result<()> {
        check_scores(scores, labels)?;
        let firsts = self.firsts.get_or_insert_with(|| Firsts::distinct(scores.ncols()));
        if firsts.len() != scores.ncols() {
            return Err(Error::shape("columns of scores", firsts.len(), scores.ncols()));
        }
        let count = self.bins.len();
        for (row, &label) in scores.axis_iter(Axis(0)).zip(labels) {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let share = |score: f32| (self.logit_scale * (f64::from(score) - f64::from(best))).exp();
            let confidence = 1.0 / row.iter().map(|&score| share(score)).sum::<f64>();
            let is_right = !(0..row.len()).any(|class| firsts.is_ahead(row, class, label));
            let bin = &mut self.bins[((confidence * count as f64).ceil() as usize).clamp(1, count) - 1];
            bin.0 += 1;
            bin.1 += confidence;
            bin.2 += u64::from(is_right);
        }
        Ok(())
    }

    /// Returns the expected calibration error with its bins.
    ///
    /// # Errors
    /// [`Error::Input`] without samples.
    pub fn finish(self) -> Result<Calibration> {
        let count = self.bins.len();
        let samples = self.bins.iter().map(|(samples, _, _)| samples).sum::<u64>();
        if samples == 0 {
            return Err(Error::Input("calibration needs at least one labelled row of scores".into()));
        }
        let mean = |sum: f64| sum / samples as f64;
        let bin = |(index, &(samples, sum, right)): (usize, &(u64, f64, u64))| {
            let mean = |sum: f64| (samples > 0).then(|| sum / samples as f64);
            Bin {
                from: index as f64 / count as f64,
                to: (index + 1) as f64 / count as f64,
                samples,
                confidence: mean(sum),
                accuracy: mean(right as f64),
            }
        };
        Ok(Calibration {
            // Each bin's weight is its fraction of the samples, so its number of samples cancels.
            expected_calibration_error: mean(
                self.bins.iter().map(|(_, sum, right)| (sum - *right as f64).abs()).sum(),
            ),
            confidence: mean(self.bins.iter().map(|(_, sum, _)| sum).sum()),
            accuracy: mean(self.bins.iter().map(|(_, _, right)| *right as f64).sum()),
            samples,
            bins: self.bins.iter().enumerate().map(bin).collect(),
        })
    }
}

/// Computes the expected calibration error (Guo et al. 2017) of class scores `[n, classes]`. The logit scale multiplies
/// the scores before the softmax: CLIP's 100 for cosines, 1 for logits.
///
/// ```
/// let scores = ndarray::array![[5.0, 0.0], [5.0, 0.0]];
/// let found = zeroshot_eval::calibration(scores.view(), &[0, 1], 1.0, 15)?;
/// assert!(found.expected_calibration_error > 0.4, "certain, but wrong half of the time");
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// The errors of [`Reliability`].
pub fn calibration(
    scores: ArrayView2<'_, f32>,
    labels: &[usize],
    logit_scale: f64,
    bins: usize,
) -> Result<Calibration> {
    let mut counts = Reliability::new(logit_scale, bins)?;
    counts.add(scores, labels)?;
    counts.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::made_up;
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        // Probabilities 3/4, 3/4, 9/10 of the first class; right, wrong, right.
        let (three, nine) = (3f32.ln(), 9f32.ln());
        let scores = array![[three, 0.0], [three, 0.0], [nine, 0.0]];
        let found = calibration(scores.view(), &[0, 1, 0], 1.0, 5).unwrap();
        // (0.6, 0.8]: confidence 0.75, accuracy 0.5. (0.8, 1]: 0.9 and 1.
        let expected = 2.0 / 3.0 * 0.25 + 1.0 / 3.0 * 0.1;
        assert!((found.expected_calibration_error - expected).abs() < 1e-6);
        assert_eq!(found.bins.iter().map(|bin| bin.samples).collect::<Vec<_>>(), [0, 0, 0, 2, 1]);
        assert_eq!((found.bins[3].accuracy, found.bins[0].accuracy), (Some(0.5), None));
        assert!((found.bins[4].confidence.unwrap() - 0.9).abs() < 1e-6);
        assert_eq!((found.bins[3].from, found.bins[3].to), (0.6, 0.8));
        assert!((found.confidence - 2.4 / 3.0).abs() < 1e-6);
        assert_eq!((found.accuracy, found.samples), (2.0 / 3.0, 3));
    }

    #[test]
    fn edges_and_ties() {
        // A tie of two has confidence 1/2, which belongs to the lower of two bins, and is wrong.
        let found = calibration(array![[0.2, 0.2]].view(), &[0], 100.0, 2).unwrap();
        assert_eq!((found.bins[0].samples, found.accuracy), (1, 0.0));
        assert_eq!(found.expected_calibration_error, 0.5);
        // One class is always certain and right.
        assert_eq!(calibration(array![[0.2]].view(), &[0], 1.0, BINS).unwrap().bins[14].samples, 1);
        // Scores whose exponential overflows.
        let found = calibration(array![[3e38, -3e38]].view(), &[0], 1e3, BINS).unwrap();
        assert_eq!(found.expected_calibration_error, 0.0);
    }

    #[test]
    fn a_model_that_is_certain_of_a_duplicate_name_is_calibrated() {
        let classes = ["missile", "cat", "missile"].map(String::from);
        let mut counts = Reliability::new(1e3, BINS).unwrap().with_classes(&classes);
        counts.add(array![[0.9, 0.1, 0.9], [0.9, 0.1, 0.9]].view(), &[0, 2]).unwrap();
        assert!(matches!(counts.add(array![[0.9, 0.1]].view(), &[0]), Err(Error::Shape { .. })));
        let found = counts.finish().unwrap();
        // Each of the two classes has a confidence of one half, and the first is right.
        assert_eq!((found.confidence, found.accuracy, found.samples), (0.5, 0.5, 2));
        assert_eq!(found.expected_calibration_error, 0.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let scores = array![[0.1, 0.2]];
        assert!(matches!(calibration(scores.view(), &[], 1.0, BINS), Err(Error::Shape { .. })));
        assert!(matches!(calibration(scores.view(), &[2], 1.0, BINS), Err(Error::Input(_))));
        assert!(calibration(scores.view(), &[0], 1.0, 0).is_err());
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(calibration(scores.view(), &[0], scale, BINS).is_err());
        }
        assert!(calibration(array![[0.1, f32::NAN]].view(), &[0], 1.0, BINS).is_err());
        assert!(calibration(Array2::zeros((0, 2)).view(), &[], 1.0, BINS).is_err());
    }

    proptest! {
        #[test]
        fn shifted_scores_and_a_rescaled_logit_scale_change_nothing(n in 1usize..40, shift in -3.0f32..3.0, seed in 0u64..999) {
            let scores = made_up(n, 4, seed);
            let labels = (0..n).map(|i| i % 4).collect::<Vec<_>>();
            let found = calibration(scores.view(), &labels, 10.0, BINS).unwrap();
            prop_assert!((0.0..=1.0).contains(&found.expected_calibration_error));
            prop_assert_eq!(found.bins.iter().map(|bin| bin.samples).sum::<u64>(), n as u64);
            // The mean error over bins is at least the error of a single bin.
            let single = (found.confidence - found.accuracy).abs();
            prop_assert!(found.expected_calibration_error  >= single - 1e-12);
            let one = calibration(scores.view(), &labels, 10.0, 1).unwrap();
            prop_assert!((one.expected_calibration_error - single).abs() < 1e-12);
            let moved = calibration((&scores * 2.0 + shift).view(), &labels, 5.0, 1).unwrap();
            prop_assert!((moved.expected_calibration_error - single).abs() < 1e-4);
        }
    }
}

//! A linear probe: multinomial logistic regression on image embeddings.

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::logistic::{BLOCK, Scaling, Task, logits};
use crate::rows::{self, check_labels};
use crate::seeded::Seeded;
use crate::{Error, Result};

/// Settings of the linear probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProbeOptions {
    /// Weights of the L2 penalty to select from, on a held-out tenth of the training images; a single one is used as is.
    pub l2: Vec<f64>,
    /// Maximum number of L-BFGS steps for each weight.
    pub steps: usize,
    /// Gradient norm (largest absolute value) that ends the training, relative to the norm at zero weights. It is
    /// relative because gradients shrink with the number of classes.
    pub tolerance: f64,
    /// Seed that draws the held-out tenth.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        ProbeOptions { l2: vec![1.0, 1e-1, 1e-2, 1e-3, 1e-4], steps: 200, tolerance: 1e-4, seed: 0 }
    }
}

/// Record of a linear probe's training: the chosen penalty, the candidates' results and the convergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeTraining {
    /// The chosen weight of the penalty.
    pub l2: f64,
    /// Results of each candidate on the held-out tenth, strongest penalty first; empty for a single candidate.
    pub tried: Vec<Tried>,
    /// Number of steps of the final training, on all embeddings.
    pub steps: usize,
    /// Whether its gradient reached the tolerance.
    pub converged: bool,
}

/// Results of one candidate weight on the held-out tenth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Weight of the penalty.
    pub l2: f64,
    /// Accuracy on the held-out tenth, 0 to 1.
    pub accuracy: f64,
    /// Mean cross-entropy on the held-out tenth, in nats.
    pub cross_entropy: f64,
}

/// A trained linear probe.
///
/// It normalises an embedding, subtracts the mean of the training embeddings, scales to a mean square of 1 per column and
/// applies weights, biases and a softmax. Training minimises the mean cross-entropy plus l2 / 2 times the sum of the
/// squared weights; biases have no penalty.
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::{Probe, ProbeOptions};
///
/// let train = array![[1.0, 0.1], [1.0, -0.1], [0.9, 0.1], [0.9, -0.1]];
/// let probe = Probe::train(train.view(), &[0, 1, 0, 1], 2, &ProbeOptions::default())?;
/// let logits = probe.scores(array![[2.0, 0.5]].view())?;
/// assert!(logits[[0, 0]] > logits[[0, 1]]);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Probe {
    scaling: Scaling,
    weights: Array2<f64>, // [D + 1, classes], the last row the biases
    training: ProbeTraining,
}

impl ProbeOptions {
    /// Sets the candidate weights of the L2 penalty.
    pub fn with_l2(mut self, l2: impl Into<Vec<f64>>) -> Self {
        self.l2 = l2.into();
        self
    }

    /// Sets the maximum number of steps for each weight.
    pub fn with_steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Sets the tolerance.
    pub fn with_tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets the seed of the held-out tenth.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl Probe {
    /// Trains a linear probe on embeddings `[n, D]` and their labels. The chosen penalty has the best accuracy on a
    /// held-out tenth; among equals, the lowest cross-entropy, then the strongest penalty. The final training uses all
    /// embeddings. The result does not depend on the number of threads.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of embeddings and labels differ, [`Error::Input`] for fewer than two embeddings, a value
    /// that is not finite, a label that is not below `classes`, or an option out of range.
    pub fn train(
        rows: ArrayView2<'_, f32>,
        labels: &[usize],
        classes: usize,
        options: &ProbeOptions,
    ) -> Result<Self> {
        options.check()?;
        check_labels(labels, rows.nrows(), classes)?;
        let rows = rows::unit("training row", rows)?;
        if rows.nrows() < 2 {
            return Err(Error::Input("a linear probe needs at least two training embeddings".into()));
        }
        let mut l2 = options.l2.clone();
        l2.sort_by(|a, b| b.total_cmp(a));
        let tried = if l2.len() > 1 { options.compare(&l2, &rows, labels, classes) } else { Vec::new() };
        let chosen = best(&tried).unwrap_or(l2[0]);
        let scaling = Scaling::new(rows.view());
        let task = Task { rows: rows.view(), labels, scaling: &scaling };
        let start = Array2::zeros((rows.ncols() + 1, classes));
        let found = task.solve(start, chosen, options.steps, options.tolerance);
        let (steps, converged) = (found.steps, found.converged);
        let training = ProbeTraining { l2: chosen, tried, steps, converged };
        Ok(Probe { weights: found.weights, scaling, training })
    }

    /// Returns the logits `[n, classes]` of embeddings `[n, D]`; see [`crate::Accuracy::add`].
    ///
    /// # Errors
    /// [`Error::Shape`] if the widths differ, [`Error::Input`] for an empty array or a value that is not finite.
    pub fn scores(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let width = self.weights.nrows() - 1;
        if rows.ncols() != width {
            return Err(Error::shape("width of the test embeddings", width, rows.ncols()));
        }
        let rows = rows::unit("test row", rows)?;
        let mut scores = Array2::zeros((rows.nrows(), self.weights.ncols()));
        for (mut scores, rows) in
            scores.axis_chunks_iter_mut(Axis(0), BLOCK).zip(rows.axis_chunks_iter(Axis(0), BLOCK))
        {
            let logits = logits(&self.scaling.apply(rows), &self.weights);
            scores.zip_mut_with(&logits, |score, logit| *score = *logit as f32);
        }
        Ok(scores)
    }

    /// Returns the record of the training.
    pub fn training(&self) -> &ProbeTraining {
        &self.training
    }
}

impl ProbeOptions {
    fn check(&self) -> Result<()> {
        let is_positive = |value: f64| value.is_finite() && value > 0.0;
        if self.l2.is_empty() || !self.l2.iter().all(|l2| is_positive(*l2)) {
            let reason =
                "a linear probe needs at least one weight of the L2 penalty, each a number above zero";
            return Err(Error::Input(format!("{reason}, not {:?}", self.l2)));
        }
        if self.steps == 0 || !is_positive(self.tolerance) {
            return Err(Error::Input(
                "a linear probe needs a positive number of steps and a positive tolerance".into(),
            ));
        }
        Ok(())
    }

    /// Trains with each candidate on nine tenths. Each search starts from the result of the next stronger penalty.
    fn compare(&self, l2: &[f64], rows: &Array2<f32>, labels: &[usize], classes: usize) -> Vec<Tried> {
        let (held_out, rest) = split(labels.len(), self.seed);
        let part = |indices: &[usize]| {
            let labels = indices.iter().map(|index| labels[*index]).collect::<Vec<_>>();
            (rows.select(Axis(0), indices), labels)
        };
        let ((test, test_labels), (train, train_labels)) = (part(&held_out), part(&rest));
        let scaling = Scaling::new(train.view());
        let task = Task { rows: train.view(), labels: &train_labels, scaling: &scaling };
        let test = Task { rows: test.view(), labels: &test_labels, scaling: &scaling };
        let mut weights = Array2::zeros((rows.ncols() + 1, classes));
        let mut tried = Vec::with_capacity(l2.len());
        for &l2 in l2 {
            weights = task.solve(weights, l2, self.steps, self.tolerance).weights;
            let (accuracy, cross_entropy) = test.measure(&weights);
            tried.push(Tried { l2, accuracy, cross_entropy });
        }
        tried
    }
}

/// Returns the weight with the best accuracy, then the lowest cross-entropy, then the first.
fn best(tried: &[Tried]) -> Option<f64> {
    let better = |best: Tried, other: Tried| {
        let is_better = other.accuracy > best.accuracy
            || other.accuracy == best.accuracy && other.cross_entropy < best.cross_entropy;
        if is_better { other } else { best }
    };
    tried.iter().copied().reduce(better).map(|best| best.l2)
}

/// Splits the indices below `count` into a tenth, at least one, and the others.
fn split(count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut held_out = Seeded::new(seed).order(count);
    let rest = held_out.split_off((count / 10).max(1));
    (held_out, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::made_up;
    use ndarray::array;

    /// Unit directions of three classes with noise.
    fn clouds(count: usize, noise: f32, seed: u64) -> (Array2<f32>, Vec<usize>) {
        let labels = (0..count).map(|i| i % 3).collect::<Vec<_>>();
        let mut rows = made_up(count, 6, seed) * noise;
        for (i, label) in labels.iter().enumerate() {
            rows[[i, *label]] += 1.0;
        }
        (rows, labels)
    }

    fn accuracy(probe: &Probe, rows: &Array2<f32>, labels: &[usize]) -> f64 {
        let classes = (0..3).map(|i| i.to_string()).collect::<Vec<_>>();
        let mut counts = crate::Accuracy::new(&classes);
        counts.add(probe.scores(rows.view()).unwrap().view(), labels).unwrap();
        counts.finish().unwrap().top1
    }

    #[test]
    fn learns_separable_classes_and_not_noise() {
        let ((train, labels), (test, test_labels)) = (clouds(600, 0.4, 0), clouds(300, 0.4, 1));
        let probe = Probe::train(train.view(), &labels, 3, &ProbeOptions::default()).unwrap();
        assert!(probe.training().converged, "{:?}", probe.training());
        assert!(probe.training().steps > 3, "two steps are not a minimum");
        assert_eq!(accuracy(&probe, &test, &test_labels), 1.0);
        // Labels independent of the embeddings give the accuracy of chance, a third.
        let (noise, labels) = (made_up(600, 6, 2), (0..600).map(|i| i % 3).collect::<Vec<_>>());
        let probe = Probe::train(noise.view(), &labels, 3, &ProbeOptions::default()).unwrap();
        let found = accuracy(&probe, &made_up(600, 6, 3), &labels);
        assert!((found - 1.0 / 3.0).abs() < 0.08, "{found}");
    }

    #[test]
    fn small_differences_of_direction_are_learned() {
        // All rows lie within a small cone; a class is the side of its axis.
        let labels = (0..200).map(|i| i % 2).collect::<Vec<_>>();
        let mut rows = made_up(200, 3, 4) * 0.05;
        for (i, label) in labels.iter().enumerate() {
            rows[[i, 0]] += 5.0;
            rows[[i, 1]] += if *label == 0 { -0.1 } else { 0.1 };
        }
        let probe = Probe::train(rows.view(), &labels, 2, &ProbeOptions::default()).unwrap();
        let scores = probe.scores(rows.view()).unwrap();
        assert!(labels.iter().enumerate().all(|(i, label)| scores[[i, *label]] > scores[[i, 1 - label]]));
    }

    #[test]
    fn the_penalty_is_chosen_on_held_out_rows() {
        // So much noise that weak penalties overfit: 40 rows of width 30.
        let labels = (0..40).map(|i| i % 2).collect::<Vec<_>>();
        let mut rows = made_up(40, 30, 5);
        labels.iter().enumerate().for_each(|(i, label)| rows[[i, 0]] += if *label == 0 { -1.0 } else { 1.0 });
        let options = ProbeOptions { l2: vec![1e-4, 1.0, 1e-2], ..ProbeOptions::default() };
        let probe = Probe::train(rows.view(), &labels, 2, &options).unwrap();
        let tried = &probe.training().tried;
        assert_eq!(tried.iter().map(|tried| tried.l2).collect::<Vec<_>>(), [1.0, 1e-2, 1e-4]);
        assert!(tried[0].cross_entropy < tried[2].cross_entropy, "{tried:?}");
        assert_eq!(Some(probe.training().l2), best(tried));
        // A single candidate gives the same probe.
        let one = ProbeOptions { l2: vec![probe.training().l2], ..options };
        let other = Probe::train(rows.view(), &labels, 2, &one).unwrap();
        assert!(other.training().tried.is_empty());
        assert_eq!(other.weights, probe.weights);
        let (held_out, rest) = split(40, 0);
        assert_eq!((held_out.len(), rest.len()), (4, 36));
        assert!(held_out.iter().all(|index| !rest.contains(index)));
        assert_eq!(split(2, 0).0.len(), 1);
    }

    #[test]
    fn the_best_weight_by_hand() {
        let tried = |l2, accuracy, cross_entropy| Tried { l2, accuracy, cross_entropy };
        assert_eq!(best(&[tried(3.0, 0.5, 0.1), tried(2.0, 0.6, 0.9), tried(1.0, 0.4, 0.1)]), Some(2.0));
        assert_eq!(best(&[tried(3.0, 0.5, 0.2), tried(2.0, 0.5, 0.3), tried(1.0, 0.5, 0.1)]), Some(1.0));
        assert_eq!(best(&[tried(3.0, 0.5, 0.2), tried(2.0, 0.5, 0.2)]), Some(3.0));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (rows, labels) = clouds(1500, 2.0, 6);
        let train = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Probe::train(rows.view(), &labels, 3, &ProbeOptions::default()).unwrap())
        };
        let (one, three) = (train(1), train(3));
        assert_eq!(one.weights, three.weights);
        assert_eq!(one.training(), three.training());
    }

    #[test]
    fn bad_input_is_an_error() {
        let usual = ProbeOptions::default();
        let train = |rows: &Array2<f32>, labels: &[usize], options: &ProbeOptions| {
            Probe::train(rows.view(), labels, 2, options)
        };
        let rows = made_up(4, 3, 0);
        let probe = train(&rows, &[0, 1, 0, 1], &usual).unwrap();
        assert!(matches!(train(&rows, &[0, 1], &usual), Err(Error::Shape { .. })));
        assert!(matches!(train(&rows, &[0, 1, 0, 2], &usual), Err(Error::Input(_))));
        assert!(train(&Array2::zeros((0, 3)), &[], &usual).is_err());
        assert!(train(&array![[1.0, 0.0]], &[0], &usual).is_err());
        assert!(train(&array![[1.0], [f32::NAN]], &[0, 1], &usual).is_err());
        for l2 in [vec![], vec![0.0], vec![1.0, f64::NAN], vec![-1.0]] {
            assert!(train(&rows, &[0, 1, 0, 1], &ProbeOptions { l2, ..usual.clone() }).is_err());
        }
        assert!(train(&rows, &[0, 1, 0, 1], &ProbeOptions { steps: 0, ..usual.clone() }).is_err());
        assert!(train(&rows, &[0, 1, 0, 1], &ProbeOptions { tolerance: 0.0, ..usual.clone() }).is_err());
        assert!(matches!(probe.scores(made_up(2, 4, 0).view()), Err(Error::Shape { .. })));
        assert!(probe.scores(Array2::from_elem((1, 3), f32::NAN).view()).is_err());
        // Valid: two embeddings, constant embeddings, and a class without embeddings.
        assert!(train(&array![[1.0, 0.0], [0.0, 1.0]], &[0, 1], &usual).is_ok());
        assert!(train(&Array2::ones((5, 2)), &[1; 5], &usual).is_ok());
    }
}

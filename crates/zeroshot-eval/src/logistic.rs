//! Multinomial logistic regression: its loss, its gradient and its minimum.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::lbfgs::{Limits, minimize};

/// Number of embeddings per parallel task; constant, so that sums do not depend on the number of threads.
pub(crate) const BLOCK: usize = 512;
/// Number of blocks whose gradients are in memory at once.
const ROUND: usize = 16;

/// Trained weights `[D + 1, classes]`, with the biases in the last row, and how the optimisation ended.
pub(crate) struct Solved {
    pub(crate) weights: Array2<f64>,
    pub(crate) steps: usize,
    pub(crate) converged: bool,
}

/// Centres training embeddings and scales them to a mean square of 1 per column. All columns share one factor, so cosines
/// keep their meaning, and a penalty means the same for any width.
#[derive(Clone, Debug)]
pub(crate) struct Scaling {
    mean: Array1<f64>,
    factor: f64,
}

impl Scaling {
    pub(crate) fn new(rows: ArrayView2<'_, f32>) -> Self {
        let mut mean = Array1::<f64>::zeros(rows.ncols());
        for row in rows.axis_iter(Axis(0)) {
            mean.zip_mut_with(&row, |sum, &value| *sum += f64::from(value));
        }
        mean /= rows.nrows() as f64;
        let square = |row: ArrayView1<'_, f32>| {
            row.iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - mean).powi(2)).sum::<f64>()
        };
        let variance = rows.axis_iter(Axis(0)).map(square).sum::<f64>() / rows.len() as f64;
        // Below this limit, the variance is rounding error of single precision.
        let factor = if variance > 1e-12 { 1.0 / variance.sqrt() } else { 1.0 };
        Scaling { mean, factor }
    }

    pub(crate) fn apply(&self, rows: ArrayView2<'_, f32>) -> Array2<f64> {
        (rows.mapv(f64::from) - &self.mean) * self.factor
    }
}

/// Returns the logits `[n, classes]` of scaled rows.
pub(crate) fn logits(rows: &Array2<f64>, weights: &Array2<f64>) -> Array2<f64> {
    let width = rows.ncols();
    rows.dot(&weights.slice(s![..width, ..])) + weights.row(width)
}

/// Logistic regression on unit embeddings with their labels.
pub(crate) struct Task<'a> {
    pub(crate) rows: ArrayView2<'a, f32>,
    pub(crate) labels: &'a [usize],
    pub(crate) scaling: &'a Scaling,
}

impl Task<'_> {
    /// Minimises the loss from the weights `start`, until the largest value of the gradient is at most the fraction
    /// `tolerance` of its value at zero weights.
    pub(crate) fn solve(&self, start: Array2<f64>, l2: f64, steps: usize, tolerance: f64) -> Solved {
        let shape = start.raw_dim();
        let at_zero = self.objective(&Array2::zeros(shape), l2).1;
        let largest = at_zero.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let limits = Limits { steps, gradient: tolerance * largest };
        let weights_of = |values: &[f64]| {
            let mut weights = Array2::zeros(shape);
            weights.iter_mut().zip(values).for_each(|(weight, value)| *weight = *value);
            weights
        };
        let function = |values: &[f64]| {
            let (value, gradient) = self.objective(&weights_of(values), l2);
            (value, gradient.into_iter().collect())
        };
        let found = minimize(function, start.into_iter().collect(), limits);
        Solved { weights: weights_of(&found.at), steps: found.steps, converged: found.converged }
    }

    /// Returns the mean cross-entropy with the penalty, and its gradient `[D + 1, classes]`.
    fn objective(&self, weights: &Array2<f64>, l2: f64) -> (f64, Array2<f64>) {
        let width = self.rows.ncols();
        let block = |(block, labels): (usize, &[usize])| {
            let start = block * BLOCK;
            let rows = self.scaling.apply(self.rows.slice(s![start..start + labels.len(), ..]));
            let mut errors = logits(&rows, weights);
            let mut loss = 0.0;
            for (mut row, &label) in errors.axis_iter_mut(Axis(0)).zip(labels) {
                let log_sum = log_sum(row.view());
                loss += log_sum - row[label];
                row.mapv_inplace(|logit| (logit - log_sum).exp());
                row[label] -= 1.0;
            }
            let mut gradient = Array2::zeros(weights.raw_dim());
            gradient.slice_mut(s![..width, ..]).assign(&rows.t().dot(&errors));
            gradient.row_mut(width).assign(&errors.sum_axis(Axis(0)));
            (loss, gradient)
        };
        let (mut loss, mut gradient) = (0.0, Array2::<f64>::zeros(weights.raw_dim()));
        let blocks = self.labels.chunks(BLOCK).enumerate().collect::<Vec<_>>();
        for round in blocks.chunks(ROUND) {
            // Sum in the order of the blocks, regardless of the order in which they finish.
            for (block_loss, block_gradient) in round.par_iter().copied().map(block).collect::<Vec<_>>() {
                loss += block_loss;
                gradient += &block_gradient;
            }
        }
        let count = self.labels.len() as f64;
        gradient /= count;
        let inner = weights.slice(s![..width, ..]);
        gradient.slice_mut(s![..width, ..]).scaled_add(l2, &inner);
        (loss / count + l2 / 2.0 * inner.iter().map(|weight| weight * weight).sum::<f64>(), gradient)
    }

    /// Returns the accuracy (ties count as wrong) and the mean cross-entropy.
    pub(crate) fn measure(&self, weights: &Array2<f64>) -> (f64, f64) {
        let (mut right, mut loss) = (0usize, 0.0);
        for (rows, labels) in self.rows.axis_chunks_iter(Axis(0), BLOCK).zip(self.labels.chunks(BLOCK)) {
            let logits = logits(&self.scaling.apply(rows), weights);
            for (row, &label) in logits.axis_iter(Axis(0)).zip(labels) {
                loss += log_sum(row) - row[label];
                let is_right =
                    row.iter().enumerate().all(|(class, logit)| class == label || *logit < row[label]);
                right += usize::from(is_right);
            }
        }
        (right as f64 / self.labels.len() as f64, loss / self.labels.len() as f64)
    }
}

/// Returns the logarithm of the sum of exponentials.
fn log_sum(logits: ArrayView1<'_, f64>) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::made_up;
    use ndarray::array;

    #[test]
    fn scaling_by_hand() {
        // Mean (1, 0); the squares of (-1, 0, 1) and (2, -4, 2) add up to 26, over 6 values.
        let rows = array![[0.0, 2.0], [1.0, -4.0], [2.0, 2.0]];
        let found = Scaling::new(rows.view()).apply(rows.view());
        let factor = 1.0 / (26f64 / 6.0).sqrt();
        let expected = array![[-1.0, 2.0], [0.0, -4.0], [1.0, 2.0]] * factor;
        assert!((&found - &expected).iter().all(|away| away.abs() < 1e-12), "{found}");
        // Rows that do not vary stay at their mean.
        let same = Array2::from_elem((4, 3), 0.1f32);
        assert!(Scaling::new(same.view()).apply(same.view()).iter().all(|value| value.abs() < 1e-6));
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        let rows = made_up(1200, 3, 0); // three blocks
        let labels = (0..1200).map(|i| (i * 7 + i / 9) % 4).collect::<Vec<_>>();
        let scaling = Scaling::new(rows.view());
        let task = Task { rows: rows.view(), labels: &labels, scaling: &scaling };
        let weights = made_up(4, 4, 1).mapv(f64::from);
        let (value, gradient) = task.objective(&weights, 0.3);
        // Computed plainly: softmax of each row, and the penalty without the biases.
        let scaled = scaling.apply(rows.view());
        let plain = (0..1200).map(|i| {
            let logit = |class: usize| {
                (0..3).map(|j| scaled[[i, j]] * weights[[j, class]]).sum::<f64>() + weights[[3, class]]
            };
            let all = (0..4).map(|class| logit(class).exp()).sum::<f64>();
            -(logit(labels[i]).exp() / all).ln()
        });
        let penalty = weights.slice(s![..3, ..]).iter().map(|w| w * w).sum::<f64>() * 0.15;
        assert!((value - plain.sum::<f64>() / 1200.0 - penalty).abs() < 1e-10);
        for (place, slope) in gradient.indexed_iter() {
            let at = |step: f64| {
                let mut moved = weights.clone();
                moved[place] += step;
                task.objective(&moved, 0.3).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - difference).abs() < 1e-8, "{place:?}: {slope} {difference}");
        }
    }

    #[test]
    fn two_points_have_a_known_minimum() {
        // x = -1 and 1 of classes 0 and 1. By symmetry the weights are (-w, w) without biases, the loss is
        // ln(1 + e^-2w) + l2 w², and its slope is zero where l2 w = 1 / (1 + e^2w): w = 1 for this l2.
        let l2 = 1.0 / (1.0 + 2f64.exp());
        let rows = array![[-1.0], [1.0]];
        let scaling = Scaling::new(rows.view());
        let task = Task { rows: rows.view(), labels: &[0, 1], scaling: &scaling };
        let found = task.solve(Array2::zeros((2, 2)), l2, 500, 1e-9);
        let expected = array![[-1.0, 1.0], [0.0, 0.0]];
        assert!(found.converged);
        assert!((&found.weights - &expected).iter().all(|away| away.abs() < 1e-7), "{}", found.weights);
        let (accuracy, loss) = task.measure(&found.weights);
        assert_eq!(accuracy, 1.0);
        assert!((loss - (1.0 + (-2f64).exp()).ln()).abs() < 1e-7);
        assert_eq!(task.measure(&Array2::zeros((2, 2))), (0.0, 2f64.ln()), "ties are wrong");
    }

    #[test]
    fn constant_inputs_give_biases_with_the_class_frequencies() {
        let rows = Array2::from_elem((8, 2), 0.5f32);
        let scaling = Scaling::new(rows.view());
        let labels = [0, 0, 0, 0, 0, 1, 1, 2];
        let task = Task { rows: rows.view(), labels: &labels, scaling: &scaling };
        let biases = task.solve(Array2::zeros((3, 3)), 10.0, 500, 1e-9).weights.row(2).mapv(f64::exp);
        let shares = &biases / biases.sum();
        assert!((&shares - &array![0.625, 0.25, 0.125]).iter().all(|away| away.abs() < 1e-7), "{shares}");
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let found = log_sum(array![1000.0, 1000.0, -1e300].view());
        assert!((found - 1000.0 - 2f64.ln()).abs() < 1e-9);
    }
}

//! L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) for smooth functions of many values.

/// Number of recent steps from which the curvature is estimated.
const MEMORY: usize = 10;
/// Required fraction of the decrease that the slope predicts (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// Maximum number of halvings of a step; rounding hides any further decrease.
const HALVINGS: usize = 40;

/// Stopping criteria.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of steps.
    pub(crate) steps: usize,
    /// Largest absolute value of the gradient at a minimum.
    pub(crate) gradient: f64,
}

/// The result of a search.
#[derive(Clone, Debug)]
pub(crate) struct Minimum {
    pub(crate) at: Vec<f64>,
    pub(crate) steps: usize,
    /// Whether the gradient is below its limit.
    pub(crate) converged: bool,
}

/// Minimises a function, which returns its value and gradient, from `start`.
pub(crate) fn minimize(
    mut function: impl FnMut(&[f64]) -> (f64, Vec<f64>),
    start: Vec<f64>,
    limits: Limits,
) -> Minimum {
    let mut at = start;
    let (mut value, mut gradient) = function(&at);
    let mut memory = Memory::default();
    let mut steps = 0;
    loop {
        let largest = gradient.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let converged = largest <= limits.gradient;
        if converged || steps == limits.steps {
            return Minimum { at, steps, converged };
        }
        let mut direction = memory.direction(&gradient);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            // Rounding errors have spoiled the curvature estimate: restart with steepest descent.
            memory = Memory::default();
            direction = memory.direction(&gradient);
            slope = dot(&direction, &gradient);
        }
        let mut length = 1.0;
        let mut next = None;
        for _ in 0..HALVINGS {
            let candidate =
                at.iter().zip(&direction).map(|(at, step)| at + length * step).collect::<Vec<_>>();
            let (found, found_gradient) = function(&candidate);
            if found <= value + SUFFICIENT * length * slope {
                next = Some((candidate, found, found_gradient));
                break;
            }
            length /= 2.0;
        }
        let Some((next, found, found_gradient)) = next else {
            return Minimum { at, steps, converged };
        };
        memory.push(difference(&next, &at), difference(&found_gradient, &gradient));
        (at, value, gradient) = (next, found, found_gradient);
        steps += 1;
    }
}

/// Recent steps, the resulting changes of the gradient, and 1 / (step · change); oldest first.
#[derive(Default)]
struct Memory(Vec<(Vec<f64>, Vec<f64>, f64)>);

impl Memory {
    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let product = dot(&step, &change);
        // Only positive curvature keeps the inverse Hessian positive definite.
        if product > f64::EPSILON * dot(&change, &change) {
            if self.0.len() == MEMORY {
                self.0.remove(0);
            }
            self.0.push((step, change, 1.0 / product));
        }
    }

    /// Returns the search direction: minus the approximate inverse Hessian times the gradient, by the two-loop
    /// recursion.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction = gradient.iter().map(|value| -value).collect::<Vec<_>>();
        let mut shares = Vec::with_capacity(self.0.len());
        for (step, change, inverse) in self.0.iter().rev() {
            let share = inverse * dot(step, &direction);
            add(&mut direction, -share, change);
            shares.push(share);
        }
        let scale = match self.0.last() {
            Some((_, change, inverse)) => 1.0 / (inverse * dot(change, change)),
            // Without a known curvature, the step has a length of at most 1.
            None => 1.0 / dot(gradient, gradient).sqrt().max(1.0),
        };
        direction.iter_mut().for_each(|value| *value *= scale);
        for ((step, change, inverse), share) in self.0.iter().zip(shares.iter().rev()) {
            let other = inverse * dot(change, &direction);
            add(&mut direction, share - other, step);
        }
        direction
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add(to: &mut [f64], factor: f64, other: &[f64]) {
    to.iter_mut().zip(other).for_each(|(to, other)| *to += factor * other);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimizes_rosenbrocks_function() {
        // Rosenbrock's function has its minimum 0 at (1, 1).
        let rosenbrock = |p: &[f64]| {
            let (a, b) = (1.0 - p[0], p[1] - p[0] * p[0]);
            (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * p[0] * b, 200.0 * b])
        };
        let found = minimize(rosenbrock, vec![-1.2, 1.0], Limits { steps: 200, gradient: 1e-8 });
        assert!(found.converged && found.steps < 100, "{found:?}");
        assert!((found.at[0] - 1.0).abs() < 1e-6 && (found.at[1] - 1.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn minimizes_an_ill_conditioned_quadratic() {
        // Σ cᵢ (xᵢ - i)² with c from 1 to 100, for which steepest descent needs some 700 steps.
        let weight = |i: usize| 10f64.powf(i as f64 / 25.0 * 2.0);
        let bowl = |p: &[f64]| {
            let away = p.iter().enumerate().map(|(i, x)| x - i as f64).collect::<Vec<_>>();
            let value = away.iter().enumerate().map(|(i, x)| weight(i) * x * x).sum();
            (value, away.iter().enumerate().map(|(i, x)| 2.0 * weight(i) * x).collect())
        };
        let found = minimize(bowl, vec![0.0; 26], Limits { steps: 500, gradient: 1e-6 });
        assert!(found.converged && found.steps < 100, "{} steps", found.steps);
        assert!(found.at.iter().enumerate().all(|(i, x)| (x - i as f64).abs() < 1e-5));
    }

    #[test]
    fn stops_at_the_step_limit_and_at_a_minimum() {
        let square = |p: &[f64]| (p[0] * p[0] * 0.5, vec![p[0]]);
        let found = minimize(square, vec![9.0], Limits { steps: 1, gradient: 1e-9 });
        assert_eq!((found.steps, found.converged, found.at[0]), (1, false, 8.0));
        let found = minimize(square, vec![0.0], Limits { steps: 5, gradient: 1e-9 });
        assert_eq!((found.steps, found.converged), (0, true));
        // With a gradient that points the wrong way, no step lowers the value.
        let found = minimize(|p| (p[0], vec![-1.0]), vec![0.0], Limits { steps: 5, gradient: 1e-9 });
        assert_eq!((found.steps, found.converged, found.at[0]), (0, false, 0.0));
    }
}

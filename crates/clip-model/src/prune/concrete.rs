//! The hard-concrete distribution (Louizos et al. 2018): numbers in 0..=1 that are 0 or 1 with a probability that has
//! a gradient.

use tch::Tensor;

/// Where the stretched interval starts.
pub const LOWEST: f64 = -0.1;
/// Where it ends.
pub const HIGHEST: f64 = 1.1;
/// Temperature of the sigmoid.
pub const TEMPERATURE: f64 = 2.0 / 3.0;
/// Uniform numbers keep this distance from 0 and 1.
pub const EPS: f64 = 1e-6;
/// Score (log alpha) at the start: practically always 1.
pub const START: f64 = 10.0;
/// Factor of the published code in the value of a gate that stays.
const SOFTENING: f64 = 0.8;

/// clamp(σ((ln u − ln(1 − u) + a) / T) · 1.2 − 0.1, 0, 1) for scores a and uniform numbers u of one shape.
pub fn sample(scores: &Tensor, uniform: &Tensor) -> Tensor {
    let logit = uniform.clamp(EPS, 1.0 - EPS).logit(None::<f64>);
    let concrete = ((logit + scores) / TEMPERATURE).sigmoid();
    (concrete * (HIGHEST - LOWEST) + LOWEST).clamp(0.0, 1.0)
}

/// Probability that a draw is not 0: 1 − CDF(0) = σ(a − T ln(0.1 / 1.1)).
pub fn keep_probability(scores: &Tensor) -> Tensor {
    (scores - TEMPERATURE * (-LOWEST / HIGHEST).ln()).sigmoid()
}

/// What a gate that stays is from then on: σ(0.8 a / T), above 0 however small.
pub fn settled(scores: &Tensor) -> Tensor {
    (scores * (SOFTENING / TEMPERATURE)).sigmoid().clamp_min(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_hand() {
        let row = |values: &[f64]| Tensor::from_slice(values);
        // u = 1/2 leaves the score alone: σ(0) = 1/2, stretched 0.5; σ(3/2 · 10) is above the clamp.
        let drawn = sample(&row(&[0.0, 10.0, -10.0, 1.0]), &row(&[0.5, 0.5, 0.5, 0.2]));
        let inner = 1.0 / (1.0 + (-(0.25f64.ln() + 1.0) / TEMPERATURE).exp());
        for (place, expected) in [0.5, 1.0, 0.0, inner * 1.2 - 0.1].into_iter().enumerate() {
            assert!((drawn.double_value(&[place as i64]) - expected).abs() < 1e-9, "{place}: {drawn}");
        }
        assert!(settled(&Tensor::from(-1000f32)).double_value(&[]) > 0.0);
        let kept = keep_probability(&row(&[0.0, 10.0])).double_value(&[0]);
        assert!((kept - 1.0 / (1.0 + (-(2.0 / 3.0) * 11f64.ln()).exp())).abs() < 1e-9);
        // The ends of the uniform numbers are finite.
        assert_eq!(
            sample(&row(&[0.0, 0.0]), &row(&[0.0, 1.0])).sum(tch::Kind::Double).double_value(&[]),
            1.0
        );
    }

    #[test]
    fn as_many_draws_are_kept_as_the_probability_says() {
        let mode = crate::mode::Mode::default();
        mode.train(3);
        let uniform = Tensor::from_slice(&mode.uniform(1, 20_000));
        for score in [-2.0, -0.5, 1.0] {
            let scores = Tensor::full([20_000], score, (tch::Kind::Float, tch::Device::Cpu));
            let share = sample(&scores, &uniform).gt(0.0).to_kind(tch::Kind::Float).mean(tch::Kind::Float);
            let expected = keep_probability(&scores).double_value(&[0]);
            assert!((share.double_value(&[]) - expected).abs() < 0.015, "{score}: {share} of {expected}");
        }
    }
}

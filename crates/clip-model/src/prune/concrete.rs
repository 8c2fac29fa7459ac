//! The hard-concrete distribution (Louizos et al. 2018): random numbers in 0..=1 that are exactly 0 or 1 with a
//! differentiable probability.

use tch::Tensor;

/// Lower end of the stretched interval.
pub(crate) const LOWEST: f64 = -0.1;
/// Upper end of the stretched interval.
pub(crate) const HIGHEST: f64 = 1.1;
/// Temperature of the sigmoid.
pub(crate) const TEMPERATURE: f64 = 2.0 / 3.0;
/// Minimum distance of the uniform numbers from 0 and 1.
pub(crate) const EPS: f64 = 1e-6;
/// Initial score (log alpha), with which a draw is practically always 1.
pub(crate) const START: f64 = 10.0;
/// Factor of the published code in the value of a gate that is kept.
const SOFTENING: f64 = 0.8;

/// Samples clamp(σ((ln u − ln(1 − u) + a) / T) · 1.2 − 0.1, 0, 1) for scores a and uniform numbers u of the same
/// shape.
pub(crate) fn sample(scores: &Tensor, uniform: &Tensor) -> Tensor {
    let logit = uniform.clamp(EPS, 1.0 - EPS).logit(None::<f64>);
    let concrete = ((logit + scores) / TEMPERATURE).sigmoid();
    (concrete * (HIGHEST - LOWEST) + LOWEST).clamp(0.0, 1.0)
}

/// Returns the probability that a sample is not 0: 1 − CDF(0) = σ(a − T ln(0.1 / 1.1)).
pub(crate) fn keep_probability(scores: &Tensor) -> Tensor {
    (scores - TEMPERATURE * (-LOWEST / HIGHEST).ln()).sigmoid()
}

/// Returns the final value of a gate that is kept: σ(0.8 a / T), always above 0.
pub(crate) fn kept_value(scores: &Tensor) -> Tensor {
    (scores * (SOFTENING / TEMPERATURE)).sigmoid().clamp_min(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_match_values_by_hand() {
        let row = |values: &[f64]| Tensor::from_slice(values);
        // u = 1/2 leaves the score unchanged: σ(0) = 1/2, stretched 0.5; σ(3/2 · 10) is above the clamp.
        let drawn = sample(&row(&[0.0, 10.0, -10.0, 1.0]), &row(&[0.5, 0.5, 0.5, 0.2]));
        let inner = 1.0 / (1.0 + (-(0.25f64.ln() + 1.0) / TEMPERATURE).exp());
        for (index, expected) in [0.5, 1.0, 0.0, inner * 1.2 - 0.1].into_iter().enumerate() {
            assert!((drawn.double_value(&[index as i64]) - expected).abs() < 1e-9, "{index}: {drawn}");
        }
        assert!(kept_value(&Tensor::from(-1000f32)).double_value(&[]) > 0.0);
        let kept = keep_probability(&row(&[0.0, 10.0])).double_value(&[0]);
        assert!((kept - 1.0 / (1.0 + (-(2.0 / 3.0) * 11f64.ln()).exp())).abs() < 1e-9);
        // Uniform numbers of exactly 0 and 1 give finite samples.
        assert_eq!(
            sample(&row(&[0.0, 0.0]), &row(&[0.0, 1.0])).sum(tch::Kind::Double).double_value(&[]),
            1.0
        );
    }

    #[test]
    fn fraction_of_kept_samples_matches_the_probability() {
        let mode = crate::mode::Mode::default();
        mode.train(3);
        let uniform = Tensor::from_slice(&mode.uniform(1, 20_000));
        for score in [-2.0, -0.5, 1.0] {
            let scores = Tensor::full([20_000], score, (tch::Kind::Float, tch::Device::Cpu));
            let fraction = sample(&scores, &uniform).gt(0.0).to_kind(tch::Kind::Float).mean(tch::Kind::Float);
            let expected = keep_probability(&scores).double_value(&[0]);
            assert!(
                (fraction.double_value(&[]) - expected).abs() < 0.015,
                "{score}: {fraction} instead of {expected}"
            );
        }
    }
}

//! AdamW with the reference's parameter groups; its whole state can be saved and restored.
//!
//! tch's own optimiser keeps its moments where they cannot be read, so a resumed run could
//! not equal an unbroken one; the arithmetic here is that of `torch.optim.AdamW`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{Error, Result};

/// Settings of [`AdamW`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub lr: f64,
    /// Decay of the matrices, decoupled from the gradient; norms, biases and scales have none.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Longest gradient (L2 norm over all parameters); 0 means not clipped.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    /// The values for ViT of OpenAI and open_clip.
    fn default() -> Self {
        OptimizerConfig { lr: 5e-4, weight_decay: 0.2, beta1: 0.9, beta2: 0.98, eps: 1e-6, clip_norm: 0.0 }
    }
}

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    slots: Vec<Slot>,
    updates: i64,
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decays: bool,
}

impl AdamW {
    /// An optimiser over named parameters, with moments of zero.
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out.
    pub fn new(
        config: &OptimizerConfig,
        parameters: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self> {
        let slots = parameters
            .into_iter()
            .map(|(name, parameter)| {
                Ok(Slot {
                    exp_avg: parameter.detach().f_zeros_like()?,
                    exp_avg_sq: parameter.detach().f_zeros_like()?,
                    decays: decays(&name, &parameter),
                    name,
                    parameter,
                })
            })
            .collect::<Result<_>>()?;
        Ok(AdamW { config: config.clone(), slots, updates: 0 })
    }

    /// The settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Drops all gradients.
    pub fn zero_grad(&mut self) {
        for slot in &mut self.slots {
            slot.parameter.zero_grad();
        }
    }

    /// The L2 norm over all gradients; scales them down where it is above `clip_norm`.
    pub fn clip_gradients(&self) -> f64 {
        let gradients =
            self.slots.iter().map(|s| s.parameter.grad()).filter(|g| g.defined()).collect::<Vec<_>>();
        if gradients.is_empty() {
            return 0.0;
        }
        let norms = gradients.iter().map(|g| g.norm()).collect::<Vec<_>>();
        let norm = Tensor::stack(&norms, 0).norm().double_value(&[]);
        let limit = self.config.clip_norm;
        if limit > 0.0 && norm > limit {
            let factor = limit / (norm + 1e-6);
            for mut gradient in gradients {
                let _ = gradient.g_mul_scalar_(factor);
            }
        }
        norm
    }

    /// One update of every parameter that has a gradient.
    pub fn step(&mut self, lr: f64) {
        self.updates += 1;
        let OptimizerConfig { weight_decay, beta1, beta2, eps, .. } = self.config;
        let correction1 = 1.0 - beta1.powi(self.updates as i32);
        let correction2 = 1.0 - beta2.powi(self.updates as i32);
        let step_size = lr / correction1;
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                if slot.decays && weight_decay != 0.0 {
                    let _ = slot.parameter.g_mul_scalar_(1.0 - lr * weight_decay);
                }
                let _ = slot.exp_avg.lerp_(&gradient, 1.0 - beta1);
                let scaled = &gradient * (1.0 - beta2).sqrt();
                let _ = slot.exp_avg_sq.g_mul_scalar_(beta2).addcmul_(&scaled, &scaled);
                let mut denominator = slot.exp_avg_sq.sqrt();
                let _ = denominator.g_div_scalar_(correction2.sqrt()).g_add_scalar_(eps);
                let _ = slot.parameter.addcdiv_(&(&slot.exp_avg * -step_size), &denominator);
            }
        });
    }

    /// Number of updates so far.
    pub fn updates(&self) -> i64 {
        self.updates
    }

    /// The moments under `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let rows = self.slots.iter().flat_map(|slot| {
            [
                (format!("{}.exp_avg", slot.name), slot.exp_avg.shallow_clone()),
                (format!("{}.exp_avg_sq", slot.name), slot.exp_avg_sq.shallow_clone()),
            ]
        });
        rows.collect()
    }

    /// Restores what [`AdamW::state`] gave.
    ///
    /// # Errors
    /// [`Error::Recipe`] where a moment is missing or has another shape.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, updates: i64) -> Result<()> {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                for (part, moment) in [("exp_avg", &mut slot.exp_avg), ("exp_avg_sq", &mut slot.exp_avg_sq)] {
                    let name = format!("{}.{part}", slot.name);
                    match state.get(&name) {
                        Some(saved) if saved.size() == moment.size() => moment.f_copy_(saved)?,
                        _ => {
                            return Err(Error::recipe(
                                "optimizer state",
                                format!("`{name}` is missing or has another shape"),
                            ));
                        }
                    }
                }
            }
            self.updates = updates;
            Ok(())
        })
    }
}

/// open_clip's rule: matrices decay, unless they belong to a norm, a bias or the logit scale.
fn decays(name: &str, parameter: &Tensor) -> bool {
    parameter.dim() >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn two_steps_by_hand() {
        let config =
            OptimizerConfig { weight_decay: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, ..Default::default() };
        let weight = Tensor::from_slice(&[1.0f32]).view([1, 1]).set_requires_grad(true);
        let mut optimizer = AdamW::new(&config, [("w".to_string(), weight.shallow_clone())]).unwrap();
        let (mut expected, mut m, mut v) = (1.0f64, 0.0, 0.0);
        for step in 1..=2 {
            optimizer.zero_grad();
            (&weight * &weight).sum(Kind::Float).backward();
            let gradient = 2.0 * expected;
            optimizer.step(0.01);
            expected *= 1.0 - 0.01 * 0.1;
            m = 0.9 * m + 0.1 * gradient;
            v = 0.99 * v + 0.01 * gradient * gradient;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(step)), v / (1.0 - 0.99f64.powi(step)));
            expected -= 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((weight.double_value(&[0, 0]) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn matrices_decay_and_nothing_else() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu));
        let vector = Tensor::zeros([2], (Kind::Float, tch::Device::Cpu));
        assert!(decays("visual.proj", &matrix));
        assert!(!decays("visual.ln_pre.weight", &vector));
        assert!(!decays("ln.weight", &matrix));
        assert!(!decays("visual.class_embedding", &vector));
    }

    #[test]
    fn long_gradients_are_scaled_to_the_limit() {
        let config = OptimizerConfig { clip_norm: 1.0, ..Default::default() };
        let weight = Tensor::from_slice(&[3.0f32, 4.0]).set_requires_grad(true);
        let optimizer = AdamW::new(&config, [("w".to_string(), weight.shallow_clone())]).unwrap();
        (&weight * &weight).sum(Kind::Float).backward();
        assert!((optimizer.clip_gradients() - 10.0).abs() < 1e-5);
        assert!((weight.grad().norm().double_value(&[]) - 1.0).abs() < 1e-5);
    }
}

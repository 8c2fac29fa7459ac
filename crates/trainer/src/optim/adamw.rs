//! AdamW with open_clip's parameter groups, whose state can be saved and restored completely.
//!
//! tch's optimiser does not expose its moments, so a resumed run could not equal an uninterrupted one. Updates run in
//! libtorch's fused kernel, that of `torch.optim.AdamW(fused=True)`.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use torch_ext::lists::{self, AdamW as Update, AdamWTensors};

use crate::{Error, Result};

/// Settings of the optimiser, AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Peak learning rate; after the warm-up, it decays to 0 along half a cosine.
    pub lr: f64,
    /// Decoupled weight decay of matrices; norms, biases and scales have none.
    pub weight_decay: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Maximum gradient norm (L2 over all parameters); 0 disables clipping.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    /// The values of OpenAI and open_clip for ViT.
    fn default() -> Self {
        OptimizerConfig { lr: 5e-4, weight_decay: 0.2, beta1: 0.9, beta2: 0.98, eps: 1e-6, clip_norm: 0.0 }
    }
}

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    slots: Vec<ParamState>,
    updates: i64,
}

#[derive(Debug)]
struct ParamState {
    name: String,
    parameter: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    decays: bool,
}

impl AdamW {
    /// Creates an optimiser over named parameters, with zero moments.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn new(
        config: &OptimizerConfig,
        parameters: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<Self> {
        let slots = parameters
            .into_iter()
            .map(|(name, parameter)| {
                Ok(ParamState {
                    exp_avg: parameter.detach().f_zeros_like()?,
                    exp_avg_sq: parameter.detach().f_zeros_like()?,
                    decays: decays(&name, &parameter),
                    name,
                    parameter,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(AdamW { config: config.clone(), slots, updates: 0 })
    }

    /// Returns the settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Removes all gradients.
    pub fn zero_grad(&mut self) {
        self.slots.iter().for_each(|slot| torch_ext::gradient::clear(&slot.parameter));
    }

    /// Returns the L2 norm over all gradients, a scalar on their device.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn gradient_norm(&self) -> Result<Tensor> {
        let gradients = self.slots.iter().map(|slot| slot.parameter.grad()).filter(Tensor::defined);
        let gradients = gradients.collect::<Vec<_>>();
        if gradients.is_empty() {
            let device = self.slots.first().map_or(Device::Cpu, |slot| slot.parameter.device());
            return Ok(Tensor::f_zeros([1i64; 0].as_slice(), (Kind::Float, device))?);
        }
        Ok(lists::norm(&gradients)?)
    }

    /// Updates every parameter that has a gradient. `norm` is the value of [`AdamW::gradient_norm`]; if it exceeds
    /// `clip_norm`, the gradients are scaled down.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn step(&mut self, lr: f64, norm: f64) -> Result<()> {
        self.updates += 1;
        let OptimizerConfig { weight_decay, beta1, beta2, eps, clip_norm, .. } = self.config;
        let clip = if clip_norm > 0.0 && norm > clip_norm { clip_norm / (norm + 1e-6) } else { 1.0 };
        for decays in [true, false] {
            let mut tensors = AdamWTensors::default();
            for slot in self.slots.iter().filter(|slot| slot.decays == decays) {
                let gradient = slot.parameter.grad();
                if gradient.defined() {
                    tensors.parameters.push(slot.parameter.shallow_clone());
                    tensors.gradients.push(gradient);
                    tensors.exp_avgs.push(slot.exp_avg.shallow_clone());
                    tensors.exp_avg_sqs.push(slot.exp_avg_sq.shallow_clone());
                }
            }
            let weight_decay = if decays { weight_decay } else { 0.0 };
            let update = Update { step: self.updates, lr, beta1, beta2, weight_decay, eps, clip };
            lists::adamw(&tensors, &update)?;
        }
        Ok(())
    }

    /// Returns the number of updates so far.
    pub fn updates(&self) -> i64 {
        self.updates
    }

    /// Returns the moments, named `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let moments = self.slots.iter().flat_map(|slot| {
            [
                (format!("{}.exp_avg", slot.name), slot.exp_avg.shallow_clone()),
                (format!("{}.exp_avg_sq", slot.name), slot.exp_avg_sq.shallow_clone()),
            ]
        });
        moments.collect()
    }

    /// Restores the state from [`AdamW::state`].
    ///
    /// # Errors
    /// [`Error::StateShape`] if a moment is missing or has another shape.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, updates: i64) -> Result<()> {
        tch::no_grad(|| {
            for slot in &mut self.slots {
                for (part, moment) in [("exp_avg", &mut slot.exp_avg), ("exp_avg_sq", &mut slot.exp_avg_sq)] {
                    let name = format!("{}.{part}", slot.name);
                    match state.get(&name) {
                        Some(saved) if saved.size() == moment.size() => moment.f_copy_(saved)?,
                        _ => {
                            return Err(Error::StateShape { part: "optimizer moments", name });
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
            optimizer.step(0.01, 0.0).unwrap();
            expected *= 1.0 - 0.01 * 0.1;
            m = 0.9 * m + 0.1 * gradient;
            v = 0.99 * v + 0.01 * gradient * gradient;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(step)), v / (1.0 - 0.99f64.powi(step)));
            expected -= 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((weight.double_value(&[0, 0]) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn only_matrices_decay() {
        let matrix = Tensor::zeros([2, 2], (Kind::Float, tch::Device::Cpu));
        let vector = Tensor::zeros([2], (Kind::Float, tch::Device::Cpu));
        assert!(decays("visual.proj", &matrix));
        assert!(!decays("visual.ln_pre.weight", &vector));
        assert!(!decays("ln.weight", &matrix));
        assert!(!decays("visual.class_embedding", &vector));
    }

    #[test]
    fn a_parameter_without_a_gradient_is_unchanged() {
        let weights =
            [1.0f32, 2.0].map(|value| Tensor::from_slice(&[value]).view([1, 1]).set_requires_grad(true));
        let named =
            weights.iter().enumerate().map(|(index, weight)| (format!("w{index}"), weight.shallow_clone()));
        let mut optimizer = AdamW::new(&OptimizerConfig::default(), named).unwrap();
        weights[0].sum(Kind::Float).backward();
        optimizer.step(0.1, 1.0).unwrap();
        assert!(weights[0].double_value(&[0, 0]) < 0.9);
        assert_eq!(weights[1].double_value(&[0, 0]), 2.0);
    }

    #[test]
    fn gradients_are_clipped_to_the_maximum_norm() {
        let config = OptimizerConfig { clip_norm: 1.0, ..Default::default() };
        let weight = Tensor::from_slice(&[3.0f32, 4.0]).set_requires_grad(true);
        let mut optimizer = AdamW::new(&config, [("w".to_string(), weight.shallow_clone())]).unwrap();
        (&weight * &weight).sum(Kind::Float).backward();
        let norm = optimizer.gradient_norm().unwrap().double_value(&[]);
        assert!((norm - 10.0).abs() < 1e-5);
        optimizer.step(0.0, norm).unwrap();
        // The first moment is a tenth of the clipped gradient.
        assert!((optimizer.slots[0].exp_avg.norm().double_value(&[]) - 0.1).abs() < 1e-6);
    }
}

//! AdamW with the reference's parameter groups; its whole state can be saved and restored.
//!
//! tch's own optimiser keeps its moments where they cannot be read, so a resumed run could
//! not equal an unbroken one; the arithmetic here is that of `torch.optim.AdamW`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

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

/// Elements of a parameter on a CPU that go through all operations of an update before the next ones: few enough to stay
/// in the cache, where a whole table of token embeddings would come from memory anew for each of them.
const BLOCK: i64 = 1 << 16;

/// The blocks of a parameter and of what belongs to it; all of it is one where memory is not what an update waits for.
fn blocks(parameter: &Tensor, gradient: &Tensor, moments: [&Tensor; 2]) -> Vec<[Tensor; 4]> {
    let all = [parameter, gradient, moments[0], moments[1]];
    let length = parameter.numel() as i64;
    // Moments lie in memory as their parameter does, and a view of them is no copy; a gradient may lie otherwise.
    let in_a_row = [parameter, moments[0], moments[1]].iter().all(|tensor| tensor.is_contiguous());
    if length <= BLOCK || !in_a_row || parameter.device() != Device::Cpu {
        return vec![all.map(Tensor::shallow_clone)];
    }
    let flat = all.map(|tensor| tensor.contiguous().view([-1]));
    let starts = (0..length).step_by(BLOCK as usize);
    starts
        .map(|start| flat.each_ref().map(|tensor| tensor.narrow(0, start, BLOCK.min(length - start))))
        .collect()
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
                let decay = if slot.decays { 1.0 - lr * weight_decay } else { 1.0 };
                let moments = [&slot.exp_avg, &slot.exp_avg_sq];
                for [mut parameter, gradient, mut exp_avg, mut exp_avg_sq] in
                    blocks(&slot.parameter, &gradient, moments)
                {
                    if decay != 1.0 {
                        let _ = parameter.g_mul_scalar_(decay);
                    }
                    let _ = exp_avg.lerp_(&gradient, 1.0 - beta1);
                    let scaled = gradient * (1.0 - beta2).sqrt();
                    let _ = exp_avg_sq.g_mul_scalar_(beta2).addcmul_(&scaled, &scaled);
                    let mut denominator = exp_avg_sq.sqrt();
                    let _ = denominator.g_div_scalar_(correction2.sqrt()).g_add_scalar_(eps);
                    let _ = parameter.addcdiv_(&(exp_avg * -step_size), &denominator);
                }
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
    fn blocks_of_a_large_parameter_change_nothing() {
        tch::manual_seed(5);
        let config = OptimizerConfig { weight_decay: 0.1, ..Default::default() };
        // Rows of 7 do not divide a block, and the last one is not full.
        let rows = 2 * BLOCK / 7 + 100;
        let start = Tensor::randn([rows, 7], (Kind::Float, Device::Cpu));
        let factors = Tensor::randn([7, rows], (Kind::Float, Device::Cpu));
        let train = |parts: Vec<Tensor>, factors: Vec<Tensor>| {
            let parts = parts.into_iter().map(|part| part.copy().set_requires_grad(true)).collect::<Vec<_>>();
            let named =
                parts.iter().enumerate().map(|(place, part)| (format!("w{place}"), part.shallow_clone()));
            let mut optimizer = AdamW::new(&config, named).unwrap();
            for _ in 0..3 {
                optimizer.zero_grad();
                for (part, factors) in parts.iter().zip(&factors) {
                    // A gradient that is a transposed view in its first step.
                    (part.tr() * factors).pow_tensor_scalar(2).sum(Kind::Float).backward();
                }
                optimizer.step(0.01);
            }
            Tensor::cat(&parts, 0).detach()
        };
        let whole = train(vec![start.shallow_clone()], vec![factors.shallow_clone()]);
        let small = train(start.chunk(8, 0), factors.chunk(8, 1));
        assert!(whole.equal(&small));
        assert!(!whole.equal(&start));
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

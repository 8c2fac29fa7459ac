//! AdamW with open_clip's parameter groups, whose state can be saved and restored completely.
//!
//! tch's optimiser does not expose its moments, so a resumed run could not equal an uninterrupted one. The arithmetic
//! is that of `torch.optim.AdamW`.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

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
    groups: Vec<FusedGroup>,
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

/// A fused group: parameters with the same weight decay, updated together on a GPU. One tensor holds all their moments;
/// the moments of the slots are views of it. On a GPU, an operation on a small tensor takes only its launch time, so
/// one operation on all parameters costs about as much as one on a single parameter.
#[derive(Debug)]
struct FusedGroup {
    /// Indices of its slots.
    indices: Vec<usize>,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

impl FusedGroup {
    /// Moves the moments of these slots into one tensor.
    fn new(slots: &mut [ParamState], indices: Vec<usize>) -> Result<Self> {
        let join = |moment: fn(&mut ParamState) -> &mut Tensor, slots: &mut [ParamState]| -> Result<Tensor> {
            let all = flat(indices.iter().map(|&index| moment(&mut slots[index]).shallow_clone()))?;
            let mut start = 0;
            for &index in &indices {
                let moment = moment(&mut slots[index]);
                let (size, length) = (moment.size(), moment.numel() as i64);
                *moment = all.f_narrow(0, start, length)?.f_view(&size[..])?;
                start += length;
            }
            Ok(all)
        };
        let exp_avg = join(|slot| &mut slot.exp_avg, slots)?;
        let exp_avg_sq = join(|slot| &mut slot.exp_avg_sq, slots)?;
        Ok(FusedGroup { indices, exp_avg, exp_avg_sq })
    }
}

/// Maximum number of elements of a group. An operation on this many elements takes far longer than its launch, and a
/// copy of them is small compared with a GPU's memory.
const MAX_GROUP: usize = 1 << 25;

/// Concatenates the elements of all tensors.
fn flat(tensors: impl Iterator<Item = Tensor>) -> Result<Tensor> {
    let flattened =
        tensors.map(|tensor| tensor.f_reshape([-1])).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_cat(&flattened, 0)?)
}

/// The coefficients of one update.
#[derive(Clone, Copy)]
struct Update {
    lr: f64,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    correction1: f64,
    correction2: f64,
    /// Factor on the gradients if they are clipped.
    clip: Option<f64>,
}

impl Update {
    fn apply(
        &self,
        [parameter, gradient, exp_avg, exp_avg_sq]: &mut [Tensor; 4],
        decays: bool,
    ) -> std::result::Result<(), tch::TchError> {
        let decay = 1.0 - self.lr * self.weight_decay;
        if decays && decay != 1.0 {
            let _ = parameter.f_mul_scalar_(decay)?;
        }
        let _ = exp_avg.f_lerp_(gradient, 1.0 - self.beta1)?;
        let scaled = gradient.f_mul_scalar((1.0 - self.beta2).sqrt())?;
        let _ = exp_avg_sq.f_mul_scalar_(self.beta2)?.f_addcmul_(&scaled, &scaled)?;
        let mut denominator = exp_avg_sq.f_sqrt()?;
        let _ = denominator.f_div_scalar_(self.correction2.sqrt())?.f_add_scalar_(self.eps)?;
        let step = exp_avg.f_mul_scalar(-self.lr / self.correction1)?;
        let _ = parameter.f_addcdiv_(&step, &denominator)?;
        Ok(())
    }
}

/// Block size on a CPU. A block of a parameter goes through all operations of an update before the next block, and is
/// small enough to stay in the cache. Without blocks, each operation would read a large parameter, such as the token
/// embeddings, from memory again.
const BLOCK: i64 = 1 << 16;

/// Splits a parameter and its tensors into blocks. If memory is not the bottleneck, everything is one block.
fn blocks(parameter: &Tensor, gradient: &Tensor, moments: [&Tensor; 2]) -> Vec<[Tensor; 4]> {
    let all = [parameter, gradient, moments[0], moments[1]];
    let length = parameter.numel() as i64;
    // Moments have the memory layout of their parameter, so a view of them is not a copy. A gradient may have another
    // layout.
    let is_contiguous = [parameter, moments[0], moments[1]].iter().all(|tensor| tensor.is_contiguous());
    if length <= BLOCK || !is_contiguous || parameter.device() != Device::Cpu {
        return vec![all.map(Tensor::shallow_clone)];
    }
    let flat = all.map(|tensor| tensor.contiguous().view([-1]));
    let starts = (0..length).step_by(BLOCK as usize);
    starts
        .map(|start| flat.each_ref().map(|tensor| tensor.narrow(0, start, BLOCK.min(length - start))))
        .collect()
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
        let mut slots = parameters
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
        let on_gpu = slots.iter().all(|slot| slot.parameter.device() != Device::Cpu);
        let groups = if on_gpu { fuse(&mut slots)? } else { Vec::new() };
        Ok(AdamW { config: config.clone(), slots, groups, updates: 0 })
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
        let gradient = |index: usize| Some(self.slots[index].parameter.grad()).filter(Tensor::defined);
        let norms = if self.groups.is_empty() {
            let gradients = (0..self.slots.len()).filter_map(gradient);
            gradients.map(|gradient| Ok(gradient.f_norm()?)).collect::<Result<Vec<_>>>()?
        } else {
            let groups = self.groups.iter().map(|group| group.indices.iter().copied().filter_map(gradient));
            let groups = groups.map(Iterator::collect::<Vec<_>>).filter(|gradients| !gradients.is_empty());
            groups.map(|gradients| Ok(flat(gradients.into_iter())?.f_norm()?)).collect::<Result<_>>()?
        };
        if norms.is_empty() {
            let device = self.slots.first().map_or(Device::Cpu, |slot| slot.parameter.device());
            return Ok(Tensor::f_zeros([1i64; 0].as_slice(), (Kind::Float, device))?);
        }
        Ok(Tensor::f_stack(&norms, 0)?.f_norm()?)
    }

    /// Updates every parameter that has a gradient. `norm` is the value of [`AdamW::gradient_norm`]; if it exceeds `clip_norm`, the
    /// gradients are scaled down.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn step(&mut self, lr: f64, norm: f64) -> Result<()> {
        self.updates += 1;
        let OptimizerConfig { weight_decay, beta1, beta2, eps, clip_norm, .. } = self.config;
        let update = Update {
            lr,
            weight_decay,
            beta1,
            beta2,
            eps,
            correction1: 1.0 - beta1.powi(self.updates as i32),
            correction2: 1.0 - beta2.powi(self.updates as i32),
            clip: (clip_norm > 0.0 && norm > clip_norm).then(|| clip_norm / (norm + 1e-6)),
        };
        tch::no_grad(|| {
            let gradients = self.slots.iter().map(|slot| slot.parameter.grad()).collect::<Vec<_>>();
            let has_gradient = |&index: &usize| gradients[index].defined();
            let mut ungrouped = (0..self.slots.len()).filter(has_gradient).collect::<Vec<_>>();
            for group in self.groups.iter().filter(|group| group.indices.iter().all(has_gradient)) {
                step_group(group, &mut self.slots, &gradients, &update)?;
                ungrouped.retain(|index| !group.indices.contains(index));
            }
            for index in ungrouped {
                let (slot, mut gradient) = (&self.slots[index], gradients[index].shallow_clone());
                if let Some(factor) = update.clip {
                    let _ = gradient.f_mul_scalar_(factor)?;
                }
                for mut block in blocks(&slot.parameter, &gradient, [&slot.exp_avg, &slot.exp_avg_sq]) {
                    update.apply(&mut block, slot.decays)?;
                }
            }
            Ok(())
        })
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

/// Groups the parameters with decay, and those without, into groups of at most [`MAX_GROUP`] elements or one parameter.
fn fuse(slots: &mut [ParamState]) -> Result<Vec<FusedGroup>> {
    let mut groups = Vec::new();
    for decays in [true, false] {
        let (mut indices, mut length) = (Vec::new(), 0);
        for index in (0..slots.len()).filter(|&index| slots[index].decays == decays).collect::<Vec<_>>() {
            let more = slots[index].parameter.numel();
            if length + more > MAX_GROUP && !indices.is_empty() {
                groups.push(FusedGroup::new(slots, std::mem::take(&mut indices))?);
                length = 0;
            }
            indices.push(index);
            length += more;
        }
        if !indices.is_empty() {
            groups.push(FusedGroup::new(slots, indices)?);
        }
    }
    Ok(groups)
}

/// Updates all parameters of a group like a single one.
fn step_group(
    group: &FusedGroup,
    slots: &mut [ParamState],
    gradients: &[Tensor],
    update: &Update,
) -> Result<()> {
    let parameter = flat(group.indices.iter().map(|&index| slots[index].parameter.detach()))?;
    let mut gradient = flat(group.indices.iter().map(|&index| gradients[index].shallow_clone()))?;
    if let Some(factor) = update.clip {
        let _ = gradient.f_mul_scalar_(factor)?;
    }
    let mut all = [parameter, gradient, group.exp_avg.shallow_clone(), group.exp_avg_sq.shallow_clone()];
    update.apply(&mut all, slots[group.indices[0]].decays)?;
    let mut start = 0;
    for &index in &group.indices {
        let parameter = &mut slots[index].parameter;
        let (size, length) = (parameter.size(), parameter.numel() as i64);
        parameter.f_copy_(&all[0].f_narrow(0, start, length)?.f_view(&size[..])?)?;
        start += length;
    }
    Ok(())
}

/// open_clip's rule: matrices decay, unless they belong to a norm, a bias or the logit scale.
fn decays(name: &str, parameter: &Tensor) -> bool {
    parameter.dim() >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clip_model::seeded;

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
    fn updates_in_blocks_equal_whole_updates() {
        let config = OptimizerConfig { weight_decay: 0.1, ..Default::default() };
        // The block size is not a multiple of the row length 7, and the last block is incomplete.
        let rows = 2 * BLOCK / 7 + 100;
        let (start, factors) = seeded(5, || {
            let start = Tensor::randn([rows, 7], (Kind::Float, Device::Cpu));
            (start, Tensor::randn([7, rows], (Kind::Float, Device::Cpu)))
        });
        let train = |parts: Vec<Tensor>, factors: Vec<Tensor>| {
            let parts = parts.into_iter().map(|part| part.copy().set_requires_grad(true)).collect::<Vec<_>>();
            let named =
                parts.iter().enumerate().map(|(index, part)| (format!("w{index}"), part.shallow_clone()));
            let mut optimizer = AdamW::new(&config, named).unwrap();
            for _ in 0..3 {
                optimizer.zero_grad();
                for (part, factors) in parts.iter().zip(&factors) {
                    // The gradient is a transposed view in the first step.
                    (part.tr() * factors).pow_tensor_scalar(2).sum(Kind::Float).backward();
                }
                optimizer.step(0.01, 0.0).unwrap();
            }
            Tensor::cat(&parts, 0).detach()
        };
        let whole = train(vec![start.shallow_clone()], vec![factors.shallow_clone()]);
        let small = train(start.chunk(8, 0), factors.chunk(8, 1));
        assert!(whole.equal(&small));
        assert!(!whole.equal(&start));
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
    fn fused_updates_agree_with_separate_updates() {
        let config = OptimizerConfig { weight_decay: 0.1, clip_norm: 0.5, ..Default::default() };
        let shapes = [vec![3, 5], vec![5], vec![4, 2], vec![]];
        let (start, factors) = seeded(6, || {
            let start = shapes.map(|shape| Tensor::randn(shape, (Kind::Float, Device::Cpu)));
            let factors = start.each_ref().map(Tensor::randn_like);
            (start, factors)
        });
        let train = |fused: bool| {
            let parts = start.each_ref().map(|part| part.copy().set_requires_grad(true));
            let named =
                parts.iter().enumerate().map(|(index, part)| (format!("w{index}"), part.shallow_clone()));
            let mut optimizer = AdamW::new(&config, named).unwrap();
            if fused {
                optimizer.groups = fuse(&mut optimizer.slots).unwrap();
            }
            for step in 0..4 {
                optimizer.zero_grad();
                // The third has no gradient at first, so its group cannot be updated as a whole.
                let used =
                    parts.iter().zip(&factors).enumerate().filter(|(index, _)| *index != 2 || step > 1);
                let losses =
                    used.map(|(_, (part, factor))| (part * factor).pow_tensor_scalar(2).sum(Kind::Float));
                losses.sum::<Tensor>().backward();
                let norm = optimizer.gradient_norm().unwrap().double_value(&[]);
                assert!(norm > config.clip_norm, "{norm}");
                optimizer.step(0.01, norm).unwrap();
            }
            let state = optimizer.state().into_iter().map(|(_, moment)| moment.copy()).collect::<Vec<_>>();
            (parts.map(|part| part.detach()), state)
        };
        let ((one, state), (other, other_state)) = (train(false), train(true));
        for (a, b) in one.iter().zip(&other).chain(state.iter().zip(&other_state)) {
            // The norm is summed in another order.
            assert!(a.allclose(b, 1e-5, 1e-7, false), "{a} {b}");
        }
        assert!(start.iter().zip(&one).all(|(start, end)| !start.equal(end)));
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

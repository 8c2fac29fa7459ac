//! Pruning masks: learned scores of the gates of both towers, and the expected size of the pruned model.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::concrete;
use crate::gates::{Gates, Part, TowerGates, TowerShape};
use crate::mode::{Mode, name_seed};
use crate::{ClipConfig, Error, Result};

/// Pruning masks: a score (log alpha) for every gate of both towers. They are trained like weights.
#[derive(Debug)]
pub struct Masks {
    image: TowerMasks,
    text: TowerMasks,
}

#[derive(Debug)]
struct TowerMasks {
    name: &'static str,
    shape: Arc<TowerShape>,
    scores: [Tensor; 5],
}

/// A sample of the gates for one training pass.
#[derive(Debug)]
pub struct GateSample {
    /// Uniform numbers and gates for each vector of scores, in the order of [`Masks::named`].
    draws: Vec<(Tensor, Tensor)>,
}

/// Final values of all gates; 0 removes a part.
#[derive(Clone, Debug, PartialEq)]
pub struct HardGates {
    /// Gates of the image tower, in the order of `Part::ALL`.
    pub image: [Vec<f32>; 5],
    /// Gates of the text tower.
    pub text: [Vec<f32>; 5],
}

impl GateSample {
    /// Backpropagates the gradients of the sampled gates to the scores of `masks`.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn backward(&self, masks: &Masks) -> Result<()> {
        for ((_, scores), (uniform, gate)) in masks.named().iter().zip(&self.draws) {
            let gradient = gate.grad();
            if gradient.defined() && scores.numel() > 0 {
                (concrete::sample(scores, uniform) * gradient).f_sum(Kind::Float)?.f_backward()?;
            }
        }
        Ok(())
    }
}

impl Masks {
    /// Creates masks for a model with this configuration; every score is 10.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a tower has no gates.
    pub fn new(config: &ClipConfig, device: Device) -> Result<Self> {
        let tower = |name, shape: TowerShape| -> Result<_> {
            let scores = |part| {
                let init = Tensor::f_full([shape.count(part)], concrete::START, (Kind::Float, device))?;
                Ok::<_, Error>(init.f_set_requires_grad(true)?)
            };
            let [hidden, heads, mlp, attention, whole_mlp] = Part::ALL.map(scores);
            let scores = [hidden?, heads?, mlp?, attention?, whole_mlp?];
            Ok(TowerMasks { name, shape: Arc::new(shape), scores })
        };
        Ok(Masks {
            image: tower("visual", TowerShape::image(config)?)?,
            text: tower("text", TowerShape::text(config)?)?,
        })
    }

    /// Returns the scores with their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let towers = [&self.image, &self.text].into_iter();
        towers.flat_map(|tower| Part::ALL.map(|part| tower.entry(part))).collect()
    }

    /// Samples gates for one training pass, from the mode's seed. If all hidden channels are sampled as 0, the
    /// channel with the highest score is kept.
    ///
    /// After the backward pass, [`GateSample::backward`] propagates the gradients to the scores.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn sample(&self, mode: &Mode) -> Result<(Gates, GateSample)> {
        let mut draws = Vec::new();
        let mut tower = |masks: &TowerMasks| {
            let gates = Part::ALL.map(|part| {
                let scores = &masks.scores[part as usize];
                let key = name_seed(0, &format!("{}.gates.{}", masks.name, part.name()));
                let uniform =
                    Tensor::from_slice(&mode.uniform(key, scores.numel())).to_device(scores.device());
                // A leaf, so that repeated passes accumulate into one gradient.
                let gate = concrete::sample(&scores.detach(), &uniform);
                let gate = if part == Part::Hidden { keep_at_least_one(gate, scores) } else { gate };
                let gate = gate.set_requires_grad(true);
                draws.push((uniform, gate.shallow_clone()));
                gate
            });
            TowerGates::new(Arc::clone(&masks.shape), gates)
        };
        let gates = Gates { image: tower(&self.image)?, text: tower(&self.text)? };
        Ok((gates, GateSample { draws }))
    }

    /// Returns the number of parameters in the blocks of both towers: matrices, biases and norms. As in TinyCLIP,
    /// embeddings and projections are not counted.
    pub fn parameters(&self) -> f64 {
        let all = |tower: &TowerMasks| tower.parameters(&tower.scores.each_ref().map(Tensor::ones_like));
        tch::no_grad(|| (all(&self.image) + all(&self.text)).double_value(&[]))
    }

    /// Returns the expected number of parameters in the blocks after pruning (float64 scalar with a gradient).
    pub fn expected_parameters(&self) -> Tensor {
        let expected =
            |tower: &TowerMasks| tower.parameters(&tower.scores.each_ref().map(concrete::keep_probability));
        expected(&self.image) + expected(&self.text)
    }

    /// Returns the expected sparsity: 1 − expected parameters / all parameters (float64 scalar with a gradient).
    pub fn expected_sparsity(&self) -> Tensor {
        1.0 - self.expected_parameters() / self.parameters()
    }

    /// Decides which parts are removed. In each part of each tower, the expected number of gates becomes 0, starting
    /// with the smallest scores; the other gates get σ(0.8 a / T).
    ///
    /// A block that loses all heads (or MLP channels) loses its whole attention (or MLP), since only a bias would
    /// remain. At least one hidden channel remains.
    ///
    /// # Errors
    /// [`Error::Torch`] if a score cannot be read.
    pub fn harden(&self) -> Result<HardGates> {
        Ok(HardGates { image: self.image.harden()?, text: self.text.harden()? })
    }
}

impl HardGates {
    /// Creates gates with these values for the model that was masked.
    ///
    /// # Errors
    /// [`Error::Shape`] if the gates do not fit the towers; [`Error::Incompatible`] if no hidden channel is left.
    pub fn gates(&self, config: &ClipConfig, device: Device) -> Result<Gates> {
        let tensors =
            |gates: &[Vec<f32>; 5]| gates.each_ref().map(|part| Tensor::from_slice(part).to_device(device));
        Gates::new(config, tensors(&self.image), tensors(&self.text))
    }
}

impl TowerMasks {
    fn entry(&self, part: Part) -> (String, Tensor) {
        (format!("{}.{}", self.name, part.name()), self.scores[part as usize].shallow_clone())
    }

    /// Returns the number of parameters in the blocks if each gate is kept with the given, independent probability.
    fn parameters(&self, kept: &[Tensor; 5]) -> Tensor {
        let sum = |part: Part, layer: usize| {
            self.shape.block_gates(part, layer).narrow(&kept[part as usize]).sum(Kind::Double)
        };
        let hidden = kept[Part::Hidden as usize].sum(Kind::Double);
        let head_width = self.shape.head_width as f64;
        // Weight and bias of the norm, bias of the output, and optionally layer scale.
        let per_channel = if self.shape.layer_scale { 4.0 } else { 3.0 };
        let mut total = hidden.zeros_like();
        for layer in 0..self.shape.blocks.len() {
            let heads = &hidden * (4.0 * head_width) + 3.0 * head_width;
            let attention = sum(Part::Heads, layer) * heads + &hidden * per_channel;
            total += sum(Part::Attention, layer) * attention;
            let inner = &hidden * 2.0 + 1.0;
            let mlp = sum(Part::Mlp, layer) * inner + &hidden * per_channel;
            total += sum(Part::WholeMlp, layer) * mlp;
        }
        total
    }

    fn harden(&self) -> Result<[Vec<f32>; 5]> {
        let mut gates: [Vec<f32>; 5] = Default::default();
        for part in Part::ALL {
            gates[part as usize] = harden_gates(&self.scores[part as usize], part == Part::Hidden)?;
        }
        for layer in 0..self.shape.blocks.len() {
            for (inner, whole) in [(Part::Heads, Part::Attention), (Part::Mlp, Part::WholeMlp)] {
                let block = self.shape.block_gates(inner, layer);
                if block.count > 0 && block.slice(&gates[inner as usize]).iter().all(|value| *value == 0.0) {
                    gates[whole as usize][self.shape.block_gates(whole, layer).start as usize] = 0.0;
                }
            }
        }
        Ok(gates)
    }
}

/// Opens the gate with the highest score if all gates are 0.
fn keep_at_least_one(gates: Tensor, scores: &Tensor) -> Tensor {
    let closed = gates.max().le(0.0);
    let highest = scores.detach().argmax(0, false);
    let one = gates.zeros_like().scatter_value(0, &highest.view([1]), 1.0);
    gates + one * closed
}

/// Hardens the gates of one part: the expected number of gates with the smallest scores (the first ones on ties)
/// becomes 0.
fn harden_gates(scores: &Tensor, keep_one: bool) -> Result<Vec<f32>> {
    let scores = scores.f_detach()?.f_to_device(Device::Cpu)?;
    let kept = concrete::keep_probability(&scores).f_sum(Kind::Double)?.f_double_value(&[])?;
    let (mut values, scores) =
        (Vec::<f32>::try_from(&concrete::kept_value(&scores))?, Vec::<f32>::try_from(&scores)?);
    let limit = scores.len().saturating_sub(usize::from(keep_one));
    let zeros = ((scores.len() as f64 - kept).round().max(0.0) as usize).min(limit);
    let mut order = (0..scores.len()).collect::<Vec<_>>();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    order[..zeros].iter().for_each(|index| values[*index] = 0.0);
    Ok(values)
}

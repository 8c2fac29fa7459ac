//! Pruning plan: removes the parts whose gate is 0 and folds the other gates into the weights.

use std::collections::HashMap;

use tch::Tensor;

use super::HardGates;
use crate::config::PrunedBlock;
use crate::gates::{Part, TowerShape};
use crate::weight_files::layout::with_text_prefix;
use crate::{Clip, ClipConfig, Error, Result, weights};

/// Pruning plan: how the tensors of a model become those of the pruned model.
#[derive(Debug)]
pub struct PruningPlan {
    image: TowerPlan,
    text: TowerPlan,
    original: ClipConfig,
    config: ClipConfig,
}

/// Pruning plan of one tower.
#[derive(Debug)]
struct TowerPlan {
    shape: TowerShape,
    /// Values of the gates, in the order of [`Part::ALL`].
    values: [Vec<f32>; 5],
    blocks: Vec<PrunedBlock>,
    hidden: Vec<i64>,
}

impl PruningPlan {
    /// Creates a plan for a model with this configuration.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if the gates belong to another model, [`Error::Config`] if the pruned model cannot be
    /// built.
    pub fn new(config: &ClipConfig, gates: &HardGates) -> Result<Self> {
        let image = TowerPlan::new(TowerShape::image(config)?, &gates.image)?;
        let text = TowerPlan::new(TowerShape::text(config)?, &gates.text)?;
        let (original, mut config) = (config.clone(), config.clone());
        let vision = &mut config.vision_cfg;
        (vision.width, vision.head_width) = (image.hidden.len() as i64, image.shape.head_width);
        vision.blocks = Some(image.blocks.clone());
        let text_cfg = &mut config.text_cfg;
        (text_cfg.width, text_cfg.head_width) = (text.hidden.len() as i64, Some(text.shape.head_width));
        text_cfg.blocks = Some(text.blocks.clone());
        config.validate("pruned model")?;
        Ok(PruningPlan { image, text, original, config })
    }

    /// Returns the configuration of the pruned model.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Prunes a model. The result computes the same embeddings as `model` with the gates applied.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if `model` has another configuration than the plan.
    pub fn apply(&self, model: &Clip) -> Result<Clip> {
        if *model.config() != self.original {
            let reason = "the pruning plan belongs to a model with another configuration";
            return Err(Error::Incompatible { reason: reason.into() });
        }
        let pruned = Clip::new(&self.config, model.device(), 0)?;
        let state = model.params().state().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
        weights::load(pruned.params(), &self.state(state, true)?, "the model to prune")?;
        Ok(pruned)
    }

    /// Prunes named tensors of a model, such as weights, averaged weights or optimizer moments. Tensors of removed
    /// parts are left out; tensors outside the towers stay. `fold` multiplies in the values of the gates, which is
    /// right for weights but not for moments.
    ///
    /// # Errors
    /// [`Error::Torch`] if a tensor has an unexpected shape.
    pub fn state(
        &self,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        fold: bool,
    ) -> Result<HashMap<String, Tensor>> {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect();
        let tensors = with_text_prefix(tensors, true);
        let mut pruned = HashMap::new();
        for (name, tensor) in tensors {
            let result = match (name.strip_prefix("visual."), name.strip_prefix("text.")) {
                (Some(rest), _) => self.image.prune(rest, &tensor, fold, !self.config.vision_cfg.no_ln_pre),
                (_, Some(rest)) => self.text.prune(rest, &tensor, fold, false),
                _ => Ok(Some(tensor)),
            };
            if let Some(tensor) = result? {
                pruned.insert(name, tensor);
            }
        }
        Ok(with_text_prefix(pruned, self.config.custom_text))
    }
}

/// Pruning rule for one axis of a tensor.
enum Axis {
    /// Keep the whole axis.
    Whole,
    /// Keep the remaining hidden channels; the flag folds in their gates.
    Hidden(bool),
    /// Keep the remaining heads of a block, in each of several stacked parts (query, key, value); the flag folds in
    /// their gates.
    Heads(usize, i64, bool),
    /// Keep the remaining MLP inner channels of a block; the flag folds in their gates.
    Mlp(usize, bool),
    /// Keep the remaining hidden channels, and fold in their gates and the gate of a block's whole branch.
    Branch(Part, usize),
}

impl TowerPlan {
    fn new(shape: TowerShape, values: &[Vec<f32>; 5]) -> Result<Self> {
        for (part, gates) in Part::ALL.into_iter().zip(values) {
            if gates.len() as i64 != shape.count(part) {
                let reason = format!("{} gates for {} `{}`", gates.len(), shape.count(part), part.name());
                return Err(Error::Incompatible { reason });
            }
        }
        let mut plan = TowerPlan {
            hidden: kept(&values[Part::Hidden as usize]),
            values: values.clone(),
            blocks: Vec::new(),
            shape,
        };
        plan.blocks = (0..plan.shape.blocks.len())
            .map(|layer| PrunedBlock {
                heads: plan.remaining(Part::Attention, Part::Heads, layer),
                mlp_width: plan.remaining(Part::WholeMlp, Part::Mlp, layer),
            })
            .collect();
        Ok(plan)
    }

    /// Returns the gates of a part in one block.
    fn block_gates(&self, part: Part, layer: usize) -> &[f32] {
        self.shape.block_gates(part, layer).slice(&self.values[part as usize])
    }

    /// Returns the number of heads or channels of a block that remain; 0 if the whole branch is removed.
    fn remaining(&self, whole: Part, inner: Part, layer: usize) -> i64 {
        match self.block_gates(whole, layer) {
            [value] if *value != 0.0 => kept(self.block_gates(inner, layer)).len() as i64,
            _ => 0,
        }
    }

    /// Prunes one tensor, named relative to the tower. Returns `None` for a tensor of a removed part.
    fn prune(&self, name: &str, tensor: &Tensor, fold: bool, has_first_norm: bool) -> Result<Option<Tensor>> {
        let Some(axes) = self.axes(name, has_first_norm) else { return Ok(None) };
        let mut pruned = tensor.shallow_clone();
        for (axis, rule) in axes.iter().enumerate() {
            pruned = self.prune_axis(pruned, axis as i64, rule, fold)?;
        }
        Ok(Some(pruned.f_contiguous()?))
    }

    /// Returns the pruning rules for the first two axes of a tensor; `None` for a tensor of a removed part.
    fn axes(&self, name: &str, has_first_norm: bool) -> Option<[Axis; 2]> {
        let block = name.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
        if let Some((layer, rest)) = block {
            return self.block_axes(layer.parse().ok()?, rest);
        }
        // The residual stream starts after the first norm, if the tower has one.
        Some(match name {
            "ln_pre.weight" | "ln_pre.bias" => [Axis::Hidden(true), Axis::Whole],
            "conv1.weight" | "class_embedding" => [Axis::Hidden(!has_first_norm), Axis::Whole],
            "positional_embedding" => [Axis::Whole, Axis::Hidden(!has_first_norm)],
            "token_embedding.weight" => [Axis::Whole, Axis::Hidden(true)],
            "text_projection.weight" => [Axis::Whole, Axis::Hidden(false)],
            "text_projection.bias" => [Axis::Whole, Axis::Whole],
            _ => [Axis::Hidden(false), Axis::Whole],
        })
    }

    /// Returns the pruning rules for a tensor of a block; `None` for a tensor of a removed part.
    fn block_axes(&self, layer: usize, name: &str) -> Option<[Axis; 2]> {
        let block = self.blocks.get(layer)?;
        let attention = ["ln_1.", "ls_1.", "attn."].iter().any(|part| name.starts_with(part));
        if (attention && block.heads == 0) || (!attention && block.mlp_width == 0) {
            return None;
        }
        Some(match name {
            "attn.in_proj_weight" => [Axis::Heads(layer, 3, false), Axis::Hidden(false)],
            "attn.in_proj_bias" => [Axis::Heads(layer, 3, false), Axis::Whole],
            "attn.out_proj.weight" => [Axis::Branch(Part::Attention, layer), Axis::Heads(layer, 1, true)],
            "attn.out_proj.bias" => [Axis::Branch(Part::Attention, layer), Axis::Whole],
            "mlp.c_fc.weight" => [Axis::Mlp(layer, false), Axis::Hidden(false)],
            "mlp.c_fc.bias" => [Axis::Mlp(layer, false), Axis::Whole],
            "mlp.c_proj.weight" => [Axis::Branch(Part::WholeMlp, layer), Axis::Mlp(layer, true)],
            "mlp.c_proj.bias" => [Axis::Branch(Part::WholeMlp, layer), Axis::Whole],
            _ => [Axis::Hidden(false), Axis::Whole],
        })
    }

    fn prune_axis(&self, tensor: Tensor, axis: i64, rule: &Axis, fold: bool) -> Result<Tensor> {
        let hidden = || {
            let values = &self.values[Part::Hidden as usize];
            self.hidden.iter().map(|channel| values[*channel as usize]).collect::<Vec<_>>()
        };
        let nonzero = |gates: &[f32]| gates.iter().copied().filter(|value| *value != 0.0).collect::<Vec<_>>();
        let (indices, values, folds) = match *rule {
            Axis::Whole => return Ok(tensor),
            Axis::Hidden(folds) => (self.hidden.clone(), hidden(), folds),
            Axis::Branch(whole, layer) => {
                let factor = self.block_gates(whole, layer).first().copied().unwrap_or(0.0);
                (self.hidden.clone(), hidden().iter().map(|value| value * factor).collect(), true)
            }
            Axis::Mlp(layer, folds) => {
                let gates = self.block_gates(Part::Mlp, layer);
                (kept(gates), nonzero(gates), folds)
            }
            Axis::Heads(layer, parts, folds) => {
                let (gates, width) = (self.block_gates(Part::Heads, layer), self.shape.head_width);
                let of_part = |part: i64| {
                    let start = part * gates.len() as i64;
                    kept(gates).into_iter().flat_map(move |head| {
                        let first = (start + head) * width;
                        first..first + width
                    })
                };
                let values = nonzero(gates).into_iter().flat_map(|value| vec![value; width as usize]);
                ((0..parts).flat_map(of_part).collect(), values.collect(), folds)
            }
        };
        let pruned = tensor.f_index_select(axis, &Tensor::from_slice(&indices).to_device(tensor.device()))?;
        if !(folds && fold) {
            return Ok(pruned);
        }
        let mut shape = vec![1; pruned.dim()];
        shape[axis as usize] = -1;
        let factors = Tensor::from_slice(&values).to_device(pruned.device()).to_kind(pruned.kind());
        Ok(pruned * factors.f_view(shape.as_slice())?)
    }
}

/// Returns the indices of the gates that are not 0.
fn kept(gates: &[f32]) -> Vec<i64> {
    gates.iter().enumerate().filter(|(_, value)| **value != 0.0).map(|(index, _)| index as i64).collect()
}

//! From decided gates to a model that is smaller in fact: values folded into the weights, parts that go cut out.

use std::collections::HashMap;

use tch::Tensor;

use super::Hard;
use crate::checkpoint::layout::with_text_prefix;
use crate::config::PrunedBlock;
use crate::gates::{Part, TowerShape};
use crate::{Clip, ClipConfig, Error, Result, weights};

/// How the tensors of a model become those of the cut one.
#[derive(Debug)]
pub struct PruningPlan {
    image: TowerCut,
    text: TowerCut,
    uncut: ClipConfig,
    config: ClipConfig,
}

/// What is left of one tower.
#[derive(Debug)]
struct TowerCut {
    shape: TowerShape,
    /// Values of the gates, in the order of [`Part::ALL`].
    values: [Vec<f32>; 5],
    blocks: Vec<PrunedBlock>,
    hidden: Vec<i64>,
}

impl PruningPlan {
    /// The cut of a model of this configuration by decided gates.
    ///
    /// # Errors
    /// [`Error::Config`] where the gates are not those of such a model, or what is left cannot be built.
    pub fn new(config: &ClipConfig, hard: &Hard) -> Result<Self> {
        let image = TowerCut::new(TowerShape::image(config)?, &hard.image)?;
        let text = TowerCut::new(TowerShape::text(config)?, &hard.text)?;
        let (uncut, mut config) = (config.clone(), config.clone());
        let vision = &mut config.vision_cfg;
        (vision.width, vision.head_width) = (image.hidden.len() as i64, image.shape.head_width);
        vision.blocks = Some(image.blocks.clone());
        let own = &mut config.text_cfg;
        (own.width, own.head_width) = (text.hidden.len() as i64, Some(text.shape.head_width));
        own.blocks = Some(text.blocks.clone());
        config.validate("the cut model")?;
        Ok(PruningPlan { image, text, uncut, config })
    }

    /// The configuration of the cut model.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The cut model: it gives what `model` gives under the same gates.
    ///
    /// # Errors
    /// [`Error::Config`] where `model` has another configuration than the cut was made for.
    pub fn apply(&self, model: &Clip) -> Result<Clip> {
        if *model.config() != self.uncut {
            return Err(Error::config("pruning", "the cut was made for a model of another configuration"));
        }
        let cut = Clip::new(&self.config, model.device(), 0)?;
        let state = model.params().state().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
        weights::load(cut.params(), &self.state(state, true)?, "the model that is cut")?;
        Ok(cut)
    }

    /// Named tensors of the model (weights, averages, moments) as they are in the cut one; what has no place
    /// there is left out, and what belongs to no tower stays. `fold` multiplies the gates' values in, as weights
    /// want it and moments do not.
    ///
    /// # Errors
    /// [`Error::Torch`] where a tensor has another shape than its name says.
    pub fn state(
        &self,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        fold: bool,
    ) -> Result<HashMap<String, Tensor>> {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect();
        let tensors = with_text_prefix(tensors, true);
        let mut cut = HashMap::new();
        for (name, tensor) in tensors {
            let own = match (name.strip_prefix("visual."), name.strip_prefix("text.")) {
                (Some(own), _) => self.image.tensor(own, &tensor, fold, !self.config.vision_cfg.no_ln_pre),
                (_, Some(own)) => self.text.tensor(own, &tensor, fold, false),
                _ => Ok(Some(tensor)),
            };
            if let Some(tensor) = own? {
                cut.insert(name, tensor);
            }
        }
        Ok(with_text_prefix(cut, self.config.custom_text))
    }
}

/// What happens along one axis of a tensor.
enum Axis {
    /// Nothing.
    Whole,
    /// Hidden channels; the flag says whether the gates' values are multiplied in.
    Hidden(bool),
    /// Heads of a block, in so many parts one below the other (query, key, value); the flag as before.
    Heads(usize, i64, bool),
    /// MLP inner channels of a block; the flag as before.
    Mlp(usize, bool),
    /// Hidden channels, multiplied by their gates, with the value of a block's whole branch on top.
    Branch(Part, usize),
}

impl TowerCut {
    fn new(shape: TowerShape, values: &[Vec<f32>; 5]) -> Result<Self> {
        for (part, row) in Part::ALL.into_iter().zip(values) {
            if row.len() as i64 != shape.count(part) {
                let reason = format!("{} gates for {} `{}`", row.len(), shape.count(part), part.name());
                return Err(Error::config("pruning", reason));
            }
        }
        let mut own = TowerCut {
            hidden: kept(&values[Part::Hidden as usize]),
            values: values.clone(),
            blocks: Vec::new(),
            shape,
        };
        own.blocks = (0..own.shape.blocks.len())
            .map(|layer| PrunedBlock {
                heads: own.left(Part::Attention, Part::Heads, layer),
                mlp_width: own.left(Part::WholeMlp, Part::Mlp, layer),
            })
            .collect();
        Ok(own)
    }

    fn row(&self, part: Part, layer: usize) -> &[f32] {
        let (start, count) = self.shape.range(part, layer);
        &self.values[part as usize][start as usize..(start + count) as usize]
    }

    /// Gates of a block that stay; none where the whole branch goes.
    fn left(&self, whole: Part, inner: Part, layer: usize) -> i64 {
        match self.row(whole, layer) {
            [value] if *value != 0.0 => kept(self.row(inner, layer)).len() as i64,
            _ => 0,
        }
    }

    /// One tensor by its name below the tower's prefix; `None` where it goes.
    fn tensor(
        &self,
        name: &str,
        tensor: &Tensor,
        fold: bool,
        has_first_norm: bool,
    ) -> Result<Option<Tensor>> {
        let block = name.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
        let axes = match block {
            Some((layer, rest)) => {
                let layer = layer.parse::<usize>().unwrap_or(usize::MAX);
                let Some(own) = self.blocks.get(layer) else { return Ok(None) };
                let attention = ["ln_1.", "ls_1.", "attn."].iter().any(|part| rest.starts_with(part));
                if (attention && own.heads == 0) || (!attention && own.mlp_width == 0) {
                    return Ok(None);
                }
                match rest {
                    "attn.in_proj_weight" => [Axis::Heads(layer, 3, false), Axis::Hidden(false)],
                    "attn.in_proj_bias" => [Axis::Heads(layer, 3, false), Axis::Whole],
                    "attn.out_proj.weight" => {
                        [Axis::Branch(Part::Attention, layer), Axis::Heads(layer, 1, true)]
                    }
                    "attn.out_proj.bias" => [Axis::Branch(Part::Attention, layer), Axis::Whole],
                    "mlp.c_fc.weight" => [Axis::Mlp(layer, false), Axis::Hidden(false)],
                    "mlp.c_fc.bias" => [Axis::Mlp(layer, false), Axis::Whole],
                    "mlp.c_proj.weight" => [Axis::Branch(Part::WholeMlp, layer), Axis::Mlp(layer, true)],
                    "mlp.c_proj.bias" => [Axis::Branch(Part::WholeMlp, layer), Axis::Whole],
                    _ => [Axis::Hidden(false), Axis::Whole],
                }
            }
            // The residual stream starts behind the first norm, where there is one.
            None => match name {
                "ln_pre.weight" | "ln_pre.bias" => [Axis::Hidden(true), Axis::Whole],
                "conv1.weight" | "class_embedding" => [Axis::Hidden(!has_first_norm), Axis::Whole],
                "positional_embedding" => [Axis::Whole, Axis::Hidden(!has_first_norm)],
                "token_embedding.weight" => [Axis::Whole, Axis::Hidden(true)],
                "text_projection.weight" => [Axis::Whole, Axis::Hidden(false)],
                "text_projection.bias" => return Ok(Some(tensor.shallow_clone())),
                _ => [Axis::Hidden(false), Axis::Whole],
            },
        };
        let mut cut = tensor.shallow_clone();
        for (axis, rule) in axes.iter().enumerate() {
            cut = self.along(cut, axis as i64, rule, fold)?;
        }
        Ok(Some(cut.f_contiguous()?))
    }

    fn along(&self, tensor: Tensor, axis: i64, rule: &Axis, fold: bool) -> Result<Tensor> {
        let hidden = || {
            let values = &self.values[Part::Hidden as usize];
            self.hidden.iter().map(|place| values[*place as usize]).collect::<Vec<_>>()
        };
        let chosen = |row: &[f32]| row.iter().copied().filter(|value| *value != 0.0).collect::<Vec<_>>();
        let (places, values, folds) = match *rule {
            Axis::Whole => return Ok(tensor),
            Axis::Hidden(folds) => (self.hidden.clone(), hidden(), folds),
            Axis::Branch(whole, layer) => {
                let factor = self.row(whole, layer).first().copied().unwrap_or(0.0);
                (self.hidden.clone(), hidden().iter().map(|value| value * factor).collect(), true)
            }
            Axis::Mlp(layer, folds) => {
                let row = self.row(Part::Mlp, layer);
                (kept(row), chosen(row), folds)
            }
            Axis::Heads(layer, parts, folds) => {
                let (row, width) = (self.row(Part::Heads, layer), self.shape.head_width);
                let of_part = |part: i64| {
                    let start = part * row.len() as i64;
                    kept(row).into_iter().flat_map(move |head| {
                        let first = (start + head) * width;
                        first..first + width
                    })
                };
                let values = chosen(row).into_iter().flat_map(|value| vec![value; width as usize]);
                ((0..parts).flat_map(of_part).collect(), values.collect(), folds)
            }
        };
        let cut = tensor.f_index_select(axis, &Tensor::from_slice(&places).to_device(tensor.device()))?;
        if !(folds && fold) {
            return Ok(cut);
        }
        let mut shape = vec![1; cut.dim()];
        shape[axis as usize] = -1;
        let factors = Tensor::from_slice(&values).to_device(cut.device()).to_kind(cut.kind());
        Ok(cut * factors.f_view(shape.as_slice())?)
    }
}

/// Places of the gates that are not 0.
fn kept(row: &[f32]) -> Vec<i64> {
    row.iter().enumerate().filter(|(_, value)| **value != 0.0).map(|(place, _)| place as i64).collect()
}

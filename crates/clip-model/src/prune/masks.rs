//! The learned scores behind the gates of both towers, and what they say of the size that stays.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::concrete;
use crate::gates::{Gates, Part, TowerGates, TowerShape};
use crate::mode::{Mode, name_seed};
use crate::{ClipConfig, Error, Result};

/// Scores (log alpha) of every part of both towers; they are trained like weights.
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

/// The draw of one training pass.
#[derive(Debug)]
pub struct Drawn {
    /// Uniform numbers and gates of each row of scores, in the order of [`Masks::named`].
    rows: Vec<(Tensor, Tensor)>,
}

/// What was decided: the value of every gate, 0 for the parts that go.
#[derive(Clone, Debug, PartialEq)]
pub struct Hard {
    /// The image tower's, in the order of [`Part::ALL`].
    pub image: [Vec<f32>; 5],
    /// The text tower's.
    pub text: [Vec<f32>; 5],
}

impl Masks {
    /// Scores of 10 for everything in a model of this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where a tower has no gates ([`TowerShape`]).
    pub fn new(config: &ClipConfig, device: Device) -> Result<Self> {
        let tower = |name, shape: TowerShape| -> Result<_> {
            let row = |part| {
                let start = Tensor::f_full([shape.count(part)], concrete::START, (Kind::Float, device))?;
                Ok::<_, Error>(start.f_set_requires_grad(true)?)
            };
            let [hidden, heads, mlp, attention, whole_mlp] = Part::ALL.map(row);
            let scores = [hidden?, heads?, mlp?, attention?, whole_mlp?];
            Ok(TowerMasks { name, shape: Arc::new(shape), scores })
        };
        Ok(Masks {
            image: tower("visual", TowerShape::image(config)?)?,
            text: tower("text", TowerShape::text(config)?)?,
        })
    }

    /// The scores under their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let towers = [&self.image, &self.text].into_iter();
        towers.flat_map(|tower| Part::ALL.map(|part| tower.entry(part))).collect()
    }

    /// Gates for one training pass, drawn by the mode's seed, and what is needed to send their gradient back. Where
    /// no hidden channel is drawn, the one of the highest score stands in.
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out.
    pub fn draw(&self, mode: &Mode) -> Result<(Gates, Drawn)> {
        let mut rows = Vec::new();
        let mut tower = |own: &TowerMasks| {
            let gates = Part::ALL.map(|part| {
                let scores = &own.scores[part as usize];
                let key = name_seed(0, &format!("{}.gates.{}", own.name, part.name()));
                let uniform =
                    Tensor::from_slice(&mode.uniform(key, scores.numel())).to_device(scores.device());
                // A leaf, so that a pass that is computed again adds to one gradient.
                let gate = concrete::sample(&scores.detach(), &uniform);
                let gate = if part == Part::Hidden { with_one(gate, scores) } else { gate };
                let gate = gate.set_requires_grad(true);
                rows.push((uniform, gate.shallow_clone()));
                gate
            });
            TowerGates::new(Arc::clone(&own.shape), gates)
        };
        let gates = Gates { image: tower(&self.image)?, text: tower(&self.text)? };
        Ok((gates, Drawn { rows }))
    }

    /// Adds to the scores' gradient what the gates of a draw gathered.
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out.
    pub fn pull_back(&self, drawn: &Drawn) -> Result<()> {
        for ((_, scores), (uniform, gate)) in self.named().iter().zip(&drawn.rows) {
            let gradient = gate.grad();
            if gradient.defined() && scores.numel() > 0 {
                (concrete::sample(scores, uniform) * gradient).f_sum(Kind::Float)?.f_backward()?;
            }
        }
        Ok(())
    }

    /// Parameters of the blocks of both towers: their matrices, biases and norms. Embeddings and projections are
    /// not counted, as in TinyCLIP.
    pub fn parameters(&self) -> f64 {
        let whole = |tower: &TowerMasks| tower.parameters(&tower.scores.each_ref().map(Tensor::ones_like));
        tch::no_grad(|| (whole(&self.image) + whole(&self.text)).double_value(&[]))
    }

    /// The expected number of them that stay (float64, no dimension, with a gradient).
    pub fn expected_parameters(&self) -> Tensor {
        let expected =
            |tower: &TowerMasks| tower.parameters(&tower.scores.each_ref().map(concrete::keep_probability));
        expected(&self.image) + expected(&self.text)
    }

    /// 1 − expected / all (float64, no dimension, with a gradient).
    pub fn expected_sparsity(&self) -> Tensor {
        1.0 - self.expected_parameters() / self.parameters()
    }

    /// Decides: of each part in each tower as many gates become 0 as are expected to be, those of the smallest
    /// scores; the others stay at σ(0.8 a / T). A block all of whose heads (or MLP channels) go loses the whole
    /// attention (or MLP), since nothing but a bias would be left; at least one hidden channel stays.
    ///
    /// # Errors
    /// [`Error::Torch`] where a score cannot be read.
    pub fn harden(&self) -> Result<Hard> {
        Ok(Hard { image: self.image.harden()?, text: self.text.harden()? })
    }
}

impl Hard {
    /// Gates of these values for the model that was masked.
    ///
    /// # Errors
    /// As [`Gates::new`].
    pub fn gates(&self, config: &ClipConfig, device: Device) -> Result<Gates> {
        let rows =
            |rows: &[Vec<f32>; 5]| rows.each_ref().map(|row| Tensor::from_slice(row).to_device(device));
        Gates::new(config, rows(&self.image), rows(&self.text))
    }
}

impl TowerMasks {
    fn entry(&self, part: Part) -> (String, Tensor) {
        (format!("{}.{}", self.name, part.name()), self.scores[part as usize].shallow_clone())
    }

    /// Parameters of the blocks where each part stays with these probabilities, independently of all others.
    fn parameters(&self, kept: &[Tensor; 5]) -> Tensor {
        let sum = |part: Part, layer: usize| {
            let (start, count) = self.shape.range(part, layer);
            kept[part as usize].narrow(0, start, count).sum(Kind::Double)
        };
        let hidden = kept[Part::Hidden as usize].sum(Kind::Double);
        let head_width = self.shape.head_width as f64;
        // Weight and bias of the norm, bias of the output, and the factor per channel.
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
        let mut rows: [Vec<f32>; 5] = Default::default();
        for part in Part::ALL {
            rows[part as usize] = decide(&self.scores[part as usize], part == Part::Hidden)?;
        }
        for layer in 0..self.shape.blocks.len() {
            for (inner, whole) in [(Part::Heads, Part::Attention), (Part::Mlp, Part::WholeMlp)] {
                let (start, count) = self.shape.range(inner, layer);
                let own = &rows[inner as usize][start as usize..(start + count) as usize];
                if count > 0 && own.iter().all(|value| *value == 0.0) {
                    rows[whole as usize][self.shape.range(whole, layer).0 as usize] = 0.0;
                }
            }
        }
        Ok(rows)
    }
}

/// The gates with that of the highest score open, where all are closed.
fn with_one(gates: Tensor, scores: &Tensor) -> Tensor {
    let closed = gates.max().le(0.0);
    let highest = scores.detach().argmax(0, false);
    let one = gates.zeros_like().scatter_value(0, &highest.view([1]), 1.0);
    gates + one * closed
}

/// The values of one row: as many zeros as are expected, where the scores are smallest (the first of equal ones).
fn decide(scores: &Tensor, one_stays: bool) -> Result<Vec<f32>> {
    let scores = scores.f_detach()?.f_to_device(Device::Cpu)?;
    let kept = concrete::keep_probability(&scores).f_sum(Kind::Double)?.f_double_value(&[])?;
    let (values, scores) =
        (Vec::<f32>::try_from(&concrete::settled(&scores))?, Vec::<f32>::try_from(&scores)?);
    let most = scores.len().saturating_sub(usize::from(one_stays));
    let zeros = ((scores.len() as f64 - kept).round().max(0.0) as usize).min(most);
    let mut order = (0..scores.len()).collect::<Vec<_>>();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let mut values = values;
    order[..zeros].iter().for_each(|place| values[*place] = 0.0);
    Ok(values)
}

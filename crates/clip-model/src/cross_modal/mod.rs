//! A cross-modal head on a frozen CLIP: regions of an image and tokens of a text attend to each other, and what they
//! find enriches the pair's embeddings (DCLIP's teacher).
//!
//! Since an enriched embedding depends on both halves of its pair, there is none of an image or a text alone.

mod half;
mod regions;

use std::path::Path;

use half::Half;
pub use regions::{Boxes, SeenImages};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::clip::MAX_LOGIT_SCALE;
use crate::layers::{LayerNorm, Linear};
use crate::params::{Builder, Init, Params, Store};
use crate::states::TextStates;
use crate::weights::{self, read_safetensors, write_safetensors};
use crate::{Clip, Error, Result};

/// Name of the head's configuration in a model folder.
pub const CONFIG_FILE: &str = "cross_modal_config.json";
/// Name of the head's weights in a model folder.
pub const WEIGHTS_FILE: &str = "cross_modal.safetensors";

const EPS: f64 = 1e-5;
/// Far more than any sensible head has.
const MAX_LAYERS: i64 = 64;
/// Each is a forward pass of the image tower, and there are as many as its square.
const MAX_CROPS: i64 = 8;
/// Each is a forward pass of the image tower.
const MAX_BOXES: i64 = 64;

/// Dimensions of the head; its width is the CLIP's embed dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossModalConfig {
    /// Layers of attention in both directions.
    pub layers: i64,
    /// Attention heads; they divide the CLIP's embed dim.
    pub heads: i64,
    /// MLP inner width as a multiple of the width.
    pub mlp_ratio: f64,
    /// Regions are the embeddings of so many crops per side, each of the image's size again; 0 takes the ViT's patch
    /// tokens, which cost nothing.
    #[serde(skip_serializing_if = "is_zero")]
    pub crops: i64,
    /// Regions are the embeddings of at most so many object boxes per image, each drawn at the image's size; an image
    /// without a box has itself as its region. 0 takes no boxes.
    #[serde(skip_serializing_if = "is_zero")]
    pub boxes: i64,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

impl Default for CrossModalConfig {
    fn default() -> Self {
        CrossModalConfig { layers: 1, heads: 4, mlp_ratio: 4.0, crops: 0, boxes: 0 }
    }
}

impl CrossModalConfig {
    /// Passes of the image tower per image, at most.
    pub fn image_passes(&self) -> u64 {
        1 + (self.crops.clamp(0, MAX_CROPS).pow(2) + self.boxes.clamp(0, MAX_BOXES)) as u64
    }

    /// What cannot be built for a CLIP of this embed dim, if anything.
    pub fn problem(&self, width: i64) -> Option<String> {
        let CrossModalConfig { layers, heads, mlp_ratio, crops, boxes } = *self;
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Some(format!("layers = {layers} is outside 1..={MAX_LAYERS}"));
        }
        if heads < 1 || width % heads != 0 {
            return Some(format!("heads = {heads} do not divide the embed dim {width}"));
        }
        if !(mlp_ratio > 0.0 && mlp_ratio <= 64.0) {
            return Some(format!("mlp_ratio = {mlp_ratio} is not above 0 and at most 64"));
        }
        if !(0..=MAX_CROPS).contains(&crops) {
            return Some(format!("crops = {crops} is outside 0..={MAX_CROPS}"));
        }
        if !(0..=MAX_BOXES).contains(&boxes) {
            return Some(format!("boxes = {boxes} is outside 0..={MAX_BOXES}"));
        }
        if crops > 0 && boxes > 0 {
            return Some("regions are crops or boxes: set one of them to 0".into());
        }
        None
    }
}

/// The head with its parameters.
#[derive(Debug)]
pub struct CrossModal {
    image: Side,
    text: Side,
    layers: Vec<Layer>,
    /// Natural logarithm of the factor on the cosines of enriched embeddings; no dimension.
    pub logit_scale: Tensor,
    config: CrossModalConfig,
    params: Params,
}

/// Into the head's width, and out of it.
#[derive(Debug)]
struct Side {
    input: Linear,
    norm: LayerNorm,
    output: Linear,
}

#[derive(Debug)]
struct Layer {
    image: Half,
    text: Half,
}

impl CrossModal {
    /// A new head for a CLIP; it starts as one that changes nothing, with the CLIP's logit scale.
    ///
    /// # Errors
    /// [`Error::Config`] where the configuration cannot be built, or the image tower has no patch tokens.
    pub fn new(config: &CrossModalConfig, clip: &Clip, seed: u64) -> Result<Self> {
        let (own, width) = (clip.config(), clip.config().embed_dim);
        if let Some(problem) = config.problem(width) {
            return Err(Error::config("cross_modal", problem));
        }
        let of_patches = config.crops == 0 && config.boxes == 0;
        if of_patches && clip.visual.depth().is_none() {
            let reason = "it needs patch tokens, which only CLIP's ViT gives: take crops (crops = 2) or boxes as regions";
            return Err(Error::config("cross_modal", reason));
        }
        let region_width = if of_patches { own.vision_cfg.width } else { width };
        let store = Store::new(clip.device(), seed);
        let root = store.root();
        let scale = clip.logit_scale.detach().to_kind(Kind::Double).double_value(&[]);
        let layers = root.child("layers");
        let layers = (0..config.layers).map(|layer| {
            let path = layers.child(layer);
            Ok(Layer {
                image: Half::new(&path.child("image"), config, width)?,
                text: Half::new(&path.child("text"), config, width)?,
            })
        });
        Ok(CrossModal {
            image: Side::new(&root.child("image"), region_width, width)?,
            text: Side::new(&root.child("text"), own.text_cfg.width, width)?,
            layers: layers.collect::<Result<_>>()?,
            logit_scale: root.parameter("logit_scale", &[], Init::Constant(scale))?,
            config: config.clone(),
            params: store.into_params(),
        })
    }

    /// Enriched unit embeddings `[batch, embed_dim]` of images and texts; row i of both is pair i.
    ///
    /// Each layer lets the regions attend to the tokens of their own caption and the tokens to the regions of their
    /// own image, at the same time; then the means of both are mapped and added to the CLIP's unit embeddings.
    ///
    /// # Errors
    /// [`Error::Shape`] where the states are of different batches, or of another CLIP's widths.
    pub fn enrich(&self, image: &SeenImages, text: &TextStates) -> Result<(Tensor, Tensor)> {
        let (images, texts) = (image.regions.size(), text.tokens.size());
        if images[0] != texts[0] {
            return Err(Error::Shape {
                what: "the batch of text tokens",
                found: texts,
                expected: format!("[{}, length, width], a text for each image", images[0]),
            });
        }
        for (what, found, side) in
            [("the image regions", &images, &self.image), ("the text tokens", &texts, &self.text)]
        {
            let width = side.input.input_width();
            if found.last() != Some(&width) {
                let expected = format!("[batch, count, {width}]");
                return Err(Error::Shape { what, found: found.clone(), expected });
            }
        }
        let counts = text.counts.to_kind(Kind::Float); // [batch, length]
        // A summand on the products of queries with keys: what does not count is no key.
        let hide = |counts: &Tensor| (1.0 - counts.view([texts[0], 1, 1, -1])) * -1e9; // [batch, 1, 1, count]
        let hidden = hide(&counts);
        let region_counts = image.counts.as_ref().map(|counts| counts.to_kind(Kind::Float)); // [batch, regions]
        let hidden_regions = region_counts.as_ref().map(hide);
        let mut regions = self.image.input.forward(&image.regions); // [batch, regions, embed]
        let mut tokens = self.text.input.forward(&text.tokens); // [batch, length, embed]
        for layer in &self.layers {
            let enriched = layer.image.forward(&regions, &tokens, Some(&hidden));
            tokens = layer.text.forward(&tokens, &regions, hidden_regions.as_ref());
            regions = enriched;
        }
        let mean = |states: &Tensor, counts: &Tensor| {
            let (counts, dims) = (counts.unsqueeze(2), [1i64].as_slice());
            (states * &counts).sum_dim_intlist(dims, false, Kind::Float)
                / counts.sum_dim_intlist(dims, false, Kind::Float)
        };
        let token_mean = mean(&tokens, &counts);
        let region_mean = match &region_counts {
            Some(counts) => mean(&regions, counts),
            None => regions.mean_dim(1, false, None::<Kind>),
        };
        Ok((
            self.image.add(&image.states.embedding, &region_mean),
            self.text.add(&text.embedding, &token_mean),
        ))
    }

    /// Makes the logit scale at least 0 and at most ln(100), as CLIP does after every step.
    pub fn clamp_logit_scale(&self) {
        tch::no_grad(|| {
            let _ = self.logit_scale.shallow_clone().clamp_(0.0, MAX_LOGIT_SCALE);
        });
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &CrossModalConfig {
        &self.config
    }

    /// All parameters under their names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Writes the head's two files into the model folder of its CLIP.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CONFIG_FILE);
        let json = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
        write_safetensors(
            &folder.join(WEIGHTS_FILE),
            self.params.iter().map(|p| (p.name.as_str(), &p.tensor)),
        )?;
        Ok(file_ext::write_atomic(&path, json.as_bytes())?)
    }

    /// Reads the head of a model folder whose CLIP is `clip`; `None` where the folder has none.
    ///
    /// # Errors
    /// [`Error::Io`] where only one of its files is there or one cannot be read, [`Error::Config`] and
    /// [`Error::Mismatch`] where they do not fit the CLIP.
    pub fn open(folder: &Path, clip: &Clip) -> Result<Option<Self>> {
        let (path, file) = (folder.join(CONFIG_FILE), folder.join(WEIGHTS_FILE));
        if !path.exists() && !file.exists() {
            return Ok(None);
        }
        let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: CrossModalConfig = serde_json::from_str(&json)
            .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
        let head = CrossModal::new(&config, clip, 0)?;
        weights::load(&head.params, &read_safetensors(&file)?, &file.display().to_string())?;
        Ok(Some(head))
    }
}

impl Side {
    fn new(path: &Builder<'_>, tokens: i64, width: i64) -> Result<Self> {
        let zero = Init::Constant(0.0);
        Ok(Side {
            input: Linear::new(&path.child("input"), tokens, width, Init::fan_in(tokens), zero)?,
            norm: LayerNorm::new(&path.child("ln_post"), width, EPS)?,
            // All zeros, so that the head begins where the CLIP is.
            output: Linear::new(&path.child("output"), width, width, zero, zero)?,
        })
    }

    /// The raw embedding's unit vector with what was found, as a unit vector; all `[batch, embed]`.
    fn add(&self, embedding: &Tensor, found: &Tensor) -> Tensor {
        unit(&(unit(embedding) + self.output.forward(&self.norm.forward(found))))
    }
}

/// Rows of length 1, as torch's `normalize` makes them.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}

#[cfg(test)]
mod tests;

//! Cross-modal head on a frozen CLIP: image regions and text tokens attend to each other, which enriches the
//! embeddings of an image-text pair (DCLIP's teacher).
//!
//! ```no_run
//! use clip_model::{CrossModal, CrossModalConfig, Tape};
//!
//! # let (images, tokens) = (tch::Tensor::new(), tch::Tensor::new());
//! let clip = clip_model::open("models/vit-b-16", tch::Device::Cpu, 0)?.model;
//! let head = CrossModal::new(&CrossModalConfig::default(), &clip, 0)?;
//! let image = head.forward(&clip, &images, &[], &[])?;
//! let text = clip.text_states(&tokens, &[], &mut Tape::off())?;
//! let enriched = head.enrich(&image, &text)?;
//! # Ok::<(), clip_model::Error>(())
//! ```
//!
//! An enriched embedding depends on both the image and the text of a pair, so the head cannot embed an image or a
//! text alone.

mod attention;
mod config;
mod regions;

use std::path::Path;

use attention::CrossAttention;
pub use config::CrossModalConfig;
pub use regions::{Boxes, ImageRegions};
use tch::{Kind, Tensor};

use crate::clip::MAX_LOGIT_SCALE;
use crate::layers::{LayerNorm, Linear};
use crate::params::{Init, ParamBuilder, ParamStore, Params};
use crate::states::TextStates;
use crate::weights::{self, read_safetensors, write_safetensors};
use crate::{Clip, Error, Result};

/// Name of the head's configuration file in a model folder.
pub const CONFIG_FILE: &str = "cross_modal_config.json";
/// Name of the head's weight file in a model folder.
pub const WEIGHTS_FILE: &str = "cross_modal.safetensors";

const EPS: f64 = 1e-5;

/// Cross-modal head with its parameters.
#[derive(Debug)]
pub struct CrossModal {
    image: ModalityProjection,
    text: ModalityProjection,
    layers: Vec<Layer>,
    /// Learned logit scale of enriched embeddings, stored as its natural logarithm; a scalar tensor.
    pub logit_scale: Tensor,
    config: CrossModalConfig,
    params: Params,
}

/// Projections of one modality into the head's width and out of it.
#[derive(Debug)]
struct ModalityProjection {
    input: Linear,
    norm: LayerNorm,
    output: Linear,
}

#[derive(Debug)]
struct Layer {
    image: CrossAttention,
    text: CrossAttention,
}

impl CrossModal {
    /// Creates a head for a CLIP. It starts with the CLIP's logit scale and does not change the embeddings at first.
    ///
    /// # Errors
    /// [`Error::Config`] if the configuration is invalid, [`Error::Unsupported`] if the image tower has no patch
    /// tokens.
    pub fn new(config: &CrossModalConfig, clip: &Clip, seed: u64) -> Result<Self> {
        let (towers, width) = (clip.config(), clip.config().embed_dim);
        config.validate(width)?;
        let uses_patches = config.crops == 0 && config.boxes == 0;
        if uses_patches && clip.image_depth().is_none() {
            return Err(Error::unsupported(
                "a cross-modal head on patch tokens of an image tower other than a ViT: use crops (crops = 2) or boxes as regions",
            ));
        }
        let region_width = if uses_patches { towers.vision_cfg.width } else { width };
        let store = ParamStore::new(clip.device(), seed);
        let root = store.root();
        let scale = clip.logit_scale.detach().to_kind(Kind::Double).double_value(&[]);
        let layers = root.child("layers");
        let layers = (0..config.layers).map(|layer| {
            let path = layers.child(layer);
            Ok(Layer {
                image: CrossAttention::new(&path.child("image"), config, width)?,
                text: CrossAttention::new(&path.child("text"), config, width)?,
            })
        });
        Ok(CrossModal {
            image: ModalityProjection::new(&root.child("image"), region_width, width)?,
            text: ModalityProjection::new(&root.child("text"), towers.text_cfg.width, width)?,
            layers: layers.collect::<Result<_>>()?,
            logit_scale: root.parameter("logit_scale", &[], Init::Constant(scale))?,
            config: config.clone(),
            params: store.into_params(),
        })
    }

    /// Enriches the embeddings of image-text pairs; row i of images and texts is pair i.
    ///
    /// In each layer, the regions attend to the tokens of their own caption, and at the same time the tokens attend
    /// to the regions of their own image. Finally, the means of both are projected and added to the CLIP's unit
    /// embeddings.
    ///
    /// # Errors
    /// [`Error::Shape`] if the batch sizes differ, or if a width is not that of the head's CLIP.
    pub fn enrich(&self, image: &ImageRegions, text: &TextStates) -> Result<EnrichedEmbeddings> {
        self.check_shapes(image, text)?;
        let mask = text.mask.to_kind(Kind::Float); // [batch, length]
        // Attention bias that hides padding.
        let batch = text.tokens.size()[0];
        let hide = |mask: &Tensor| (1.0 - mask.view([batch, 1, 1, -1])) * -1e9; // [batch, 1, 1, count]
        let hidden = hide(&mask);
        let region_mask = image.mask.as_ref().map(|mask| mask.to_kind(Kind::Float)); // [batch, regions]
        let hidden_regions = region_mask.as_ref().map(hide);
        let mut regions = self.image.input.forward(&image.regions); // [batch, regions, embed]
        let mut tokens = self.text.input.forward(&text.tokens); // [batch, length, embed]
        for layer in &self.layers {
            let enriched = layer.image.forward(&regions, &tokens, Some(&hidden));
            tokens = layer.text.forward(&tokens, &regions, hidden_regions.as_ref());
            regions = enriched;
        }
        let token_mean = masked_mean(&tokens, &mask);
        let region_mean = match &region_mask {
            Some(mask) => masked_mean(&regions, mask),
            None => regions.mean_dim(1, false, None::<Kind>),
        };
        Ok(EnrichedEmbeddings {
            image: self.image.add(&image.states.embedding, &region_mean),
            text: self.text.add(&text.embedding, &token_mean),
        })
    }

    fn check_shapes(&self, image: &ImageRegions, text: &TextStates) -> Result<()> {
        let (images, texts) = (image.regions.size(), text.tokens.size());
        if images[0] != texts[0] {
            return Err(Error::Shape {
                input: "the batch of text tokens",
                found: texts,
                expected: format!("[{}, length, width], a text for each image", images[0]),
            });
        }
        for (input, found, side) in
            [("the image regions", &images, &self.image), ("the text tokens", &texts, &self.text)]
        {
            let width = side.input.input_width();
            if found.last() != Some(&width) {
                let expected = format!("[batch, count, {width}]");
                return Err(Error::Shape { input, found: found.clone(), expected });
            }
        }
        Ok(())
    }

    /// Clamps the logit scale to 0..=ln(100), as CLIP does after every step.
    pub fn clamp_logit_scale(&self) {
        tch::no_grad(|| {
            let _ = self.logit_scale.shallow_clone().clamp_(0.0, MAX_LOGIT_SCALE);
        });
    }

    /// Returns the configuration of the head.
    pub fn config(&self) -> &CrossModalConfig {
        &self.config
    }

    /// Returns all parameters under their names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Writes the head's two files into the model folder of its CLIP.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let path = folder.join(CONFIG_FILE);
        let json = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::json(&path.display().to_string(), e))?;
        write_safetensors(
            folder.join(WEIGHTS_FILE),
            self.params.iter().map(|p| (p.name.as_str(), &p.tensor)),
        )?;
        Ok(file_ext::write_atomic(&path, json.as_bytes())?)
    }

    /// Loads the head from the model folder of `clip`; `None` if the folder has no head.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing or cannot be read, [`Error::Config`] or [`Error::Mismatch`] if the head
    /// does not fit the CLIP.
    pub fn open(folder: impl AsRef<Path>, clip: &Clip) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let (path, file) = (folder.join(CONFIG_FILE), folder.join(WEIGHTS_FILE));
        if !path.exists() && !file.exists() {
            return Ok(None);
        }
        let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: CrossModalConfig =
            serde_json::from_str(&json).map_err(|e| Error::json(&path.display().to_string(), e))?;
        let head = CrossModal::new(&config, clip, 0)?;
        weights::load(&head.params, &read_safetensors(&file)?, &file.display().to_string())?;
        Ok(Some(head))
    }
}

/// Enriched unit embeddings of image-text pairs, each `[batch, embed_dim]`.
#[derive(Debug)]
pub struct EnrichedEmbeddings {
    /// Embeddings of the images.
    pub image: Tensor,
    /// Embeddings of the texts.
    pub text: Tensor,
}

/// Returns the mean of the states `[batch, count, width]` whose `mask` `[batch, count]` is 1.
fn masked_mean(states: &Tensor, mask: &Tensor) -> Tensor {
    let (mask, dims) = (mask.unsqueeze(2), [1i64].as_slice());
    (states * &mask).sum_dim_intlist(dims, false, Kind::Float)
        / mask.sum_dim_intlist(dims, false, Kind::Float)
}

impl ModalityProjection {
    fn new(path: &ParamBuilder<'_>, tokens: i64, width: i64) -> Result<Self> {
        let zero = Init::Constant(0.0);
        Ok(ModalityProjection {
            input: Linear::new(&path.child("input"), tokens, width, Init::fan_in(tokens), zero)?,
            norm: LayerNorm::new(&path.child("ln_post"), width, EPS)?,
            // Zeros, so that the head does not change the embeddings at first.
            output: Linear::new(&path.child("output"), width, width, zero, zero)?,
        })
    }

    /// Adds the projected mean to the unit embedding and normalises the sum; all are `[batch, embed]`.
    fn add(&self, embedding: &Tensor, mean: &Tensor) -> Tensor {
        unit(&(unit(embedding) + self.output.forward(&self.norm.forward(mean))))
    }
}

/// Normalises rows to length 1, like torch's `normalize`.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}

#[cfg(test)]
mod tests;

//! Configuration of the cross-modal head.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Maximum number of layers.
const MAX_LAYERS: i64 = 64;
/// Maximum number of crops per side. Each crop is a forward pass of the image tower.
const MAX_CROPS: i64 = 8;
/// Maximum number of boxes per image. Each box is a forward pass of the image tower.
const MAX_BOXES: i64 = 64;

/// Configuration of the cross-modal head. The head's width is the CLIP's embed dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct CrossModalConfig {
    /// Number of layers with attention in both directions, 1 to 64.
    pub layers: i64,
    /// Number of attention heads; must divide the embed dim.
    pub heads: i64,
    /// Inner width of the MLPs relative to the embed dim, above 0 and up to 64.
    pub mlp_ratio: f64,
    /// Number of crops (tiles) per side whose embeddings are the regions, up to 8, each resized to the image size. With
    /// 0, the regions are the ViT's patch tokens, which need no extra pass.
    #[cfg_attr(feature = "schema", schemars(extend("default" = 0)))]
    #[serde(skip_serializing_if = "is_zero")]
    pub crops: i64,
    /// Maximum number of object boxes per image whose embeddings are the regions, up to 64, each resized to the image
    /// size; not with `crops`. An image without boxes is its own region. With 0, boxes are not used.
    #[cfg_attr(feature = "schema", schemars(extend("default" = 0)))]
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
    /// Sets the number of layers.
    pub fn with_layers(mut self, layers: i64) -> Self {
        self.layers = layers;
        self
    }

    /// Sets the number of attention heads.
    pub fn with_heads(mut self, heads: i64) -> Self {
        self.heads = heads;
        self
    }

    /// Uses crops as regions, `crops` per side.
    pub fn with_crops(mut self, crops: i64) -> Self {
        self.crops = crops;
        self
    }

    /// Uses object boxes as regions, at most `boxes` per image.
    pub fn with_boxes(mut self, boxes: i64) -> Self {
        self.boxes = boxes;
        self
    }

    /// Returns the maximum number of passes of the image tower per image.
    pub fn image_passes(&self) -> u64 {
        1 + (self.crops.clamp(0, MAX_CROPS).pow(2) + self.boxes.clamp(0, MAX_BOXES)) as u64
    }

    /// Checks that the head can be built for a CLIP with this embed dim.
    ///
    /// # Errors
    /// [`Error::Config`] with the first invalid field.
    pub fn validate(&self, embed_dim: i64) -> Result<()> {
        let CrossModalConfig { layers, heads, mlp_ratio, crops, boxes } = *self;
        let reason = if !(1..=MAX_LAYERS).contains(&layers) {
            format!("layers = {layers} is outside 1..={MAX_LAYERS}")
        } else if heads < 1 || embed_dim % heads != 0 {
            format!("heads = {heads} does not divide the embed dim {embed_dim}")
        } else if !(mlp_ratio > 0.0 && mlp_ratio <= 64.0) {
            format!("mlp_ratio = {mlp_ratio} is not above 0 and at most 64")
        } else if !(0..=MAX_CROPS).contains(&crops) {
            format!("crops = {crops} is outside 0..={MAX_CROPS}")
        } else if !(0..=MAX_BOXES).contains(&boxes) {
            format!("boxes = {boxes} is outside 0..={MAX_BOXES}")
        } else if crops > 0 && boxes > 0 {
            "regions are crops or boxes: set one of them to 0".into()
        } else {
            return Ok(());
        };
        Err(Error::config("cross_modal", reason))
    }
}

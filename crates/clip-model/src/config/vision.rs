//! Configuration of the image tower.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ActKwargs, Check, NormKwargs, PrunedBlock, check_blocks, check_disabled, check_fraction, check_kwargs,
    check_limits, check_ratio, invalid, is_default, unsupported,
};
use crate::vision::timm::Trunk;

/// Configuration of the image tower: a ViT (`layers` is a number), CLIP's ResNet (`layers` lists four stages) or a
/// tower of timm (`timm_model_name`). The defaults are open_clip's ViT-B-16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct VisionConfig {
    /// Side of the square input image in pixels.
    pub image_size: i64,
    /// Number of transformer blocks, or number of blocks in each ResNet stage.
    pub layers: Layers,
    /// Channels of the residual stream, or of a ResNet's stem.
    pub width: i64,
    /// Patch size: side of a square patch in pixels; `None` for a ResNet.
    pub patch_size: Option<i64>,
    /// Channels of one attention head. The number of heads is width / head_width, rounded down.
    #[serde(skip_serializing_if = "is_default_head_width")]
    pub head_width: i64,
    /// MLP inner width as a multiple of the width.
    #[serde(skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Initial value of layer scale; by default, the tower has no layer scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ls_init_value: Option<f64>,
    /// Fraction of the patches that is left out in training (Li et al. 2023, FLIP).
    #[serde(skip_serializing_if = "is_default")]
    pub patch_dropout: f64,
    /// Whether to omit the norm before the blocks.
    #[serde(skip_serializing_if = "is_default")]
    pub no_ln_pre: bool,
    /// Whether to pool before the last norm instead of after it.
    #[serde(skip_serializing_if = "is_default")]
    pub final_ln_after_pool: bool,
    /// Pooling of a ViT: class token or mean of the patch tokens.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_type: VisionPool,
    /// Options of the activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_kwargs: Option<ActKwargs>,
    /// Options of the norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_kwargs: Option<NormKwargs>,
    /// Heads and MLP width of each block of a pruned tower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<PrunedBlock>>,
    /// Name of a timm model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_model_name: Option<String>,
    /// Kept for Python. This crate loads weights only from checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_model_pretrained: Option<bool>,
    /// Pooling of a timm model; empty for the model's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_pool: Option<String>,
    /// Projection after a timm model: `linear` or `none`. Empty or `null` selects the model's own linear classifier.
    #[serde(deserialize_with = "projection", skip_serializing_if = "Option::is_none")]
    pub timm_proj: Option<String>,
    /// Whether the projection after a timm model has a bias. By default, a projection has none and a classifier of
    /// the model has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_proj_bias: Option<bool>,
    /// Dropout rate before the projection of a timm model.
    #[serde(skip_serializing_if = "is_default")]
    pub timm_drop: f64,
    /// Largest drop path rate of a timm model; the model's default if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_drop_path: Option<f64>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attentional_pool: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_pooler_queries: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_pooler_heads: Option<Value>,
    /// Type of the positional embedding; only `learnable` is supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pos_embed_type: Option<String>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Value>,
}

/// Depth of an image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "layers must be a number (ViT) or four numbers (ResNet)")]
pub enum Layers {
    /// Number of blocks of a ViT.
    Depth(i64),
    /// Number of blocks in each stage of a ResNet.
    Stages([i64; 4]),
}

/// Pooling of a ViT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VisionPool {
    /// The class token.
    #[default]
    Tok,
    /// The mean of the patch tokens.
    Avg,
}

/// Architecture of an image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TowerKind {
    /// open_clip's ViT.
    Vit,
    /// CLIP's ResNet with attention pooling.
    ResNet,
    /// A timm model with a projection.
    Timm,
}

impl Default for VisionConfig {
    /// open_clip's defaults.
    fn default() -> Self {
        VisionConfig {
            image_size: 224,
            layers: Layers::Depth(12),
            width: 768,
            patch_size: Some(16),
            head_width: 64,
            mlp_ratio: 4.0,
            ls_init_value: None,
            patch_dropout: 0.0,
            no_ln_pre: false,
            final_ln_after_pool: false,
            pool_type: VisionPool::Tok,
            act_kwargs: None,
            norm_kwargs: None,
            blocks: None,
            timm_model_name: None,
            timm_model_pretrained: None,
            timm_pool: None,
            timm_proj: None,
            timm_proj_bias: None,
            timm_drop: 0.0,
            timm_drop_path: None,
            attentional_pool: None,
            attn_pooler_queries: None,
            attn_pooler_heads: None,
            pos_embed_type: None,
            output_tokens: None,
        }
    }
}

impl VisionConfig {
    /// Sets the image size in pixels.
    pub fn with_image_size(mut self, image_size: i64) -> Self {
        self.image_size = image_size;
        self
    }

    /// Returns the architecture of the tower.
    pub fn tower(&self) -> TowerKind {
        match (&self.timm_model_name, self.layers) {
            (Some(_), _) => TowerKind::Timm,
            (None, Layers::Stages(_)) => TowerKind::ResNet,
            (None, Layers::Depth(_)) => TowerKind::Vit,
        }
    }

    /// Parses the name of the timm model.
    pub(crate) fn trunk(&self) -> Check<Trunk> {
        Trunk::parse(self.timm_model_name.as_deref().unwrap_or_default())
    }

    /// Whether the projection after a timm model has a bias; `None` without a projection.
    pub(crate) fn timm_projection(&self) -> Check<Option<bool>> {
        match self.timm_proj.as_deref() {
            None | Some("linear") => Ok(Some(self.timm_proj_bias.unwrap_or(false))),
            Some("") => Ok(Some(self.timm_proj_bias.unwrap_or(true))),
            Some("none") => Ok(None),
            Some(other) => invalid(format!(
                "vision_cfg.timm_proj = `{other}`; valid values are `linear`, `none` and the empty string"
            )),
        }
    }

    /// Converts a configuration whose projection is the timm model's own classifier (`timm_proj` is empty) to one
    /// with a separate projection. Only the parameter names change.
    ///
    /// Python's open_clip needs the first form for MobileNetV3, because timm counts that model's features before its
    /// last layer. In this crate, every tower uses the second form.
    pub(crate) fn normalize_projection(&mut self) {
        if self.tower() == TowerKind::Timm && self.timm_proj.as_deref() == Some("") {
            let bias = self.timm_proj_bias.unwrap_or(true);
            (self.timm_proj, self.timm_pool) = (Some("linear".into()), Some(String::new()));
            self.timm_proj_bias = bias.then_some(true);
        }
    }

    /// Returns the number of attention heads of a ViT, or of a ResNet's attention pooling.
    pub fn heads(&self) -> i64 {
        match self.layers {
            Layers::Depth(_) => self.width / self.head_width,
            Layers::Stages(_) => self.width * 32 / self.head_width,
        }
    }

    /// Returns the patches per side of a ViT, or the pixels per side in a ResNet's last stage.
    pub fn grid(&self) -> i64 {
        match self.layers {
            Layers::Depth(_) => self.image_size / self.patch_size.unwrap_or(16),
            Layers::Stages(_) => self.image_size / 32,
        }
    }

    /// Returns the number of MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }

    /// Returns the epsilon of the norms.
    pub fn eps(&self) -> f64 {
        self.norm_kwargs.as_ref().map_or(1e-5, NormKwargs::eps)
    }

    /// Checks that the tower can be built.
    pub(super) fn check(&self) -> Check {
        check_limits("vision_cfg.image_size", self.image_size)?;
        check_limits("vision_cfg.width", self.width)?;
        check_limits("vision_cfg.head_width", self.head_width)?;
        check_ratio("vision_cfg.mlp_ratio", self.mlp_ratio)?;
        check_kwargs("vision_cfg", &self.act_kwargs, &self.norm_kwargs)?;
        check_fraction("vision_cfg.patch_dropout", self.patch_dropout)?;
        check_fraction("vision_cfg.timm_drop", self.timm_drop)?;
        check_fraction("vision_cfg.timm_drop_path", self.timm_drop_path.unwrap_or(0.0))?;
        check_disabled("vision_cfg", "attentional_pool", &self.attentional_pool)?;
        check_disabled("vision_cfg", "output_tokens", &self.output_tokens)?;
        if let Some(other) = self.pos_embed_type.as_deref().filter(|kind| *kind != "learnable") {
            return unsupported(format!(
                "vision_cfg.pos_embed_type = `{other}` is not supported; only `learnable` is"
            ));
        }
        match self.tower() {
            TowerKind::Vit => self.check_vit(),
            TowerKind::ResNet => self.check_resnet(),
            TowerKind::Timm => self.check_timm(),
        }
    }

    fn check_vit(&self) -> Check {
        let Layers::Depth(layers) = self.layers else { return Ok(()) };
        let Some(patch) = self.patch_size else { return invalid("a ViT needs vision_cfg.patch_size") };
        check_limits("vision_cfg.layers", layers)?;
        check_limits("vision_cfg.patch_size", patch)?;
        if patch > self.image_size {
            return invalid(format!("patch_size {patch} is larger than image_size {}", self.image_size));
        }
        // Pruned blocks define their own number of heads.
        if self.blocks.is_none() && (self.heads() < 1 || self.width % self.heads() != 0) {
            return invalid(format!(
                "vision width {} cannot be split into heads of {}",
                self.width, self.head_width
            ));
        }
        check_blocks("vision_cfg", &self.blocks, layers)
    }

    fn check_resnet(&self) -> Check {
        let Layers::Stages(stages) = self.layers else { return Ok(()) };
        for layers in stages {
            check_limits("vision_cfg.layers", layers)?;
        }
        if self.width % 2 != 0 {
            return invalid(format!(
                "the stem of a ResNet halves its width, but vision width {} is odd",
                self.width
            ));
        }
        if self.heads() < 1 || (self.width * 32) % self.heads() != 0 {
            return invalid(format!(
                "the attention pooling of width {} cannot be split into heads of {}",
                self.width * 32,
                self.head_width
            ));
        }
        if self.image_size < 32 {
            return invalid(format!(
                "image_size {} is below 32, the total stride of a ResNet",
                self.image_size
            ));
        }
        Ok(())
    }

    fn check_timm(&self) -> Check {
        let trunk = self.trunk()?;
        self.timm_projection()?;
        if self.timm_proj.as_deref() == Some("") && self.timm_pool.as_deref() == Some("") {
            return invalid(
                "timm_proj is empty, so the classifier of the timm model is the projection, and it needs \
                 pooled features: set timm_pool to `avg`, or timm_proj to `linear`",
            );
        }
        let name = self.timm_model_name.as_deref().unwrap_or_default();
        if self.timm_proj.as_deref() == Some("") && trunk.classifier().is_none() {
            return unsupported(format!(
                "the classifier of {name} is not one linear layer, so it cannot be the projection: set timm_proj to \
                 `linear`"
            ));
        }
        if self.timm_drop_path.unwrap_or(0.0) > 0.0 && !trunk.has_drop_path() {
            return unsupported(format!("{name} has no drop path: remove timm_drop_path"));
        }
        trunk.check(self.image_size, self.timm_pool.as_deref().unwrap_or("avg"))
    }
}

/// Reads `timm_proj`. In open_clip, `null` means the model's own classifier, and a missing key `linear`.
fn projection<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Ok(Some(Option::<String>::deserialize(value)?.unwrap_or_default()))
}

fn is_default_head_width(value: &i64) -> bool {
    *value == 64
}

fn is_default_mlp_ratio(value: &f64) -> bool {
    *value == 4.0
}

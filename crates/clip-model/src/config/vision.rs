//! Configuration of the image tower.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ActKwargs, Check, NormKwargs, PrunedBlock, check_blocks, check_kwargs, check_ratio, in_limits,
    is_default, share, unsupported,
};
use crate::vision::timm::Trunk;

/// The image tower: a ViT (`layers` is a number), CLIP's ResNet (`layers` lists four stages) or a
/// tower that timm defines (`timm_model_name`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VisionConfig {
    /// Side of the square input in pixels.
    pub image_size: i64,
    /// Transformer blocks, or ResNet blocks of each stage.
    pub layers: Layers,
    /// Channels of the residual stream; of a ResNet's stem.
    pub width: i64,
    /// Side of a square patch in pixels; a ResNet has none.
    pub patch_size: Option<i64>,
    /// Channels of one attention head; heads = width / head_width, rounded down.
    #[serde(skip_serializing_if = "is_default_head_width")]
    pub head_width: i64,
    /// MLP inner width as a multiple of the width.
    #[serde(skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Start of the learned factor per channel on residual branches; left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ls_init_value: Option<f64>,
    /// Share of the patches that is left out while training (Li et al. 2023, FLIP).
    #[serde(skip_serializing_if = "is_default")]
    pub patch_dropout: f64,
    /// Leaves out the norm before the blocks.
    #[serde(skip_serializing_if = "is_default")]
    pub no_ln_pre: bool,
    /// Pools before the last norm instead of after it.
    #[serde(skip_serializing_if = "is_default")]
    pub final_ln_after_pool: bool,
    /// What the embedding is made of.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_type: VisionPool,
    /// Options of the activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_kwargs: Option<ActKwargs>,
    /// Options of the norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_kwargs: Option<NormKwargs>,
    /// Heads and MLP width of each block, where they differ (pruned towers).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<PrunedBlock>>,
    /// Name of a timm model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_model_name: Option<String>,
    /// Read and kept for Python; weights come from checkpoints here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_model_pretrained: Option<bool>,
    /// Pooling of a timm model; empty for the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_pool: Option<String>,
    /// The projection after a timm model: `linear` or `none`. Empty selects the model's own linear classifier
    /// ([`VisionConfig::classifier_as_projection`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_proj: Option<String>,
    /// Whether the projection after a timm model has a bias. By default, a projection has none and a model's own
    /// classifier has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timm_proj_bias: Option<bool>,
    /// Dropout before the projection behind a timm model.
    #[serde(skip_serializing_if = "is_default")]
    pub timm_drop: f64,
    /// Largest drop path rate of a timm model; left out, the model's own.
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
    /// Only `learnable` is supported.
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
    /// Blocks of a ViT.
    Depth(i64),
    /// Blocks of the four stages of a ResNet.
    Stages([i64; 4]),
}

/// What a ViT's embedding is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VisionPool {
    /// The class token.
    #[default]
    Tok,
    /// The mean of the patch tokens.
    Avg,
}

/// The kinds of image tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TowerKind {
    /// open_clip's ViT.
    Vit,
    /// CLIP's ResNet with attention pooling.
    ResNet,
    /// One of timm's models behind a projection.
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
    /// The kind of tower that this describes.
    pub fn tower(&self) -> TowerKind {
        match (&self.timm_model_name, self.layers) {
            (Some(_), _) => TowerKind::Timm,
            (None, Layers::Stages(_)) => TowerKind::ResNet,
            (None, Layers::Depth(_)) => TowerKind::Vit,
        }
    }

    /// The timm model that this names.
    pub fn trunk(&self) -> Check<Trunk> {
        Trunk::named(self.timm_model_name.as_deref().unwrap_or_default())
    }

    /// Whether the projection behind a timm model has a bias; `None` where there is no projection.
    pub fn timm_projection(&self) -> Check<Option<bool>> {
        match self.timm_proj.as_deref() {
            None | Some("linear") => Ok(Some(self.timm_proj_bias.unwrap_or(false))),
            Some("") => Ok(Some(self.timm_proj_bias.unwrap_or(true))),
            Some("none") => Ok(None),
            Some(other) => Err(format!(
                "vision_cfg.timm_proj = `{other}`; valid values are `linear`, `none` and the empty string"
            )),
        }
    }

    /// Converts a configuration that uses the timm model's own classifier as projection (`timm_proj` is empty) to the
    /// usual form with a separate projection. The computation stays the same; only the parameter names change.
    ///
    /// Python's open_clip needs the first form for MobileNetV3, because timm counts that model's features before its
    /// last layer. In this crate, every tower uses the second form.
    pub fn classifier_as_projection(&mut self) {
        if self.tower() == TowerKind::Timm && self.timm_proj.as_deref() == Some("") {
            let bias = self.timm_proj_bias.unwrap_or(true);
            (self.timm_proj, self.timm_pool) = (Some("linear".into()), Some(String::new()));
            self.timm_proj_bias = bias.then_some(true);
        }
    }

    /// Attention heads of a ViT; of a ResNet's attention pool.
    pub fn heads(&self) -> i64 {
        match self.layers {
            Layers::Depth(_) => self.width / self.head_width,
            Layers::Stages(_) => self.width * 32 / self.head_width,
        }
    }

    /// Patches per side of a ViT; pixels per side of a ResNet's last stage.
    pub fn grid(&self) -> i64 {
        match self.layers {
            Layers::Depth(_) => self.image_size / self.patch_size.unwrap_or(16),
            Layers::Stages(_) => self.image_size / 32,
        }
    }

    /// MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }

    /// Summand under the root of the norms.
    pub fn eps(&self) -> f64 {
        self.norm_kwargs.as_ref().map_or(1e-5, NormKwargs::eps)
    }

    /// Finds what cannot be built.
    pub(super) fn check(&self) -> Check {
        in_limits("vision_cfg.image_size", self.image_size)?;
        in_limits("vision_cfg.width", self.width)?;
        in_limits("vision_cfg.head_width", self.head_width)?;
        check_ratio("vision_cfg.mlp_ratio", self.mlp_ratio)?;
        check_kwargs("vision_cfg", &self.act_kwargs, &self.norm_kwargs)?;
        share("vision_cfg.patch_dropout", self.patch_dropout)?;
        share("vision_cfg.timm_drop", self.timm_drop)?;
        share("vision_cfg.timm_drop_path", self.timm_drop_path.unwrap_or(0.0))?;
        unsupported("vision_cfg", "attentional_pool", &self.attentional_pool)?;
        unsupported("vision_cfg", "output_tokens", &self.output_tokens)?;
        if let Some(other) = self.pos_embed_type.as_deref().filter(|kind| *kind != "learnable") {
            return Err(format!(
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
        let patch = self.patch_size.ok_or("a ViT needs vision_cfg.patch_size")?;
        in_limits("vision_cfg.layers", layers)?;
        in_limits("vision_cfg.patch_size", patch)?;
        if patch > self.image_size {
            return Err(format!("patch_size {patch} is larger than image_size {}", self.image_size));
        }
        // Pruned blocks have their own numbers of heads, whatever the width.
        if self.blocks.is_none() && (self.heads() < 1 || self.width % self.heads() != 0) {
            return Err(format!(
                "vision width {} does not split into heads of {}",
                self.width, self.head_width
            ));
        }
        check_blocks("vision_cfg", &self.blocks, layers)
    }

    fn check_resnet(&self) -> Check {
        let Layers::Stages(stages) = self.layers else { return Ok(()) };
        for layers in stages {
            in_limits("vision_cfg.layers", layers)?;
        }
        if self.width % 2 != 0 {
            return Err(format!(
                "the stem of a ResNet halves its width, but vision width {} is odd",
                self.width
            ));
        }
        if self.heads() < 1 || (self.width * 32) % self.heads() != 0 {
            return Err(format!(
                "attention pool of {} does not split into heads of {}",
                self.width * 32,
                self.head_width
            ));
        }
        if self.image_size < 32 {
            return Err(format!(
                "image_size {} is below 32, which a ResNet shrinks to one pixel",
                self.image_size
            ));
        }
        Ok(())
    }

    fn check_timm(&self) -> Check {
        let trunk = self.trunk()?;
        self.timm_projection()?;
        if self.timm_proj.as_deref() == Some("") && self.timm_pool.as_deref() == Some("") {
            return Err(
                "timm_proj is empty, so the classifier of the timm model is the projection, and it needs \
                 pooled features: set timm_pool to `avg`, or timm_proj to `linear`"
                    .into(),
            );
        }
        trunk.check(self.image_size, self.timm_pool.as_deref().unwrap_or("avg"))
    }
}

fn is_default_head_width(value: &i64) -> bool {
    *value == 64
}

fn is_default_mlp_ratio(value: &f64) -> bool {
    *value == 4.0
}

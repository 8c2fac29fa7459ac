//! Configuration of the text tower.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ActKwargs, Check, NormKwargs, PrunedBlock, check_blocks, check_disabled, check_kwargs, check_limits,
    check_ratio, invalid, is_default, unsupported,
};

/// Configuration of the text tower. The defaults are open_clip's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TextConfig {
    /// Context length: maximum number of tokens of a text, including the start and end tokens.
    pub context_length: i64,
    /// Size of the vocabulary.
    pub vocab_size: i64,
    /// Channels of the residual stream.
    pub width: i64,
    /// Number of attention heads.
    pub heads: i64,
    /// Number of transformer blocks.
    pub layers: i64,
    /// MLP inner width as a multiple of the width.
    #[serde(skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Initial value of layer scale; by default, the tower has no layer scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ls_init_value: Option<f64>,
    /// Whether the causal mask is disabled, so that every token attends to all others.
    #[serde(skip_serializing_if = "is_default")]
    pub no_causal_mask: bool,
    /// Pooling: the token whose state becomes the embedding.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_type: TextPool,
    /// Whether to pool before the last norm instead of after it; the result is the same.
    #[serde(skip_serializing_if = "is_default")]
    pub final_ln_after_pool: bool,
    /// Id of the padding token.
    #[serde(skip_serializing_if = "is_default")]
    pub pad_id: i64,
    /// Id of the end token, for `pool_type` = `eos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_id: Option<i64>,
    /// Whether the projection has a bias.
    #[serde(skip_serializing_if = "is_default")]
    pub proj_bias: bool,
    /// Type of the projection: `linear` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proj_type: Option<String>,
    /// Options of the activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_kwargs: Option<ActKwargs>,
    /// Options of the norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_kwargs: Option<NormKwargs>,
    /// Channels of one head in a pruned tower; width / heads by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_width: Option<i64>,
    /// Heads and MLP width of each block of a pruned tower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<PrunedBlock>>,
    /// Name of the tokenizer on the Hugging Face hub, if it is not CLIP's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_tokenizer_name: Option<String>,
    /// Options of the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_kwargs: Option<Value>,
    /// Not supported: a text tower of Hugging Face.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_model_name: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_cls: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Value>,
}

/// Pooling of the text tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The token with the highest id, which is CLIP's end token.
    #[default]
    Argmax,
    /// The first token whose id is `eos_id`.
    Eos,
    /// The first token.
    First,
    /// The last token, including padding.
    Last,
}

impl Default for TextConfig {
    /// open_clip's defaults.
    fn default() -> Self {
        TextConfig {
            context_length: 77,
            vocab_size: 49408,
            width: 512,
            heads: 8,
            layers: 12,
            mlp_ratio: 4.0,
            ls_init_value: None,
            no_causal_mask: false,
            pool_type: TextPool::Argmax,
            final_ln_after_pool: false,
            pad_id: 0,
            eos_id: None,
            proj_bias: false,
            proj_type: None,
            act_kwargs: None,
            norm_kwargs: None,
            head_width: None,
            blocks: None,
            hf_tokenizer_name: None,
            tokenizer_kwargs: None,
            hf_model_name: None,
            embed_cls: None,
            output_tokens: None,
        }
    }
}

impl TextConfig {
    /// Returns the number of MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }

    /// Returns the number of channels of one attention head.
    pub fn head_width(&self) -> i64 {
        self.head_width.unwrap_or(self.width / self.heads)
    }

    /// Returns the epsilon of the norms.
    pub fn eps(&self) -> f64 {
        self.norm_kwargs.as_ref().map_or(1e-5, NormKwargs::eps)
    }

    /// Whether a projection follows the last norm.
    pub fn has_projection(&self) -> bool {
        self.proj_type.as_deref() != Some("none")
    }

    /// Whether padding after the end token can be removed without changing the embedding. This needs causal attention
    /// and a pooling that does not count from the end.
    pub fn can_trim(&self) -> bool {
        !self.no_causal_mask && self.pool_type != TextPool::Last
    }

    /// Checks that the tower can be built.
    pub(super) fn check(&self, embed_dim: i64) -> Check {
        for (field, value) in [
            ("context_length", self.context_length),
            ("vocab_size", self.vocab_size),
            ("width", self.width),
            ("heads", self.heads),
            ("layers", self.layers),
            ("head_width", self.head_width.unwrap_or(1)),
        ] {
            check_limits(&format!("text_cfg.{field}"), value)?;
        }
        check_ratio("text_cfg.mlp_ratio", self.mlp_ratio)?;
        check_kwargs("text_cfg", &self.act_kwargs, &self.norm_kwargs)?;
        if self.blocks.is_none() && self.head_width() * self.heads != self.width {
            return invalid(format!("text width {} cannot be split into {} heads", self.width, self.heads));
        }
        if let Some(name) = &self.hf_model_name
            && !name.is_null()
        {
            return unsupported(format!(
                "text_cfg.hf_model_name = {name}: only CLIP's own text transformer is supported"
            ));
        }
        check_disabled("text_cfg", "embed_cls", &self.embed_cls)?;
        check_disabled("text_cfg", "output_tokens", &self.output_tokens)?;
        match self.proj_type.as_deref() {
            None | Some("linear") => {}
            Some("none") if self.width == embed_dim => {}
            Some("none") => return invalid(format!("proj_type `none` needs a text width of {embed_dim}")),
            Some(other) => {
                return invalid(format!("text_cfg.proj_type = `{other}`; use `linear` or `none`"));
            }
        }
        if self.pool_type == TextPool::Eos && self.eos_id.is_none() {
            return invalid("text_cfg.pool_type `eos` needs text_cfg.eos_id");
        }
        check_blocks("text_cfg", &self.blocks, self.layers)
    }
}

fn is_default_mlp_ratio(value: &f64) -> bool {
    *value == 4.0
}

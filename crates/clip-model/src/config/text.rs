//! Configuration of the text tower.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ActKwargs, Check, NormKwargs, PrunedBlock, check_blocks, check_kwargs, check_ratio, in_limits,
    is_default, unsupported,
};

/// The text transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Tokens of the longest text, start and end token included.
    pub context_length: i64,
    /// Number of token ids.
    pub vocab_size: i64,
    /// Channels of the residual stream.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    /// Transformer blocks.
    pub layers: i64,
    /// MLP inner width as a multiple of the width.
    #[serde(skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Start of the learned factor per channel on residual branches; left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ls_init_value: Option<f64>,
    /// Lets every token see all others.
    #[serde(skip_serializing_if = "is_default")]
    pub no_causal_mask: bool,
    /// Whose state is the embedding.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_type: TextPool,
    /// Pools before the last norm instead of after it (the values are the same).
    #[serde(skip_serializing_if = "is_default")]
    pub final_ln_after_pool: bool,
    /// Id of padding.
    #[serde(skip_serializing_if = "is_default")]
    pub pad_id: i64,
    /// Id of the end token, for `pool_type` `eos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_id: Option<i64>,
    /// Whether the projection has a bias.
    #[serde(skip_serializing_if = "is_default")]
    pub proj_bias: bool,
    /// `linear` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proj_type: Option<String>,
    /// Options of the activation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_kwargs: Option<ActKwargs>,
    /// Options of the norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_kwargs: Option<NormKwargs>,
    /// Channels of one head in a pruned tower; left out, width / heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_width: Option<i64>,
    /// Heads and MLP width of each block, where they differ (pruned towers).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<PrunedBlock>>,
    /// Name of the tokenizer on the hub, where it is not CLIP's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_tokenizer_name: Option<String>,
    /// Options of the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_kwargs: Option<Value>,
    /// Not supported: another library's text tower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_model_name: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed_cls: Option<Value>,
    /// Not supported (CoCa).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Value>,
}

/// Whose state is a text's embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The token of the highest id, which is CLIP's end token.
    #[default]
    Argmax,
    /// The first token of id `eos_id`.
    Eos,
    /// The first token.
    First,
    /// The last token, padding or not.
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
    /// MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }

    /// Channels of one attention head.
    pub fn head_width(&self) -> i64 {
        self.head_width.unwrap_or(self.width / self.heads)
    }

    /// Summand under the root of the norms.
    pub fn eps(&self) -> f64 {
        self.norm_kwargs.as_ref().map_or(1e-5, NormKwargs::eps)
    }

    /// Whether a projection follows the last norm.
    pub fn has_projection(&self) -> bool {
        self.proj_type.as_deref() != Some("none")
    }

    /// Whether padding behind the end token may be cut off without changing the embedding: no token
    /// sees what follows it, and the pooled token is not counted from the end.
    pub fn may_be_cut(&self) -> bool {
        !self.no_causal_mask && self.pool_type != TextPool::Last
    }

    /// Finds what cannot be built.
    pub(super) fn check(&self, embed_dim: i64) -> Check {
        for (field, value) in [
            ("context_length", self.context_length),
            ("vocab_size", self.vocab_size),
            ("width", self.width),
            ("heads", self.heads),
            ("layers", self.layers),
            ("head_width", self.head_width.unwrap_or(1)),
        ] {
            in_limits(&format!("text_cfg.{field}"), value)?;
        }
        check_ratio("text_cfg.mlp_ratio", self.mlp_ratio)?;
        check_kwargs("text_cfg", &self.act_kwargs, &self.norm_kwargs)?;
        if self.blocks.is_none() && self.head_width() * self.heads != self.width {
            return Err(format!("text width {} does not split into {} heads", self.width, self.heads));
        }
        if let Some(name) = &self.hf_model_name
            && !name.is_null()
        {
            return Err(format!(
                "text_cfg.hf_model_name = {name}: only CLIP's own text transformer is supported"
            ));
        }
        unsupported("text_cfg", "embed_cls", &self.embed_cls)?;
        unsupported("text_cfg", "output_tokens", &self.output_tokens)?;
        match self.proj_type.as_deref() {
            None | Some("linear") => {}
            Some("none") if self.width == embed_dim => {}
            Some("none") => return Err(format!("proj_type `none` needs a text width of {embed_dim}")),
            Some(other) => {
                return Err(format!("text_cfg.proj_type = `{other}`; known are `linear` and `none`"));
            }
        }
        if self.pool_type == TextPool::Eos && self.eos_id.is_none() {
            return Err("text_cfg.pool_type `eos` needs text_cfg.eos_id".into());
        }
        check_blocks("text_cfg", &self.blocks, self.layers)
    }
}

fn is_default_mlp_ratio(value: &f64) -> bool {
    *value == 4.0
}

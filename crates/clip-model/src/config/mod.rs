//! Model configurations in open_clip's JSON format. Unknown keys are errors.

mod preprocess;
mod text;
mod vision;

use serde::{Deserialize, Serialize};

pub use preprocess::PreprocessConfig;
pub use text::{TextConfig, TextPool};
pub use vision::{Layers, TowerKind, VisionConfig, VisionPool};

use crate::activation::Activation;
use crate::names::named_enum;
use crate::{Error, Result};

/// Upper limit of all dimensions: far above every published model, and low enough that products do not overflow.
const LIMIT: i64 = 1 << 24;

/// Configuration of a CLIP model, in the format of open_clip's `model_configs`.
///
/// The default is open_clip's ViT-B-16 with an embed dim of 512.
///
/// ```no_run
/// use clip_model::ClipConfig;
///
/// let json = r#"{"embed_dim": 256, "vision_cfg": {"layers": 6, "width": 384}, "text_cfg": {"layers": 6}}"#;
/// let config = ClipConfig::from_json("small", json)?.with_quick_gelu(true);
/// # Ok::<(), clip_model::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClipConfig {
    /// Embed dim: width of the shared embedding space.
    pub embed_dim: i64,
    /// Whether open_clip's own towers use QuickGELU, `x * sigmoid(1.702 x)`, instead of the exact GELU. OpenAI's models
    /// need it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quick_gelu: bool,
    /// Natural logarithm of the initial logit scale; ln(1/0.07) by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_scale: Option<f64>,
    /// Initial logit bias (SigLIP); by default, the model has no logit bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_bias: Option<f64>,
    /// Whether the parameter names of the text tower start with `text.`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub custom_text: bool,
    /// Image tower.
    pub vision_cfg: VisionConfig,
    /// Text tower.
    pub text_cfg: TextConfig,
}

/// Extra options of LayerNorm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormKwargs {
    /// Epsilon; 1e-5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
}

impl NormKwargs {
    /// Returns epsilon, or its default.
    pub fn eps(&self) -> f64 {
        self.eps.unwrap_or(1e-5)
    }
}

/// Extra options of the activation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActKwargs {
    /// `tanh` selects the tanh approximation of GELU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate: Option<String>,
}

/// Dimensions of one block in a pruned tower (TinyCLIP's automatic inheritance).
///
/// This key is an extension of open_clip's format, in which all blocks of a tower are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunedBlock {
    /// Number of attention heads; 0 removes the attention and its norm.
    pub heads: i64,
    /// MLP inner channels; 0 removes the MLP and its norm.
    pub mlp_width: i64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        ClipConfig {
            embed_dim: 512,
            quick_gelu: false,
            init_logit_scale: None,
            init_logit_bias: None,
            custom_text: false,
            vision_cfg: VisionConfig::default(),
            text_cfg: TextConfig::default(),
        }
    }
}

impl ClipConfig {
    /// Sets the embed dim.
    pub fn with_embed_dim(mut self, embed_dim: i64) -> Self {
        self.embed_dim = embed_dim;
        self
    }

    /// Selects QuickGELU or the exact GELU.
    pub fn with_quick_gelu(mut self, quick_gelu: bool) -> Self {
        self.quick_gelu = quick_gelu;
        self
    }

    /// Sets the configuration of the image tower.
    pub fn with_vision(mut self, vision: VisionConfig) -> Self {
        self.vision_cfg = vision;
        self
    }

    /// Sets the configuration of the text tower.
    pub fn with_text(mut self, text: TextConfig) -> Self {
        self.text_cfg = text;
        self
    }

    /// Parses a configuration from JSON. `name` identifies it in error messages.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::UnknownKey`] or [`Error::MissingKey`] if the JSON does not match the format, and the
    /// errors of [`ClipConfig::validate`].
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        let mut config: ClipConfig = serde_json::from_str(json).map_err(|e| Error::json(name, e))?;
        config.validate(name)?;
        config.vision_cfg.normalize_projection();
        Ok(config)
    }

    /// Checks that the model can be built. `name` identifies the configuration in error messages.
    ///
    /// # Errors
    /// [`Error::Config`] with the first invalid field, [`Error::UnsupportedConfig`] for a feature of open_clip that
    /// this crate does not implement.
    pub fn validate(&self, name: &str) -> Result<()> {
        self.check().map_err(|problem| problem.of(name))
    }

    fn check(&self) -> Check {
        check_limits("embed_dim", self.embed_dim)?;
        for (field, value) in
            [("init_logit_scale", self.init_logit_scale), ("init_logit_bias", self.init_logit_bias)]
        {
            if !value.unwrap_or(0.0).is_finite() {
                return invalid(format!("{field} is not a finite number"));
            }
        }
        self.vision_cfg.check()?;
        self.text_cfg.check(self.embed_dim)?;
        if self.vision_cfg.tower() == TowerKind::Timm && self.vision_cfg.timm_projection()?.is_none() {
            let features = self.vision_cfg.trunk()?.features();
            if features != self.embed_dim {
                return invalid(format!("timm_proj `none` needs an embed_dim of {features}"));
            }
        }
        Ok(())
    }

    /// Returns the activation of the image tower. Towers of timm use their own.
    pub fn vision_activation(&self) -> Activation {
        activation(self.quick_gelu, &self.vision_cfg.act_kwargs)
    }

    /// Returns the activation of the text tower.
    pub fn text_activation(&self) -> Activation {
        activation(self.quick_gelu, &self.text_cfg.act_kwargs)
    }
}

fn activation(quick_gelu: bool, kwargs: &Option<ActKwargs>) -> Activation {
    let approximate = kwargs.as_ref().and_then(|kwargs| kwargs.approximate.as_deref());
    match (quick_gelu, approximate) {
        (true, _) => Activation::QuickGelu,
        (false, Some("tanh")) => Activation::GeluTanh,
        (false, _) => Activation::Gelu,
    }
}

/// A problem of a configuration whose name the caller adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Problem {
    /// A value that no model can have.
    Invalid(String),
    /// A feature that this crate does not implement.
    Unsupported(String),
}

impl Problem {
    /// Adds the name of the configuration.
    pub(crate) fn of(self, name: &str) -> Error {
        let name = name.into();
        match self {
            Problem::Invalid(reason) => Error::Config { name, reason },
            Problem::Unsupported(reason) => Error::UnsupportedConfig { name, reason },
        }
    }
}

/// Result of checking a configuration.
pub(crate) type Check<T = ()> = std::result::Result<T, Problem>;

/// Returns the error [`Problem::Invalid`], for `return invalid(..)`.
pub(crate) fn invalid<T>(reason: impl Into<String>) -> Check<T> {
    Err(Problem::Invalid(reason.into()))
}

/// Returns the error [`Problem::Unsupported`], for `return unsupported(..)`.
pub(crate) fn unsupported<T>(reason: impl Into<String>) -> Check<T> {
    Err(Problem::Unsupported(reason.into()))
}

fn check_limits(field: &str, value: i64) -> Check {
    if (1..=LIMIT).contains(&value) {
        return Ok(());
    }
    invalid(format!("{field} = {value} is outside 1..={LIMIT}"))
}

fn check_fraction(field: &str, value: f64) -> Check {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    invalid(format!("{field} = {value} is outside 0..1"))
}

fn check_ratio(field: &str, ratio: f64) -> Check {
    if ratio.is_finite() && ratio > 0.0 && ratio <= 64.0 {
        return Ok(());
    }
    invalid(format!("{field} = {ratio} is outside 0..=64"))
}

fn check_kwargs(field: &str, act: &Option<ActKwargs>, norm: &Option<NormKwargs>) -> Check {
    if let Some(other) = act.as_ref().and_then(|kwargs| kwargs.approximate.as_deref())
        && !["tanh", "none"].contains(&other)
    {
        return invalid(format!("{field}.act_kwargs.approximate = `{other}`; use `tanh` or `none`"));
    }
    let eps = norm.as_ref().map_or(1e-5, NormKwargs::eps);
    if !(eps.is_finite() && eps > 0.0) {
        return invalid(format!("{field}.norm_kwargs.eps = {eps} is not above 0"));
    }
    Ok(())
}

/// Checks the blocks of a pruned tower.
fn check_blocks(field: &str, blocks: &Option<Vec<PrunedBlock>>, layers: i64) -> Check {
    let Some(blocks) = blocks else { return Ok(()) };
    if blocks.len() as i64 != layers {
        return invalid(format!("{field}.blocks has {} entries for {layers} layers", blocks.len()));
    }
    match blocks.iter().find(|b| !(0..=LIMIT).contains(&b.heads) || !(0..=LIMIT).contains(&b.mlp_width)) {
        Some(block) => invalid(format!("{field}.blocks contains {block:?}, outside 0..={LIMIT}")),
        None => Ok(()),
    }
}

/// Checks a key of a feature that this crate does not implement. Only values that disable the feature are accepted.
fn check_disabled(field: &str, key: &str, value: &Option<serde_json::Value>) -> Check {
    use serde_json::Value;
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(value) => unsupported(format!("{field}.{key} = {value} is not supported")),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

named_enum!(TextPool, "text pooling", Argmax = "argmax", Eos = "eos", First = "first", Last = "last");
named_enum!(VisionPool, "image pooling", Tok = "tok", Avg = "avg");

#[cfg(test)]
mod tests {
    use super::*;

    fn json(vision_width: i64) -> String {
        format!(
            r#"{{"embed_dim": 8, "vision_cfg": {{"image_size": 32, "layers": 1, "width": {vision_width}, "patch_size": 16}},
            "text_cfg": {{"context_length": 8, "vocab_size": 100, "width": 8, "heads": 2, "layers": 1}}}}"#
        )
    }

    #[test]
    fn defaults_match_open_clip() {
        let config = ClipConfig::from_json("test", &json(64)).unwrap();
        assert_eq!(
            (config.vision_cfg.heads(), config.vision_cfg.mlp_width(), config.text_cfg.mlp_width()),
            (1, 256, 32)
        );
        assert_eq!(config.vision_activation(), Activation::Gelu);
        let bare =
            ClipConfig::from_json("bare", r#"{"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}"#).unwrap();
        assert_eq!(
            (bare.vision_cfg.width, bare.vision_cfg.patch_size, bare.text_cfg.heads),
            (768, Some(16), 8)
        );
        assert_eq!((bare.vision_cfg.image_size, bare.text_cfg.context_length), (224, 77));
        assert_eq!(bare, ClipConfig::default());
    }

    #[test]
    fn invalid_configurations_are_refused() {
        for (broken, word) in [
            (json(100_000_000), "outside"),
            (json(32), "split"),
            (json(64).replace("\"heads\": 2", "\"heads\": 3"), "split"),
            (json(64).replace("\"layers\": 1", "\"layers\": 0"), "layers"),
            (json(64).replace("\"layers\": 1", "\"layers\": [1, 2, 3]"), "layers"),
            (json(64).replace("\"patch_size\": 16", "\"patch_size\": 64"), "larger"),
            (
                json(64).replace("\"patch_size\": 16", "\"patch_size\": 16, \"attentional_pool\": true"),
                "not supported",
            ),
            (
                json(64).replace("\"patch_size\": 16", "\"patch_size\": 16, \"patch_dropout\": 1.0"),
                "patch_dropout",
            ),
            (
                json(64).replace("\"patch_size\": 16", "\"patch_size\": 16, \"timm_model_name\": \"vgg\""),
                "vgg",
            ),
            (
                json(64).replace("\"heads\": 2", "\"heads\": 2, \"hf_model_name\": \"roberta-base\""),
                "roberta",
            ),
            (json(64).replace("\"heads\": 2", "\"heads\": 2, \"blocks\": []"), "0 entries"),
            (json(64).replace("\"embed_dim\"", "\"unheard_of\": 1, \"embed_dim\""), "unknown field"),
            ("{".into(), "EOF"),
        ] {
            let message = ClipConfig::from_json("test", &broken).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn errors_can_be_matched() {
        let error = |json: &str| ClipConfig::from_json("test", json).unwrap_err();
        let unknown = error(&json(64).replace("\"embed_dim\"", "\"unheard_of\": 1, \"embed_dim\""));
        assert!(matches!(unknown, Error::UnknownKey { key, .. } if key == "unheard_of"));
        let missing = error(r#"{"vision_cfg": {}, "text_cfg": {}}"#);
        assert!(matches!(missing, Error::MissingKey { key, .. } if key == "embed_dim"));
        assert!(matches!(error("{"), Error::Json { .. }));
        assert!(matches!(error(&json(100_000_000)), Error::Config { .. }));
        let unsupported =
            json(64).replace("\"heads\": 2", "\"heads\": 2, \"hf_model_name\": \"roberta-base\"");
        assert!(matches!(error(&unsupported), Error::UnsupportedConfig { .. }));
    }

    #[test]
    fn pooling_names_are_those_of_the_json_format() {
        for pool in [TextPool::Argmax, TextPool::Eos, TextPool::First, TextPool::Last] {
            assert_eq!(serde_json::to_value(pool).unwrap(), pool.to_string());
            assert_eq!(pool.to_string().parse::<TextPool>().unwrap(), pool);
        }
        assert_eq!(serde_json::to_value(VisionPool::Avg).unwrap(), VisionPool::Avg.to_string());
        assert!(matches!("mean".parse::<VisionPool>(), Err(Error::UnknownName { .. })));
    }

    #[test]
    fn configurations_round_trip_through_json() {
        let resnet = r#"{"embed_dim": 1024, "quick_gelu": true, "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3],
            "width": 64, "patch_size": null}, "text_cfg": {"context_length": 77, "vocab_size": 49408}}"#;
        for json in [json(64), resnet.to_string()] {
            let config = ClipConfig::from_json("test", &json).unwrap();
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(ClipConfig::from_json("test", &written).unwrap(), config);
        }
    }
}

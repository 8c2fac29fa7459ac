//! Model configurations: open_clip's JSON format, fully read (an unknown key is an error).

mod preprocess;
mod text;
mod vision;

use serde::{Deserialize, Serialize};

pub use preprocess::PreprocessConfig;
pub use text::{TextConfig, TextPool};
pub use vision::{Layers, TowerKind, VisionConfig, VisionPool};

use crate::activation::Activation;
use crate::{Error, Result};

/// Far above every published model, and low enough that no product of a few of them overflows.
const LIMIT: i64 = 1 << 24;

/// One CLIP model, as in a file of open_clip's `model_configs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Width of the shared embedding space.
    pub embed_dim: i64,
    /// OpenAI's `x * sigmoid(1.702 x)` in place of the exact GELU, in both of open_clip's own towers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quick_gelu: bool,
    /// Natural logarithm of the initial factor on the cosines; left out, ln(1/0.07).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_scale: Option<f64>,
    /// Initial summand on the scaled cosines (SigLIP); left out, the model has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_bias: Option<f64>,
    /// Whether the text tower's names start with `text.` in the state dict.
    #[serde(default, skip_serializing_if = "is_default")]
    pub custom_text: bool,
    /// The image tower.
    pub vision_cfg: VisionConfig,
    /// The text tower.
    pub text_cfg: TextConfig,
}

/// The extra options of LayerNorm in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormKwargs {
    /// Summand under the root; left out, 1e-5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
}

impl NormKwargs {
    /// The summand under the root.
    pub fn eps(&self) -> f64 {
        self.eps.unwrap_or(1e-5)
    }
}

/// The extra options of the activation in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActKwargs {
    /// `tanh` for the approximation of GELU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximate: Option<String>,
}

/// One block of a tower whose layers were pruned one by one (TinyCLIP's automatic inheritance).
///
/// This field is the project's own: open_clip's towers are the same in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrunedBlock {
    /// Attention heads; 0 leaves out the attention and its norm.
    pub heads: i64,
    /// MLP inner channels; 0 leaves out the MLP and its norm.
    pub mlp_width: i64,
}

impl ClipConfig {
    /// Reads a configuration from JSON; `name` stands in error messages.
    ///
    /// # Errors
    /// [`Error::Config`] where the JSON is broken, has an unknown key, or dimensions that cannot work.
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        let mut config: ClipConfig =
            serde_json::from_str(json).map_err(|e| Error::config(name, e.to_string()))?;
        config.validate(name)?;
        config.vision_cfg.classifier_as_projection();
        Ok(config)
    }

    /// Checks that the dimensions can be built; `name` stands in error messages.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that cannot work.
    pub fn validate(&self, name: &str) -> Result<()> {
        let check = || {
            in_limits("embed_dim", self.embed_dim)?;
            for (field, value) in
                [("init_logit_scale", self.init_logit_scale), ("init_logit_bias", self.init_logit_bias)]
            {
                if !value.unwrap_or(0.0).is_finite() {
                    return Err(format!("{field} is not a finite number"));
                }
            }
            self.vision_cfg.check()?;
            self.text_cfg.check(self.embed_dim)?;
            if self.vision_cfg.tower() == TowerKind::Timm
                && self.vision_cfg.timm_projection()?.is_none()
                && self.vision_cfg.trunk()?.features() != self.embed_dim
            {
                return Err(format!(
                    "timm_proj `none` needs an embed_dim of {}",
                    self.vision_cfg.trunk()?.features()
                ));
            }
            Ok(())
        };
        check().map_err(|reason| Error::config(name, reason))
    }

    /// The nonlinearity of the image tower, where it is one of open_clip's own.
    pub fn vision_activation(&self) -> Activation {
        activation(self.quick_gelu, &self.vision_cfg.act_kwargs)
    }

    /// The nonlinearity of the text tower.
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

/// What a check finds; the caller adds which configuration it was.
type Check<T = ()> = std::result::Result<T, String>;

fn in_limits(field: &str, value: i64) -> Check {
    if (1..=LIMIT).contains(&value) {
        Ok(())
    } else {
        Err(format!("{field} = {value} is outside 1..={LIMIT}"))
    }
}

fn share(field: &str, value: f64) -> Check {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(format!("{field} = {value} is outside 0..1")) }
}

fn check_ratio(field: &str, ratio: f64) -> Check {
    if ratio.is_finite() && ratio > 0.0 && ratio <= 64.0 {
        Ok(())
    } else {
        Err(format!("{field} = {ratio} is outside 0..=64"))
    }
}

fn check_kwargs(field: &str, act: &Option<ActKwargs>, norm: &Option<NormKwargs>) -> Check {
    if let Some(other) = act.as_ref().and_then(|kwargs| kwargs.approximate.as_deref())
        && !["tanh", "none"].contains(&other)
    {
        return Err(format!("{field}.act_kwargs.approximate = `{other}`; known are `tanh` and `none`"));
    }
    let eps = norm.as_ref().map_or(1e-5, NormKwargs::eps);
    if !(eps.is_finite() && eps > 0.0) {
        return Err(format!("{field}.norm_kwargs.eps = {eps} is not above 0"));
    }
    Ok(())
}

/// Checks the blocks of a pruned tower against its number of layers.
fn check_blocks(field: &str, blocks: &Option<Vec<PrunedBlock>>, layers: i64) -> Check {
    let Some(blocks) = blocks else { return Ok(()) };
    if blocks.len() as i64 != layers {
        return Err(format!("{field}.blocks has {} rows for {layers} layers", blocks.len()));
    }
    match blocks.iter().find(|b| !(0..=LIMIT).contains(&b.heads) || !(0..=LIMIT).contains(&b.mlp_width)) {
        Some(block) => Err(format!("{field}.blocks has {block:?}, outside 0..={LIMIT}")),
        None => Ok(()),
    }
}

/// For keys of features that this crate does not have: given a value that means the feature is off,
/// they may stand in a file; anything else is refused rather than left out silently.
fn unsupported(field: &str, key: &str, value: &Option<serde_json::Value>) -> Check {
    use serde_json::Value;
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(value) => Err(format!("{field}.{key} = {value} is not supported")),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

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
    fn defaults_are_open_clips() {
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
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
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
            (json(64).replace("\"heads\": 2", "\"heads\": 2, \"blocks\": []"), "0 rows"),
            (json(64).replace("\"embed_dim\"", "\"unheard_of\": 1, \"embed_dim\""), "unknown field"),
            ("{".into(), "EOF"),
        ] {
            let message = ClipConfig::from_json("test", &broken).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_written_configuration_reads_back_the_same() {
        let resnet = r#"{"embed_dim": 1024, "quick_gelu": true, "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3],
            "width": 64, "patch_size": null}, "text_cfg": {"context_length": 77, "vocab_size": 49408}}"#;
        for json in [json(64), resnet.to_string()] {
            let config = ClipConfig::from_json("test", &json).unwrap();
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(ClipConfig::from_json("test", &written).unwrap(), config);
        }
    }
}

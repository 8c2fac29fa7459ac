//! Model configurations: open_clip's JSON format, fully read (an unknown key is an error).

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One CLIP model, as in a file of open_clip's `model_configs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Width of the shared embedding space.
    pub embed_dim: i64,
    /// OpenAI's `x * sigmoid(1.702 x)` in place of the exact GELU, in both towers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub quick_gelu: bool,
    /// The image tower.
    pub vision_cfg: VisionConfig,
    /// The text tower.
    pub text_cfg: TextConfig,
}

/// The ViT image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Side of the square input in pixels.
    pub image_size: i64,
    /// Transformer blocks.
    pub layers: i64,
    /// Channels of the residual stream.
    pub width: i64,
    /// Side of a square patch in pixels.
    pub patch_size: i64,
    /// Channels of one attention head; heads = width / head_width, rounded down.
    #[serde(default = "default_head_width", skip_serializing_if = "is_default_head_width")]
    pub head_width: i64,
    /// MLP inner width as a multiple of the width.
    #[serde(default = "default_mlp_ratio", skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
}

/// The text transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[serde(default = "default_mlp_ratio", skip_serializing_if = "is_default_mlp_ratio")]
    pub mlp_ratio: f64,
}

/// What a model wants of its images, as in the `preprocess_cfg` of a model folder.
///
/// Data only: whoever prepares images reads it. Fields that a file leaves out take open_clip's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Mean per channel (RGB) of values in 0..=1.
    #[serde(default = "openai_mean")]
    pub mean: [f32; 3],
    /// Standard deviation per channel (RGB) of values in 0..=1.
    #[serde(default = "openai_std")]
    pub std: [f32; 3],
    /// `bicubic` or `bilinear`.
    #[serde(default = "default_interpolation")]
    pub interpolation: String,
    /// `shortest`, `longest` or `squash`.
    #[serde(default = "default_resize_mode")]
    pub resize_mode: String,
    /// Side in pixels (or `[height, width]`); left out, the model's `image_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<serde_json::Value>,
    /// Colour mode; only `RGB` is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Fill of padded pixels (`longest`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_color: Option<serde_json::Value>,
}

/// The nonlinearity of the MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The exact GELU (erf).
    Gelu,
    /// OpenAI's `x * sigmoid(1.702 x)`.
    QuickGelu,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        PreprocessConfig {
            mean: openai_mean(),
            std: openai_std(),
            interpolation: default_interpolation(),
            resize_mode: default_resize_mode(),
            size: None,
            mode: None,
            fill_color: None,
        }
    }
}

impl ClipConfig {
    /// Reads a configuration from JSON; `name` stands in error messages.
    ///
    /// # Errors
    /// [`Error::Config`] where the JSON is broken, has an unknown key, or dimensions that cannot work.
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        let config: ClipConfig =
            serde_json::from_str(json).map_err(|e| Error::config(name, e.to_string()))?;
        config.validate(name)?;
        Ok(config)
    }

    /// Checks that the dimensions can be built; `name` stands in error messages.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that cannot work.
    pub fn validate(&self, name: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::config(name, reason));
        let (v, t) = (&self.vision_cfg, &self.text_cfg);
        // Far above every published model, and low enough that no product below overflows.
        const LIMIT: i64 = 1 << 24;
        let sizes = [
            ("embed_dim", self.embed_dim),
            ("vision_cfg.image_size", v.image_size),
            ("vision_cfg.layers", v.layers),
            ("vision_cfg.width", v.width),
            ("vision_cfg.patch_size", v.patch_size),
            ("vision_cfg.head_width", v.head_width),
            ("text_cfg.context_length", t.context_length),
            ("text_cfg.vocab_size", t.vocab_size),
            ("text_cfg.width", t.width),
            ("text_cfg.heads", t.heads),
            ("text_cfg.layers", t.layers),
        ];
        for (field, value) in sizes {
            if !(1..=LIMIT).contains(&value) {
                return fail(format!("{field} = {value} is outside 1..={LIMIT}"));
            }
        }
        if v.patch_size > v.image_size {
            return fail(format!("patch_size {} is larger than image_size {}", v.patch_size, v.image_size));
        }
        if v.heads() < 1 || v.width % v.heads() != 0 {
            return fail(format!("vision width {} does not split into heads of {}", v.width, v.head_width));
        }
        if t.width % t.heads != 0 {
            return fail(format!("text width {} does not split into {} heads", t.width, t.heads));
        }
        for (field, ratio) in [("vision_cfg.mlp_ratio", v.mlp_ratio), ("text_cfg.mlp_ratio", t.mlp_ratio)] {
            if !(ratio.is_finite() && ratio > 0.0 && ratio <= 64.0) {
                return fail(format!("{field} = {ratio} is outside 0..=64"));
            }
        }
        Ok(())
    }

    /// The nonlinearity of both towers.
    pub fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }
}

impl VisionConfig {
    /// Attention heads.
    pub fn heads(&self) -> i64 {
        self.width / self.head_width
    }

    /// Patches per side.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

impl TextConfig {
    /// MLP inner channels.
    pub fn mlp_width(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }
}

fn default_head_width() -> i64 {
    64
}

fn is_default_head_width(value: &i64) -> bool {
    *value == default_head_width()
}

fn default_mlp_ratio() -> f64 {
    4.0
}

fn is_default_mlp_ratio(value: &f64) -> bool {
    *value == default_mlp_ratio()
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// OpenAI CLIP's channel means.
fn openai_mean() -> [f32; 3] {
    [0.48145466, 0.4578275, 0.40821073]
}

/// OpenAI CLIP's channel standard deviations.
fn openai_std() -> [f32; 3] {
    [0.26862954, 0.2613026, 0.2757771]
}

fn default_interpolation() -> String {
    "bicubic".into()
}

fn default_resize_mode() -> String {
    "shortest".into()
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
        assert_eq!(config.activation(), Activation::Gelu);
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        for (broken, word) in [
            (json(100_000_000), "outside"),
            (json(32), "split"),
            (json(64).replace("\"heads\": 2", "\"heads\": 3"), "split"),
            (json(64).replace("\"layers\": 1", "\"layers\": 0"), "layers"),
            (json(64).replace("\"patch_size\": 16", "\"patch_size\": 64"), "larger"),
            (json(64).replace("\"embed_dim\"", "\"unheard_of\": 1, \"embed_dim\""), "unknown field"),
            ("{".into(), "EOF"),
        ] {
            let message = ClipConfig::from_json("test", &broken).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_written_configuration_reads_back_the_same() {
        let config = ClipConfig::from_json("test", &json(64)).unwrap();
        assert_eq!(ClipConfig::from_json("test", &serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}

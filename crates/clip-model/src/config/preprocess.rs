//! What a model wants of its images.

use serde::{Deserialize, Serialize};

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

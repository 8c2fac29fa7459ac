//! Configuration of the image preprocessing.

use serde::{Deserialize, Serialize};

/// Image preprocessing of a model, as in the `preprocess_cfg` of a model folder. The defaults are open_clip's.
///
/// This crate stores the settings; the caller prepares the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Mean of each channel (RGB), for values in 0..=1.
    #[serde(default = "openai_mean")]
    pub mean: [f32; 3],
    /// Standard deviation of each channel (RGB), for values in 0..=1.
    #[serde(default = "openai_std")]
    pub std: [f32; 3],
    /// Interpolation for resizing: `bicubic` or `bilinear`.
    #[serde(default = "default_interpolation")]
    pub interpolation: String,
    /// Resize mode: `shortest`, `longest` or `squash`.
    #[serde(default = "default_resize_mode")]
    pub resize_mode: String,
    /// Image size in pixels, as a number or `[height, width]`; the model's `image_size` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<serde_json::Value>,
    /// Colour mode; only `RGB` is supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Fill colour of padded pixels (resize mode `longest`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_color: Option<serde_json::Value>,
    /// Whether images are converted to RGB before they are resized, with transparent parts on white (transformers). If
    /// absent, images are resized in their own mode (open_clip, which ignores this key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub do_convert_rgb: Option<bool>,
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
            do_convert_rgb: None,
        }
    }
}

impl PreprocessConfig {
    /// Sets mean and standard deviation of each channel (RGB).
    pub fn with_normalization(mut self, mean: [f32; 3], std: [f32; 3]) -> Self {
        (self.mean, self.std) = (mean, std);
        self
    }

    /// Sets the interpolation.
    pub fn with_interpolation(mut self, interpolation: impl Into<String>) -> Self {
        self.interpolation = interpolation.into();
        self
    }

    /// Sets the resize mode.
    pub fn with_resize_mode(mut self, resize_mode: impl Into<String>) -> Self {
        self.resize_mode = resize_mode.into();
        self
    }

    /// Sets whether images are converted to RGB before they are resized.
    pub fn with_do_convert_rgb(mut self, convert: Option<bool>) -> Self {
        self.do_convert_rgb = convert;
        self
    }

    /// Sets the image size in pixels; `None` for the model's `image_size`.
    pub fn with_size(mut self, size: Option<i64>) -> Self {
        self.size = size.map(serde_json::Value::from);
        self
    }
}

/// Returns the channel means of OpenAI's CLIP.
fn openai_mean() -> [f32; 3] {
    [0.48145466, 0.4578275, 0.40821073]
}

/// Returns the channel standard deviations of OpenAI's CLIP.
fn openai_std() -> [f32; 3] {
    [0.26862954, 0.2613026, 0.2757771]
}

fn default_interpolation() -> String {
    "bicubic".into()
}

fn default_resize_mode() -> String {
    "shortest".into()
}

//! Pictures to tensors: decoding, PIL-exact resizing, evaluation and training transforms.

use serde::{Deserialize, Serialize};

pub mod augment;
mod color;
pub mod decode;
mod resize;
pub mod transform;

pub(crate) use augment::augment_frame;
pub use augment::{AugmentConfig, AugmentParams, ColorJitter, augment_into};
pub use decode::{DecodeError, Decoded, decode};
pub(crate) use transform::eval_frame;
pub use transform::{eval_into, eval_pixels};

/// What a model wants of its images, as in the `preprocess_cfg` of a model folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Side of the square input in pixels.
    pub size: usize,
    /// Mean per channel (RGB) of values in 0..=1.
    pub mean: [f32; 3],
    /// Standard deviation per channel (RGB) of values in 0..=1.
    pub std: [f32; 3],
    /// Resampling filter.
    pub interpolation: Interpolation,
    /// How a picture that is not square is made so.
    pub resize_mode: ResizeMode,
}

/// Resampling filter of a [`Preprocess`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// PIL's antialiased bicubic (a = -0.5).
    Bicubic,
    /// PIL's antialiased bilinear.
    Bilinear,
}

/// How a picture that is not square becomes the model's square input (open_clip's `resize_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeMode {
    /// The shortest side to `size`, then a centre crop.
    Shortest,
    /// The longest side to `size`, then padded.
    Longest,
    /// Both sides to `size`, the aspect ratio not kept.
    Squash,
}

/// OpenAI CLIP's channel means.
pub const OPENAI_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// OpenAI CLIP's channel standard deviations.
pub const OPENAI_STD: [f32; 3] = [0.26862954, 0.2613026, 0.2757771];

/// A decoded picture: 8-bit RGB, row-major, `pixels.len() == 3 * width * height`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Interleaved R, G, B.
    pub pixels: Vec<u8>,
}

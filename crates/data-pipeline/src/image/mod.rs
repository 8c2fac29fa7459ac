//! Image decoding, PIL-exact resizing, and the evaluation and training transforms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

pub mod augment;
mod color;
pub mod decode;
mod frame;
mod jpeg;
mod kernel;
pub mod orientation;
#[cfg(feature = "formats")]
mod png;
mod resize;
mod tiff;
pub mod transform;

pub(crate) use augment::augment_frame;
pub use augment::{AugmentConfig, AugmentParams, ColorJitter, augment_into};
pub use decode::{DecodeError, Decoded, decode};
pub(crate) use frame::ViewFrame;
pub(crate) use transform::eval_frame;
pub use transform::{eval_into, eval_pixels};

/// Image preprocessing of a model, as in the `preprocess_cfg` of a model folder.
///
/// The default is OpenAI CLIP's: 224 pixels, bicubic, shortest side.
///
/// ```
/// use data_pipeline::Preprocess;
/// use data_pipeline::image::{OPENAI_MEAN, ResizeMode};
/// let preprocess = Preprocess::new(336).with_resize_mode(ResizeMode::Squash);
/// assert_eq!((preprocess.size, preprocess.mean), (336, OPENAI_MEAN));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Preprocess {
    /// Side of the square input in pixels.
    pub size: usize,
    /// Mean per channel (RGB) of values in 0..=1.
    pub mean: [f32; 3],
    /// Standard deviation per channel (RGB) of values in 0..=1.
    pub std: [f32; 3],
    /// Resampling filter.
    pub interpolation: Interpolation,
    /// Handling of the aspect ratio.
    pub resize_mode: ResizeMode,
    /// Whether images are converted to RGB before they are resized, and transparent parts become white (transformers'
    /// `do_convert_rgb`). open_clip resizes in the image's own mode, then drops alpha.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub convert_rgb: bool,
}

impl Default for Preprocess {
    fn default() -> Self {
        Preprocess {
            size: 224,
            mean: OPENAI_MEAN,
            std: OPENAI_STD,
            interpolation: Interpolation::Bicubic,
            resize_mode: ResizeMode::Shortest,
            convert_rgb: false,
        }
    }
}

impl Preprocess {
    /// Returns OpenAI CLIP's preprocessing for images of `size` pixels.
    pub fn new(size: usize) -> Self {
        Preprocess { size, ..Preprocess::default() }
    }

    /// Sets the side in pixels.
    #[must_use]
    pub fn with_size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Sets mean and standard deviation per channel.
    #[must_use]
    pub fn with_normalization(mut self, mean: [f32; 3], std: [f32; 3]) -> Self {
        (self.mean, self.std) = (mean, std);
        self
    }

    /// Sets the resampling filter.
    #[must_use]
    pub fn with_interpolation(mut self, interpolation: Interpolation) -> Self {
        self.interpolation = interpolation;
        self
    }

    /// Sets the handling of the aspect ratio.
    #[must_use]
    pub fn with_resize_mode(mut self, resize_mode: ResizeMode) -> Self {
        self.resize_mode = resize_mode;
        self
    }

    /// Sets whether images are converted to RGB before they are resized.
    #[must_use]
    pub fn with_convert_rgb(mut self, convert: bool) -> Self {
        self.convert_rgb = convert;
        self
    }
}

/// Resampling filter of a [`Preprocess`].
///
/// ```
/// use data_pipeline::image::Interpolation;
/// assert_eq!("bicubic".parse::<Interpolation>()?, Interpolation::Bicubic);
/// assert_eq!(Interpolation::Bilinear.to_string(), "bilinear");
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// PIL's antialiased bicubic filter (a = -0.5).
    Bicubic,
    /// PIL's antialiased bilinear filter.
    Bilinear,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interpolation::Bicubic => "bicubic",
            Interpolation::Bilinear => "bilinear",
        })
    }
}

impl FromStr for Interpolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "bicubic" => Ok(Interpolation::Bicubic),
            "bilinear" => Ok(Interpolation::Bilinear),
            other => {
                let reason = format!("interpolation `{other}` is neither bicubic nor bilinear");
                Err(Error::setting("interpolation", reason))
            }
        }
    }
}

/// Conversion of an image to the model's square input (open_clip's `resize_mode`).
///
/// ```
/// use data_pipeline::image::ResizeMode;
/// assert_eq!("squash".parse::<ResizeMode>()?, ResizeMode::Squash);
/// assert!("stretch".parse::<ResizeMode>().is_err());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeMode {
    /// Resizes the shortest side to `size`, then crops the centre.
    Shortest,
    /// Resizes the longest side to `size`, then pads.
    Longest,
    /// Resizes both sides to `size`, without regard to the aspect ratio.
    Squash,
}

impl fmt::Display for ResizeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResizeMode::Shortest => "shortest",
            ResizeMode::Longest => "longest",
            ResizeMode::Squash => "squash",
        })
    }
}

impl FromStr for ResizeMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "shortest" => Ok(ResizeMode::Shortest),
            "longest" => Ok(ResizeMode::Longest),
            "squash" => Ok(ResizeMode::Squash),
            other => {
                let reason = format!("resize_mode `{other}` is not shortest, longest or squash");
                Err(Error::setting("resize_mode", reason))
            }
        }
    }
}

/// OpenAI CLIP's channel means.
pub const OPENAI_MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// OpenAI CLIP's channel standard deviations.
pub const OPENAI_STD: [f32; 3] = [0.26862954, 0.2613026, 0.2757771];

/// A decoded image: 8-bit RGB, row-major, `pixels.len() == 3 * width * height`.
///
/// ```
/// use data_pipeline::image::{Decoded, RgbImage};
/// let red = RgbImage { width: 2, height: 1, pixels: vec![255, 0, 0, 255, 0, 0] };
/// assert_eq!(Decoded::from(red.clone()).to_rgb(), red);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Interleaved R, G, B.
    pub pixels: Vec<u8>,
}

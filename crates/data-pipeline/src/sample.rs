//! One sample as a source hands it over: raw image bytes, captions, an optional class.

use crate::image::{Decoded, RgbImage, decode};
use crate::{Error, Result};

/// One image with its texts, before decoding.
#[derive(Clone, Debug)]
pub struct RawSample {
    /// Shard or folder and key: names the sample in errors and in stored embeddings.
    pub key: String,
    /// The picture.
    pub image: RawImage,
    /// The texts; at least one.
    pub captions: Vec<String>,
    /// Index into the source's class names, where it has classes.
    pub label: Option<usize>,
    /// Object boxes `[x, y, width, height]` in pixels of the picture, where the source has them.
    pub boxes: Vec<[f32; 4]>,
}

/// A picture as its source holds it.
#[derive(Clone, Debug)]
pub enum RawImage {
    /// An encoded file (JPEG, PNG, WebP, …), decoded later on a worker thread.
    Encoded(Vec<u8>),
    /// Pixels that never were a file (CIFAR's binary archives, rendered pictures).
    Rgb(RgbImage),
}

impl RawImage {
    /// The pixels; `key` names the sample in the error.
    ///
    /// # Errors
    /// [`Error::Sample`] where the file cannot be decoded.
    pub fn into_pixels(self, key: &str) -> Result<Decoded> {
        match self {
            RawImage::Rgb(pixels) => Ok(Decoded::from(pixels)),
            RawImage::Encoded(bytes) => {
                decode(&bytes).map_err(|e| Error::Sample { key: key.into(), kind: e.kind, reason: e.reason })
            }
        }
    }
}

//! A sample before decoding: image, captions, class and annotations.

use crate::image::{Decoded, RgbImage, decode};
use crate::{Annotations, Error, Result};

/// An image with its captions, before decoding.
///
/// ```
/// use data_pipeline::{RawImage, RawSample};
/// let jpeg = vec![0xFF, 0xD8, 0xFF];
/// let sample = RawSample::new("00000.tar:000000042", RawImage::Encoded(jpeg))
///     .with_captions(["a photo of a dog"])
///     .with_label(3);
/// assert_eq!(sample.label, Some(3));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RawSample {
    /// Shard or folder, and key: names the sample in errors.
    pub key: String,
    /// The image.
    pub image: RawImage,
    /// The captions, at least one for training.
    pub captions: Vec<String>,
    /// Index into [`crate::Source::class_names`].
    pub label: Option<usize>,
    /// Further data that some methods read.
    pub annotations: Annotations,
}

impl RawSample {
    /// Creates a sample without captions, class and annotations.
    pub fn new(key: impl Into<String>, image: RawImage) -> Self {
        let annotations = Annotations::default();
        RawSample { key: key.into(), image, captions: Vec::new(), label: None, annotations }
    }

    /// Sets the captions.
    #[must_use]
    pub fn with_captions<S: Into<String>>(mut self, captions: impl IntoIterator<Item = S>) -> Self {
        self.captions = captions.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the class.
    #[must_use]
    pub fn with_label(mut self, label: usize) -> Self {
        self.label = Some(label);
        self
    }

    /// Sets the annotations.
    #[must_use]
    pub fn with_annotations(mut self, annotations: Annotations) -> Self {
        self.annotations = annotations;
        self
    }
}

/// An image in the form in which its source holds it.
#[derive(Clone, Debug)]
pub enum RawImage {
    /// An encoded file, which a worker thread decodes later.
    Encoded(Vec<u8>),
    /// Pixels of a source without image files, such as CIFAR's archives or rendered images.
    Rgb(RgbImage),
}

impl RawImage {
    /// Decodes the image; `key` names the sample in the error.
    ///
    /// # Errors
    /// [`Error::Sample`] if the file cannot be decoded.
    pub fn into_pixels(self, key: &str) -> Result<Decoded> {
        match self {
            RawImage::Rgb(pixels) => Ok(Decoded::from(pixels)),
            RawImage::Encoded(bytes) => {
                decode(&bytes).map_err(|e| Error::Sample { key: key.into(), kind: e.kind, reason: e.reason })
            }
        }
    }
}

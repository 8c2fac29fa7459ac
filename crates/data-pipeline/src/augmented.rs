//! A decoded sample with its augmentation. The loader and stores of embeddings share it, so both show the same images.

use file_ext::random::mix;

use crate::annotations::{Annotations, ViewAnnotations};
use crate::image::{
    AugmentConfig, AugmentParams, Decoded, Preprocess, augment_frame, augment_into, eval_frame, eval_into,
};
use crate::sources::Source;
use crate::{DamageKind, Error, Result};

/// A decoded sample with its augmentation parameters.
pub(crate) struct AugmentedSample {
    pub key: String,
    pub label: Option<usize>,
    /// Captions, at least one.
    pub captions: Vec<String>,
    annotations: Annotations,
    image: Decoded,
    params: Option<AugmentParams>,
}

impl AugmentedSample {
    /// Reads and decodes a sample, and draws its augmentation from `draw`. Without `augment`, views use the evaluation
    /// transform.
    pub(crate) fn read(
        source: &dyn Source,
        index: usize,
        draw: u64,
        augment: Option<&AugmentConfig>,
    ) -> Result<Self> {
        let sample = source.read(index, draw)?;
        if sample.captions.is_empty() {
            let reason = "the sample has no caption".into();
            return Err(Error::Sample { key: sample.key, kind: DamageKind::NoCaption, reason });
        }
        let image = sample.image.into_pixels(&sample.key)?;
        let params = augment
            .map(|augment| AugmentParams::draw(augment, mix(&[draw, 2]), image.width(), image.height()));
        let (key, label, captions) = (sample.key, sample.label, sample.captions);
        Ok(AugmentedSample { key, label, captions, annotations: sample.annotations, image, params })
    }

    /// Returns the annotations in a view.
    pub(crate) fn annotations(&self, view: &Preprocess) -> ViewAnnotations {
        self.annotations.in_view(|| match &self.params {
            Some(params) => augment_frame(&self.image, params, view.size),
            None => eval_frame(&self.image, view),
        })
    }

    /// Writes the normalized pixels `[3, side, side]` of a view.
    pub(crate) fn view_into(&self, view: &Preprocess, pixels: &mut [f32]) {
        match &self.params {
            Some(params) => augment_into(&self.image, params, view, pixels),
            None => eval_into(&self.image, view, pixels),
        }
    }
}

//! Whole evaluations: batches in, results out.

use ndarray::Array4;

use crate::classifier::{append, encode_texts};
use crate::encoder::{EncodeError, normalize_rows};
use crate::{Accuracy, Classification, Classifier, Encoder, Error, Result, Retrieval, retrieval};

/// Classifies batches of images with their labels.
///
/// # Errors
/// What the batches or the encoder give, and [`Error::Input`] without any image.
pub fn classification(
    encoder: &impl Encoder,
    classifier: &Classifier,
    classes: &[String],
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<usize>), EncodeError>>,
) -> Result<Classification> {
    let mut accuracy = Accuracy::new(classes);
    for batch in batches {
        let (images, labels) = batch.map_err(Error::Encoder)?;
        let rows = encoder.encode_images(images.view()).map_err(Error::Encoder)?;
        accuracy.add(classifier.scores(rows.view())?.view(), &labels)?;
    }
    accuracy.finish()
}

/// Measures retrieval on batches of images with all their captions.
///
/// # Errors
/// What the batches or the encoder give, and [`Error::Input`] without any image.
pub fn retrieval_set(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>>,
) -> Result<Retrieval> {
    let mut images = None;
    let (mut texts, mut image_of) = (Vec::new(), Vec::new());
    let mut count = 0;
    for batch in batches {
        let (pixels, captions) = batch.map_err(Error::Encoder)?;
        append(&mut images, encoder.encode_images(pixels.view()).map_err(Error::Encoder)?)?;
        for own in captions {
            image_of.extend(std::iter::repeat_n(count, own.len()));
            texts.extend(own);
            count += 1;
        }
    }
    let mut images = images.ok_or_else(|| Error::Input("there is no image to retrieve".into()))?;
    if images.nrows() != count {
        return Err(Error::shape("rows of encoded images", count, images.nrows()));
    }
    normalize_rows(&mut images);
    retrieval(images.view(), encode_texts(encoder, &texts)?.view(), &image_of)
}

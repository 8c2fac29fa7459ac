//! Whole evaluations: batches in, results out.

use ndarray::{Array2, Array4};

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

/// Unit rows of images and the class of each, for [`crate::evaluate_stored`].
#[derive(Clone, Debug)]
pub struct LabelledRows {
    /// `[n, embed_dim]`.
    pub images: Array2<f32>,
    /// n classes.
    pub labels: Vec<usize>,
}

/// Unit rows of images and of their captions, for [`crate::evaluate_stored`].
#[derive(Clone, Debug)]
pub struct CaptionedRows {
    /// `[n, embed_dim]`.
    pub images: Array2<f32>,
    /// `[m, embed_dim]`, in the order of their images.
    pub texts: Array2<f32>,
    /// The image of each text.
    pub image_of: Vec<usize>,
}

/// Encodes batches of images with their labels once, to be measured as often as wanted.
///
/// # Errors
/// What the batches or the encoder give, [`Error::Shape`] where it gives another number of rows, and
/// [`Error::Input`] without any image.
pub fn encode_labelled(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<usize>), EncodeError>>,
) -> Result<LabelledRows> {
    let (mut images, mut labels) = (None, Vec::new());
    for batch in batches {
        let (pixels, own) = batch.map_err(Error::Encoder)?;
        append(&mut images, encoder.encode_images(pixels.view()).map_err(Error::Encoder)?)?;
        labels.extend(own);
    }
    Ok(LabelledRows { images: images_of(images, labels.len())?, labels })
}

/// Encodes batches of images with all their captions once, to be measured as often as wanted.
///
/// # Errors
/// As [`encode_labelled`], and [`Error::Input`] without any text.
pub fn encode_captioned(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>>,
) -> Result<CaptionedRows> {
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
    Ok(CaptionedRows { images: images_of(images, count)?, texts: encode_texts(encoder, &texts)?, image_of })
}

/// Unit rows, one for each of `count` images.
fn images_of(rows: Option<Array2<f32>>, count: usize) -> Result<Array2<f32>> {
    let mut rows = rows.ok_or_else(|| Error::Input("there is no image to encode".into()))?;
    if rows.nrows() != count {
        return Err(Error::shape("rows of encoded images", count, rows.nrows()));
    }
    normalize_rows(&mut rows);
    Ok(rows)
}

/// Measures retrieval on batches of images with all their captions.
///
/// # Errors
/// What the batches or the encoder give, and [`Error::Input`] without any image.
pub fn retrieval_set(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>>,
) -> Result<Retrieval> {
    let rows = encode_captioned(encoder, batches)?;
    retrieval(rows.images.view(), rows.texts.view(), &rows.image_of)
}

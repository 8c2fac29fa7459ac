//! Encodes batches of a data set, and evaluates classification and retrieval on them.

use ndarray::{Array2, Array4};

use crate::classifier::{append, encode_texts};
use crate::encoder::{EncodeError, normalize_rows};
use crate::{Accuracy, Classification, Classifier, Encoder, Error, Result, Retrieval, retrieval};

/// Evaluates zero-shot classification on batches of images with labels.
///
/// # Errors
/// [`Error::Encoder`] for an error of the batches or the encoder, [`Error::Input`] without images; the errors of
/// [`Classifier::scores`] and [`Accuracy::add`].
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

/// Unit embeddings of images and their labels, for [`crate::evaluate_stored`].
#[derive(Clone, Debug)]
pub struct LabelledEmbeddings {
    /// Images `[n, embed_dim]`.
    pub images: Array2<f32>,
    /// The label of each image.
    pub labels: Vec<usize>,
}

/// Unit embeddings of images and their captions, for [`crate::evaluate_stored`].
#[derive(Clone, Debug)]
pub struct CaptionedEmbeddings {
    /// Images `[n, embed_dim]`.
    pub images: Array2<f32>,
    /// Texts `[m, embed_dim]`, in the order of their images.
    pub texts: Array2<f32>,
    /// The image of each text.
    pub image_of: Vec<usize>,
}

/// Encodes batches of images with labels.
///
/// # Errors
/// [`Error::Encoder`] for an error of the batches or the encoder, [`Error::Shape`] if the encoder returns another number
/// of embeddings, [`Error::Input`] without images.
pub fn encode_labelled(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<usize>), EncodeError>>,
) -> Result<LabelledEmbeddings> {
    let (mut images, mut labels) = (None, Vec::new());
    for batch in batches {
        let (pixels, batch_labels) = batch.map_err(Error::Encoder)?;
        append(&mut images, encoder.encode_images(pixels.view()).map_err(Error::Encoder)?)?;
        labels.extend(batch_labels);
    }
    Ok(LabelledEmbeddings { images: images_of(images, labels.len())?, labels })
}

/// Encodes batches of images with all their captions.
///
/// # Errors
/// The errors of [`encode_labelled`], and [`Error::Input`] without texts.
pub fn encode_captioned(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>>,
) -> Result<CaptionedEmbeddings> {
    let mut images = None;
    let (mut texts, mut image_of) = (Vec::new(), Vec::new());
    let mut count = 0;
    for batch in batches {
        let (pixels, captions) = batch.map_err(Error::Encoder)?;
        append(&mut images, encoder.encode_images(pixels.view()).map_err(Error::Encoder)?)?;
        for image_captions in captions {
            image_of.extend(std::iter::repeat_n(count, image_captions.len()));
            texts.extend(image_captions);
            count += 1;
        }
    }
    Ok(CaptionedEmbeddings {
        images: images_of(images, count)?,
        texts: encode_texts(encoder, &texts)?,
        image_of,
    })
}

/// Checks the number of image embeddings, and normalises them.
fn images_of(rows: Option<Array2<f32>>, count: usize) -> Result<Array2<f32>> {
    let mut rows = rows.ok_or_else(|| Error::Input("no image to encode".into()))?;
    if rows.nrows() != count {
        return Err(Error::shape("embeddings of images", count, rows.nrows()));
    }
    normalize_rows(&mut rows);
    Ok(rows)
}

/// Evaluates retrieval on batches of images with all their captions.
///
/// # Errors
/// The errors of [`encode_captioned`] and [`retrieval()`].
pub fn retrieval_set(
    encoder: &impl Encoder,
    batches: impl IntoIterator<Item = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>>,
) -> Result<Retrieval> {
    let rows = encode_captioned(encoder, batches)?;
    retrieval(rows.images.view(), rows.texts.view(), &rows.image_of)
}

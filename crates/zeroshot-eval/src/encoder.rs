//! The interface of an image-text encoder.

use ndarray::{Array2, ArrayView4, Axis};

/// Error of an encoder.
pub type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// A dual encoder of images and texts into one space. Its embeddings need not be normalised.
///
/// ```
/// use ndarray::{Array2, ArrayView4, Axis};
/// use zeroshot_eval::{EncodeError, Encoder};
///
/// /// Images by their mean colour, texts by the colours that they name.
/// struct MeanColor;
///
/// impl Encoder for MeanColor {
///     fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError> {
///         let mean = images.mean_axis(Axis(3)).and_then(|rows| rows.mean_axis(Axis(2)));
///         mean.ok_or_else(|| "images without pixels".into())
///     }
///
///     fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError> {
///         let has = |text: &String, color: &str| f32::from(u8::from(text.contains(color)));
///         let colors = ["red", "green", "blue"];
///         Ok(Array2::from_shape_fn((texts.len(), 3), |(i, c)| has(&texts[i], colors[c])))
///     }
/// }
/// # let rows = MeanColor.encode_texts(&["a red bus".into()]).unwrap();
/// # assert_eq!(rows, ndarray::array![[1.0, 0.0, 0.0]]);
/// ```
pub trait Encoder {
    /// Encodes images `[batch, 3, height, width]`, normalised for this encoder, to embeddings `[batch, embed_dim]`.
    ///
    /// # Errors
    /// Any error of the encoder.
    fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError>;

    /// Encodes texts to embeddings `[texts, embed_dim]`.
    ///
    /// # Errors
    /// Any error of the encoder.
    fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError>;
}

/// Normalises each row to length 1. A row of zeros stays unchanged.
pub fn normalize_rows(rows: &mut Array2<f32>) {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|x| (f64::from(x) / norm) as f32);
        }
    }
}

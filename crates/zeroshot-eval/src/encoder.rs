//! What is evaluated: anything that gives images and texts rows in one space.

use ndarray::{Array2, ArrayView4, Axis};

/// Whatever error an encoder has.
pub type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// A dual encoder. Rows need no particular length; they are normalised here.
pub trait Encoder {
    /// Images `[batch, 3, height, width]`, normalised as the encoder wants them, to rows `[batch, embed_dim]`.
    ///
    /// # Errors
    /// The encoder's own.
    fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError>;

    /// Texts to rows `[texts, embed_dim]`.
    ///
    /// # Errors
    /// The encoder's own.
    fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError>;
}

/// Makes each row a unit vector; a row of zeros stays one.
pub fn normalize_rows(rows: &mut Array2<f32>) {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|x| (f64::from(x) / norm) as f32);
        }
    }
}

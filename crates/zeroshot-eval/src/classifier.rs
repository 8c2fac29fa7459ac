//! The zero-shot classifier: one unit embedding per class.

use std::collections::HashMap;

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::encoder::{Encoder, normalize_rows};
use crate::prompts::{self, fill};
use crate::rows::{self, finite};
use crate::{Error, Result};

/// Number of texts in a batch.
const TEXT_BATCH: usize = 256;

/// A zero-shot classifier: class embeddings `[classes, embed_dim]`, each the normalised mean of a class's normalised
/// prompts (Radford et al. 2021, section 3.1.4).
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::Classifier;
///
/// let classifier = Classifier::from_embeddings(array![[2.0, 0.0], [0.0, 1.0]].view())?;
/// assert_eq!(classifier.scores(array![[3.0, 4.0]].view())?, array![[0.6, 0.8]]);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Classifier {
    rows: Array2<f32>,
}

impl Classifier {
    /// Encodes each class name in each template. Classes with the same name get equal embeddings.
    ///
    /// # Errors
    /// [`Error::Input`] without classes or templates, for a template without `{}`, or for an embedding that is not
    /// finite; [`Error::Encoder`]; [`Error::Shape`] if the encoder returns another number of embeddings, or embeddings
    /// of different widths.
    pub fn new(encoder: &impl Encoder, classes: &[String], templates: &[String]) -> Result<Self> {
        prompts::check(templates)?;
        let filled = |class: &String| templates.iter().map(|template| fill(template, class)).collect();
        Self::from_prompts(encoder, classes, &classes.iter().map(filled).collect::<Vec<_>>())
    }

    /// Encodes the prompts of each class, such as descriptions by a language model (Pratt et al. 2023). Classes with the
    /// same name get equal embeddings.
    ///
    /// # Errors
    /// The errors of [`Classifier::new`]; [`Error::Input`] for a class without prompts; [`Error::Shape`] if the numbers
    /// of prompt lists and classes differ.
    pub fn from_prompts(encoder: &impl Encoder, classes: &[String], prompts: &[Vec<String>]) -> Result<Self> {
        if classes.is_empty() {
            return Err(Error::Input("a classifier needs at least one class".into()));
        }
        if prompts.len() != classes.len() {
            return Err(Error::shape("lists of prompts", classes.len(), prompts.len()));
        }
        if let Some(class) = prompts.iter().position(Vec::is_empty) {
            return Err(Error::Input(format!("the class `{}` has no prompt", classes[class])));
        }
        let rows = encode_texts(encoder, &prompts.concat())?;
        let mut means = Array2::zeros((classes.len(), rows.ncols()));
        let mut start = 0;
        for (prompts, mut mean) in prompts.iter().zip(means.axis_iter_mut(Axis(0))) {
            let own = rows.slice(s![start..start + prompts.len(), ..]);
            mean.assign(&(own.sum_axis(Axis(0)) / prompts.len() as f32));
            start += prompts.len();
        }
        finite("class", means.view())?;
        normalize_rows(&mut means);
        // The embeddings of equal prompts may differ in their last digits, depending on their positions in a batch.
        // Copy the first one, so that classes with equal names tie.
        let mut firsts = HashMap::new();
        for (class, name) in classes.iter().enumerate() {
            let first = *firsts.entry(name).or_insert(class);
            if first != class {
                let row = means.row(first).to_owned();
                means.row_mut(class).assign(&row);
            }
        }
        Ok(Classifier { rows: means })
    }

    /// Creates a classifier from class embeddings `[classes, embed_dim]`, which it normalises.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty array or a value that is not finite.
    pub fn from_embeddings(embeddings: ArrayView2<'_, f32>) -> Result<Self> {
        Ok(Classifier { rows: rows::unit("class", embeddings)? })
    }

    /// Returns the cosines `[batch, classes]` with image embeddings `[batch, embed_dim]`, which it normalises.
    ///
    /// # Errors
    /// [`Error::Shape`] if the widths differ, [`Error::Input`] for a value that is not finite.
    pub fn scores(&self, images: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        if images.ncols() != self.rows.ncols() {
            return Err(Error::shape("width of the image embeddings", self.rows.ncols(), images.ncols()));
        }
        finite("image", images)?;
        let mut images = images.to_owned();
        normalize_rows(&mut images);
        Ok(images.dot(&self.rows.t()))
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.rows.nrows()
    }

    /// Returns the class embeddings, unit rows `[classes, embed_dim]`.
    pub fn embeddings(&self) -> ArrayView2<'_, f32> {
        self.rows.view()
    }
}

/// Encodes texts in batches, as unit rows.
pub(crate) fn encode_texts(encoder: &impl Encoder, texts: &[String]) -> Result<Array2<f32>> {
    let mut rows: Option<Array2<f32>> = None;
    for batch in texts.chunks(TEXT_BATCH) {
        let found = encoder.encode_texts(batch).map_err(Error::Encoder)?;
        if found.nrows() != batch.len() {
            return Err(Error::shape("embeddings of texts", batch.len(), found.nrows()));
        }
        append(&mut rows, found)?;
    }
    let mut rows = rows
        .ok_or_else(|| Error::Input("no text to encode: the data has no class names or captions".into()))?;
    normalize_rows(&mut rows);
    Ok(rows)
}

/// Appends the embeddings of a batch.
pub(crate) fn append(rows: &mut Option<Array2<f32>>, found: Array2<f32>) -> Result<()> {
    match rows {
        None => *rows = Some(found),
        Some(rows) => {
            let (expected, width) = (rows.ncols(), found.ncols());
            rows.append(Axis(0), found.view())
                .map_err(|_| Error::shape("width of the embeddings", expected, width))?;
        }
    }
    Ok(())
}

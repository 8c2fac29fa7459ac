//! The zero-shot classifier: one unit row per class.

use std::collections::HashMap;

use ndarray::{Array2, ArrayView2, Axis, s};

use crate::encoder::{Encoder, normalize_rows};
use crate::prompts::{self, fill};
use crate::rows::{self, finite};
use crate::{Error, Result};

/// Texts that are encoded at once.
const TEXT_BATCH: usize = 256;

/// Class rows `[classes, embed_dim]`, each the normalised mean of its normalised prompts (Radford et al. 2021, section 3.1.4).
#[derive(Clone, Debug)]
pub struct Classifier {
    rows: Array2<f32>,
}

impl Classifier {
    /// Encodes every class name in every template. Classes with the same name get equal rows.
    ///
    /// # Errors
    /// [`Error::Input`] without classes or templates, or where a template has no place for the name; the encoder's own.
    pub fn new(encoder: &impl Encoder, classes: &[String], templates: &[String]) -> Result<Self> {
        if classes.is_empty() {
            return Err(Error::Input("a classifier needs at least one class".into()));
        }
        prompts::check(templates)?;
        let prompts = classes
            .iter()
            .flat_map(|class| templates.iter().map(|template| fill(template, class)))
            .collect::<Vec<_>>();
        let rows = encode_texts(encoder, &prompts)?;
        let mut means = Array2::zeros((classes.len(), rows.ncols()));
        for (class, mut mean) in means.axis_iter_mut(Axis(0)).enumerate() {
            let own = rows.slice(s![class * templates.len()..(class + 1) * templates.len(), ..]);
            mean.assign(&(own.sum_axis(Axis(0)) / templates.len() as f32));
        }
        finite("class", means.view())?;
        normalize_rows(&mut means);
        // The embeddings of equal prompts may differ in their last digits, depending on their positions in a batch.
        // They would then no longer tie.
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

    /// From class rows `[classes, embed_dim]` that were made before, made unit rows.
    ///
    /// # Errors
    /// [`Error::Input`] where there is none or one is not finite.
    pub fn from_rows(rows: ArrayView2<'_, f32>) -> Result<Self> {
        Ok(Classifier { rows: rows::unit("class", rows)? })
    }

    /// Cosines `[batch, classes]` of image rows `[batch, embed_dim]`, which need not be normalised.
    ///
    /// # Errors
    /// [`Error::Shape`] where the widths differ, [`Error::Input`] where a row is not finite.
    pub fn scores(&self, images: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        if images.ncols() != self.rows.ncols() {
            return Err(Error::shape("width of the image rows", self.rows.ncols(), images.ncols()));
        }
        finite("image", images)?;
        let mut images = images.to_owned();
        normalize_rows(&mut images);
        Ok(images.dot(&self.rows.t()))
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.rows.nrows()
    }

    /// The class rows.
    pub fn rows(&self) -> ArrayView2<'_, f32> {
        self.rows.view()
    }
}

/// Unit rows of any number of texts.
pub(crate) fn encode_texts(encoder: &impl Encoder, texts: &[String]) -> Result<Array2<f32>> {
    let mut rows: Option<Array2<f32>> = None;
    for batch in texts.chunks(TEXT_BATCH) {
        let found = encoder.encode_texts(batch).map_err(Error::Encoder)?;
        if found.nrows() != batch.len() {
            return Err(Error::shape("rows of encoded texts", batch.len(), found.nrows()));
        }
        append(&mut rows, found)?;
    }
    let mut rows = rows.ok_or_else(|| Error::Input("there is no text".into()))?;
    normalize_rows(&mut rows);
    Ok(rows)
}

/// Adds rows to those that are there.
pub(crate) fn append(rows: &mut Option<Array2<f32>>, found: Array2<f32>) -> Result<()> {
    match rows {
        None => *rows = Some(found),
        Some(rows) => {
            let (expected, width) = (rows.ncols(), found.ncols());
            rows.append(Axis(0), found.view())
                .map_err(|_| Error::shape("width of the rows", expected, width))?;
        }
    }
    Ok(())
}

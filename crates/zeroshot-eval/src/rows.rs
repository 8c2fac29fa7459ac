//! Checks of embeddings, scores and labels from callers.

use ndarray::{Array2, ArrayView2, Axis};

use crate::encoder::normalize_rows;
use crate::{Error, Result};

/// Checks that all values are finite. Damaged weights give NaN, which would rank like any other score.
pub(crate) fn finite(what: &str, rows: ArrayView2<'_, f32>) -> Result<()> {
    match rows.axis_iter(Axis(0)).position(|row| row.iter().any(|value| !value.is_finite())) {
        None => Ok(()),
        Some(row) => Err(Error::Input(format!(
            "the embedding of {what} {row} is not finite: the model's weights may be damaged"
        ))),
    }
}

/// Checks that an array has a row and a column, and that all values are finite.
pub(crate) fn check(what: &str, rows: ArrayView2<'_, f32>) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::Input(format!(
            "the embeddings of {what} have {} rows of {} values: give at least one row of one value",
            rows.nrows(),
            rows.ncols()
        )));
    }
    finite(what, rows)
}

/// Returns a checked copy with unit rows.
pub(crate) fn unit(what: &str, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
    check(what, rows)?;
    let mut rows = rows.as_standard_layout().into_owned();
    normalize_rows(&mut rows);
    Ok(rows)
}

/// Checks that each row has a label, and that each label is a class.
pub(crate) fn check_labels(labels: &[usize], rows: usize, classes: usize) -> Result<()> {
    if labels.len() != rows {
        return Err(Error::shape("labels", rows, labels.len()));
    }
    match labels.iter().find(|label| **label >= classes) {
        None => Ok(()),
        Some(label) => Err(Error::Input(format!("label {label} is not one of {classes} classes"))),
    }
}

/// Checks that each text belongs to an existing image.
pub(crate) fn check_image_of(image_of: &[usize], images: usize, texts: usize) -> Result<()> {
    if image_of.len() != texts {
        return Err(Error::shape("images of the texts", texts, image_of.len()));
    }
    match image_of.iter().enumerate().find(|(_, image)| **image >= images) {
        None => Ok(()),
        Some((text, image)) => {
            Err(Error::Input(format!("text {text} belongs to image {image}, which does not exist")))
        }
    }
}

/// Checks scores `[rows, classes]`: at least one row, finite values, and a label for each row.
pub(crate) fn check_scores(scores: ArrayView2<'_, f32>, labels: &[usize]) -> Result<()> {
    check_labels(labels, scores.nrows(), scores.ncols())?;
    if scores.is_empty() {
        return Err(Error::Input("at least one labelled row of scores is needed".into()));
    }
    match scores.axis_iter(Axis(0)).position(|row| row.iter().any(|score| !score.is_finite())) {
        None => Ok(()),
        Some(row) => Err(Error::Input(format!("row {row} of the scores is not finite"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn empty_and_broken_input_is_named() {
        let error = check("image", Array2::zeros((0, 4)).view()).unwrap_err();
        assert!(error.to_string().contains("0 rows of 4"), "{error}");
        let error = check("image", array![[0.0, 1.0], [0.0, f32::NAN]].view()).unwrap_err();
        assert!(error.to_string().contains("image 1"), "{error}");
        assert!(check_labels(&[0, 2], 2, 2).is_err());
        assert!(check_labels(&[0], 2, 2).is_err());
        assert!(check_scores(Array2::zeros((0, 2)).view(), &[]).is_err());
        assert!(check_scores(array![[f32::INFINITY]].view(), &[0]).is_err());
    }
}

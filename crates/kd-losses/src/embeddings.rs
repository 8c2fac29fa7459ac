//! Inputs of the losses: pairs of embeddings, and the similarity logits of rows against columns.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// Matching image and text embeddings: row i of one belongs to row i of the other.
///
/// ```no_run
/// use kd_losses::Embeddings;
/// use tch::{Device, Kind, Tensor};
///
/// let randn = || Tensor::randn([32, 512], (Kind::Float, Device::Cpu));
/// let pairs = Embeddings::new(randn(), randn())?.normalized();
/// assert_eq!((pairs.rows(), pairs.width()), (32, 512));
/// # Ok::<_, kd_losses::Error>(())
/// ```
#[derive(Debug)]
pub struct Embeddings {
    /// Image embeddings `[rows, width]`.
    pub image: Tensor,
    /// Text embeddings `[rows, width]`.
    pub text: Tensor,
}

impl Embeddings {
    /// Pairs image embeddings with text embeddings.
    ///
    /// # Errors
    /// [`Error::Shapes`] unless both are `[rows, width]` of the same shape.
    pub fn new(image: Tensor, text: Tensor) -> Result<Self> {
        if image.dim() != 2 || image.size() != text.size() {
            return Err(Error::Shapes {
                left: "the image embeddings",
                left_shape: image.size(),
                right: "the text embeddings",
                right_shape: text.size(),
                rule: "both are [rows, width] with one row per pair",
            });
        }
        Ok(Embeddings { image, text })
    }

    /// Returns both with rows normalised to length 1.
    pub fn normalized(&self) -> Self {
        Embeddings { image: normalize(&self.image), text: normalize(&self.text) }
    }

    /// Applies `f` to the embeddings of each modality. Both results must have the same shape `[rows, width]`.
    #[must_use]
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Embeddings { image: f(&self.image), text: f(&self.text) }
    }

    /// Returns the pairs (rows) `start..start + count`.
    #[must_use]
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        self.map(|rows| rows.narrow(0, start, count))
    }

    /// Concatenates the pairs of several batches.
    ///
    /// # Errors
    /// [`Error::Torch`] if the widths differ or memory runs out.
    pub fn cat<'a>(batches: impl Iterator<Item = &'a Embeddings>) -> Result<Self> {
        let (images, texts): (Vec<_>, Vec<_>) = batches.map(|pairs| (&pairs.image, &pairs.text)).unzip();
        Embeddings::new(Tensor::f_cat(&images, 0)?, Tensor::f_cat(&texts, 0)?)
    }

    /// Returns the number of pairs.
    pub fn rows(&self) -> i64 {
        self.image.size()[0]
    }

    /// Returns the width of the embedding space.
    pub fn width(&self) -> i64 {
        self.image.size()[1]
    }
}

/// Checks that two models' rows can be compared element by element.
pub(crate) fn check_alike(student: &Embeddings, teacher: &Embeddings) -> Result<()> {
    let alike = student.image.size() == teacher.image.size();
    check_pair(alike, student, teacher, "features are compared row by row in one width")
}

/// Checks that two models' rows match, and that there are at least two.
pub(crate) fn check_relations(student: &Embeddings, teacher: &Embeddings) -> Result<()> {
    let alike = student.rows() == teacher.rows() && student.rows() >= 2;
    check_pair(alike, student, teacher, "relations within a batch need the same rows, at least two")
}

fn check_pair(alike: bool, student: &Embeddings, teacher: &Embeddings, rule: &'static str) -> Result<()> {
    if alike {
        return Ok(());
    }
    Err(Error::Shapes {
        left: "the student's embeddings",
        left_shape: student.image.size(),
        right: "the teacher's embeddings",
        right_shape: teacher.image.size(),
        rule,
    })
}

/// Normalises rows to length 1. Rows shorter than 1e-12 are divided by 1e-12, like torch's `normalize`.
pub fn normalize(rows: &Tensor) -> Tensor {
    let norms = rows.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12);
    rows / norms
}

/// Scaled similarities of local rows against all columns, in both directions.
#[derive(Debug)]
pub struct Logits {
    /// `[rows, columns]`: local images against all texts.
    pub image_to_text: Tensor,
    /// `[rows, columns]`: local texts against all images.
    pub text_to_image: Tensor,
}

impl Logits {
    /// Computes `scale` times the products of `rows` and `columns`. Unit rows give cosines.
    ///
    /// # Errors
    /// [`Error::Shapes`] if the widths differ.
    pub fn new(rows: &Embeddings, columns: &Embeddings, scale: &Tensor) -> Result<Self> {
        Self::cross(&rows.image, &columns.text, &rows.text, &columns.image, scale)
    }

    /// Computes `images · all_textsᵀ` and `texts · all_imagesᵀ`; each may come from either model.
    ///
    /// # Errors
    /// [`Error::Shapes`] if the widths differ.
    pub fn cross(
        images: &Tensor,
        all_texts: &Tensor,
        texts: &Tensor,
        all_images: &Tensor,
        scale: &Tensor,
    ) -> Result<Self> {
        for (left, right) in [(images, all_texts), (texts, all_images)] {
            if left.dim() != 2 || right.dim() != 2 || left.size()[1] != right.size()[1] {
                return Err(Error::Shapes {
                    left: "the rows",
                    left_shape: left.size(),
                    right: "the columns",
                    right_shape: right.size(),
                    rule: "similarities need embeddings of one width (project the student first if the teacher is wider)",
                });
            }
        }
        // Scale the rows: this costs rows x width products instead of rows x columns.
        let image_to_text = (images * scale).matmul(&all_texts.tr());
        let text_to_image = if images.size() == all_images.size()
            && images.data_ptr() == all_images.data_ptr()
            && texts.size() == all_texts.size()
            && texts.data_ptr() == all_texts.data_ptr()
        {
            // In the square case, the second direction is the transpose of the first.
            image_to_text.tr()
        } else {
            (texts * scale).matmul(&all_images.tr())
        };
        Ok(Logits { image_to_text, text_to_image })
    }

    /// Checks that two sets of logits have the same rows and columns.
    pub(crate) fn check_same(&self, other: &Logits) -> Result<()> {
        if self.image_to_text.size() != other.image_to_text.size() {
            return Err(Error::Shapes {
                left: "the student's logits",
                left_shape: self.image_to_text.size(),
                right: "the teacher's logits",
                right_shape: other.image_to_text.size(),
                rule: "both models need the same rows and columns",
            });
        }
        Ok(())
    }
}

/// The matching column of each row.
#[derive(Debug)]
pub enum Targets {
    /// Row i matches column `offset + i`, as in every published recipe.
    Diagonal {
        /// First column of this process's rows (0 for one process).
        offset: i64,
    },
    /// A distribution over the columns for each row, `[rows, columns]`, one per direction.
    Soft {
        /// For images against texts.
        image_to_text: Tensor,
        /// For texts against images.
        text_to_image: Tensor,
    },
}

impl Targets {
    /// Creates soft targets that spread evenly over all pairs whose texts have the same tokens.
    ///
    /// If class names are captions, equal texts are common. [`Targets::Diagonal`] would treat them as negatives. `rows`
    /// and `columns` are token ids `[n, context]`.
    ///
    /// # Errors
    /// [`Error::Shapes`] if the context lengths differ.
    pub fn equal_captions(rows: &Tensor, columns: &Tensor) -> Result<Self> {
        if rows.dim() != 2 || columns.dim() != 2 || rows.size()[1] != columns.size()[1] {
            return Err(Error::Shapes {
                left: "the rows' tokens",
                left_shape: rows.size(),
                right: "the columns' tokens",
                right_shape: columns.size(),
                rule: "both are [n, context] of one context length",
            });
        }
        let same = rows.unsqueeze(1).eq_tensor(&columns.unsqueeze(0)).all_dim(2, false).to_kind(Kind::Float); // [rows, columns]
        let spread = &same / same.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        Ok(Targets::Soft { image_to_text: spread.shallow_clone(), text_to_image: spread })
    }
}

/// Computes the cross-entropy of `logits` and the targets of one direction, averaged over rows.
pub(crate) fn cross_entropy(logits: &Tensor, diagonal: Option<i64>, soft: Option<&Tensor>) -> Result<Tensor> {
    let (rows, columns) = (logits.size()[0], logits.size()[1]);
    if let Some(offset) = diagonal {
        if offset < 0 || offset + rows > columns {
            return Err(Error::Argument(format!(
                "rows {offset}..{} have no matching column among {columns}: check the offset of the diagonal",
                offset + rows
            )));
        }
        let labels = Tensor::f_arange_start(offset, offset + rows, (Kind::Int64, logits.device()))?;
        return Ok(logits.f_cross_entropy_loss(&labels, None::<&Tensor>, tch::Reduction::Mean, -100, 0.0)?);
    }
    match soft {
        Some(targets) if targets.size() == logits.size() => {
            Ok(-(targets * logits.log_softmax(1, Kind::Float)).sum(Kind::Float) / rows as f64)
        }
        Some(targets) => Err(Error::Shapes {
            left: "the logits",
            left_shape: logits.size(),
            right: "the targets",
            right_shape: targets.size(),
            rule: "soft targets have one entry per logit",
        }),
        None => Err(Error::Argument("cross-entropy without targets".into())),
    }
}

//! Losses on tower outputs other than embeddings: patch tokens and block outputs.

use tch::{Kind, Reduction, Tensor};

use crate::embeddings::normalize;
use crate::{Error, Result};

/// Token states of one model. States that no term reads are omitted.
#[derive(Debug, Default)]
pub struct TokenStates {
    /// A ViT's patch tokens `[rows, grid * grid, width]`, row by row.
    pub patches: Option<Tensor>,
    /// Outputs of chosen blocks of the image tower, `[rows, 1 + grid * grid, width]`, with the class token first.
    pub image_blocks: Vec<Tensor>,
    /// Outputs of chosen blocks of the text tower, `[rows, length, width]`.
    pub text_blocks: Vec<Tensor>,
    /// Boolean mask `[rows, length]` of the text tokens to compare; default: all.
    pub text_counts: Option<Tensor>,
}

impl TokenStates {
    /// Applies `f` to all states except the mask of text tokens.
    #[must_use]
    pub fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        TokenStates {
            patches: self.patches.as_ref().map(&f),
            image_blocks: self.image_blocks.iter().map(&f).collect(),
            text_blocks: self.text_blocks.iter().map(&f).collect(),
            text_counts: self.text_counts.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Returns the states of the rows `start..start + count`.
    #[must_use]
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        let narrow = |states: &Tensor| states.narrow(0, start, count);
        TokenStates { text_counts: self.text_counts.as_ref().map(narrow), ..self.map(narrow) }
    }

    /// Concatenates the states of several batches, which must contain the same kinds of states.
    ///
    /// # Errors
    /// [`Error::Torch`] if shapes differ or memory runs out.
    pub fn cat<'a>(batches: impl Iterator<Item = &'a TokenStates> + Clone) -> Result<Self> {
        let join = |parts: Vec<&Tensor>| match parts.as_slice() {
            [] => Ok(None),
            parts => Tensor::f_cat(parts, 0).map(Some).map_err(Error::from),
        };
        let blocks = |select: fn(&TokenStates) -> &[Tensor]| {
            let count = batches.clone().next().map_or(0, |states| select(states).len());
            let joined =
                (0..count).map(|index| join(batches.clone().filter_map(|s| select(s).get(index)).collect()));
            joined.filter_map(Result::transpose).collect::<Result<Vec<_>>>()
        };
        Ok(TokenStates {
            patches: join(batches.clone().filter_map(|states| states.patches.as_ref()).collect())?,
            image_blocks: blocks(|states| &states.image_blocks)?,
            text_blocks: blocks(|states| &states.text_blocks)?,
            text_counts: join(batches.clone().filter_map(|states| states.text_counts.as_ref()).collect())?,
        })
    }
}

/// Widths of a model's residual streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenWidths {
    /// Width of the image tower.
    pub image: i64,
    /// Width of the text tower.
    pub text: i64,
}

/// Number of blocks of each tower to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockPairs {
    /// Number of blocks of the image tower.
    pub image: usize,
    /// Number of blocks of the text tower.
    pub text: usize,
}

/// Returns the indices (from 0) of `count` evenly spaced blocks of a tower with `depth` blocks, including the last one.
/// Returns all blocks if `count` is at least `depth`.
///
/// ```no_run
/// assert_eq!(kd_losses::tokens::evenly_spaced(12, 3), [3, 7, 11]);
/// ```
pub fn evenly_spaced(depth: usize, count: usize) -> Vec<usize> {
    let count = count.min(depth);
    // The k-th index is k · depth / count, rounded.
    (1..=count).map(|k| (2 * k * depth + count) / (2 * count) - 1).collect()
}

/// Patch token distillation: mean squared error of unit patch tokens, averaged over all elements.
///
/// Both are `[rows, grid * grid, width]` of one width (the student's projected). If the grids differ, the student's is
/// interpolated bilinearly to the teacher's. These are FitNets' hints (Romero et al. 2015) on a ViT's last tokens,
/// independent of the tokens' norms.
///
/// ```no_run
/// # use kd_losses::tokens;
/// # fn example(student: &tch::Tensor, teacher: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// tokens::patch_tokens(student, teacher)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] if rows or widths differ, or if the grids differ and the patches do not form a square.
pub fn patch_tokens(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_rows(student, teacher, "tokens are compared pair by pair in one width")?;
    let student = regrid(student, teacher)?;
    Ok(normalize(&student).mse_loss(&normalize(teacher), Reduction::Mean))
}

/// Computes the loss of [`patch_tokens`] on one block's outputs `[rows, 1 + grid * grid, width]` in the image towers.
/// Class tokens are compared with each other.
///
/// ```no_run
/// # use kd_losses::tokens;
/// # fn example(student: &tch::Tensor, teacher: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// tokens::image_block(student, teacher)
/// # }
/// ```
///
/// # Errors
/// The errors of [`patch_tokens`].
pub fn image_block(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_rows(student, teacher, "block outputs are compared pair by pair in one width")?;
    let split = |xs: &Tensor| (xs.narrow(1, 0, 1), xs.narrow(1, 1, xs.size()[1] - 1));
    let ((class, patches), (_, target)) = (split(student), split(teacher));
    let student = Tensor::f_cat(&[class, regrid(&patches, &target)?], 1)?;
    Ok(normalize(&student).mse_loss(&normalize(teacher), Reduction::Mean))
}

/// Computes the mean squared error of one block's unit outputs `[rows, length, width]` in the text towers, over the
/// tokens in the boolean mask `[rows, length]` (all for `None`). Both models must read the same tokens.
///
/// ```no_run
/// # use kd_losses::tokens;
/// # fn example(student: &tch::Tensor, teacher: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// tokens::text_block(student, teacher, None)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] if rows, lengths or widths differ.
pub fn text_block(student: &Tensor, teacher: &Tensor, counts: Option<&Tensor>) -> Result<Tensor> {
    check_rows(student, teacher, "block outputs are compared pair by pair in one width")?;
    let shape = student.size();
    let fits = |other: &Tensor| other.size().get(..2) == Some(&shape[..2]);
    if let Some(other) = std::iter::once(teacher).chain(counts).find(|other| !fits(other)) {
        return Err(Error::Shapes {
            left: "the student's text states",
            left_shape: shape,
            right: "the teacher's states, or the mask",
            right_shape: other.size(),
            rule: "texts are compared token by token, so both models read the same tokens",
        });
    }
    let distance = normalize(student) - normalize(teacher);
    let squared = (&distance * &distance).mean_dim([2i64].as_slice(), false, None::<Kind>); // [rows, length]
    Ok(match counts {
        None => squared.mean(Kind::Float),
        Some(counts) => {
            let counts = counts.to_kind(Kind::Float);
            (squared * &counts).sum(Kind::Float) / counts.sum(Kind::Float).clamp_min(1.0)
        }
    })
}

/// Interpolates patches `[rows, grid * grid, width]` to the grid of `target`.
fn regrid(patches: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (shape, other) = (patches.size(), target.size());
    if shape[1] == other[1] {
        return Ok(patches.shallow_clone());
    }
    let (Some(from), Some(to)) = (side(shape[1]), side(other[1])) else {
        return Err(Error::Shapes {
            left: "the student's patches",
            left_shape: shape,
            right: "the teacher's",
            right_shape: other,
            rule: "only square grids are interpolated to each other",
        });
    };
    let grid = patches.f_view([shape[0], from, from, shape[2]])?.f_permute([0, 3, 1, 2])?;
    let grid = grid.f_upsample_bilinear2d([to, to], false, None, None)?; // [rows, width, to, to]
    Ok(grid.f_flatten(2, 3)?.f_transpose(1, 2)?)
}

/// Returns the side of a square grid with this number of `patches`.
fn side(patches: i64) -> Option<i64> {
    let side = (patches as f64).sqrt().round() as i64;
    (side > 0 && side * side == patches).then_some(side)
}

fn check_rows(student: &Tensor, teacher: &Tensor, rule: &'static str) -> Result<()> {
    let (left, right) = (student.size(), teacher.size());
    // At least one token, such as the class token, is required.
    let has_tokens = left.len() == 3 && right.len() == 3 && left[1] > 0 && right[1] > 0;
    if has_tokens && left[0] == right[0] && left[2] == right[2] {
        return Ok(());
    }
    Err(Error::Shapes {
        left: "the student's tokens",
        left_shape: left,
        right: "the teacher's tokens",
        right_shape: right,
        rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn tensor(values: &[f32], shape: &[i64]) -> Tensor {
        Tensor::from_slice(values).view(shape)
    }

    #[test]
    fn blocks_are_evenly_spaced_and_end_with_the_last() {
        assert_eq!(evenly_spaced(12, 3), [3, 7, 11]);
        assert_eq!(evenly_spaced(6, 3), [1, 3, 5]);
        assert_eq!(evenly_spaced(4, 3), [0, 2, 3]);
        assert_eq!(evenly_spaced(2, 3), [0, 1]);
        assert_eq!(evenly_spaced(24, 1), [23]);
        assert!(evenly_spaced(0, 3).is_empty());
        for depth in 1..40 {
            for count in 1..=depth {
                let blocks = evenly_spaced(depth, count);
                assert!(blocks.len() == count && blocks.windows(2).all(|pair| pair[0] < pair[1]));
                assert_eq!(blocks.last(), Some(&(depth - 1)));
            }
        }
    }

    #[test]
    fn by_hand() {
        // Norms do not matter: only the second of two tokens differs, by (1, -1).
        let student = tensor(&[3.0, 0.0, 2.0, 0.0], &[1, 2, 2]);
        let teacher = tensor(&[1.0, 0.0, 0.0, 9.0], &[1, 2, 2]);
        assert_eq!(patch_tokens(&student, &teacher).unwrap().double_value(&[]), 0.5);
        assert_eq!(image_block(&student, &teacher).unwrap().double_value(&[]), 0.5);
        assert_eq!(text_block(&student, &teacher, None).unwrap().double_value(&[]), 0.5);
        let counts = |both: [bool; 2]| Tensor::from_slice(&both).view([1, 2]);
        let masked = |both| text_block(&student, &teacher, Some(&counts(both))).unwrap().double_value(&[]);
        assert_eq!([masked([true, false]), masked([false, true]), masked([true, true])], [0.0, 1.0, 0.5]);
    }

    #[test]
    fn grids_are_interpolated_and_class_tokens_are_not() {
        // One patch is the same everywhere on a larger grid.
        let one = tensor(&[0.6, 0.8], &[1, 1, 2]);
        let four = tensor(&[0.6, 0.8, 0.6, 0.8, 0.6, 0.8, 0.6, 0.8], &[1, 4, 2]);
        assert!(patch_tokens(&one, &four).unwrap().double_value(&[]) < 1e-12);
        assert!(patch_tokens(&four, &one).unwrap().double_value(&[]) < 1e-12);
        // 4 x 4 to 2 x 2 averages each quarter.
        let fine = Tensor::arange(32, (Kind::Float, Device::Cpu)).view([1, 16, 2]);
        let quarters = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]];
        let mean = |indices: &[i64; 4]| {
            fine.index_select(1, &Tensor::from_slice(indices)).mean_dim([1i64].as_slice(), true, None::<Kind>)
        };
        let coarse = Tensor::cat(&quarters.iter().map(mean).collect::<Vec<_>>(), 1);
        assert!(patch_tokens(&fine, &coarse).unwrap().double_value(&[]) < 1e-12);
        let flipped = coarse.flip([1]);
        assert!(patch_tokens(&fine, &flipped).unwrap().double_value(&[]) > 1e-4);
        let class = tensor(&[1.0, 0.0], &[1, 1, 2]);
        let with = |class: &Tensor, patches: &Tensor| Tensor::cat(&[class, patches], 1);
        assert!(image_block(&with(&class, &fine), &with(&class, &coarse)).unwrap().double_value(&[]) < 1e-12);
        assert!(image_block(&with(&one, &fine), &with(&class, &coarse)).unwrap().double_value(&[]) > 1e-2);
    }

    #[test]
    fn errors_name_mismatched_shapes() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let error = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert!(error(patch_tokens(&zeros(&[2, 4, 3]), &zeros(&[2, 4, 5]))).contains("one width"));
        assert!(error(patch_tokens(&zeros(&[2, 4, 3]), &zeros(&[3, 4, 3]))).contains("pair by pair"));
        assert!(error(patch_tokens(&zeros(&[2, 5, 3]), &zeros(&[2, 4, 3]))).contains("square"));
        assert!(error(patch_tokens(&zeros(&[2, 3]), &zeros(&[2, 3]))).contains("[2, 3]"));
        assert!(error(image_block(&zeros(&[2, 0, 3]), &zeros(&[2, 4, 3]))).contains("[2, 0, 3]"));
        assert!(error(text_block(&zeros(&[2, 5, 3]), &zeros(&[2, 4, 3]), None)).contains("the same tokens"));
        let mask = zeros(&[2, 5]);
        assert!(error(text_block(&zeros(&[2, 4, 3]), &zeros(&[2, 4, 3]), Some(&mask))).contains("[2, 5]"));
    }
}

//! Retrieval: recall@k of images by texts and of texts by images.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::rows::check_image_of;
use crate::{Error, Result};

/// Size of a block of the similarity matrix, in queries and answers: 2 MiB of float32 values, small enough for the
/// cache. With blocks, memory does not grow with the number of answers.
const QUERIES: usize = 128;
const ANSWERS: usize = 4096;

/// Fractions of queries with a correct answer among the best 1, 5 and 10, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Recall@1.
    pub at_1: f64,
    /// Recall@5.
    pub at_5: f64,
    /// Recall@10.
    pub at_10: f64,
}

impl Recall {
    /// Computes the recall from the ranks: for each query, the number of wrong answers before the first correct one.
    fn from_ranks(ranks: &[usize]) -> Self {
        let share = |k: usize| ranks.iter().filter(|rank| **rank < k).count() as f64 / ranks.len() as f64;
        Recall { at_1: share(1), at_5: share(5), at_10: share(10) }
    }

    /// Returns the mean of the three.
    pub fn mean(&self) -> f64 {
        (self.at_1 + self.at_5 + self.at_10) / 3.0
    }
}

/// Results of a retrieval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Images as queries; any caption of the image is correct.
    pub image_to_text: Recall,
    /// Texts as queries.
    pub text_to_image: Recall,
    /// Number of images.
    pub images: usize,
    /// Number of texts.
    pub texts: usize,
}

/// Computes recall@1, 5 and 10 in both directions from unit embeddings of images `[images, embed_dim]` and texts
/// `[texts, embed_dim]`. `image_of[t]` is the image of text t.
///
/// ```
/// let rows = ndarray::Array2::<f32>::eye(3);
/// let found = zeroshot_eval::retrieval(rows.view(), rows.view(), &[0, 1, 2])?;
/// assert_eq!(found.image_to_text.at_1, 1.0);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the sizes differ, [`Error::Input`] for an image without text, a text without an existing image,
/// or a value that is not finite.
pub fn retrieval(
    images: ArrayView2<'_, f32>,
    texts: ArrayView2<'_, f32>,
    image_of: &[usize],
) -> Result<Retrieval> {
    if images.ncols() != texts.ncols() {
        return Err(Error::shape("width of the text embeddings", images.ncols(), texts.ncols()));
    }
    check_image_of(image_of, images.nrows(), texts.nrows())?;
    let mut texts_of = vec![Vec::new(); images.nrows()];
    for (text, &image) in image_of.iter().enumerate() {
        texts_of[image].push(text);
    }
    if images.nrows() == 0 || texts_of.iter().any(Vec::is_empty) {
        return Err(Error::Input("retrieval needs at least one image, and a text for each".into()));
    }
    if images.iter().any(|value| !value.is_finite()) || texts.iter().any(|value| !value.is_finite()) {
        return Err(Error::Input("an embedding is not finite".into()));
    }
    let by_image = ranks(images, texts, |image| &texts_of[image]);
    let own_image = image_of.iter().map(|&image| vec![image]).collect::<Vec<_>>();
    let by_text = ranks(texts, images, |text| &own_image[text]);
    Ok(Retrieval {
        image_to_text: Recall::from_ranks(&by_image),
        text_to_image: Recall::from_ranks(&by_text),
        images: images.nrows(),
        texts: texts.nrows(),
    })
}

/// Returns the number of wrong answers of each query whose score is at least that of its best correct answer.
fn ranks<'a>(
    queries: ArrayView2<'_, f32>,
    answers: ArrayView2<'_, f32>,
    right: impl Fn(usize) -> &'a Vec<usize> + Sync,
) -> Vec<usize> {
    (0..queries.nrows().div_ceil(QUERIES))
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let first = chunk * QUERIES;
            let queries = queries.slice(s![first..(first + QUERIES).min(queries.nrows()), ..]);
            // The best correct scores come from the same block products as all other scores, so that equal embeddings
            // get equal scores.
            let own = queries.rows().into_iter().enumerate().flat_map(|(row, _)| {
                right(first + row).iter().map(move |&answer| (answer / ANSWERS, (row, answer % ANSWERS)))
            });
            let mut own_blocks = BTreeMap::<usize, Vec<(usize, usize)>>::new();
            own.for_each(|(block, place)| own_blocks.entry(block).or_default().push(place));
            let mut best = vec![f32::NEG_INFINITY; queries.nrows()];
            for (&block, places) in &own_blocks {
                let scores = block_scores(queries, answers, block);
                for &(row, answer) in places {
                    best[row] = best[row].max(scores[[row, answer]]);
                }
            }
            let mut above = vec![0; queries.nrows()];
            for block in 0..answers.nrows().div_ceil(ANSWERS) {
                let scores = block_scores(queries, answers, block);
                for ((above, best), scores) in above.iter_mut().zip(&best).zip(scores.rows()) {
                    *above += scores.iter().filter(|score| *score >= best).count();
                }
                for &(row, answer) in own_blocks.get(&block).into_iter().flatten() {
                    above[row] -= usize::from(scores[[row, answer]] >= best[row]);
                }
            }
            above
        })
        .collect()
}

/// Returns the similarities of queries and a block of answers, `[queries, answers of the block]`.
fn block_scores(queries: ArrayView2<'_, f32>, answers: ArrayView2<'_, f32>, block: usize) -> Array2<f32> {
    let first = block * ANSWERS;
    queries.dot(&answers.slice(s![first..(first + ANSWERS).min(answers.nrows()), ..]).t())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        // Image 0 points right, image 1 up. Texts: 0 and 1 of image 0, 2 of image 1.
        let images = array![[1.0, 0.0], [0.0, 1.0]];
        let texts = array![[0.0, 1.0], [0.8, 0.6], [0.6, 0.8]];
        let found = retrieval(images.view(), texts.view(), &[0, 0, 1]).unwrap();
        // Image 0's best text is its own text 1. Image 1's best text is text 0, which belongs to image 0.
        assert_eq!(found.image_to_text, Recall { at_1: 0.5, at_5: 1.0, at_10: 1.0 });
        // Text 0 finds image 1 (wrong), text 1 image 0 and text 2 image 1 (right).
        assert_eq!(found.text_to_image.at_1, 2.0 / 3.0);
    }

    #[test]
    fn ranks_in_blocks_equal_ranks_from_the_whole_matrix() {
        let rows = |count: usize, step: f32| {
            let mut rows =
                Array2::from_shape_fn((count, 3), |(row, axis)| ((row * 3 + axis) as f32 * step).sin());
            crate::normalize_rows(&mut rows);
            rows
        };
        // More queries and answers than one block holds. Image 7 has texts in both blocks.
        let (images, texts) = (rows(QUERIES + 9, 0.7), rows(ANSWERS + 1000, 0.3));
        let own = (0..images.nrows())
            .map(|image| if image == 7 { vec![2, ANSWERS + 50] } else { vec![ANSWERS - 30 + image] })
            .collect::<Vec<_>>();
        let scores = images.dot(&texts.t());
        let expected = (0..images.nrows()).map(|image| {
            let best = own[image].iter().map(|&text| scores[[image, text]]).fold(f32::MIN, f32::max);
            (0..texts.nrows())
                .filter(|text| scores[[image, *text]] >= best && !own[image].contains(text))
                .count()
        });
        let expected = expected.collect::<Vec<_>>();
        assert_eq!(ranks(images.view(), texts.view(), |image| &own[image]), expected);
        assert!(expected.iter().any(|rank| *rank > 0));
    }

    #[test]
    fn a_collapsed_encoder_has_a_recall_of_0() {
        let rows = Array2::<f32>::ones((20, 4));
        let found = retrieval(rows.view(), rows.view(), &(0..20).collect::<Vec<_>>()).unwrap();
        assert_eq!(found.image_to_text.at_10, 0.0);
        assert_eq!(found.text_to_image.at_10, 0.0);
    }

    #[test]
    fn invalid_input_is_an_error() {
        let rows = Array2::<f32>::eye(3);
        assert!(retrieval(rows.view(), rows.view(), &[0, 1]).is_err());
        assert!(retrieval(rows.view(), rows.view(), &[0, 1, 3]).is_err());
        assert!(retrieval(rows.view(), rows.view(), &[0, 1, 1]).is_err());
        assert!(retrieval(rows.view(), array![[1.0]].view(), &[0]).is_err());
        let broken = Array2::from_elem((3, 3), f32::NAN);
        assert!(retrieval(rows.view(), broken.view(), &[0, 1, 2]).is_err());
    }

    proptest! {
        #[test]
        fn recall_agrees_with_counting_one_by_one(images in 1usize..300, extra in 0usize..50, seed in 0u64..1000) {
            // Small whole numbers: every order of summing gives the same scores.
            let value = |i: usize, j: usize, salt: u64| ((i as u64 * 31 + j as u64 * 17 + seed * 7 + salt).pow(2) % 17) as f32 - 8.0;
            let texts = images + extra;
            let image_rows = Array2::from_shape_fn((images, 4), |(i, j)| value(i, j, 1));
            let text_rows = Array2::from_shape_fn((texts, 4), |(i, j)| value(i, j, 2));
            let image_of = (0..texts).map(|t| t % images).collect::<Vec<_>>();
            let found = retrieval(image_rows.view(), text_rows.view(), &image_of).unwrap();
            let score = |i: usize, t: usize| image_rows.row(i).dot(&text_rows.row(t));
            let first = (0..images).filter(|&i| {
                let best = (0..texts).filter(|&t| image_of[t] == i).map(|t| score(i, t)).fold(f32::MIN, f32::max);
                (0..texts).all(|t| image_of[t] == i || score(i, t) < best)
            });
            prop_assert_eq!(found.image_to_text.at_1, first.count() as f64 / images as f64);
            let first = (0..texts).filter(|&t| {
                (0..images).filter(|&i| i != image_of[t] && score(i, t) >= score(image_of[t], t)).count() < 5
            });
            prop_assert_eq!(found.text_to_image.at_5, first.count() as f64 / texts as f64);
        }
    }
}

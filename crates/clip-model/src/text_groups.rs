//! Text grouping: removes duplicate texts of a batch and encodes texts of similar length together.
//!
//! Captions that are class names repeat within a batch, and one long caption lengthens the padding of all others. If
//! attention is causal and the embedding is the state of the end token, texts that are equal up to the end token have
//! equal embeddings, and the padding after it has no effect.

use std::collections::HashMap;

use tch::Tensor;

/// Lengths are rounded up to a multiple of this many tokens, which keeps the number of groups small.
const STEP: usize = 4;
/// Smallest group. Fewer texts join the group of the next longer ones, since each pass has a fixed cost.
const MIN_GROUP: usize = 8;

/// A batch of texts, split into groups of similar length.
#[derive(Debug, PartialEq)]
pub(crate) struct TextGroups {
    /// Batch rows of each group, and the length to which they are truncated.
    groups: Vec<(Vec<i64>, i64)>,
    /// For each batch row, its index in the concatenated groups.
    order: Vec<i64>,
}

impl TextGroups {
    /// Groups token ids `[rows, length]` with end tokens at `ends`. Returns `None` if grouping saves nothing.
    pub(crate) fn new(ids: &[i64], length: usize, ends: &[i64]) -> Option<Self> {
        let mut unique = Vec::new(); // (length, row)
        let mut first = HashMap::with_capacity(ends.len());
        let mut same_as = Vec::with_capacity(ends.len());
        for (row, (text, end)) in ids.chunks_exact(length).zip(ends).enumerate() {
            let text = &text[..=*end as usize];
            same_as.push(*first.entry(text).or_insert_with(|| {
                unique.push((text.len(), row));
                row
            }));
        }
        unique.sort_unstable();

        let mut groups: Vec<(Vec<i64>, i64)> = Vec::new();
        for (text_length, row) in unique {
            let padded = text_length.next_multiple_of(STEP).min(length) as i64;
            match groups.last_mut() {
                Some((rows, width)) if *width == padded || rows.len() < MIN_GROUP => {
                    rows.push(row as i64);
                    *width = padded;
                }
                _ => groups.push((vec![row as i64], padded)),
            }
        }
        let tokens = groups.iter().map(|(rows, width)| rows.len() * *width as usize).sum::<usize>();
        if tokens >= ids.len() {
            return None;
        }
        let mut index_of = vec![0; ends.len()];
        for (index, row) in groups.iter().flat_map(|(rows, _)| rows).enumerate() {
            index_of[*row as usize] = index as i64;
        }
        Some(TextGroups { order: same_as.into_iter().map(|row| index_of[row]).collect(), groups })
    }

    /// Runs `encode` on the tokens `[texts, length]` of each group. Returns embeddings `[batch, embed]` in the order
    /// of the batch.
    pub(crate) fn encode<E>(
        &self,
        tokens: &Tensor,
        mut encode: impl FnMut(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        let parts = self
            .groups
            .iter()
            .map(|(rows, width)| {
                encode(&tokens.index_select(0, &Tensor::from_slice(rows)).narrow(1, 0, *width))
            })
            .collect::<Result<Vec<_>, E>>()?;
        Ok(Tensor::cat(&parts, 0).index_select(0, &Tensor::from_slice(&self.order)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ClipConfig, Tape};
    use tch::{Device, Kind};

    #[test]
    fn duplicates_are_merged_and_lengths_are_separated() {
        // Ten short texts, the last of which equals the first except for its padding, and one long text.
        let mut ids = Vec::new();
        for row in 0..10i64 {
            ids.extend([1, if row == 9 { 0 } else { row }, 99, if row == 9 { 7 } else { 0 }, 0, 0, 0, 0, 0]);
        }
        ids.extend([1, 2, 3, 4, 5, 6, 7, 8, 99]);
        let ends = [[2; 10].as_slice(), &[8]].concat();
        let found = TextGroups::new(&ids, 9, &ends).unwrap();
        assert_eq!(found.groups, [((0..9).collect::<Vec<_>>(), 4), (vec![10], 9)]);
        assert_eq!(found.order, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9]);
        let tokens = Tensor::from_slice(&ids).view([11, 9]);
        let sums = found.encode(&tokens, |part| Ok::<_, ()>(part.sum_dim_intlist(1, true, None))).unwrap();
        // This sum includes the padding after the end token, unlike any tower. The last short text equals the first.
        assert_eq!(
            Vec::<i64>::try_from(sums.view([-1])).unwrap(),
            [100, 101, 102, 103, 104, 105, 106, 107, 108, 100, 135]
        );
    }

    #[test]
    fn few_short_texts_join_longer_ones() {
        let mut ids = Vec::new();
        let mut ends = Vec::new();
        for (row, end) in [1usize, 1, 6, 11, 11].into_iter().enumerate() {
            let mut text = vec![0; 16];
            (text[0], text[end]) = (row as i64 + 1, 99);
            ids.extend(text);
            ends.push(end as i64);
        }
        let found = TextGroups::new(&ids, 16, &ends).unwrap();
        assert_eq!(found.groups, [(vec![0, 1, 2, 3, 4], 12)]);
    }

    #[test]
    fn grouped_embeddings_and_gradients_match_the_whole_batch() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"layers": 1, "width": 64, "patch_size": 8, "image_size": 16},
            "text_cfg": {"layers": 2, "width": 16, "heads": 2, "vocab_size": 64, "context_length": 24}}"#;
        let model = Clip::new(&ClipConfig::from_json("test", json).unwrap(), Device::Cpu, 3).unwrap();
        // Forty texts of four lengths with many duplicates.
        let ids = (0..40i64).flat_map(|row| {
            let end = [3, 7, 12, 23][row as usize % 4];
            (0..24).map(move |position| match position {
                0 => 62,
                _ if position == end => 63,
                _ if position > end => 0,
                _ => 1 + (row % 10 * 7 + position * 3) % 60,
            })
        });
        let tokens = Tensor::from_slice(&ids.collect::<Vec<_>>()).view([40, 24]);
        assert!(model.text.group(&tokens).is_some());
        let gradients = |embed: &dyn Fn() -> Tensor| {
            model.params().iter().for_each(|parameter| parameter.tensor.shallow_clone().zero_grad());
            let embedding = embed();
            let weights = Tensor::arange(40 * 16, (Kind::Float, Device::Cpu)).sin().view([40, 16]);
            (&embedding * weights).sum(Kind::Float).backward();
            let gradient = |name: &str| model.params().get(name).unwrap().grad().copy();
            [
                embedding.detach(),
                gradient("token_embedding.weight"),
                gradient("positional_embedding"),
                gradient("text_projection"),
            ]
        };
        let whole = gradients(&|| model.text.forward_ungrouped(&tokens, &mut Tape::off()).unwrap());
        let grouped = gradients(&|| model.text.forward(&tokens, &mut Tape::off()).unwrap());
        for (whole, grouped) in whole.iter().zip(&grouped) {
            let error = (whole - grouped).abs().max().double_value(&[]);
            assert!(error <= 1e-5 * whole.abs().max().double_value(&[]), "{error}");
        }
    }

    #[test]
    fn batches_without_savings_are_not_grouped() {
        assert_eq!(TextGroups::new(&[1, 2, 9, 1, 3, 9], 3, &[2, 2]), None);
        assert_eq!(TextGroups::new(&[], 3, &[]), None);
    }
}

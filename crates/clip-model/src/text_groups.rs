//! Each text of a batch computed once, beside others of like length.
//!
//! Class names as captions repeat within a batch, and one long caption makes all others pay for its length. Where
//! attention is causal and the end token's state is the text's, neither has to be: texts that are the same up to
//! their end token have the same embedding, and what stands behind it is never read.

use std::collections::HashMap;

use tch::Tensor;

/// Lengths are rounded up to this many tokens, so that there are few groups.
const STEP: usize = 4;
/// Fewer texts than this go with the next longer ones: a pass costs something, however small it is.
const FEWEST: usize = 8;

/// A batch of texts in groups.
#[derive(Debug, PartialEq)]
pub(crate) struct TextGroups {
    /// Of each group: rows of the batch, and the length to which they are cut.
    groups: Vec<(Vec<i64>, i64)>,
    /// Of each row of the batch: its place in the groups, one behind the other.
    places: Vec<i64>,
}

impl TextGroups {
    /// Groups for token ids `[rows, length]` whose end tokens stand at `ends`; `None` where they would save nothing.
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
        for (own, row) in unique {
            let own = own.next_multiple_of(STEP).min(length) as i64;
            match groups.last_mut() {
                Some((rows, cut)) if *cut == own || rows.len() < FEWEST => {
                    rows.push(row as i64);
                    *cut = own;
                }
                _ => groups.push((vec![row as i64], own)),
            }
        }
        let tokens = groups.iter().map(|(rows, cut)| rows.len() * *cut as usize).sum::<usize>();
        if tokens >= ids.len() {
            return None;
        }
        let mut place_of = vec![0; ends.len()];
        for (place, row) in groups.iter().flat_map(|(rows, _)| rows).enumerate() {
            place_of[*row as usize] = place as i64;
        }
        Some(TextGroups { places: same_as.into_iter().map(|row| place_of[row]).collect(), groups })
    }

    /// Runs `encode` on each group's tokens `[texts, length]`; embeddings `[batch, embed]` in the batch's order.
    pub(crate) fn encode<E>(
        &self,
        tokens: &Tensor,
        mut encode: impl FnMut(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        let parts = self
            .groups
            .iter()
            .map(|(rows, cut)| encode(&tokens.index_select(0, &Tensor::from_slice(rows)).narrow(1, 0, *cut)))
            .collect::<Result<Vec<_>, E>>()?;
        Ok(Tensor::cat(&parts, 0).index_select(0, &Tensor::from_slice(&self.places)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ClipConfig, Tape};
    use tch::{Device, Kind};

    #[test]
    fn equal_texts_are_one_and_lengths_are_apart() {
        // Ten short texts (of which the last is the first again, with other padding) and one long one.
        let mut ids = Vec::new();
        for row in 0..10i64 {
            ids.extend([1, if row == 9 { 0 } else { row }, 99, if row == 9 { 7 } else { 0 }, 0, 0, 0, 0, 0]);
        }
        ids.extend([1, 2, 3, 4, 5, 6, 7, 8, 99]);
        let ends = [[2; 10].as_slice(), &[8]].concat();
        let found = TextGroups::new(&ids, 9, &ends).unwrap();
        assert_eq!(found.groups, [((0..9).collect::<Vec<_>>(), 4), (vec![10], 9)]);
        assert_eq!(found.places, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9]);
        let tokens = Tensor::from_slice(&ids).view([11, 9]);
        let sums = found.encode(&tokens, |part| Ok::<_, ()>(part.sum_dim_intlist(1, true, None))).unwrap();
        // Padding behind the end token is read by this sum alone, which no tower does; the last short text is the first.
        assert_eq!(
            Vec::<i64>::try_from(sums.view([-1])).unwrap(),
            [100, 101, 102, 103, 104, 105, 106, 107, 108, 100, 135]
        );
    }

    #[test]
    fn few_short_texts_go_with_longer_ones() {
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
    fn embeddings_and_gradients_are_those_of_the_whole_batch() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"layers": 1, "width": 64, "patch_size": 8, "image_size": 16},
            "text_cfg": {"layers": 2, "width": 16, "heads": 2, "vocab_size": 64, "context_length": 24}}"#;
        let model = Clip::new(&ClipConfig::from_json("test", json).unwrap(), Device::Cpu, 3).unwrap();
        // Forty texts of four lengths, of which many are the same.
        let ids = (0..40i64).flat_map(|row| {
            let end = [3, 7, 12, 23][row as usize % 4];
            (0..24).map(move |place| match place {
                0 => 62,
                _ if place == end => 63,
                _ if place > end => 0,
                _ => 1 + (row % 10 * 7 + place * 3) % 60,
            })
        });
        let tokens = Tensor::from_slice(&ids.collect::<Vec<_>>()).view([40, 24]);
        assert!(model.text.groups(&tokens).is_some());
        let gradients = |embed: &dyn Fn() -> Tensor| {
            model.params().iter().for_each(|own| own.tensor.shallow_clone().zero_grad());
            let embedding = embed();
            let weights = Tensor::arange(40 * 16, (Kind::Float, Device::Cpu)).sin().view([40, 16]);
            (&embedding * weights).sum(Kind::Float).backward();
            let of = |name: &str| {
                let own = model.params().iter().find(|own| own.name == name).unwrap();
                own.tensor.grad().copy()
            };
            [
                embedding.detach(),
                of("token_embedding.weight"),
                of("positional_embedding"),
                of("text_projection"),
            ]
        };
        let whole = gradients(&|| model.text.plain(&tokens, &mut Tape::off()).unwrap());
        let grouped = gradients(&|| model.text.forward(&tokens, &mut Tape::off()).unwrap());
        for (whole, grouped) in whole.iter().zip(&grouped) {
            let error = (whole - grouped).abs().max().double_value(&[]);
            assert!(error <= 1e-5 * whole.abs().max().double_value(&[]), "{error}");
        }
    }

    #[test]
    fn nothing_to_save_is_no_group() {
        assert_eq!(TextGroups::new(&[1, 2, 9, 1, 3, 9], 3, &[2, 2]), None);
        assert_eq!(TextGroups::new(&[], 3, &[]), None);
    }
}

//! Byte-pair encoding of a word, with the merges of OpenAI's CLIP (MIT licence).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Read;

use flate2::read::GzDecoder;

use super::steps;

/// The 48,894 merges of the published list that CLIP uses, best first.
const MERGES: &[u8] = include_bytes!("../../data/clip-bpe-merges.txt.gz");
/// Maximum length in bytes for merging by repeated scans over all pairs.
const SHORT_WORD: usize = 32;

/// Ids of bytes and of merged symbols.
pub(super) struct Bpe {
    /// Id of each byte within a word. The last byte of a word has an id that is 256 larger.
    bytes: [u32; 256],
    /// Rank and merged symbol of two neighbouring symbols.
    pairs: HashMap<(u32, u32), (u32, u32)>,
    symbols: usize,
}

impl Bpe {
    /// Unpacks the embedded merges.
    pub(super) fn embedded() -> Self {
        Self::parse(&unpacked())
    }

    fn parse(merges: &str) -> Self {
        let letters = byte_letters();
        let mut bytes = [0; 256];
        let mut ids = HashMap::new();
        for (id, &(byte, letter)) in letters.iter().enumerate() {
            bytes[usize::from(byte)] = id as u32;
            ids.insert(letter.to_string(), id as u32);
            ids.insert(format!("{letter}</w>"), 256 + id as u32);
        }
        let lines = merges.lines().filter_map(|line| line.split_once(' ')).collect::<Vec<_>>();
        // Two merges can give the same symbol; the published vocabulary keeps the last id.
        for (rank, (first, second)) in lines.iter().enumerate() {
            ids.insert(format!("{first}{second}"), 512 + rank as u32);
        }
        let mut pairs = HashMap::with_capacity(lines.len());
        for (rank, (first, second)) in lines.iter().enumerate() {
            if let (Some(&a), Some(&b)) = (ids.get(*first), ids.get(*second)) {
                pairs.insert((a, b), (rank as u32, ids[&format!("{first}{second}")]));
            }
        }
        Bpe { bytes, pairs, symbols: 512 + lines.len() }
    }

    /// Returns the number of ids.
    pub(super) fn symbols(&self) -> usize {
        self.symbols
    }

    /// Appends the ids of a word, which must not be empty.
    pub(super) fn merge_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let start = ids.len();
        ids.extend(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
        if let Some(last) = ids.last_mut() {
            *last += 256;
        }
        if word.len() <= SHORT_WORD {
            self.merge_short(ids, start);
        } else {
            let merged = self.merge_long(&ids[start..]);
            ids.truncate(start);
            ids.extend(merged);
        }
    }

    fn merge_short(&self, ids: &mut Vec<u32>, start: usize) {
        loop {
            steps::add(ids.len() - start);
            let ranked = ids[start..].windows(2).filter_map(|pair| self.pairs.get(&(pair[0], pair[1])));
            let Some(&(rank, merged)) = ranked.min_by_key(|(rank, _)| *rank) else { return };
            // Merge all occurrences of the best pair, from left to right.
            let (mut read, mut write) = (start, start);
            while read < ids.len() {
                let best = read + 1 < ids.len()
                    && self.pairs.get(&(ids[read], ids[read + 1])).is_some_and(|&(r, _)| r == rank);
                ids[write] = if best { merged } else { ids[read] };
                read += if best { 2 } else { 1 };
                write += 1;
            }
            ids.truncate(write);
        }
    }

    /// Merges with a queue of pairs over a linked list, in n log n steps, with the result of [`Bpe::merge_short`].
    fn merge_long(&self, symbols: &[u32]) -> Vec<u32> {
        const GONE: u32 = u32::MAX;
        const NONE: usize = usize::MAX;
        let mut ids = symbols.to_vec();
        let mut next = (1..=ids.len()).collect::<Vec<_>>();
        let mut previous = (0..ids.len()).map(|i| i.wrapping_sub(1)).collect::<Vec<_>>();
        let mut queue = BinaryHeap::new();
        let pair_at = |ids: &[u32], left: usize, right: usize| {
            self.pairs.get(&(ids[left], ids[right])).map(|&(rank, merged)| Reverse((rank, left, merged)))
        };
        queue.extend((1..ids.len()).filter_map(|right| pair_at(&ids, right - 1, right)));
        while let Some(Reverse((rank, left, merged))) = queue.pop() {
            steps::add(1);
            let right = next[left];
            let current = right < ids.len()
                && ids[left] != GONE
                && self.pairs.get(&(ids[left], ids[right])).is_some_and(|&(r, _)| r == rank);
            if !current {
                continue;
            }
            ids[left] = merged;
            ids[right] = GONE;
            next[left] = next[right];
            if next[left] < ids.len() {
                previous[next[left]] = left;
                queue.extend(pair_at(&ids, left, next[left]));
            }
            if previous[left] != NONE {
                queue.extend(pair_at(&ids, previous[left], left));
            }
        }
        ids.retain(|&id| id != GONE);
        ids
    }
}

fn unpacked() -> String {
    let mut text = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut text).expect("the embedded merges are intact");
    text
}

/// Returns the printable letter for each byte in the published table, in the order of the ids.
fn byte_letters() -> Vec<(u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255u8).filter(printable).map(|byte| (byte, char::from(byte)));
    let others = (0..=255u8).filter(|byte| !printable(byte)).zip('\u{100}'..);
    own.chain(others).collect()
}

/// The published vocabulary and merges.
pub(super) struct Published {
    /// Tokens without special tokens, with their ids.
    pub(super) vocabulary: Vec<(String, u32)>,
    /// Merges (two symbols separated by a space), in the order of their ids.
    pub(super) merges: Vec<String>,
}

/// Returns the published vocabulary and merges.
pub(super) fn published() -> Published {
    let letters = byte_letters();
    let single = letters.iter().map(|(_, letter)| letter.to_string());
    let last = letters.iter().map(|(_, letter)| format!("{letter}</w>"));
    let text = unpacked();
    let merges = text.lines().filter(|line| line.contains(' ')).map(str::to_string).collect::<Vec<_>>();
    let symbols = single.chain(last).chain(merges.iter().map(|line| line.replacen(' ', "", 1)));
    Published { vocabulary: symbols.zip(0..).collect(), merges }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_merges_are_embedded() {
        let bpe = Bpe::embedded();
        assert_eq!(bpe.symbols(), 49_406);
        assert_eq!(bpe.pairs.len(), 48_894);
    }

    #[test]
    fn short_and_long_words_merge_the_same_way() {
        let bpe = Bpe::embedded();
        proptest!(|(word in "[a-f]{2,80}|[a-z]{2,60}|\\PC{1,20}")| {
            let mut short = word.bytes().map(|b| bpe.bytes[usize::from(b)]).collect::<Vec<_>>();
            *short.last_mut().unwrap() += 256;
            let long = bpe.merge_long(&short);
            bpe.merge_short(&mut short, 0);
            prop_assert_eq!(short, long);
        });
    }
}

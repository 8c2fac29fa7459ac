//! Mutation tests: valid files with some bytes changed, cut, moved or repeated, the same in every run. Each is read
//! or refused, without a panic and without allocating more than a few times its own size.

use file_ext::SplitMix64;

use super::memory::largest_request;
use super::state;
use super::write::{PickleWriter, archive, legacy, zip};
use crate::weight_files::{WeightFile, opcode as op};
use crate::weights::write_safetensors;

/// Number of mutations of each file.
const MUTATIONS: u64 = 4000;
/// Allowed allocation beyond a multiple of the file's size: buffers of a fixed size.
const BUFFERS: usize = 1 << 17;
/// Allowed multiple: a value of a pickle takes more memory than its opcode takes bytes.
const EXPANSION: usize = 64;

/// Random numbers for mutations.
struct Rng(SplitMix64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Returns a range within `length` bytes, usually a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let longest = if self.below(4) == 0 { length } else { 24 };
        start..(start + 1 + self.below(longest)).min(length)
    }
}

/// Returns the file with one to four changes, some of which use parts of `other`.
fn mutated(file: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..1 + rng.below(4) {
        if file.is_empty() {
            return file;
        }
        let at = rng.below(file.len());
        match rng.below(8) {
            0 => file[at] ^= 1 << rng.below(8),
            1 => file[at] = rng.next() as u8,
            2 => file.truncate(at),
            3 => drop(file.drain(rng.range(file.len()))),
            // A length, count or offset that is very large or zero.
            4 => {
                let claims = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 40, u64::from(u32::MAX), 1 << 31, 1 << 63];
                let bytes = claims[rng.below(claims.len())].to_le_bytes();
                let width = [2, 4, 8][rng.below(3)].min(file.len() - at);
                file[at..at + width].copy_from_slice(&bytes[..width]);
            }
            5 => {
                let part = file[rng.range(file.len())].to_vec();
                drop(file.splice(at..at, part));
            }
            6 => {
                let part = other[rng.range(other.len())].to_vec();
                drop(file.splice(at..at, part));
            }
            _ => {
                let part = &other[rng.range(other.len())];
                let part = part[..part.len().min(file.len() - at)].to_vec();
                file[at..at + part.len()].copy_from_slice(&part);
            }
        }
    }
    file
}

fn safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let state = state();
    write_safetensors(&path, state.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    std::fs::read(&path).unwrap()
}

/// Returns an archive of nested TorchScript modules.
fn script() -> Vec<u8> {
    let state = state();
    let module = |pickle: PickleWriter| {
        pickle.global("__torch__", "M").op(op::EMPTY_TUPLE).op(op::NEWOBJ).op(op::EMPTY_DICT).op(op::MARK)
    };
    let pickle = module(module(PickleWriter::new()).text("visual"))
        .text("proj")
        .tensor("FloatStorage", "1", 12, 0, &[4, 3], &[3, 1])
        .op(op::SETITEMS)
        .op(op::BUILD)
        .op(op::SETITEMS)
        .op(op::BUILD)
        .stop();
    let storages = super::write::storages(&state);
    let mut entries = vec![("run/data.pkl", pickle), ("run/constants.pkl", Vec::new())];
    entries.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    zip(&entries)
}

/// Reads mutations of a file, and returns how many could be read.
fn survivors(seed: u64, file: &[u8], other: &[u8], wrap: impl Fn(Vec<u8>) -> Vec<u8>) -> u64 {
    WeightFile::from_bytes(&wrap(file.to_vec())).unwrap();
    let mut rng = Rng(SplitMix64::new(seed));
    (0..MUTATIONS)
        .map(|number| {
            let bytes = wrap(mutated(file, other, &mut rng));
            let mut good = false;
            let requested = largest_request(|| good = WeightFile::from_bytes(&bytes).is_ok());
            let limit = BUFFERS + EXPANSION * bytes.len();
            assert!(
                requested <= limit,
                "seed {seed}, mutation {number}: {requested} bytes for a file of {}",
                bytes.len()
            );
            u64::from(good)
        })
        .sum()
}

/// Asserts that some mutations can be read and some cannot; otherwise they are too mild or too strong.
fn assert_mixed(name: &str, survivors: u64) {
    assert!((10..MUTATIONS - 10).contains(&survivors), "{name}: {survivors} of {MUTATIONS}");
}

#[test]
fn mutated_archives_are_read_or_refused() {
    let pickle = PickleWriter::new().state(&state()).stop();
    let file = archive(pickle.clone(), &state());
    assert_mixed("archive", survivors(1, &file, &legacy(&state()), |bytes| bytes));
    assert_mixed("TorchScript", survivors(2, &script(), &file, |bytes| bytes));
    // The pickle alone, since the directory of the archive would catch most mutations.
    let other = legacy(&state());
    assert_mixed("pickle", survivors(3, &pickle, &other, |pickle| archive(pickle, &state())));
}

#[test]
fn mutated_legacy_files_are_read_or_refused() {
    let file = legacy(&state());
    let other = archive(PickleWriter::new().state(&state()).stop(), &state());
    assert_mixed("legacy", survivors(4, &file, &other, |bytes| bytes));
}

#[test]
fn mutated_safetensors_are_read_or_refused() {
    let file = safetensors();
    assert_mixed("safetensors", survivors(5, &file, &legacy(&state()), |bytes| bytes));
    // The header alone, with the correct length.
    let size = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, data) = file[8..].split_at(size);
    let wrap = |header: Vec<u8>| [&(header.len() as u64).to_le_bytes()[..], &header, data].concat();
    assert_mixed("header", survivors(6, header, header, wrap));
}

#[test]
fn mutated_indexes_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), safetensors()).unwrap();
    let index = br#"{"metadata":{"total_size":1},"weight_map":{"logit_scale":"a","visual.proj":"a"}}"#;
    let path = folder.path().join("model.safetensors.index.json");
    let mut rng = Rng(SplitMix64::new(7));
    let mut good = 0;
    for _ in 0..MUTATIONS / 4 {
        std::fs::write(&path, mutated(index, index, &mut rng)).unwrap();
        good += u64::from(WeightFile::open(&path).is_ok());
    }
    assert!((5..MUTATIONS / 4).contains(&good), "{good}");
}

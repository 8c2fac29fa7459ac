//! Good files with some bytes changed, cut, moved or repeated, the same ones in every run: each is read or
//! refused, without a panic, and without asking for more memory than a few times its own size.

use file_ext::SplitMix64;

use super::memory::largest_request;
use super::state;
use super::write::{Pickle, archive, legacy, zip};
use crate::checkpoint::{opcode as op, read, read_bytes};
use crate::weights::write_safetensors;

/// Mutations of each file.
const MUTATIONS: u64 = 4000;
/// What reading may ask for at once beyond a multiple of the file: buffers of a fixed size.
const BUFFERS: usize = 1 << 17;
/// A value of a pickle takes more memory than its opcode takes bytes.
const EXPANSION: usize = 64;

/// Random draws for mutations.
struct Draw(SplitMix64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A part of `length` bytes, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let most = if self.below(4) == 0 { length } else { 24 };
        start..(start + 1 + self.below(most)).min(length)
    }
}

/// The file with one to four changes, of `file` itself or with parts of `other`.
fn mutated(file: &[u8], other: &[u8], draw: &mut Draw) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..1 + draw.below(4) {
        if file.is_empty() {
            return file;
        }
        let at = draw.below(file.len());
        match draw.below(8) {
            0 => file[at] ^= 1 << draw.below(8),
            1 => file[at] = draw.next() as u8,
            2 => file.truncate(at),
            3 => drop(file.drain(draw.range(file.len()))),
            // A length, count or offset that claims a lot, or nothing.
            4 => {
                let claims = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 40, u64::from(u32::MAX), 1 << 31, 1 << 63];
                let bytes = claims[draw.below(claims.len())].to_le_bytes();
                let width = [2, 4, 8][draw.below(3)].min(file.len() - at);
                file[at..at + width].copy_from_slice(&bytes[..width]);
            }
            5 => {
                let part = file[draw.range(file.len())].to_vec();
                drop(file.splice(at..at, part));
            }
            6 => {
                let part = other[draw.range(other.len())].to_vec();
                drop(file.splice(at..at, part));
            }
            _ => {
                let part = &other[draw.range(other.len())];
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

/// Modules within modules, as TorchScript writes them.
fn script() -> Vec<u8> {
    let state = state();
    let module = |pickle: Pickle| {
        pickle.global("__torch__", "M").op(op::EMPTY_TUPLE).op(op::NEWOBJ).op(op::EMPTY_DICT).op(op::MARK)
    };
    let pickle = module(module(Pickle::new()).text("visual"))
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

/// Reads mutations of a file; how many of them could be read.
fn survivors(seed: u64, file: &[u8], other: &[u8], wrap: impl Fn(Vec<u8>) -> Vec<u8>) -> u64 {
    read_bytes(&wrap(file.to_vec())).unwrap();
    let mut draw = Draw(SplitMix64::new(seed));
    (0..MUTATIONS)
        .map(|number| {
            let bytes = wrap(mutated(file, other, &mut draw));
            let mut good = false;
            let asked = largest_request(|| good = read_bytes(&bytes).is_ok());
            let most = BUFFERS + EXPANSION * bytes.len();
            assert!(
                asked <= most,
                "seed {seed}, mutation {number}: {asked} bytes for a file of {}",
                bytes.len()
            );
            u64::from(good)
        })
        .sum()
}

/// Some have to be readable and some not, or the mutations are too mild or too harsh to say anything.
fn assert_mixed(name: &str, survivors: u64) {
    assert!((10..MUTATIONS - 10).contains(&survivors), "{name}: {survivors} of {MUTATIONS}");
}

#[test]
fn mutated_archives_are_read_or_refused() {
    let pickle = Pickle::new().state(&state()).stop();
    let file = archive(pickle.clone(), &state());
    assert_mixed("archive", survivors(1, &file, &legacy(&state()), |bytes| bytes));
    assert_mixed("TorchScript", survivors(2, &script(), &file, |bytes| bytes));
    // The pickle alone, so that the directory of the archive does not catch most of it.
    let other = legacy(&state());
    assert_mixed("pickle", survivors(3, &pickle, &other, |pickle| archive(pickle, &state())));
}

#[test]
fn mutated_legacy_files_are_read_or_refused() {
    let file = legacy(&state());
    let other = archive(Pickle::new().state(&state()).stop(), &state());
    assert_mixed("legacy", survivors(4, &file, &other, |bytes| bytes));
}

#[test]
fn mutated_safetensors_are_read_or_refused() {
    let file = safetensors();
    assert_mixed("safetensors", survivors(5, &file, &legacy(&state()), |bytes| bytes));
    // The header alone, with a length that is right.
    let size = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, data) = file[8..].split_at(size);
    let wrap = |header: Vec<u8>| [&(header.len() as u64).to_le_bytes()[..], &header, data].concat();
    assert_mixed("header", survivors(6, header, header, wrap));
}

#[test]
fn mutated_indices_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), safetensors()).unwrap();
    let index = br#"{"metadata":{"total_size":1},"weight_map":{"logit_scale":"a","visual.proj":"a"}}"#;
    let path = folder.path().join("model.safetensors.index.json");
    let mut draw = Draw(SplitMix64::new(7));
    let mut good = 0;
    for _ in 0..MUTATIONS / 4 {
        std::fs::write(&path, mutated(index, index, &mut draw)).unwrap();
        good += u64::from(read(&path).is_ok());
    }
    assert!((5..MUTATIONS / 4).contains(&good), "{good}");
}

//! JPEG files of all supported variants give PIL's pixels; damaged files are errors.
//!
//! `tests/python/golden_jpeg.py` writes the files and the checksums of the pixels that PIL decodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use data_pipeline::DamageKind;
use data_pipeline::image::decode;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jpeg"))
}

/// Returns all files by name, without extension.
fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

fn file(name: &str) -> Vec<u8> {
    files().remove(name).unwrap()
}

fn kind(bytes: &[u8]) -> Option<DamageKind> {
    decode(bytes).err().map(|error| error.kind)
}

/// Returns the offset of the first segment with a marker.
fn place(bytes: &[u8], marker: u8) -> usize {
    bytes.windows(2).position(|pair| pair == [0xFF, marker]).unwrap()
}

#[test]
fn pixels_equal_pils() {
    let list = std::fs::read_to_string(folder().join("pixels.json")).unwrap();
    let list: BTreeMap<String, serde_json::Value> = serde_json::from_str(&list).unwrap();
    let files = files();
    assert!(list.keys().eq(files.keys()) && files.len() == 40, "{} files", files.len());
    for (name, bytes) in files {
        let image = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")).to_rgb();
        let checksum =
            Sha256::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = serde_json::json!({"width": image.width, "height": image.height, "sha256": checksum});
        assert_eq!(found, list[&name], "{name}");
    }
}

#[test]
fn truncated_files_are_named_as_such() {
    for (name, bytes) in files() {
        if name == "more-behind-the-end" {
            continue;
        }
        let end = bytes.len();
        for length in (end - 2..end).chain((2..end).step_by(29)) {
            assert_eq!(
                kind(&bytes[..length]),
                Some(DamageKind::TruncatedJpeg),
                "{name} cut to {length} of {end}"
            );
        }
    }
}

#[test]
fn progressive_files_without_their_last_scans_are_truncated() {
    let bytes = file("progressive-420");
    let scans = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == [0xFF, 0xDA]).map(|(at, _)| at);
    let scans = scans.collect::<Vec<_>>();
    assert!(scans.len() > 5);
    for &at in &scans {
        let shorter = [&bytes[..at], b"\xFF\xD9"].concat();
        assert!(matches!(kind(&shorter), Some(DamageKind::TruncatedJpeg | DamageKind::DamagedJpeg)), "{at}");
    }
}

#[test]
fn unsupported_variants_are_named() {
    let bytes = file("422");
    let frame = place(&bytes, 0xC0);
    for (offset, value, words) in [
        (1, 0xC3, "lossless"),
        (1, 0xC5, "hierarchical"),
        (1, 0xC9, "arithmetic"),
        (4, 12, "12 bits per sample"),
        (9, 2, "2 components"),
        (14, 0x31, "fractional sampling factors"),
    ] {
        let mut other = bytes.clone();
        other[frame + offset] = value;
        if words.contains("fractional") {
            other[frame + 11] = 0x21;
        }
        let error = decode(&other).unwrap_err();
        assert_eq!(error.kind, DamageKind::UnsupportedImage, "{words}: {error}");
        assert!(error.reason.contains(words), "{error}");
    }
}

#[test]
fn stated_sizes_are_checked_before_memory_is_used() {
    for name in ["420", "progressive-420", "apart"] {
        let bytes = file(name);
        let frame = bytes.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0..=0xC2])).unwrap();
        let sized = |height: u16, width: u16| {
            let mut other = bytes.clone();
            other[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
            other[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
            kind(&other)
        };
        assert_eq!(sized(0, 40), Some(DamageKind::EmptyImage));
        assert_eq!(sized(40, 0), Some(DamageKind::EmptyImage));
        assert_eq!(sized(65535, 65535), Some(DamageKind::TooLarge));
        // Within the limit, but the data ends long before.
        assert_eq!(sized(12000, 12000), Some(DamageKind::DamagedJpeg));
    }
}

#[test]
fn missing_and_wrong_restart_markers_are_errors() {
    let bytes = file("420-restart-blocks");
    let at = bytes.windows(2).position(|pair| pair == [0xFF, 0xD1]).unwrap();
    for value in [0xD2, 0xD9] {
        let mut other = bytes.clone();
        other[at + 1] = value;
        assert_eq!(kind(&other), Some(DamageKind::DamagedJpeg), "{value:#x}");
    }
    let shorter = [&bytes[..at], &bytes[at + 2..]].concat();
    assert_eq!(kind(&shorter), Some(DamageKind::DamagedJpeg));
}

/// Returns a grey progressive file of one block, in which each scan adds one bit to one coefficient.
fn many_scans(count: usize) -> Vec<u8> {
    let mut bytes = b"\xFF\xD8\xFF\xDB\0\x43\0".to_vec();
    bytes.extend([1; 64]);
    bytes.extend(b"\xFF\xC2\0\x0B\x08\0\x08\0\x08\x01\x01\x11\0");
    for class in [0x00, 0x10] {
        // The only code, `0`, is a value of size 0.
        bytes.extend([0xFF, 0xC4, 0, 20, class, 1]);
        bytes.extend([0; 16]);
    }
    bytes.extend(b"\xFF\xDA\0\x08\x01\x01\0\0\0\0\x7F");
    let bits = (0..=13u8).rev().flat_map(|low| (1..64u8).map(move |place| (place, low)));
    for (place, low) in bits.take(count) {
        let high = if low == 13 { 0 } else { low + 1 };
        bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, place, place, high << 4 | low, 0x7F]);
    }
    bytes.extend(b"\xFF\xD9");
    bytes
}

#[test]
fn the_number_of_scans_is_limited() {
    // 199 AC scans stay within the limit but leave bits missing.
    assert_eq!(kind(&many_scans(199)), Some(DamageKind::TruncatedJpeg));
    let error = decode(&many_scans(200)).unwrap_err();
    assert!(error.kind == DamageKind::DamagedJpeg && error.reason.contains("too many scans"), "{error}");
}

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(u8),
    Flip(u8),
    Remove(usize),
    Insert(Vec<u8>),
}

fn change() -> impl Strategy<Value = (f64, bool, Change)> {
    let change = prop_oneof![
        4 => any::<u8>().prop_map(Change::Set),
        4 => (0..8u8).prop_map(|bit| Change::Flip(1 << bit)),
        1 => (1..20usize).prop_map(Change::Remove),
        1 => prop::collection::vec(any::<u8>(), 1..10).prop_map(Change::Insert),
    ];
    (0.0..1.0, any::<bool>(), change)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(index in 0..40usize, changes in prop::collection::vec(change(), 1..6)) {
        let mut bytes = files().into_values().nth(index).unwrap();
        for (share, in_header, change) in changes {
            // Half of the changes are in the header, which changes anywhere in the file would rarely hit.
            let length = if in_header { bytes.len().min(700) } else { bytes.len() };
            let at = (share * length as f64) as usize;
            match change {
                Change::Set(value) => bytes[at] = value,
                Change::Flip(bit) => bytes[at] ^= bit,
                Change::Remove(count) => drop(bytes.drain(at..(at + count).min(length))),
                Change::Insert(more) => drop(bytes.splice(at..at, more)),
            }
            prop_assume!(!bytes.is_empty());
        }
        if let Ok(image) = decode(&bytes) {
            prop_assert_eq!(image.to_rgb().pixels.len(), 3 * image.width() * image.height());
        } else {
            prop_assert_ne!(kind(&bytes), Some(DamageKind::DecoderPanic));
        }
    }
}

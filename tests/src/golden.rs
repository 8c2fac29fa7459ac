//! Finding golden files, and comparing tensors with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

/// The project's own copy of golden values.
pub fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The golden folder of this run: `CLIP_DISTILL_GOLDEN`, or the project's own copy.
pub fn folder() -> PathBuf {
    std::env::var_os("CLIP_DISTILL_GOLDEN").map_or_else(own_folder, PathBuf::from)
}

/// All files with this ending under a sub-folder of the golden folder, sorted.
pub fn files(kind: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&folder().join(kind), extension, &mut found);
    found.sort();
    found
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    clip_model::weights::read_safetensors(path).unwrap()
}

/// max |found - expected|, and max |expected|.
pub fn difference(found: &Tensor, expected: &Tensor) -> (f64, f64) {
    assert_eq!(found.size(), expected.size(), "shapes differ");
    let expected = expected.to_kind(Kind::Double);
    let found = found.detach().to_kind(Kind::Double);
    assert!(found.isfinite().all().int64_value(&[]) == 1, "not finite");
    ((found - &expected).abs().max().double_value(&[]), expected.abs().max().double_value(&[]))
}

/// Fails unless max |found - expected| <= tolerance * max |expected| (+ 1e-9).
pub fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let (error, largest) = difference(found, expected);
    assert!(error <= tolerance * largest + 1e-9, "{what}: differs by {error:e}, largest value {largest:e}");
}

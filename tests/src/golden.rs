//! Golden files: finds them, checks that all are compared, and compares tensors.
//!
//! Every test compares all files of its kind in the project's own folder and, if `CLIP_DISTILL_GOLDEN` names a folder,
//! all files of its kind in that folder too. A kind without a file is a failure in both.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

/// The kinds of golden values. A kind's files are in the folder of its name, and in folders of its name with a suffix
/// (`losses-2`).
const KINDS: [&str; 8] =
    ["image-size", "layouts", "losses", "models", "preprocess", "tokenizer", "training", "training-mode"];

/// The scripts and notes that a golden folder may also hold.
const OTHERS: [&str; 3] = ["README.md", "fill-check.json", "make"];

/// The environment variable that names another golden folder.
pub const VARIABLE: &str = "CLIP_DISTILL_GOLDEN";

/// A golden file or folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Golden {
    /// The path of the file or folder.
    pub path: PathBuf,
    /// Path relative to its golden folder, without extension: `models/openai/rn50`.
    pub name: String,
    /// Whether it belongs to the project's own golden folder.
    pub own: bool,
}

/// Returns the project's own golden folder.
pub fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Returns all golden folders to compare with: the project's own, and the one that [`VARIABLE`] names.
fn roots() -> Vec<(PathBuf, bool)> {
    let mut roots = vec![(own_folder(), true)];
    if let Some(other) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        let other = other.canonicalize().unwrap_or_else(|e| panic!("{VARIABLE}={}: {e}", other.display()));
        if other != own_folder().canonicalize().unwrap() {
            roots.push((other, false));
        }
    }
    roots
}

/// Returns the kind that a folder directly in a golden folder belongs to.
fn kind_of(folder: &str) -> Option<&'static str> {
    let matches = |kind: &&&str| folder == **kind || folder.starts_with(&format!("{kind}-"));
    KINDS.iter().filter(matches).max_by_key(|kind| kind.len()).copied()
}

/// Returns the folders of a kind, sorted by name.
///
/// # Panics
/// If a golden folder has no folder of this kind, or contains an entry of an unknown kind.
pub fn folders(kind: &str) -> Vec<Golden> {
    let mut found = Vec::new();
    for (root, own) in roots() {
        let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let before = found.len();
        for entry in entries {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            match kind_of(&name) {
                Some(its_kind) if its_kind == kind => found.push(Golden { path: entry.path(), name, own }),
                Some(_) => {}
                None if OTHERS.contains(&name.as_str()) => {}
                None => panic!("{} does not belong to a known kind: {KINDS:?}", entry.path().display()),
            }
        }
        assert!(found.len() > before, "{} has no files of the kind `{kind}`", root.display());
    }
    found.sort();
    found
}

/// Returns all files of a kind with this extension, sorted.
///
/// # Panics
/// Like [`folders`], and if a folder of this kind has no such file.
pub fn files(kind: &str, extension: &str) -> Vec<Golden> {
    fn walk(folder: &Golden, extension: &str, found: &mut Vec<Golden>) {
        for entry in std::fs::read_dir(&folder.path).unwrap() {
            let path = entry.unwrap().path();
            let part = path.file_stem().unwrap().to_str().unwrap();
            let name = format!("{}/{part}", folder.name);
            if path.is_dir() {
                walk(&Golden { path, name, ..*folder }, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(Golden { path, name, ..*folder });
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders(kind) {
        let before = found.len();
        walk(&folder, extension, &mut found);
        assert!(found.len() > before, "{} has no .{extension} file", folder.path.display());
    }
    found.sort();
    found
}

/// Records the names that a test compared, to check that it compared all expected ones.
#[derive(Debug)]
pub struct Coverage {
    kind: &'static str,
    own: BTreeSet<String>,
    others: usize,
}

impl Coverage {
    /// Creates an empty record.
    pub fn new(kind: &'static str) -> Self {
        Coverage { kind, own: BTreeSet::new(), others: 0 }
    }

    /// Records that `name` of a golden file was compared.
    pub fn add(&mut self, golden: &Golden, name: impl Into<String>) {
        let name = name.into();
        if !golden.own {
            self.others += 1;
        } else {
            assert!(!self.own.contains(&name), "{}: {name} was compared twice", self.kind);
            self.own.insert(name);
        }
    }

    /// Prints the number of compared names, and fails unless those of the project's own folder are exactly `expected`.
    #[track_caller]
    pub fn assert_exactly<S: AsRef<str>>(&self, expected: impl IntoIterator<Item = S>) {
        println!("{}: {} compared, and {} of {VARIABLE}", self.kind, self.own.len(), self.others);
        let expected = expected.into_iter().map(|name| name.as_ref().to_string()).collect::<BTreeSet<_>>();
        let missing = expected.difference(&self.own).collect::<Vec<_>>();
        assert!(missing.is_empty(), "{}: expected, but not compared: {missing:?}", self.kind);
        let unknown = self.own.difference(&expected).collect::<Vec<_>>();
        assert!(unknown.is_empty(), "{}: compared, but not in the list: {unknown:?}", self.kind);
    }
}

/// Reads the tensors of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    clip_model::weights::read_safetensors(path).unwrap()
}

/// Reads the tensors of a safetensors file that has exactly these keys.
pub fn tensors_of(path: &Path, keys: &[&str]) -> HashMap<String, Tensor> {
    let found = tensors(path);
    let names = found.keys().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(names, keys.iter().copied().collect(), "keys of {}", path.display());
    found
}

/// Returns max |found - expected|, and max |expected|.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(own: bool) -> Golden {
        Golden { path: PathBuf::new(), name: String::new(), own }
    }

    #[test]
    fn a_folder_belongs_to_the_longest_matching_kind() {
        assert_eq!(kind_of("training"), Some("training"));
        assert_eq!(kind_of("training-mode"), Some("training-mode"));
        assert_eq!(kind_of("training-2"), Some("training"));
        assert_eq!(kind_of("losses-extra"), Some("losses"));
        assert_eq!(kind_of("lossless"), None);
    }

    #[test]
    #[should_panic(expected = "no files of the kind `absent`")]
    fn a_kind_without_a_folder_fails() {
        folders("absent");
    }

    #[test]
    #[should_panic(expected = "expected, but not compared: [\"b\"]")]
    fn a_name_that_was_not_compared_fails() {
        let mut coverage = Coverage::new("test");
        coverage.add(&golden(true), "a");
        coverage.add(&golden(false), "b");
        coverage.assert_exactly(["a", "b"]);
    }

    #[test]
    #[should_panic(expected = "not in the list: [\"b\"]")]
    fn a_name_that_is_not_in_the_list_fails() {
        let mut coverage = Coverage::new("test");
        coverage.add(&golden(true), "a");
        coverage.add(&golden(true), "b");
        coverage.assert_exactly(["a"]);
    }
}

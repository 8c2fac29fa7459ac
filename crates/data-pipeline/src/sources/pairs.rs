//! Pairs of an image path and captions, from tables and JSON lists.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::sample::{RawImage, RawSample};
use crate::sources::captions::Problem;
use crate::sources::paths::{Paths, read_named, resolve};
use crate::{DamageKind, Error, Result};

/// Common names of columns and keys with image paths, most common first.
pub(super) const IMAGES: [&str; 12] = [
    "filepath",
    "image",
    "file_name",
    "filename",
    "path",
    "image_path",
    "filepaths",
    "file",
    "img",
    "img_path",
    "image_file",
    "image_name",
];
/// Common names of columns and keys with captions, most common first.
pub(super) const CAPTIONS: [&str; 11] = [
    "title",
    "caption",
    "text",
    "captions",
    "texts",
    "description",
    "sentence",
    "sentences",
    "raw",
    "comment",
    "txt",
];

/// Finds the column `wanted`. If it is missing and `wanted` is the default, finds a column with another common name.
pub(super) fn find_column(names: &[&str], wanted: &str, default: &str, common: &[&str]) -> Option<usize> {
    let exact = names.iter().position(|name| name.trim() == wanted);
    let guess = || {
        common
            .iter()
            .find_map(|common| names.iter().position(|name| name.trim().eq_ignore_ascii_case(common)))
    };
    exact.or_else(|| if wanted == default { guess() } else { None })
}

/// A file of pairs.
pub(super) struct PairFile {
    pub(super) path: PathBuf,
    /// Folder of its relative image paths.
    pub(super) folder: PathBuf,
}

impl PairFile {
    /// Resolves the files and the folders of their images: `roots` is one folder for all files or one for each, and the
    /// folder of each file by default.
    pub(super) fn list(base: &Path, paths: &Paths, roots: Option<&Paths>) -> Result<Vec<Self>> {
        let (paths, roots) = (paths.as_slice(), roots.map(Paths::as_slice));
        if let Some(roots) = roots.filter(|roots| roots.len() != 1 && roots.len() != paths.len()) {
            let reason = format!(
                "`root` has {} folders for {} files: list one for all files, or one for each",
                roots.len(),
                paths.len()
            );
            return Err(Error::setting("root", reason));
        }
        if paths.is_empty() {
            return Err(Error::setting("path", "`path` is an empty list: name at least one file"));
        }
        let folder = |number: usize, path: &Path| match roots {
            Some(roots) => resolve(base, roots.get(number).unwrap_or(&roots[0])),
            None => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        };
        let files = paths.iter().enumerate().map(|(number, path)| {
            let path = resolve(base, path);
            PairFile { folder: folder(number, &path), path }
        });
        Ok(files.collect())
    }
}

/// An image with its captions.
pub(super) struct Pair {
    /// Number of the file.
    pub(super) file: u32,
    /// Row in the file, from 1.
    pub(super) row: usize,
    pub(super) image: String,
    pub(super) captions: Vec<String>,
    /// The reason why the row is damaged, known from the file.
    pub(super) problem: Option<Box<Problem>>,
}

/// The pairs of all files of a source.
pub(super) struct Pairs {
    pub(super) name: String,
    files: Vec<PairFile>,
    pairs: Vec<Pair>,
}

impl Pairs {
    pub(super) fn new(files: Vec<PairFile>, mut pairs: Vec<Pair>, group: bool) -> Self {
        let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
        let name = format!("{}{more}", files[0].path.display());
        if group {
            pairs = grouped(&files, pairs);
        }
        Pairs { name, files, pairs }
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn read(&self, index: usize) -> Result<RawSample> {
        let Pair { file, row, image, captions, problem } = &self.pairs[index];
        let PairFile { path, folder } = &self.files[*file as usize];
        let damaged = |kind, reason: String| Error::Sample {
            key: format!("{}: row {row} ({image})", path.display()),
            kind,
            reason,
        };
        if let Some(problem) = problem {
            return Err(damaged(problem.kind, problem.reason.clone()));
        }
        if captions.iter().all(|caption| caption.trim().is_empty()) {
            return Err(damaged(DamageKind::NoCaption, "the caption is empty".into()));
        }
        let bytes = read_named(folder, image).map_err(|(kind, reason)| damaged(kind, reason))?;
        Ok(RawSample::new(image.clone(), RawImage::Encoded(bytes)).with_captions(captions.iter().cloned()))
    }
}

/// Joins the captions of rows with the same image. Damaged rows are not joined.
fn grouped(files: &[PairFile], pairs: Vec<Pair>) -> Vec<Pair> {
    let mut places = HashMap::new();
    let mut joined: Vec<Pair> = Vec::new();
    for pair in pairs {
        let is_good =
            pair.problem.is_none() && !pair.captions.iter().all(|caption| caption.trim().is_empty());
        let image = files[pair.file as usize].folder.join(&pair.image);
        match places.get(&image) {
            Some(place) if is_good => {
                let earlier: &mut Pair = &mut joined[*place];
                earlier.captions.extend(pair.captions);
            }
            _ => {
                if is_good {
                    places.insert(image, joined.len());
                }
                joined.push(pair);
            }
        }
    }
    joined
}

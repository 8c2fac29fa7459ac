//! The hub's cache on disk in the layout of Python's `huggingface_hub`: `models--owner--name` or `datasets--owner--name`
//! with `blobs` (files named by hashes), `refs` (commits of branches and tags) and `snapshots` (folders of links into
//! `blobs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::name::{Repo, is_commit};
use super::{CONFIG_FILES, INDEX_SUFFIX, WEIGHT_FILES};
use crate::error::FileFormat;
use crate::{Error, Result};

/// One repository in the cache.
pub(super) struct Cached {
    root: PathBuf,
}

impl Cached {
    pub(super) fn new(cache: &Path, repo: &Repo) -> Self {
        Cached { root: cache.join(format!("{}--{}", repo.kind.plural(), repo.name.replace('/', "--"))) }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the cached snapshot of a revision, without a request.
    pub(super) fn known(&self, repo: &Repo) -> Option<PathBuf> {
        let commit = match repo.is_commit() {
            true => repo.revision.clone(),
            false => fs::read_to_string(self.root.join("refs").join(&repo.revision)).ok()?,
        };
        let commit = commit.trim();
        // The content of the file becomes part of a path.
        let folder = is_commit(commit).then(|| self.snapshot(commit))?;
        folder.is_dir().then_some(folder)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.root.join("blobs").join(hash)
    }

    pub(super) fn make_folders(&self, commit: &str) -> Result<()> {
        for folder in [self.root.join("blobs"), self.snapshot(commit)] {
            fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        }
        Ok(())
    }

    /// Creates `file` in a snapshot as a link to a blob.
    pub(super) fn link(&self, commit: &str, file: &str, hash: &str) -> Result<()> {
        let link = self.snapshot(commit).join(file);
        // Links are relative to their folder, so a link in a subfolder has one more `..`.
        let depth = Path::new(file).components().count();
        let target = Path::new(&"../".repeat(depth + 1)).join("blobs").join(hash);
        if let Some(folder) = link.parent().filter(|_| depth > 1) {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        let io = |e| Error::io(&link, e);
        // Rename, so that another process sees the old link or the new one.
        let fresh = temporary(&link);
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(target, &fresh).map_err(io)?;
        fs::rename(&fresh, &link).map_err(io)
    }

    /// Records the commit of a branch or tag.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.root.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|current| current == commit) {
            return Ok(());
        }
        let io = |e| Error::io(&path, e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let fresh = temporary(&path);
        fs::write(&fresh, commit).map_err(io)?;
        fs::rename(&fresh, &path).map_err(io)
    }
}

/// Returns a temporary name that no other process uses.
fn temporary(path: &Path) -> PathBuf {
    file_ext::with_suffix(path, &format!("{}.partial", std::process::id()))
}

/// Whether a snapshot has a configuration.
pub(super) fn has_config(snapshot: &Path) -> bool {
    CONFIG_FILES.iter().take(2).any(|file| snapshot.join(file).is_file())
}

/// Returns the weights of a snapshot, if they are complete.
pub(super) fn weights(snapshot: &Path) -> Option<PathBuf> {
    let whole = |file: &&str| {
        let path = snapshot.join(file);
        match file.ends_with(INDEX_SUFFIX) {
            true => parts(&path).is_ok_and(|parts| parts.iter().all(|part| snapshot.join(part).is_file())),
            false => path.is_file(),
        }
    };
    WEIGHT_FILES.into_iter().find(whole).map(|file| snapshot.join(file))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Returns the files that an index of weights lists.
pub(super) fn parts(index: &Path) -> Result<BTreeSet<String>> {
    let format =
        |reason: String| Error::Format { path: index.into(), format: FileFormat::WeightIndex, reason };
    let text = fs::read(index).map_err(|e| Error::io(index, e))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| format(e.to_string()))?;
    let parts = index.weight_map.into_values().collect::<BTreeSet<_>>();
    match parts.iter().find(|part| part.contains(['/', '\\']) || part.starts_with('.') || part.is_empty()) {
        Some(part) => {
            Err(format(format!("it names `{}`, which is not a file beside it", part.escape_debug())))
        }
        None => Ok(parts),
    }
}

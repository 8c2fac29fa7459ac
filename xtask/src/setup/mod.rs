//! libtorch, once per machine: the one in `LIBTORCH`, or installed from its Python wheel.

mod installer;
mod libtorch;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::disk::free_kib;
use crate::shell::root;
use installer::Installer;
#[cfg(test)]
pub(crate) use libtorch::{Wheels, parts};
use libtorch::{check_own, check_version, point};

const UNUSABLE: &str = "LIBTORCH points at a libtorch that cannot be used";

/// Links `.libtorch` to a libtorch, installs one if necessary, and returns its path.
pub(crate) fn run(cuda: bool) -> Result<PathBuf> {
    let link = root().join(".libtorch");
    if let Some(own) = own() {
        check_own(&own).context(UNUSABLE)?;
        point(&link, &own)?;
        return Ok(own);
    }
    let pythons = ["python3".into(), "python".into()];
    Installer { pythons: &pythons, cache: &cache()?, link: &link, free: free_kib }.ensure(cuda)
}

/// Returns the installed libtorch, or an error if it cannot be used; changes nothing.
pub(crate) fn found() -> Result<PathBuf> {
    match own() {
        Some(own) => check_own(&own).context(UNUSABLE).map(|()| own),
        None => {
            let link = root().join(".libtorch");
            check_version(&link)?;
            Ok(link.canonicalize()?)
        }
    }
}

/// Returns the libtorch that the user has set in `LIBTORCH`.
fn own() -> Option<PathBuf> {
    // Cargo sets LIBTORCH to the link for the programs that it runs; any other value is the user's.
    std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != root().join(".libtorch"))
}

/// Returns the per-user cache folder: `CLIP_DISTILL_CACHE`, or `clip-distill` in the system's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("CLIP_DISTILL_CACHE") {
        return Ok(own.into());
    }
    let home = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(home
        .context("neither XDG_CACHE_HOME nor HOME is set: set CLIP_DISTILL_CACHE to a folder")?
        .join("clip-distill"))
}

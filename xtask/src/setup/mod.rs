//! libtorch, once per machine: found where the user says, or installed from its Python wheel.

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

/// Makes `.libtorch` point at a libtorch, and returns where it is.
pub(crate) fn run(cuda: bool) -> Result<PathBuf> {
    let link = root().join(".libtorch");
    if let Some(own) = own() {
        check_own(&own).context("LIBTORCH points at a libtorch that cannot be used")?;
        point(&link, &own)?;
        return Ok(own);
    }
    let pythons = ["python3".into(), "python".into()];
    Installer { pythons: &pythons, cache: &cache()?, link: &link, free: free_kib }.ensure(cuda)
}

/// The libtorch that would be used now, if it can be; changes nothing.
pub(crate) fn found() -> Result<PathBuf> {
    match own() {
        Some(own) => {
            check_own(&own).context("LIBTORCH points at a libtorch that cannot be used").map(|()| own)
        }
        None => {
            let link = root().join(".libtorch");
            check_version(&link)?;
            Ok(link.canonicalize()?)
        }
    }
}

/// The libtorch that the user has chosen with `LIBTORCH`.
fn own() -> Option<PathBuf> {
    // Cargo itself sets LIBTORCH to the link for what it runs; anything else is the user's choice.
    std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != root().join(".libtorch"))
}

/// Where per-user files that can be made again go.
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

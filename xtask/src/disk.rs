//! Whether a download fits, asked before it starts.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::output;

/// Free KiB of the disk that a path is (or will be) on; nothing where nobody can tell.
pub(crate) type FreeKib = fn(&Path) -> Option<u64>;

/// What is fetched, and the room that it needs with the download beside the unpacked files.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub download: &'static str,
    pub disk_kib: u64,
}

/// The wheel of torch without what only CUDA devices need.
pub(crate) const CPU: Size = Size { download: "about 530 MB", disk_kib: 2 << 20 };
/// The wheel of torch with all of CUDA.
pub(crate) const CUDA: Size = Size { download: "about 3 GB", disk_kib: 9 << 20 };

/// Fails where `folder` has less room than `what` needs; `remedy` says where else it can go.
pub(crate) fn check_room(what: &str, size: Size, folder: &Path, free: FreeKib, remedy: &str) -> Result<()> {
    match free(folder) {
        Some(free) if free < size.disk_kib => bail!(
            "{what} needs {} MB and `{}` has {} MB free: {remedy}",
            size.disk_kib >> 10,
            folder.display(),
            free >> 10
        ),
        _ => Ok(()),
    }
}

/// Free space of the disk that a path (or the nearest folder above it) is on, as `df` says.
pub(crate) fn free_kib(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let text = output("df", &["-Pk", there.to_str()?])?;
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_known() {
        assert!(free_kib(Path::new("/nowhere/at/all")).is_some_and(|free| free > 0));
    }
}

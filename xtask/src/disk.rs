//! Free disk space, checked before a download starts.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::output;

/// Returns the free space, in KiB, of the disk that holds a path; `None` if it is unknown.
pub(crate) type FreeKib = fn(&Path) -> Option<u64>;

/// Size of a download, and the peak disk space that it needs (archive and unpacked files).
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub download: &'static str,
    pub disk_kib: u64,
}

/// The torch wheel without the CUDA libraries.
pub(crate) const CPU: Size = Size { download: "about 530 MB", disk_kib: 2 << 20 };
/// The torch wheel with the CUDA libraries.
pub(crate) const CUDA: Size = Size { download: "about 3 GB", disk_kib: 9 << 20 };

/// Fails if the disk of `folder` has less free space than `what` needs; the error ends with `remedy`.
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

/// Returns the free space of the disk that holds a path or its nearest existing ancestor, from `df`.
pub(crate) fn free_kib(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let text = output("df", &["-Pk", existing.to_str()?])?;
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_of_a_missing_path_is_that_of_its_ancestor() {
        assert!(free_kib(Path::new("/nowhere/at/all")).is_some_and(|free| free > 0));
    }
}

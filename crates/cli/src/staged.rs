//! A folder that appears complete or not at all: it is written below a temporary name, and its files are moved at the end.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A folder under construction. Without [`Staged::publish`], everything that was written is removed.
pub(crate) struct Staged {
    target: PathBuf,
    /// The folder to write into, which lies in the target: a move within a file system needs no space.
    temporary: PathBuf,
    /// The folders above it that did not exist before, innermost first.
    created: Vec<PathBuf>,
}

impl Staged {
    /// Creates the temporary folder, and the target if it does not exist.
    pub(crate) fn new(target: &Path) -> anyhow::Result<Self> {
        let temporary = target.join(format!(".clip-distill-{}", std::process::id()));
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let created = target.ancestors().take_while(is_missing).map(Path::to_path_buf).collect();
        // Dropping it removes the folders of a failed attempt.
        let staged = Staged { target: target.into(), temporary, created };
        fs::create_dir_all(&staged.temporary)
            .with_context(|| format!("cannot create the folder `{}`", target.display()))?;
        Ok(staged)
    }

    /// Returns the folder to write into.
    pub(crate) fn folder(&self) -> &Path {
        &self.temporary
    }

    /// Moves the files into the target. They replace files with the same names, and the targets of links.
    pub(crate) fn publish(mut self) -> anyhow::Result<()> {
        let context = || format!("cannot write `{}`", self.target.display());
        for entry in fs::read_dir(&self.temporary).with_context(context)? {
            let entry = entry.with_context(context)?;
            let target = file_ext::write_target(self.target.join(entry.file_name()))?;
            fs::rename(entry.path(), target).with_context(context)?;
        }
        self.created.clear();
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // An error is on its way to the user already, and a folder that cannot be removed adds nothing to it.
        let _ = fs::remove_dir_all(&self.temporary);
        for folder in &self.created {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_appear_when_they_are_published_and_leave_no_trace_otherwise() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("a/b");
        let staged = Staged::new(&target).unwrap();
        fs::write(staged.folder().join("part"), "half").unwrap();
        drop(staged);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);

        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("part"), "old").unwrap();
        fs::write(target.join("other"), "kept").unwrap();
        for (publish, content) in [(false, "old"), (true, "new")] {
            let staged = Staged::new(&target).unwrap();
            fs::write(staged.folder().join("part"), "new").unwrap();
            if publish {
                staged.publish().unwrap();
            } else {
                drop(staged);
            }
            assert_eq!(fs::read_to_string(target.join("part")).unwrap(), content);
            assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
        }
        assert!(Staged::new(&target.join("part/below")).is_err());
    }
}

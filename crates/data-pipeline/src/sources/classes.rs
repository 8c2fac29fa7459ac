//! Class labels in `.cls` files, and class names in `classnames.txt`.

use std::path::{Path, PathBuf};

use crate::error::FileFormat;
use crate::sources::captions::Problem;
use crate::{DamageKind, Error, Result, names};

/// File of class names beside the shards or in the parent folder, as CLIP_benchmark writes it.
pub(super) const CLASS_NAMES: &str = "classnames.txt";

/// Class names and caption templates.
pub(super) struct Classes {
    pub(super) names: Vec<String>,
    pub(super) templates: Vec<String>,
}

impl Classes {
    /// Reads a file of class names, one per line.
    pub(super) fn read(path: &Path, templates: &[String]) -> Result<Self> {
        Ok(Classes { names: read_names(path)?, templates: templates.to_vec() })
    }

    /// Finds CLIP_benchmark's list of class names beside a file or in the parent folder.
    pub(super) fn beside(file: &Path) -> Option<PathBuf> {
        let folder = file.parent()?;
        [folder.join(CLASS_NAMES), folder.join("..").join(CLASS_NAMES)]
            .into_iter()
            .find(|path| path.is_file())
    }

    /// Checks a class and returns it as an index.
    pub(super) fn label(&self, class: i64) -> Result<usize, Problem> {
        let label = usize::try_from(class).ok().filter(|label| *label < self.names.len());
        label.ok_or_else(|| {
            let count = self.names.len();
            Problem::new(
                DamageKind::Label,
                format!("the class is {class}, but there are {count} class names"),
            )
        })
    }

    /// Returns the captions of a class.
    pub(super) fn captions(&self, label: usize) -> Vec<String> {
        self.templates.iter().map(|template| template.replace("{}", &self.names[label])).collect()
    }
}

/// Reads a list of class names, the first for class 0: one per line, or another form of [`names::read_names`].
pub(super) fn read_names(path: &Path) -> Result<Vec<String>> {
    // The line number of a name is its class, so an empty line cannot be skipped.
    let lines = |text: &str| text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    let names = names::read_list(path, lines)?;
    match names.iter().position(String::is_empty) {
        Some(place) => {
            let reason = format!("line {} is empty, but each line names a class", place + 1);
            Err(Error::Format { path: path.into(), format: FileFormat::ClassNames, reason })
        }
        None => Ok(names),
    }
}

/// Parses the content of a `.cls` file, a class number.
pub(super) fn parse(content: &[u8]) -> Result<i64, String> {
    let text = String::from_utf8_lossy(content);
    text.trim().parse().map_err(|_| {
        let shown = text.trim().chars().take(40).collect::<String>();
        format!("its .cls file contains `{}` instead of the number of a class", shown.escape_debug())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_in_a_list_of_names_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CLASS_NAMES);
        std::fs::write(&path, " cat\ndog\n\n").unwrap();
        assert_eq!(read_names(&path).unwrap(), ["cat", "dog"]);
        std::fs::write(&path, "n01440764 cat\nn01443537 dog\n").unwrap();
        assert_eq!(read_names(&path).unwrap(), ["cat", "dog"]);
        std::fs::write(&path, "cat\n\ndog\n").unwrap();
        let error = read_names(&path).unwrap_err().to_string();
        assert!(error.contains("line 2 is empty"), "{error}");
    }

    #[test]
    fn contents_of_cls_files_are_numbers() {
        assert_eq!(parse(b"12\n"), Ok(12));
        assert!(parse(b"cat").unwrap_err().contains("`cat`"));
        assert!(parse(&[0xFF; 100]).is_err());
    }
}

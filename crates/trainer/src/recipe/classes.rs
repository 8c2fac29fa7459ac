//! Class lists of losses and evaluation sets.

use std::path::{Path, PathBuf};

use data_pipeline::notice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroshot_eval::names::repeated;
use zeroshot_eval::prompts::fill;

use super::Recipe;
use crate::{Error, Result};

/// Maximum number of duplicate names that a warning lists.
const MAX_LISTED: usize = 5;

/// A class list: names, or their file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "`classes` is neither a list of names nor the path of a file with one per line"
)]
pub enum Classes {
    /// The names.
    Listed(Vec<String>),
    /// A text file with one name per line, or JSON.
    File(PathBuf),
}

impl Classes {
    /// Returns the names; a relative path starts at `root`. A warning lists duplicates: in an evaluation the first one
    /// wins.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Data`] if it is not UTF-8, [`Error::Recipe`] for fewer than
    /// two names or an empty one.
    pub fn names(&self, root: &Path) -> Result<Vec<String>> {
        let names = self.read(root)?;
        check_names(&names).map_err(|reason| Error::recipe(self.origin(root), reason))?;
        warn_of_repeated(&names, &self.origin(root));
        Ok(names)
    }

    /// Returns the class names for a loss, which must all differ; a relative path starts at `root`.
    ///
    /// # Errors
    /// The errors of [`Classes::names`], and [`Error::Recipe`] for a duplicate name.
    pub fn distinct_names(&self, root: &Path) -> Result<Vec<String>> {
        let names = self.read(root)?;
        check_names(&names)
            .and_then(|()| check_distinct(&names))
            .map_err(|reason| Error::recipe(self.origin(root), reason))?;
        Ok(names)
    }

    /// Returns the origin of the names, for messages.
    fn origin(&self, root: &Path) -> String {
        match self {
            Classes::Listed(_) => "classes".to_string(),
            Classes::File(file) => root.join(file).display().to_string(),
        }
    }

    fn read(&self, root: &Path) -> Result<Vec<String>> {
        Ok(match self {
            Classes::Listed(names) => names.clone(),
            Classes::File(file) => {
                data_pipeline::names::read_names(root.join(file)).map_err(crate::text::own_error)?
            }
        })
    }
}

/// Logs a warning that lists duplicate class names.
pub(crate) fn warn_of_repeated(names: &[String], origin: &str) {
    let equal = repeated(names);
    if equal.is_empty() {
        return;
    }
    let more = if equal.len() > MAX_LISTED { ", ..." } else { "" };
    notice::warn_once(&format!(
        "`{origin}`: classes with equal names, which a model cannot tell apart: `{}`{more}; in an evaluation the first one wins",
        equal[..equal.len().min(MAX_LISTED)].join("`, `")
    ));
}

/// Checks that there are at least two names, none of them empty.
pub(super) fn check_names(names: &[String]) -> Result<(), String> {
    match names.len() < 2 || names.iter().any(|name| name.trim().is_empty()) {
        true => Err("a class list needs at least two names, none of them empty".into()),
        false => Ok(()),
    }
}

/// Checks that the names differ, because no text tower can distinguish equal names.
pub(super) fn check_distinct(names: &[String]) -> Result<(), String> {
    match repeated(names).first() {
        Some(twice) => Err(format!(
            "the class `{twice}` is listed twice (names are compared without case and extra spaces), but `hinton` and `vocabulary` \
             need distinct classes: remove or rename one of them"
        )),
        None => Ok(()),
    }
}

/// The class list of a run, with its prompt templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassList {
    /// Distinct class names.
    pub(crate) names: Vec<String>,
    /// Templates with `{}` for the class name.
    pub(crate) templates: Vec<String>,
    /// Number of classes that a step draws; `None` draws all.
    pub(crate) per_step: Option<usize>,
}

impl ClassList {
    /// Returns the prompts of all classes, one class after the other.
    pub(crate) fn prompts(&self) -> Vec<String> {
        let prompts = |name: &String| self.templates.iter().map(|text| fill(text, name)).collect::<Vec<_>>();
        self.names.iter().flat_map(prompts).collect()
    }
}

impl Recipe {
    /// Reads the class list of the loss that has one, if any.
    ///
    /// # Errors
    /// The errors of [`Classes::distinct_names`] and [`super::Templates::texts`].
    pub(crate) fn class_list(&self) -> Result<Option<ClassList>> {
        let Some(config) = self.reads_classes() else { return Ok(None) };
        let Some(classes) = &config.classes else { return Ok(None) };
        let templates = match &config.prompts {
            Some(templates) => templates.texts()?,
            None => zeroshot_eval::prompts::templates("plain")?,
        };
        let names = classes.distinct_names(&self.data.root)?;
        Ok(Some(ClassList { names, templates, per_step: config.classes_per_step() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_needs_distinct_names() {
        let names = |names: &[&str]| Classes::Listed(names.iter().map(|n| n.to_string()).collect());
        assert!(names(&["a", "b"]).distinct_names(".".as_ref()).is_ok());
        for twice in [["a", "a"], ["a", "A"], ["a b", " a  b"]] {
            let error = names(&twice).distinct_names(".".as_ref()).unwrap_err().to_string();
            assert!(error.contains(&format!("`{}`", twice[0])) && error.contains("remove"), "{error}");
            // An evaluation accepts duplicates.
            assert_eq!(names(&twice).names(".".as_ref()).unwrap(), twice);
        }
        assert!(names(&["a", " "]).names(".".as_ref()).is_err());
        assert!(names(&["a"]).names(".".as_ref()).is_err());
        assert!(Classes::File("missing.txt".into()).names(".".as_ref()).is_err());
    }
}

//! References to models and paths in a recipe.

use std::convert::Infallible;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The model folder of a shared run, the default path of a [`SharedPath`].
const SHARED_MODEL: &str = "model";

/// A reference to a model.
///
/// A recipe writes it as `model = "NAME"` or as `run = "NAME"`. A sweep also writes `model = "@NAME"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A preset, a configuration file (`*.json`), a model folder, a weight file, `hf-hub:owner/name`, or open_clip's
    /// `ARCHITECTURE:TAG`.
    Named(String),
    /// The final model of an earlier run of the recipe file.
    Run(String),
    /// The model of a shared run of a sweep. [`crate::recipe::load()`] rejects it, because only a sweep has shared runs.
    Shared(SharedPath),
}

impl ModelRef {
    /// Returns the name of the earlier run, if the reference is to one.
    pub fn run(&self) -> Option<&str> {
        match self {
            ModelRef::Run(name) => Some(name),
            ModelRef::Named(_) | ModelRef::Shared(_) => None,
        }
    }

    /// Builds the reference from the recipe's two keys, `model` and `run`. Returns `None` if neither is set.
    ///
    /// # Errors
    /// Both keys, if both are set.
    pub(super) fn from_keys(
        model: Option<String>,
        run: Option<String>,
    ) -> Result<Option<Self>, (String, String)> {
        match (model.filter(|model| !model.is_empty()), run) {
            (Some(model), Some(run)) => Err((model, run)),
            (Some(model), None) => Ok(Some(model.into())),
            (None, run) => Ok(run.map(ModelRef::Run)),
        }
    }

    /// Splits the reference into the recipe's two keys, `model` and `run`.
    pub(super) fn into_keys(self) -> (Option<String>, Option<String>) {
        match self {
            ModelRef::Run(name) => (None, Some(name)),
            other => (Some(other.to_string()), None),
        }
    }
}

impl From<String> for ModelRef {
    fn from(text: String) -> Self {
        match SharedPath::parse(&text) {
            Some(shared) => ModelRef::Shared(shared),
            None => ModelRef::Named(text),
        }
    }
}

impl From<&Path> for ModelRef {
    fn from(path: &Path) -> Self {
        ModelRef::Named(path.display().to_string())
    }
}

impl FromStr for ModelRef {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_string().into())
    }
}

impl Display for ModelRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Named(name) | ModelRef::Run(name) => f.write_str(name),
            ModelRef::Shared(shared) => shared.fmt(f),
        }
    }
}

/// A path in the folder of a sweep's shared run: `@NAME/PATH`, or `@NAME` for its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPath {
    /// Name of the shared run.
    pub run: String,
    /// Path in its folder.
    pub path: PathBuf,
}

impl SharedPath {
    fn parse(text: &str) -> Option<Self> {
        let (run, path) =
            text.strip_prefix('@').map(|text| text.split_once('/').unwrap_or((text, SHARED_MODEL)))?;
        Some(SharedPath { run: run.into(), path: path.into() })
    }
}

impl Display for SharedPath {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.path == Path::new(SHARED_MODEL) {
            true => write!(f, "@{}", self.run),
            false => write!(f, "@{}/{}", self.run, self.path.display()),
        }
    }
}

/// The folder of a store of teacher embeddings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum StoreRef {
    /// A folder.
    Folder(PathBuf),
    /// A folder in the folder of a sweep's shared run.
    Shared(SharedPath),
}

impl StoreRef {
    /// Returns the folder; `None` for a reference to a shared run, which only a sweep can resolve.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            StoreRef::Folder(folder) => Some(folder),
            StoreRef::Shared(_) => None,
        }
    }
}

impl From<String> for StoreRef {
    fn from(text: String) -> Self {
        match SharedPath::parse(&text) {
            Some(shared) => StoreRef::Shared(shared),
            None => StoreRef::Folder(text.into()),
        }
    }
}

impl From<&str> for StoreRef {
    fn from(text: &str) -> Self {
        text.to_string().into()
    }
}

impl From<StoreRef> for String {
    fn from(store: StoreRef) -> Self {
        store.to_string()
    }
}

impl Display for StoreRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            StoreRef::Folder(folder) => folder.display().fmt(f),
            StoreRef::Shared(shared) => shared.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_parse_and_print() {
        let shared = |run: &str, path: &str| SharedPath { run: run.into(), path: path.into() };
        for (text, expected) in [
            ("ViT-B-32", ModelRef::Named("ViT-B-32".into())),
            ("hf-hub:a/b@main", ModelRef::Named("hf-hub:a/b@main".into())),
            ("@teacher", ModelRef::Shared(shared("teacher", "model"))),
            ("@teacher/best", ModelRef::Shared(shared("teacher", "best"))),
        ] {
            let parsed = text.parse::<ModelRef>().unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(StoreRef::from("@t/store"), StoreRef::Shared(shared("t", "store")));
        assert_eq!(StoreRef::from("a/b").folder(), Some(Path::new("a/b")));
    }

    #[test]
    fn a_model_and_a_run_exclude_each_other() {
        let key = |text: &str| Some(text.to_string());
        assert!(ModelRef::from_keys(key("a"), key("b")).is_err());
        assert_eq!(ModelRef::from_keys(None, None), Ok(None));
        assert_eq!(ModelRef::from_keys(None, key("b")), Ok(Some(ModelRef::Run("b".into()))));
        assert_eq!(ModelRef::Run("b".into()).into_keys(), (None, key("b")));
    }
}

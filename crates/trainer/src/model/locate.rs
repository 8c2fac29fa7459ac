//! Locates the file or folder of a model. Only this module resolves a [`ModelRef`].
//!
//! Names of presets, folders and files are used directly, also as `local-dir:FOLDER`. Models of the Hugging Face hub are
//! looked up in its cache, and downloaded into it if missing: `hf-hub:owner/name`, the address of the model's page, or
//! open_clip's `ARCHITECTURE:TAG`. An earlier run is looked up in the folders of its recipe file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_pipeline::hub::{Hub, ModelName};

use crate::model::published::{self, Found};
use crate::progress::Downloads;
use crate::recipe::ModelRef;
use crate::{Error, Result};

pub use data_pipeline::hub::Need;

/// The model folders of the runs of a recipe file, by name of the run.
#[derive(Clone, Debug, Default)]
pub struct RunModels {
    folders: BTreeMap<String, PathBuf>,
}

impl RunModels {
    /// Adds the model folder of a run.
    pub fn insert(&mut self, run: impl Into<String>, folder: impl Into<PathBuf>) {
        self.folders.insert(run.into(), folder.into());
    }

    /// Returns the preset, folder or file of a model. `progress` reports downloads.
    ///
    /// # Errors
    /// [`Error::Data`] if a model of the hub is not available; [`Error::NoModelYet`] if an earlier run has not
    /// finished; [`Error::Recipe`] for a shared run, which only a sweep can resolve.
    pub fn locate<'a>(&self, model: &'a ModelRef, need: Need, progress: bool) -> Result<Cow<'a, str>> {
        match model {
            ModelRef::Named(name) => locate(name, need, progress),
            ModelRef::Run(run) => match self.folders.get(run) {
                Some(folder) if folder.exists() => Ok(Cow::Owned(folder.display().to_string())),
                folder => Err(Error::NoModelYet { run: run.clone(), folder: folder.cloned() }),
            },
            ModelRef::Shared(_) => {
                Err(Error::recipe(model.to_string(), "only a sweep file has shared runs: name a model"))
            }
        }
    }
}

/// Returns the preset, folder or file for a name. The environment sets the location of the hub's cache
/// ([`Hub::from_env`]). `progress` reports downloads.
///
/// # Errors
/// [`crate::Error::Data`] if a model of the hub is not available, or an address is not that of such a model;
/// [`crate::Error::UnknownTag`] for an architecture of open_clip without this tag.
pub fn locate(name: &str, need: Need, progress: bool) -> Result<Cow<'_, str>> {
    let model = match place(name)? {
        Place::Local(name) => return Ok(Cow::Borrowed(name)),
        Place::Hub(model) => model,
    };
    let mut downloads = Downloads::new(progress);
    let found = Hub::from_env()?.fetch(&model, need, &mut |at| downloads.update(at))?;
    Ok(Cow::Owned(found.display().to_string()))
}

/// Location of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place<'a> {
    /// A preset, folder or file.
    Local(&'a str),
    /// A model of the hub.
    Hub(ModelName),
}

fn place(name: &str) -> Result<Place<'_>> {
    if let Some(folder) = name.strip_prefix("local-dir:") {
        return Ok(Place::Local(folder));
    }
    if let Some(model) = ModelName::parse(name)? {
        return Ok(Place::Hub(model));
    }
    if Path::new(name).exists() {
        return Ok(Place::Local(name));
    }
    match published::find(name) {
        Found::Repository(repository) => {
            data_pipeline::log_info!("{name} is hf-hub:{repository}");
            Ok(Place::Hub(format!("hf-hub:{repository}").parse()?))
        }
        Found::UnknownTag(tags) => Err(Error::UnknownTag { name: name.into(), tags }),
        Found::Nothing => Ok(Place::Local(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_tools_are_accepted() {
        let hub = |name: &str| Place::Hub(name.parse().unwrap());
        for (name, expected) in [
            ("ViT-B-32", Place::Local("ViT-B-32")),
            ("local-dir:models/mine", Place::Local("models/mine")),
            ("models/mine", Place::Local("models/mine")),
            ("hf-hub:a/b@v1", hub("hf-hub:a/b@v1")),
            (
                "https://huggingface.co/openai/clip-vit-base-patch32",
                hub("hf-hub:openai/clip-vit-base-patch32"),
            ),
            ("ViT-B-32:laion2b_s34b_b79k", hub("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")),
        ] {
            assert_eq!(place(name).unwrap(), expected, "{name}");
        }
        let message = |name: &str| place(name).unwrap_err().to_string();
        assert!(message("ViT-B-32:laion3b").contains("laion2b_s34b_b79k"), "{}", message("ViT-B-32:laion3b"));
        assert!(message("https://example.org/model.pt").contains("download"));
    }

    #[test]
    fn a_folder_with_a_colon_in_its_name_is_a_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("ViT-B-32:mine");
        std::fs::create_dir(&folder).unwrap();
        let name = folder.display().to_string();
        assert_eq!(place(&name).unwrap(), Place::Local(&name));
    }
}

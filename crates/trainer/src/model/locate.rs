//! Locates the file or folder of a model. Only this module resolves a [`ModelRef`].
//!
//! Names of presets, folders and files are used directly. `hf-hub:owner/name` is looked up in the cache of the Hugging
//! Face hub, and downloaded into it if missing. An earlier run is looked up in the folders of its recipe file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use data_pipeline::download::Progress;
use data_pipeline::hub::{Hub, ModelName};
use indicatif::{ProgressBar, ProgressStyle};

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

    /// Returns the preset, folder or file of a model. `progress` draws a bar for downloads (on a terminal only).
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
/// ([`Hub::from_env`]). `progress` draws a bar for downloads (on a terminal only).
///
/// # Errors
/// [`crate::Error::Data`] if a model of the hub is not available.
pub fn locate(name: &str, need: Need, progress: bool) -> Result<Cow<'_, str>> {
    let Some(model) = ModelName::parse(name)? else { return Ok(Cow::Borrowed(name)) };
    let bar = if progress { ProgressBar::no_length() } else { ProgressBar::hidden() };
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let found = Hub::from_env()?.fetch(&model, need, &mut |Progress { file, done, total, .. }| {
        bar.set_message(file.to_string());
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(Cow::Owned(found?.display().to_string()))
}

//! Resolves the name of a model to its location, for students, teachers and every command.
//!
//! Names of presets, folders and files are used directly. `hf-hub:owner/name` is looked up in the cache of the Hugging
//! Face hub, and downloaded into it if missing.

use std::borrow::Cow;

use data_pipeline::download::Progress;
use data_pipeline::hub::{Hub, ModelName};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

pub use data_pipeline::hub::Need;

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

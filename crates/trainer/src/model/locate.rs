//! From the name of a model to where it lies, for students, teachers and every command.
//!
//! Presets, folders and files are what they are called; `hf-hub:owner/name` is looked up in the cache of the
//! Hugging Face hub, and fetched into it where it is not there.

use std::borrow::Cow;

use data_pipeline::hub::{Hub, ModelName};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

pub use data_pipeline::hub::Need;

/// The preset, folder or file behind a name. A name of the hub goes where the environment says
/// ([`Hub::from_env`]); `progress` draws a bar for what is fetched (on a terminal only).
///
/// # Errors
/// [`crate::Error::Data`] where a model of the hub cannot be had.
pub fn locate(name: &str, need: Need, progress: bool) -> Result<Cow<'_, str>> {
    let Some(model) = ModelName::parse(name)? else { return Ok(Cow::Borrowed(name)) };
    let bar = if progress { ProgressBar::no_length() } else { ProgressBar::hidden() };
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let found = Hub::from_env()?.fetch(&model, need, &mut |file, done, total| {
        bar.set_message(file.to_string());
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(Cow::Owned(found?.display().to_string()))
}

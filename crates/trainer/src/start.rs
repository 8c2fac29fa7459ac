//! Students that start from an earlier run of the same recipe file.

use clip_model::folder;

use crate::models::{Need, locate};
use crate::plan::model_config;
use crate::recipe::Student;
use crate::teaching::Models;
use crate::{Error, Result};

/// The preset, folder or file that a student starts from.
///
/// # Errors
/// [`Error::Recipe`] where the run has no model yet, or one of another architecture; as [`locate`] otherwise.
pub(crate) fn place(student: &Student, models: Models<'_>, progress: bool) -> Result<String> {
    let Some(run) = &student.start else {
        return Ok(locate(&student.model, Need::Weights, progress)?.into_owned());
    };
    let fail = |reason: String| Err(Error::recipe("student.start", reason));
    let folder = models(run);
    if !folder.exists() {
        return fail(format!("the run `{run}` has no model yet ({})", folder.display()));
    }
    let place = folder.display().to_string();
    let (mut found, named) = (folder::config(&place)?, model_config(&student.model)?);
    // What is dropped while training, and the size of the images, change no architecture.
    found.vision_cfg.patch_dropout = named.vision_cfg.patch_dropout;
    found.vision_cfg.timm_drop_path = named.vision_cfg.timm_drop_path;
    found.vision_cfg.image_size = named.vision_cfg.image_size;
    if found != named {
        return fail(format!("the run `{run}` is no `{}`: name its model as student.model", student.model));
    }
    Ok(place)
}

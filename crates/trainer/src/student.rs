//! The student as a run starts with it: fresh, opened, or a part of a larger model; locked where the recipe says so.

use std::path::Path;

use clip_model::folder::{self, Opened};
use clip_model::{Tower, inherit};
use tch::Device;

use crate::recipe::Recipe;
use crate::teaching::Models;
use crate::{Error, Result};

/// Opens the student. One that `starts` inherits what the recipe names; one that goes on has its weights in a
/// checkpoint, so that the larger model need not be there any more.
pub(crate) fn open(recipe: &Recipe, models: Models<'_>, device: Device, starts: bool) -> Result<Opened> {
    let own = &recipe.student;
    let opened = folder::open_adjusted(&own.model, device, recipe.seed, &own.adjust())?;
    for note in &opened.notes {
        tracing::info!("student {}: {note}", own.model);
    }
    if let Some(larger) = own.larger(models).filter(|_| starts) {
        inherit_from(&larger, own.inherit_run.as_deref(), &opened)?;
    }
    for (tower, locked, unlocked) in [
        (Tower::Image, own.lock_image, own.lock_image_unlocked_groups),
        (Tower::Text, own.lock_text, own.lock_text_unlocked_groups),
    ] {
        if locked {
            opened.model.lock(tower, unlocked);
        }
    }
    Ok(opened)
}

fn inherit_from(larger: &str, run: Option<&str>, student: &Opened) -> Result<()> {
    if let Some(run) = run.filter(|_| !Path::new(larger).exists()) {
        return Err(Error::recipe("student", format!("the run `{run}` has no model yet ({larger})")));
    }
    let opened = folder::open(larger, Device::Cpu, 0)?;
    if !opened.has_weights {
        let reason =
            format!("inherit = \"{larger}\" is a preset without weights: name a model folder or file");
        return Err(Error::recipe("student", reason));
    }
    inherit::inherit(&student.model, &opened.model)?;
    tracing::info!("the student's weights are a part of {larger}");
    Ok(())
}

//! The initial student of a run: newly initialised, opened, or inherited from a larger model; locked if the recipe says
//! so.

use std::path::Path;

use clip_model::folder::{self, OpenedModel};
use clip_model::{Clip, ClipConfig, Tower, inherit};
use tch::Device;

use crate::model::locate::{Need, locate};
use crate::recipe::Models;
use crate::recipe::{Recipe, Student};
use crate::{Error, Result};

/// The state of a run that resumes from a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Resumed<'a> {
    /// Configuration of a student that was pruned before the checkpoint.
    pub(crate) cut_to: Option<&'a ClipConfig>,
}

/// Opens the student and returns it with its origin. A new run inherits from the model that the recipe names. A resumed
/// run takes its weights from the checkpoint, so it does not need that model.
pub(crate) fn open(
    recipe: &Recipe,
    models: Models<'_>,
    device: Device,
    resumed: Option<Resumed<'_>>,
    progress: bool,
) -> Result<(OpenedModel, String)> {
    let own = &recipe.student;
    let origin = match own.run.as_deref() {
        Some(run) => {
            let folder = models(run).display().to_string();
            if !Path::new(&folder).exists() {
                return Err(no_model_yet(run, &folder));
            }
            folder
        }
        None => locate(&own.model, Need::Weights, progress)?.into_owned(),
    };
    let mut opened = folder::open_with(&origin, device, recipe.seed, &own.overrides())?;
    for note in &opened.notes {
        tracing::info!("student {origin}: {note}");
    }
    if let Some(larger) = own.larger(models).filter(|_| resumed.is_none()) {
        inherit_from(&larger, own, &opened)?;
    }
    if let Some(config) = resumed.and_then(|own| own.cut_to) {
        opened.model = Clip::new(config, device, recipe.seed)?;
    }
    for (tower, locked, unlocked) in [
        (Tower::Image, own.lock_image, own.lock_image_unlocked_groups),
        (Tower::Text, own.lock_text, own.lock_text_unlocked_groups),
    ] {
        if locked {
            opened.model.lock(tower, unlocked);
        }
    }
    Ok((opened, origin))
}

fn no_model_yet(run: &str, folder: &str) -> Error {
    Error::recipe("student", format!("the run `{run}` has no model yet ({folder})"))
}

fn inherit_from(larger: &str, own: &Student, student: &OpenedModel) -> Result<()> {
    if let Some(run) = own.inherit_run.as_deref().filter(|_| !Path::new(larger).exists()) {
        return Err(no_model_yet(run, larger));
    }
    let larger = &*locate(larger, Need::Weights, false)?;
    let opened = folder::open(larger, Device::Cpu, 0)?;
    if !opened.has_weights {
        let reason = format!("inherit = \"{larger}\" has no weights: name a model folder or file");
        return Err(Error::recipe("student", reason));
    }
    if own.inherit_tokens {
        inherit::tokens::token_embeddings(&student.model, &opened.model)?;
        tracing::info!("the student's token embeddings are those of {larger}");
    } else {
        inherit::inherit(&student.model, &opened.model)?;
        tracing::info!("the student's weights are a part of {larger}");
    }
    Ok(())
}

//! The student as a run starts with it: fresh, opened, or a part of a larger model; locked where the recipe says so.

use std::path::Path;

use clip_model::folder::{self, Opened};
use clip_model::{Clip, ClipConfig, Tower, inherit};
use tch::Device;

use crate::model::locate::{Need, locate};
use crate::recipe::{Recipe, Student};
use crate::run::checkpoint::State;
use crate::step::Trainee;
use crate::step::prune::Pruner;
use crate::teacher::teachers::Models;
use crate::{Error, Result};

/// Opens the student, and says from where. One that starts inherits what the recipe names; one that goes on from a `saved` state has its
/// weights in a checkpoint, so that the larger model need not be there any more, and the shape that it was cut to.
pub(crate) fn open(
    recipe: &Recipe,
    models: Models<'_>,
    device: Device,
    saved: Option<&State>,
    progress: bool,
) -> Result<(Opened, String)> {
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
    let mut opened = folder::open_adjusted(&origin, device, recipe.seed, &own.adjust())?;
    for note in &opened.notes {
        tracing::info!("student {origin}: {note}");
    }
    if let Some(larger) = own.larger(models).filter(|_| saved.is_none()) {
        inherit_from(&larger, own, &opened)?;
    }
    if let Some(config) = saved.and_then(|state| state.pruned.as_ref()) {
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

/// The masks of a run that prunes and has not cut yet.
pub(crate) fn pruner(
    recipe: &Recipe,
    student: &Clip,
    saved: Option<&State>,
    steps: u64,
) -> Result<Option<Pruner>> {
    let Some(config) = recipe.prune.as_ref() else { return Ok(None) };
    if let Some(problem) = config.too_late(steps) {
        return Err(Error::recipe(&recipe.name, problem));
    }
    if saved.is_some_and(|state| state.pruned.is_some()) {
        return Ok(None);
    }
    Pruner::new(config, student.config(), student.device()).map(Some)
}

/// The student's configuration where it has been cut.
pub(crate) fn cut_config(recipe: &Recipe, trainee: &Trainee) -> Option<ClipConfig> {
    let cut = recipe.prune.is_some() && trainee.pruner.is_none();
    cut.then(|| trainee.student.config().clone())
}

fn no_model_yet(run: &str, folder: &str) -> Error {
    Error::recipe("student", format!("the run `{run}` has no model yet ({folder})"))
}

fn inherit_from(larger: &str, own: &Student, student: &Opened) -> Result<()> {
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

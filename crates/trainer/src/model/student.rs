//! The initial student of a run: newly initialised, opened, or inherited from a larger model, with its towers locked as
//! the recipe requires.

use clip_model::folder::{self};
use clip_model::{Clip, ClipConfig, Tower, inherit};
use tch::Device;

use crate::model::loaded::{LoadOptions, LoadedModel};
use crate::model::locate::{Need, RunModels};
use crate::recipe::{ModelRef, Recipe};
use crate::{Error, Result};

/// The student of a run that resumes from a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Resumed<'a> {
    /// Configuration of a student that was pruned before the checkpoint.
    pub(crate) pruned: Option<&'a ClipConfig>,
}

/// Opens the student. A new run inherits from the model that the recipe names. A resumed run takes its weights from the
/// checkpoint, so it does not need that model.
pub(crate) fn open(
    recipe: &Recipe,
    runs: &RunModels,
    device: Device,
    resumed: Option<Resumed<'_>>,
    progress: bool,
) -> Result<LoadedModel> {
    let config = &recipe.student;
    let origin = runs.locate(&config.model, Need::Weights, progress)?;
    let options = LoadOptions::default()
        .with_adjust(config.adjust())
        .with_device(device)
        .with_seed(recipe.seed)
        .with_tokenizer(config.tokenizer.as_ref());
    let mut student = LoadedModel::open(&origin, &options)?;
    for note in &student.notes {
        tracing::info!("student {origin}: {note}");
    }
    if let Some(larger) = config.inherit.as_ref().filter(|_| resumed.is_none()) {
        inherit_from(larger, config.inherit_tokens, runs, &student.model)?;
    }
    if let Some(config) = resumed.and_then(|resumed| resumed.pruned) {
        student.model = Clip::new(config, device, recipe.seed)?;
    }
    for (tower, lock) in [(Tower::Image, config.lock_image), (Tower::Text, config.lock_text)] {
        if lock.locked {
            student.model.lock(tower, lock.unlocked_groups);
        }
    }
    Ok(student)
}

fn inherit_from(larger: &ModelRef, only_tokens: bool, runs: &RunModels, student: &Clip) -> Result<()> {
    let larger = &*runs.locate(larger, Need::Weights, false)?;
    let opened = folder::open(larger, Device::Cpu, 0)?;
    if !opened.has_weights {
        return Err(Error::NoWeights { name: larger.into() });
    }
    if only_tokens {
        inherit::tokens::token_embeddings(student, &opened.model)?;
        tracing::info!("the student inherits the token embeddings of {larger}");
    } else {
        inherit::inherit(student, &opened.model)?;
        tracing::info!("the student inherits a part of the weights of {larger}");
    }
    Ok(())
}

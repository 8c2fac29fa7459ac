//! The initial student of a run: newly initialised, opened, or inherited from a larger model, with its towers locked as
//! the recipe requires.

use clip_model::folder;
use clip_model::image_weights::load_image_weights;
use clip_model::{Clip, ClipConfig, Tower, inherit};
use tch::Device;

use crate::model::loaded::{LoadOptions, LoadedModel};
use crate::model::locate::{Need, RunModels, locate};
use crate::recipe::{INHERIT, ModelRef, Recipe};
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
        data_pipeline::log_info!("student {origin}: {note}");
    }
    if let Some(larger) = config.inherit.as_ref().filter(|_| resumed.is_none()) {
        inherit_from(larger, config.inherit_tokens, runs, &student.model)?;
    }
    if let Some(name) = config.image_weights.as_ref().filter(|_| resumed.is_none()) {
        start_image_tower(name, &student, progress)?;
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
    let larger = &*runs.locate(larger, Need::Weights, false).map_err(|error| error.of_model(INHERIT))?;
    let opened =
        folder::open(larger, Device::Cpu, 0).map_err(|error| Error::from(error).of_model(INHERIT))?;
    if !opened.has_weights {
        return Err(Error::NoWeights { name: larger.into() });
    }
    if let Some(tower) = opened.model.only_tower() {
        return Err(clip_model::Error::OneTower { origin: Some(larger.into()), tower }.into());
    }
    if only_tokens {
        inherit::tokens::token_embeddings(student, &opened.model)?;
        data_pipeline::log_info!("the student inherits the token embeddings of {larger}");
    } else {
        inherit::inherit(student, &opened.model)?;
        data_pipeline::log_info!("the student inherits a part of the weights of {larger}");
    }
    Ok(())
}

/// Loads timm's weights into the image tower, and logs the tensors that keep their initial values.
fn start_image_tower(name: &str, student: &LoadedModel, progress: bool) -> Result<()> {
    let path = locate(name, Need::Weights, progress)?;
    let report = load_image_weights(&student.model, &*path, &student.preprocess)?;
    let list = |names: &[String]| names.join(", ");
    data_pipeline::log_info!(
        "student: the image tower starts with {} tensors of {name}; left out: {}",
        report.loaded,
        if report.left_out.is_empty() { "nothing".into() } else { list(&report.left_out) }
    );
    // The text tower has dozens of tensors, so the log gives only their number.
    let (visual, rest) =
        report.initial.iter().cloned().partition::<Vec<_>, _>(|name| name.starts_with("visual."));
    let (scalars, text) = rest.into_iter().partition::<Vec<_>, _>(|name| name.starts_with("logit_"));
    let values = if student.has_weights { "as in the model" } else { "at initial values" };
    data_pipeline::log_info!(
        "student: {values}: {}, {} and the {} tensors of the text tower",
        list(&visual),
        list(&scalars),
        text.len()
    );
    for note in report.notes {
        data_pipeline::log_warn!("student.image_weights = {name}: {note}");
    }
    Ok(())
}

//! The objective of a run: its weighted losses, and the features that they read from the student and from each teacher.

use clip_model::Clip;
use kd_losses::tokens::evenly_spaced;
use kd_losses::{BlockPairs, Loss, Objective, Term, TokenWidths};

use crate::model::features::FeatureHooks;
use crate::model::processor::Processor;
use crate::recipe::Recipe;
use crate::teacher::frozen::Teacher;
use crate::teacher::teachers::Teachers;
use crate::{Error, Result};

/// Builds the objective of a run, and returns the features that it reads from the student. Sets the features that it
/// reads from each teacher.
///
/// # Errors
/// [`Error::Recipe`] if a model lacks a feature that a loss on tokens reads; the errors of [`Objective::new`].
pub(crate) fn objective(
    recipe: &Recipe,
    terms: &[Term],
    student: &Clip,
    reader: &Processor,
    teaching: &mut Teachers,
) -> Result<(Objective, FeatureHooks)> {
    let device = student.device();
    let objective = Objective::new(terms, student.config().embed_dim, &teaching.widths(), device)?;
    if !terms.iter().any(|term| term.loss.reads_tokens()) {
        return Ok((objective, FeatureHooks::default()));
    }
    let patches = recipe.loss(Loss::PatchTokens).is_some();
    let hidden = recipe.loss(Loss::Hidden);
    let loss = if patches { Loss::PatchTokens } else { Loss::Hidden };
    let fail = |reason: String| Err(Error::recipe(format!("losses.{}", loss.name()), reason));
    let teachers = teaching.guides.iter().filter_map(|guide| guide.teacher()).map(Teacher::model);
    let teachers = teachers.collect::<Vec<_>>();
    let mut depths = Vec::new();
    for (role, model) in std::iter::once(("student", student)).chain(teachers.iter().map(|t| ("teacher", *t)))
    {
        let Some(depth) = model.image_depth() else {
            return fail(format!(
                "the {role}'s image tower is no ViT of CLIP's kind; other towers have no patch tokens"
            ));
        };
        depths.push((depth, model.text_depth()));
    }
    if student.config().vision_cfg.patch_dropout > 0.0 {
        return fail("the student leaves out patches while training: set student.patch_dropout = 0.0".into());
    }
    if hidden.is_some() && teaching.readers().any(|other| !reader.reads_the_same_texts(other)) {
        return fail(
            "texts are compared token by token, but a teacher has another tokenizer or context length".into(),
        );
    }
    let shallowest = |tower: fn(&(usize, usize)) -> usize| depths.iter().map(tower).min().unwrap_or(0);
    let (image, text) = (shallowest(|depth| depth.0), shallowest(|depth| depth.1));
    let pairs = match hidden {
        None => BlockPairs::default(),
        Some(config) if config.layers.is_some_and(|count| count > image.min(text)) => {
            return fail(format!("layers = {}: a tower has only {}", config.layer_count(), image.min(text)));
        }
        Some(config) => {
            BlockPairs { image: config.layer_count().min(image), text: config.layer_count().min(text) }
        }
    };
    let widths = |model: &Clip| TokenWidths {
        image: model.config().vision_cfg.width,
        text: model.config().text_cfg.width,
    };
    let theirs = teachers.iter().map(|model| widths(model)).collect::<Vec<_>>();
    let objective = objective.with_tokens(widths(student), &theirs, pairs, device)?;
    let mut taps = depths.iter().map(|(image, text)| FeatureHooks {
        patches,
        image_blocks: evenly_spaced(*image, pairs.image),
        text_blocks: evenly_spaced(*text, pairs.text),
    });
    let own = taps.next().unwrap_or_default();
    let taps = taps.collect::<Vec<_>>();
    for (guide, taps) in teaching.guides.iter_mut().zip(taps) {
        guide.taps = taps;
    }
    Ok((objective, own))
}

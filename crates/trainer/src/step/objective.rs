//! The objective of a run: its weighted losses, and the features that they read from the student and from each teacher.

use clip_model::Clip;
use kd_losses::tokens::evenly_spaced;
use kd_losses::{BlockPairs, Loss, Objective, Term, TokenWidths};

use crate::model::features::FeatureHooks;
use crate::model::processor::Processor;
use crate::recipe::{LossConfig, Recipe};
use crate::teacher::frozen::Teacher;
use crate::teacher::teachers::Teachers;
use crate::{Error, Result};

/// Builds the objective of a run. Also returns the features to read from the student, and sets those to read from each
/// teacher.
///
/// # Errors
/// [`Error::Recipe`] if a model lacks a feature that a loss on tokens reads; the errors of [`Objective::new`].
pub(crate) fn objective(
    recipe: &Recipe,
    terms: &[Term],
    student: &Clip,
    processor: &Processor,
    teachers: &mut Teachers,
) -> Result<(Objective, FeatureHooks)> {
    let device = student.device();
    let objective = Objective::new(terms, student.config().embed_dim, &teachers.widths(), device)?;
    if !terms.iter().any(|term| term.loss.reads_tokens()) {
        return Ok((objective, FeatureHooks::default()));
    }
    let patches = recipe.loss(Loss::PatchTokens).is_some();
    let hidden = recipe.loss(Loss::Hidden).and_then(LossConfig::hidden);
    let loss = if patches { Loss::PatchTokens } else { Loss::Hidden };
    let fail = |reason: String| Err(Error::recipe(format!("losses.{}", loss.name()), reason));
    let live = teachers.signals.iter().filter_map(|signal| signal.teacher()).map(Teacher::model);
    let live = live.collect::<Vec<_>>();
    let mut depths = Vec::new();
    for (role, model) in std::iter::once(("student", student)).chain(live.iter().map(|t| ("teacher", *t))) {
        let Some(depth) = model.image_depth() else {
            return fail(format!(
                "the {role}'s image tower is not one of CLIP's ViTs, and other towers have no patch tokens"
            ));
        };
        depths.push((depth, model.text_depth()));
    }
    if student.config().vision_cfg.patch_dropout > 0.0 {
        return fail("the student leaves out patches while training: set student.patch_dropout = 0.0".into());
    }
    if hidden.is_some() && teachers.processors()?.iter().any(|other| !processor.reads_the_same_texts(other)) {
        return fail(
            "texts are compared token by token, but a teacher has another tokenizer or context length".into(),
        );
    }
    let shallowest = |tower: fn(&(usize, usize)) -> usize| depths.iter().map(tower).min().unwrap_or(0);
    let (image, text) = (shallowest(|depth| depth.0), shallowest(|depth| depth.1));
    let pairs = match hidden {
        None => BlockPairs::default(),
        Some(config) if config.layers.is_some_and(|count| count > image.min(text)) => {
            return fail(format!("layers = {}: a tower has only {}", config.layers(), image.min(text)));
        }
        Some(config) => BlockPairs { image: config.layers().min(image), text: config.layers().min(text) },
    };
    let widths = |model: &Clip| TokenWidths {
        image: model.config().vision_cfg.width,
        text: model.config().text_cfg.width,
    };
    let teacher_widths = live.iter().map(|model| widths(model)).collect::<Vec<_>>();
    let objective = objective.with_tokens(widths(student), &teacher_widths, pairs, device)?;
    let mut hooks = depths.iter().map(|(image, text)| FeatureHooks {
        patches,
        image_blocks: evenly_spaced(*image, pairs.image),
        text_blocks: evenly_spaced(*text, pairs.text),
    });
    let student_hooks = hooks.next().unwrap_or_default();
    let hooks = hooks.collect::<Vec<_>>();
    for (signal, hooks) in teachers.signals.iter_mut().zip(hooks) {
        signal.hooks = hooks;
    }
    Ok((objective, student_hooks))
}

//! What losses on tokens read: patch tokens and the outputs of chosen blocks, of the student and of each teacher.

use clip_model::{Clip, Tape};
use kd_losses::tokens::evenly_spaced;
use kd_losses::{BlockPairs, Embeddings, Loss, Objective, Term, TokenStates, TokenWidths};

use crate::model::processor::Reader;
use crate::recipe::Recipe;
use crate::step::ViewTensors;
use crate::teacher::frozen::Teacher;
use crate::teacher::teachers::Teaching;
use crate::{Error, Result};

/// What is read of one model beside its embeddings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// The ViT's patch tokens.
    pub patches: bool,
    /// Blocks of the image tower, from 0.
    pub image_blocks: Vec<usize>,
    /// Blocks of the text tower, from 0.
    pub text_blocks: Vec<usize>,
}

/// Raw embeddings of a batch, with the states that `taps` names.
///
/// # Errors
/// [`Error::Model`] where the shapes are not the model's, or it does not have such states.
pub(crate) fn read<'a>(
    model: &'a Clip,
    input: &ViewTensors,
    taps: &Taps,
    tape: &mut Tape<'a>,
) -> Result<(Embeddings, TokenStates)> {
    let mut states = TokenStates::default();
    let image = if taps.patches || !taps.image_blocks.is_empty() {
        let image = model.image_states(&input.images, &taps.image_blocks, tape)?;
        (states.patches, states.image_blocks) = (taps.patches.then_some(image.patches), image.blocks);
        image.embedding
    } else {
        model.encode_image_taped(&input.images, tape)?
    };
    let text = if taps.text_blocks.is_empty() {
        model.encode_text_taped(&input.tokens, tape)?
    } else {
        let text = model.text_states(&input.tokens, &taps.text_blocks, tape)?;
        (states.text_blocks, states.text_counts) = (text.blocks, Some(text.counts));
        text.embedding
    };
    Ok((Embeddings::new(image, text)?, states))
}

/// The objective of a run, and what it reads of the student; the teachers are told what it reads of them.
///
/// # Errors
/// [`Error::Recipe`] where a model does not have what a loss on tokens reads; as [`Objective::new`].
pub(crate) fn objective(
    recipe: &Recipe,
    terms: &[Term],
    student: &Clip,
    reader: &Reader,
    teaching: &mut Teaching,
) -> Result<(Objective, Taps)> {
    let device = student.device();
    let objective = Objective::new(terms, student.config().embed_dim, &teaching.widths(), device)?;
    if !terms.iter().any(|term| term.loss.reads_tokens()) {
        return Ok((objective, Taps::default()));
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
        let Some(depth) = model.visual.depth() else {
            return fail(format!(
                "the {role}'s image tower is no ViT of CLIP's kind, which alone gives its tokens"
            ));
        };
        depths.push((depth, model.text.depth()));
    }
    if student.config().vision_cfg.patch_dropout > 0.0 {
        return fail("the student leaves out patches while training: set student.patch_dropout = 0.0".into());
    }
    if hidden.is_some() && teaching.readers().any(|other| !reader.reads_the_same_texts(other)) {
        return fail(
            "texts are compared token by token: a teacher has another tokenizer or context length".into(),
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
    let mut taps = depths.iter().map(|(image, text)| Taps {
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

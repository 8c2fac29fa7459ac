//! Training and use of a cross-modal head on a frozen CLIP (DCLIP's teacher).

use clip_model::{Clip, CrossModal, Tape};
use kd_losses::{Embeddings, TokenStates};
use tch::Tensor;

use crate::Result;
use crate::model::features::FeatureHooks;
use crate::step::batch::ViewTensors;

/// What the names of the head's parameters begin with in optimiser states and checkpoints.
const PREFIX: &str = "cross_modal.";

/// The pairs' unit embeddings, each image enriched by its own caption and the reverse, with what `taps` names of
/// the CLIP below.
///
/// The CLIP is frozen: it evaluates, and no gradient goes into it.
///
/// # Errors
/// [`crate::Error::Model`] where the shapes are not the CLIP's.
pub(crate) fn enriched(
    clip: &Clip,
    head: &CrossModal,
    input: &ViewTensors,
    taps: &FeatureHooks,
) -> Result<(Embeddings, TokenStates)> {
    clip.mode().eval();
    let (image, text) = tch::no_grad(|| -> Result<_> {
        let image = head.look(clip, &input.images, &input.boxes, &taps.image_blocks)?;
        Ok((image, clip.text_states(&input.tokens, &taps.text_blocks, &mut Tape::off())?))
    })?;
    let enriched = head.enrich(&image, &text)?;
    let states = TokenStates {
        patches: taps.patches.then_some(image.states.patches),
        image_blocks: image.states.blocks,
        text_blocks: text.blocks,
        text_counts: Some(text.counts),
    };
    Ok((Embeddings::new(enriched.0, enriched.1)?, states))
}

/// The head's parameters, for the optimiser, averages and checkpoints.
pub(crate) fn named(head: &CrossModal) -> impl Iterator<Item = (String, Tensor)> {
    head.params().iter().map(|p| (format!("{PREFIX}{}", p.name), p.tensor.shallow_clone()))
}

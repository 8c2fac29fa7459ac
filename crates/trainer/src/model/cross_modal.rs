//! The cross-modal head on a frozen CLIP (DCLIP's teacher): its embeddings and parameters.

use clip_model::{Clip, CrossModal, Tape};
use kd_losses::{Embeddings, TokenStates};
use tch::Tensor;

use crate::Result;
use crate::model::features::FeatureHooks;
use crate::step::batch::ViewTensors;

/// Prefix of the head's parameter names in optimiser states and checkpoints.
const PREFIX: &str = "cross_modal.";

/// Returns the unit embeddings of pairs, where each image attends to its own caption and vice versa, with the CLIP
/// features selected by `hooks`.
///
/// The CLIP is frozen: it runs in evaluation mode and receives no gradient.
///
/// # Errors
/// [`crate::Error::Model`] if the shapes do not match the CLIP.
pub(crate) fn enriched(
    clip: &Clip,
    head: &CrossModal,
    input: &ViewTensors,
    hooks: &FeatureHooks,
) -> Result<(Embeddings, TokenStates)> {
    clip.mode().eval();
    let boxes = input.annotations.iter().map(|own| own.boxes.clone()).collect::<Vec<_>>();
    let (image, text) = tch::no_grad(|| -> Result<_> {
        let image = head.forward(clip, &input.images, &boxes, &hooks.image_blocks)?;
        Ok((image, clip.text_states(&input.tokens, &hooks.text_blocks, &mut Tape::off())?))
    })?;
    let enriched = head.enrich(&image, &text)?;
    let states = TokenStates {
        patches: hooks.patches.then_some(image.states.patches),
        image_blocks: image.states.blocks,
        text_blocks: text.blocks,
        text_counts: Some(text.mask),
    };
    Ok((Embeddings::new(enriched.image, enriched.text)?, states))
}

/// Returns the head's named parameters, for the optimiser, averages and checkpoints.
pub(crate) fn named(head: &CrossModal) -> impl Iterator<Item = (String, Tensor)> {
    head.params().iter().map(|p| (format!("{PREFIX}{}", p.name), p.tensor.shallow_clone()))
}

//! Forward passes that also return patch tokens and the outputs of chosen blocks, for losses on tokens.

use clip_model::{Clip, Tape};
use kd_losses::{Embeddings, TokenStates};

use crate::Result;
use crate::step::batch::ViewTensors;

/// Selection of the features to read from a model in addition to its embeddings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureHooks {
    /// The ViT's patch tokens.
    pub patches: bool,
    /// Blocks of the image tower, from 0.
    pub image_blocks: Vec<usize>,
    /// Blocks of the text tower, from 0.
    pub text_blocks: Vec<usize>,
}

/// Returns the raw embeddings of a batch, with the features selected by `hooks`.
///
/// # Errors
/// [`crate::Error::Model`] if the shapes do not match the model, or if it does not have these features.
pub(crate) fn read<'a>(
    model: &'a Clip,
    input: &ViewTensors,
    hooks: &FeatureHooks,
    tape: &mut Tape<'a>,
) -> Result<(Embeddings, TokenStates)> {
    let mut states = TokenStates::default();
    let image = if hooks.patches || !hooks.image_blocks.is_empty() {
        let image = model.image_states(&input.images, &hooks.image_blocks, tape)?;
        (states.patches, states.image_blocks) = (hooks.patches.then_some(image.patches), image.blocks);
        image.embedding
    } else {
        model.encode_image_taped(&input.images, tape)?
    };
    let text = if hooks.text_blocks.is_empty() {
        model.encode_text_taped(&input.tokens, tape)?
    } else {
        let text = model.text_states(&input.tokens, &hooks.text_blocks, tape)?;
        (states.text_blocks, states.text_counts) = (text.blocks, Some(text.mask));
        text.embedding
    };
    Ok((Embeddings::new(image, text)?, states))
}

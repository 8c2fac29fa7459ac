//! The regions of images that a head attends to: a ViT's patches, or a grid of crops.

use tch::Tensor;

use super::CrossModal;
use crate::states::ImageStates;
use crate::tape::Tape;
use crate::{Clip, Error, Result};

/// Images in the eyes of a head's CLIP.
#[derive(Debug)]
pub struct SeenImages {
    /// Embeddings, and what else of the image tower was asked for; without patches where the tower is no ViT.
    pub states: ImageStates,
    /// Regions `[batch, regions, width]`: patch tokens, or raw embeddings of crops.
    pub regions: Tensor,
}

impl CrossModal {
    /// Looks at normalised images `[batch, 3, size, size]`; `clip` is the one below the head, and `blocks` are those
    /// of its image tower whose outputs are wanted too.
    ///
    /// # Errors
    /// As [`Clip::image_states`], and as [`Clip::encode_image`] where crops are the regions.
    pub fn look(&self, clip: &Clip, images: &Tensor, blocks: &[usize]) -> Result<SeenImages> {
        let states = if clip.visual.depth().is_some() || !blocks.is_empty() {
            clip.image_states(images, blocks, &mut Tape::off())?
        } else {
            let embedding = clip.encode_image(images)?;
            ImageStates { patches: embedding.unsqueeze(1).narrow(1, 0, 0), embedding, blocks: Vec::new() }
        };
        let regions = match self.config.crops {
            0 => states.patches.shallow_clone(),
            per_side => embedded_crops(clip, images, per_side)?,
        };
        Ok(SeenImages { states, regions })
    }
}

/// Embeddings `[batch, per_side * per_side, embed_dim]` of tiles that are drawn at the image's size, row by row.
fn embedded_crops(clip: &Clip, images: &Tensor, per_side: i64) -> Result<Tensor> {
    let size = images.size().last().copied().unwrap_or(0);
    if size < per_side {
        return Err(Error::config(
            "crops",
            format!("an image of {size} px has no {per_side} crops per side"),
        ));
    }
    // Where the size does not divide, tiles differ by a pixel.
    let edge = |place: i64| place * size / per_side;
    let mut tiles = Vec::new();
    for row in 0..per_side {
        for column in 0..per_side {
            let [top, left] = [row, column].map(edge);
            let [height, width] = [edge(row + 1) - top, edge(column + 1) - left];
            let tile = images.narrow(2, top, height).narrow(3, left, width);
            let tile = tile.f_upsample_bilinear2d([size, size], false, None, None)?;
            // One tile at a time, so that the memory is that of a plain pass.
            tiles.push(clip.encode_image(&tile)?);
        }
    }
    Ok(Tensor::f_stack(&tiles, 1)?)
}

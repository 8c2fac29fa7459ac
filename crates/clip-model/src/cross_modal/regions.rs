//! The regions of images that a head attends to: a ViT's patches, a grid of crops, or object boxes.

use tch::{Kind, Tensor};

use super::CrossModal;
use crate::states::ImageStates;
use crate::tape::Tape;
use crate::{Clip, Error, Result};

/// Images in the eyes of a head's CLIP.
#[derive(Debug)]
pub struct SeenImages {
    /// Embeddings, and what else of the image tower was asked for; without patches where the tower is no ViT.
    pub states: ImageStates,
    /// Regions `[batch, regions, width]`: patch tokens, or raw embeddings of crops or boxes.
    pub regions: Tensor,
    /// Which regions there are, bool `[batch, regions]`; all of them where this is left out.
    pub counts: Option<Tensor>,
}

/// Object boxes of each image of a batch: left, top, right and bottom as shares of the image's side.
pub type Boxes = [Vec<[f32; 4]>];

impl CrossModal {
    /// Looks at normalised images `[batch, 3, size, size]`; `clip` is the one below the head, `boxes` (none, or a list
    /// for each image) are read where they are the head's regions, and `blocks` are those of the image tower whose
    /// outputs are wanted too.
    ///
    /// # Errors
    /// As [`Clip::image_states`], and as [`Clip::encode_image`] where crops or boxes are the regions.
    pub fn look(&self, clip: &Clip, images: &Tensor, boxes: &Boxes, blocks: &[usize]) -> Result<SeenImages> {
        let states = if clip.visual.depth().is_some() || !blocks.is_empty() {
            clip.image_states(images, blocks, &mut Tape::off())?
        } else {
            let embedding = clip.encode_image(images)?;
            ImageStates { patches: embedding.unsqueeze(1).narrow(1, 0, 0), embedding, blocks: Vec::new() }
        };
        let (regions, counts) = match (self.config.crops, self.config.boxes) {
            (0, 0) => (states.patches.shallow_clone(), None),
            (0, most) => {
                let (regions, counts) =
                    embedded_boxes(clip, images, &states.embedding, boxes, most as usize)?;
                (regions, Some(counts))
            }
            (per_side, _) => (embedded_crops(clip, images, per_side)?, None),
        };
        Ok(SeenImages { states, regions, counts })
    }
}

/// Embeddings `[batch, regions, embed_dim]` of the first `most` boxes of each image, drawn at the image's size, and which
/// of them there are (bool `[batch, regions]`). `whole` are the images' own embeddings, for those without a box.
fn embedded_boxes(
    clip: &Clip,
    images: &Tensor,
    whole: &Tensor,
    boxes: &Boxes,
    most: usize,
) -> Result<(Tensor, Tensor)> {
    let (batch, size) = (images.size()[0], images.size()[2]);
    let of = |row: i64| boxes.get(row as usize).map_or(&[][..], |own| &own[..own.len().min(most)]);
    let width = (0..batch).map(|row| of(row).len()).max().unwrap_or(0).max(1) as i64;
    let (mut owners, mut places, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    let mut alone = Vec::new();
    for row in 0..batch {
        if of(row).is_empty() {
            alone.push(row);
        }
        for (place, [left, top, right, bottom]) in of(row).iter().enumerate() {
            owners.push(row);
            places.push(row * width + place as i64);
            // From the tile's coordinates, -1 to 1, to the image's.
            maps.extend([right - left, 0.0, left + right - 1.0, 0.0, bottom - top, top + bottom - 1.0]);
        }
    }
    let device = images.device();
    let index = |rows: &[i64]| Tensor::f_from_slice(rows)?.f_to_device(device);
    let mut regions = Tensor::f_zeros([batch * width, whole.size()[1]], (Kind::Float, device))?;
    let mut counts = Tensor::f_zeros([batch * width], (Kind::Bool, device))?;
    let at = index(&alone)?;
    let _ = regions.f_index_copy_(0, &(&at * width), &whole.f_index_select(0, &at)?)?;
    // As many at a time as the batch has images, so that the memory is that of a plain pass.
    for (part, owners) in owners.chunks(batch.max(1) as usize).enumerate() {
        let first = part * batch as usize;
        let maps = Tensor::f_from_slice(&maps[first * 6..(first + owners.len()) * 6])?.f_view([-1, 2, 3])?;
        let shape = [owners.len() as i64, 3, size, size];
        let grid = Tensor::f_affine_grid_generator(&maps.f_to_device(device)?, shape, false)?;
        // Bilinear, and the edge's pixels beyond the edge.
        let tiles = images.f_index_select(0, &index(owners)?)?.f_grid_sampler(&grid, 0, 1, false)?;
        let at = index(&places[first..first + owners.len()])?;
        let _ = regions.f_index_copy_(0, &at, &clip.encode_image(&tiles)?)?;
    }
    let filled = index(&[places, alone.iter().map(|row| row * width).collect()].concat())?;
    let _ = counts.f_index_fill_(0, &filled, 1)?;
    Ok((regions.f_view([batch, width, -1])?, counts.f_view([batch, width])?))
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

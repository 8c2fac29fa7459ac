//! Image regions for the cross-modal head: patch tokens of a ViT, a grid of crops, or object boxes.

use tch::{Kind, Tensor};

use super::CrossModal;
use crate::states::ImageStates;
use crate::tape::Tape;
use crate::{Clip, Error, Result};

/// Embeddings and regions of images, for [`CrossModal::enrich`].
#[derive(Debug)]
pub struct ImageRegions {
    /// Embeddings and the selected block outputs; without patch tokens if the tower is not a ViT.
    pub states: ImageStates,
    /// Regions `[batch, regions, width]`: patch tokens, or embeddings of crops or boxes.
    pub regions: Tensor,
    /// Mask of the existing regions, bool `[batch, regions]`; `None` if all of them exist.
    pub mask: Option<Tensor>,
}

/// Object boxes of each image of a batch: left, top, right and bottom as fractions of the image's side.
pub type Boxes = [Vec<[f32; 4]>];

impl CrossModal {
    /// Runs the image tower on normalised images `[batch, 3, size, size]` and extracts the regions.
    ///
    /// `clip` is the head's CLIP. `boxes` is empty or has a list for each image, and is used only if the regions are
    /// boxes. `blocks` selects blocks of the image tower (indices from 0) whose outputs are returned as well.
    ///
    /// # Errors
    /// The errors of [`Clip::image_states`], or of [`Clip::encode_image`] if the regions are crops or boxes.
    pub fn forward(
        &self,
        clip: &Clip,
        images: &Tensor,
        boxes: &Boxes,
        blocks: &[usize],
    ) -> Result<ImageRegions> {
        let states = if clip.image_depth().is_some() || !blocks.is_empty() {
            clip.image_states(images, blocks, &mut Tape::off())?
        } else {
            let embedding = clip.encode_image(images)?;
            ImageStates { patches: embedding.unsqueeze(1).narrow(1, 0, 0), embedding, blocks: Vec::new() }
        };
        let (regions, mask) = match (self.config.crops, self.config.boxes) {
            (0, 0) => (states.patches.shallow_clone(), None),
            (0, limit) => {
                let (regions, mask) = encode_boxes(clip, images, &states.embedding, boxes, limit as usize)?;
                (regions, Some(mask))
            }
            (per_side, _) => (encode_crops(clip, images, per_side)?, None),
        };
        Ok(ImageRegions { states, regions, mask })
    }
}

/// Encodes at most `limit` boxes of each image, resized to the image size. Returns embeddings `[batch, regions,
/// embed_dim]` and the mask of existing regions (bool `[batch, regions]`). Images without boxes use their own
/// embedding, from `whole`.
fn encode_boxes(
    clip: &Clip,
    images: &Tensor,
    whole: &Tensor,
    boxes: &Boxes,
    limit: usize,
) -> Result<(Tensor, Tensor)> {
    let (batch, size) = (images.size()[0], images.size()[2]);
    let boxes_of = |row: i64| boxes.get(row as usize).map_or(&[][..], |list| &list[..list.len().min(limit)]);
    let width = (0..batch).map(|row| boxes_of(row).len()).max().unwrap_or(0).max(1) as i64;
    let (mut owners, mut slots, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    let mut without_boxes = Vec::new();
    for row in 0..batch {
        if boxes_of(row).is_empty() {
            without_boxes.push(row);
        }
        for (slot, [left, top, right, bottom]) in boxes_of(row).iter().enumerate() {
            owners.push(row);
            slots.push(row * width + slot as i64);
            // Maps the tile's coordinates (-1 to 1) to those of the image.
            maps.extend([right - left, 0.0, left + right - 1.0, 0.0, bottom - top, top + bottom - 1.0]);
        }
    }
    let device = images.device();
    let index = |rows: &[i64]| Tensor::f_from_slice(rows)?.f_to_device(device);
    let mut regions = Tensor::f_zeros([batch * width, whole.size()[1]], (Kind::Float, device))?;
    let mut mask = Tensor::f_zeros([batch * width], (Kind::Bool, device))?;
    let rows = index(&without_boxes)?;
    let _ = regions.f_index_copy_(0, &(&rows * width), &whole.f_index_select(0, &rows)?)?;
    // At most `batch` tiles at a time, so that memory use matches a plain pass.
    for (part, owners) in owners.chunks(batch.max(1) as usize).enumerate() {
        let first = part * batch as usize;
        let maps = Tensor::f_from_slice(&maps[first * 6..(first + owners.len()) * 6])?.f_view([-1, 2, 3])?;
        let shape = [owners.len() as i64, 3, size, size];
        let grid = Tensor::f_affine_grid_generator(&maps.f_to_device(device)?, shape, false)?;
        // Bilinear interpolation; positions outside the image take the nearest edge pixel.
        let tiles = images.f_index_select(0, &index(owners)?)?.f_grid_sampler(&grid, 0, 1, false)?;
        let slots = index(&slots[first..first + owners.len()])?;
        let _ = regions.f_index_copy_(0, &slots, &clip.encode_image(&tiles)?)?;
    }
    let filled = index(&[slots, without_boxes.iter().map(|row| row * width).collect()].concat())?;
    let _ = mask.f_index_fill_(0, &filled, 1)?;
    Ok((regions.f_view([batch, width, -1])?, mask.f_view([batch, width])?))
}

/// Encodes a grid of tiles, resized to the image size, in row-major order: embeddings `[batch, per_side * per_side,
/// embed_dim]`.
fn encode_crops(clip: &Clip, images: &Tensor, per_side: i64) -> Result<Tensor> {
    let size = images.size().last().copied().unwrap_or(0);
    if size < per_side {
        return Err(Error::config(
            "cross_modal",
            format!("crops = {per_side} per side need images of at least {per_side} px, not {size} px"),
        ));
    }
    // Tiles differ by a pixel if `per_side` does not divide the size.
    let edge = |index: i64| index * size / per_side;
    let mut tiles = Vec::new();
    for row in 0..per_side {
        for column in 0..per_side {
            let [top, left] = [row, column].map(edge);
            let [height, width] = [edge(row + 1) - top, edge(column + 1) - left];
            let tile = images.narrow(2, top, height).narrow(3, left, width);
            let tile = tile.f_upsample_bilinear2d([size, size], false, None, None)?;
            // One tile at a time, so that memory use matches a plain pass.
            tiles.push(clip.encode_image(&tile)?);
        }
    }
    Ok(Tensor::f_stack(&tiles, 1)?)
}

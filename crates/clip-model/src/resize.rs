//! Position interpolation: adapts weights to another image size.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::{Error, Params, Result};

/// Interpolates the position-dependent tensors of `weights` for a model of another image size, and returns their
/// names.
///
/// - `visual.positional_embedding` (ViT) and `visual.attnpool.positional_embedding` (ResNet): antialiased bicubic
///   interpolation over the grid, as in open_clip. The first row (class token or mean) stays.
/// - `visual.trunk.pos_embed` (SigLIP): as above, without a first row, as in timm.
/// - `….relative_position_bias_table` (Swin): linear interpolation between geometrically spaced positions, as in timm
///   (from BEiT). Entries near the centre keep their distance; distant entries are spread or dropped.
///
/// Other tensors stay unchanged, and [`crate::weights::load`] checks them strictly.
///
/// # Errors
/// [`Error::Incompatible`] if the positions of a tensor do not form a square grid.
pub fn fit_image_size(params: &Params, weights: &mut HashMap<String, Tensor>) -> Result<Vec<String>> {
    let mut moved = Vec::new();
    for entry in params.iter() {
        let (name, wanted) = (entry.name.as_str(), entry.tensor.size());
        let Some(found) = weights.get(name).filter(|found| found.size() != wanted) else { continue };
        let resized = match Grid::of(name) {
            Some(grid) if grid.fits(&found.size(), &wanted) => grid.resize(name, found, &wanted)?,
            _ => continue,
        };
        weights.insert(name.to_string(), resized);
        moved.push(name.to_string());
    }
    Ok(moved)
}

/// Layout of a position-dependent tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// `[first + side², width]`, with `first` rows before the grid.
    Rows { first: i64 },
    /// `[1, side², width]`.
    Batched,
    /// `[(2 window − 1)², heads]`.
    Relative,
}

impl Grid {
    /// Returns the layout of a tensor by its name; `None` if the tensor does not depend on positions.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "visual.positional_embedding" | "visual.attnpool.positional_embedding" => {
                Some(Grid::Rows { first: 1 })
            }
            "visual.trunk.pos_embed" => Some(Grid::Batched),
            _ if name.ends_with(".relative_position_bias_table") => Some(Grid::Relative),
            _ => None,
        }
    }

    /// Returns the axis of the positions.
    pub(crate) fn axis(self) -> usize {
        usize::from(self == Grid::Batched)
    }

    /// Whether two shapes differ only in the number of positions.
    fn fits(self, found: &[i64], wanted: &[i64]) -> bool {
        let positions = self.axis();
        found.len() == wanted.len()
            && found.len() == positions + 2
            && found.iter().zip(wanted).enumerate().all(|(axis, (a, b))| axis == positions || a == b)
    }

    fn resize(self, name: &str, found: &Tensor, wanted: &[i64]) -> Result<Tensor> {
        let table = found.f_to_kind(Kind::Float)?;
        match self {
            Grid::Rows { first } => {
                let (kept, grid) =
                    (table.narrow(0, 0, first), table.narrow(0, first, table.size()[0] - first));
                let grid = bicubic(name, &grid, wanted[0] - first)?;
                Ok(Tensor::f_cat(&[kept, grid], 0)?)
            }
            Grid::Batched => Ok(bicubic(name, &table.squeeze_dim(0), wanted[1])?.unsqueeze(0)),
            Grid::Relative => relative(name, &table, wanted[0]),
        }
    }
}

/// Resizes a grid from `[from², width]` to `[to², width]` by bicubic interpolation.
fn bicubic(name: &str, grid: &Tensor, positions: i64) -> Result<Tensor> {
    let (from, to) = (side(name, grid.size()[0])?, side(name, positions)?);
    let width = grid.size()[1];
    let picture = grid.tr().f_reshape([1, width, from, from])?;
    let picture = picture.f_internal_upsample_bicubic2d_aa([to, to], false, None, None)?;
    Ok(picture.f_reshape([width, to * to])?.tr().f_contiguous()?)
}

/// Resizes a relative position table from `[from², heads]` to `[to², heads]`; both sides are odd.
fn relative(name: &str, table: &Tensor, positions: i64) -> Result<Tensor> {
    let (from, to) = (side(name, table.size()[0])?, side(name, positions)?);
    let heads = table.size()[1];
    let weights = Tensor::from_slice(&interpolation(from as usize, to as usize)).view([to, from]);
    // The same matrix along both axes: [to, from] x [heads, from, from] x [from, to].
    let picture = table.tr().f_reshape([heads, from, from])?;
    let picture = weights.f_matmul(&picture)?.f_matmul(&weights.tr())?; // [heads, to, to]
    Ok(picture.f_reshape([heads, to * to])?.tr().f_contiguous()?)
}

/// Returns the matrix `[to, from]` of linear interpolation from geometrically spaced to integer positions.
fn interpolation(from: usize, to: usize) -> Vec<f32> {
    let sources = geometric(from / 2, to / 2);
    let mut matrix = vec![0f32; to * from];
    for (row, weights) in matrix.chunks_mut(from).enumerate() {
        let target = row as f64 - (to / 2) as f64;
        let right = sources.partition_point(|source| *source < target);
        match (right.checked_sub(1), right < from) {
            // Positions outside the table take its last entry.
            (None, _) => weights[0] = 1.0,
            (Some(left), false) => weights[left] = 1.0,
            (Some(left), true) => {
                let fraction = (target - sources[left]) / (sources[right] - sources[left]);
                weights[left] = (1.0 - fraction) as f32;
                weights[right] = fraction as f32;
            }
        }
    }
    matrix
}

/// Returns positions −x..0..x whose distances grow by a factor q per step, such that `steps` of them reach `target`.
/// q is found by bisection between 1.01 and 1.5.
fn geometric(steps: usize, target: usize) -> Vec<f64> {
    let reach = |q: f64| (1.0 - q.powi(steps as i32)) / (1.0 - q);
    let (mut low, mut high, mut q) = (1.01, 1.5, 1.255);
    while high - low > 1e-6 {
        q = (low + high) / 2.0;
        if reach(q) > target as f64 { high = q } else { low = q }
    }
    let distances = (0..steps).scan((1.0, q), |(distance, factor), _| {
        let current = *distance;
        *distance += *factor;
        *factor *= q;
        Some(current)
    });
    let distances = distances.collect::<Vec<f64>>();
    let left = distances.iter().rev().map(|distance| -distance);
    left.chain([0.0]).chain(distances.iter().copied()).collect()
}

fn side(name: &str, positions: i64) -> Result<i64> {
    let side = (positions.max(0) as f64).sqrt().round() as i64;
    if side > 0 && side * side == positions {
        Ok(side)
    } else {
        Err(Error::Incompatible {
            reason: format!(
                "`{name}` has {positions} positions, which do not form a square grid, so it cannot be resized"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ClipConfig, weights};
    use tch::Device;

    #[test]
    fn geometric_positions_reach_the_target() {
        let positions = geometric(6, 11);
        assert_eq!(positions.len(), 13);
        assert!((positions[12] - 11.0).abs() < 1.0 && positions[12] == -positions[0] && positions[7] == 1.0);
        // A smaller window keeps the centre.
        let matrix = interpolation(13, 7);
        let row = |r: usize| &matrix[r * 13..(r + 1) * 13];
        assert!(row(3).iter().enumerate().all(|(i, w)| (*w > 0.999) == (i == 6)));
        for r in 0..7 {
            assert!((row(r).iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_constant_table_stays_constant_in_every_tower() {
        for (vision, text) in [
            (r#"{"layers": 1, "width": 64, "patch_size": 8, "image_size": 32}"#, "Vit"),
            (r#"{"layers": [1, 1, 1, 1], "width": 8, "patch_size": null, "image_size": 64}"#, "ResNet"),
            (r#"{"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 64}"#, "Swin"),
        ] {
            let json = |vision: &str| {
                format!(
                    r#"{{"embed_dim": 16, "vision_cfg": {vision}, "text_cfg": {{"layers": 1, "width": 16, "heads": 2, "vocab_size": 32}}}}"#
                )
            };
            let small = ClipConfig::from_json(text, &json(vision)).unwrap();
            let mut large = small.clone();
            large.vision_cfg.image_size *= 2;
            let from = Clip::new(&small, Device::Cpu, 0).unwrap();
            let to = Clip::new(&large, Device::Cpu, 1).unwrap();
            let mut dict = from
                .params()
                .state()
                .map(|p| (p.name.clone(), p.tensor.detach().f_full_like(0.5).unwrap()))
                .collect::<HashMap<_, _>>();
            assert!(weights::load(to.params(), &dict, "test").is_err(), "{text}: strict without resizing");
            let moved = fit_image_size(to.params(), &mut dict).unwrap();
            assert!(!moved.is_empty(), "{text}");
            weights::load(to.params(), &dict, "test").unwrap();
            for name in moved {
                let error = (to.params().get(&name).unwrap() - 0.5).abs().max().double_value(&[]);
                assert!(error < 1e-5, "{name}: {error}");
            }
            let images = Tensor::zeros(
                [1, 3, large.vision_cfg.image_size, large.vision_cfg.image_size],
                (Kind::Float, Device::Cpu),
            );
            assert_eq!(to.encode_image(&images).unwrap().size(), [1, 16]);
        }
    }

    #[test]
    fn tables_of_another_width_stay_and_tables_without_a_grid_are_refused() {
        let config = crate::presets::get("ViT-nano-32px").unwrap();
        let model = Clip::new(&config, Device::Cpu, 0).unwrap();
        let wanted = model.params().get("visual.positional_embedding").unwrap().size();
        let with = |shape: [i64; 2]| {
            let table = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            let mut dict = HashMap::from([("visual.positional_embedding".to_string(), table)]);
            fit_image_size(model.params(), &mut dict)
        };
        assert!(with([1 + 7, wanted[1]]).unwrap_err().to_string().contains("square"));
        assert!(with([1 + 9, wanted[1] + 1]).unwrap().is_empty());
        assert_eq!(with([1 + 9, wanted[1]]).unwrap().len(), 1);
    }
}

//! The evaluation transform, normalization, and resizing in an image's own colour mode.

use multiversion::multiversion;

use crate::image::decode::{Decoded, Mode, multiply, to_rgb};
use crate::image::frame::ViewFrame;
use crate::image::resize::{Pixels, Rect, resize};
use crate::image::{Preprocess, ResizeMode, RgbImage};

/// Applies the evaluation transform up to 8-bit RGB `[size, size]`: resizing and centre crop equal to PIL and
/// torchvision.
///
/// ```
/// use data_pipeline::Preprocess;
/// use data_pipeline::image::{Decoded, RgbImage, eval_pixels};
/// let image = Decoded::from(RgbImage { width: 40, height: 30, pixels: vec![128; 3 * 40 * 30] });
/// let resized = eval_pixels(&image, &Preprocess::new(16));
/// assert_eq!((resized.width, resized.height), (16, 16));
/// ```
pub fn eval_pixels(image: &Decoded, preprocess: &Preprocess) -> RgbImage {
    let size = preprocess.size;
    let mut pixels = vec![0u8; size * size * 3];
    eval_rows(image, preprocess, |x, y, row| pixels[(y * size + x) * 3..][..row.len()].copy_from_slice(row));
    RgbImage { width: size, height: size, pixels }
}

/// Applies the evaluation transform and passes each RGB row to `emit`, with the column and row of its first pixel.
/// Pixels that are not emitted are padding.
fn eval_rows(image: &Decoded, preprocess: &Preprocess, mut emit: impl FnMut(usize, usize, &[u8])) {
    let size = preprocess.size;
    let whole = Rect { x: 0, y: 0, width: image.width, height: image.height };
    let (width, height) = eval_size(image.width, image.height, preprocess);
    let (wanted, left, top) = match preprocess.resize_mode {
        ResizeMode::Squash | ResizeMode::Shortest => {
            (Rect { x: centre(width, size), y: centre(height, size), width: size, height: size }, 0, 0)
        }
        ResizeMode::Longest => (Rect { x: 0, y: 0, width, height }, (size - width) / 2, (size - height) / 2),
    };
    let mut rows = top..;
    resized(image, whole, (width, height), wanted, preprocess, |row| {
        let y = rows.next();
        emit(left, y.unwrap_or(0), row);
    });
}

/// Returns width and height after resizing, before the crop or padding.
fn eval_size(width: usize, height: usize, preprocess: &Preprocess) -> (usize, usize) {
    let size = preprocess.size;
    match preprocess.resize_mode {
        ResizeMode::Squash => (size, size),
        ResizeMode::Shortest => scaled_to_shortest(width, height, size),
        ResizeMode::Longest => {
            let longest = width.max(height) as f64;
            // Python's `round` rounds half to even.
            let scaled = |side: usize| {
                ((side as f64 * (size as f64 / longest)).round_ties_even() as usize).clamp(1, size)
            };
            (scaled(width), scaled(height))
        }
    }
}

/// Returns the position of the evaluation view in the image.
pub(crate) fn eval_frame(image: &Decoded, preprocess: &Preprocess) -> ViewFrame {
    let size = preprocess.size;
    let (width, height) = eval_size(image.width, image.height, preprocess);
    let corner = |scaled: usize| {
        if scaled < size { -(((size - scaled) / 2) as f64) } else { centre(scaled, size) as f64 }
    };
    ViewFrame {
        scale: [width as f64 / image.width as f64, height as f64 / image.height as f64],
        corner: [corner(width), corner(height)],
        flip: false,
        side: size,
    }
}

/// Applies the evaluation transform and writes normalized channel planes `[3, size, size]` into `out`.
///
/// ```
/// use data_pipeline::Preprocess;
/// use data_pipeline::image::{Decoded, RgbImage, eval_into};
/// let image = Decoded::from(RgbImage { width: 40, height: 30, pixels: vec![255; 3 * 40 * 30] });
/// let mut out = vec![0f32; 3 * 16 * 16];
/// eval_into(&image, &Preprocess::new(16).with_normalization([0.5; 3], [0.5; 3]), &mut out);
/// assert!(out.iter().all(|value| *value == 1.0));
/// ```
pub fn eval_into(image: &Decoded, preprocess: &Preprocess, out: &mut [f32]) {
    let size = preprocess.size;
    if preprocess.resize_mode == ResizeMode::Longest {
        normalize_into(&vec![0; size * size * 3], preprocess, 0, out);
    }
    eval_rows(image, preprocess, |x, y, row| normalize_into(row, preprocess, y * size + x, out));
}

/// Returns width and height after resizing the shortest side to `size`. torchvision rounds the other side down.
fn scaled_to_shortest(width: usize, height: usize, size: usize) -> (usize, usize) {
    let (short, long) = (width.min(height), width.max(height));
    let scaled = ((size * long) as f64 / short as f64) as usize;
    if width <= height { (size, scaled) } else { (scaled, size) }
}

/// Returns the first pixel of a centred part, rounded like Python (half to even).
fn centre(side: usize, size: usize) -> usize {
    ((side - size) as f64 / 2.0).round_ties_even() as usize
}

/// Resizes a part of an image like PIL, in its own mode unless the model converts it first. Passes the rows of the
/// rectangle `wanted` of the result to `emit` as RGB, top to bottom.
///
/// `emit` must not resize an image, because the scratch buffers are in use.
pub(crate) fn resized(
    image: &Decoded,
    part: Rect,
    (width, height): (usize, usize),
    wanted: Rect,
    preprocess: &Preprocess,
    mut emit: impl FnMut(&[u8]),
) {
    let converted = image.converted_first(preprocess.convert_rgb);
    let image = converted.as_ref().unwrap_or(image);
    let filter = preprocess.interpolation;
    let channels = image.mode.channels();
    let pixels = |data| Pixels { data, stride: image.width, channels, part };
    let unchanged = part.width == width && part.height == height;
    match image.mode {
        // PIL premultiplies alpha, so that colours of transparent pixels do not bleed.
        Mode::Rgba | Mode::La if !unchanged => {
            let premultiplied = image
                .pixels
                .chunks_exact(channels)
                .flat_map(|p| {
                    p.iter()
                        .enumerate()
                        .map(|(i, &v)| if i + 1 == channels { v } else { multiply(v, p[channels - 1]) })
                })
                .collect::<Vec<_>>();
            let mut row = vec![0; wanted.width * channels];
            resize(&pixels(&premultiplied), (width, height), wanted, filter, |resized| {
                row.copy_from_slice(resized);
                divide_by_alpha(&mut row, channels);
                emit(&to_rgb(image.mode, &row));
            });
        }
        Mode::Rgb => resize(&pixels(&image.pixels), (width, height), wanted, filter, emit),
        mode => {
            resize(&pixels(&image.pixels), (width, height), wanted, filter, |row| emit(&to_rgb(mode, row)))
        }
    }
}

fn divide_by_alpha(row: &mut [u8], channels: usize) {
    for pixel in row.chunks_exact_mut(channels) {
        let alpha = u32::from(pixel[channels - 1]);
        if alpha != 0 && alpha != 255 {
            for value in &mut pixel[..channels - 1] {
                *value = (255 * u32::from(*value) / alpha).min(255) as u8;
            }
        }
    }
}

/// Normalizes 8-bit RGB pixels, (value / 255 − mean) / std, and writes them to the three planes of `out`, starting at
/// index `start` of each plane.
pub(crate) fn normalize_into(pixels: &[u8], preprocess: &Preprocess, start: usize, out: &mut [f32]) {
    let (pixels, _) = pixels.as_chunks::<3>();
    let plane = out.len() / 3;
    let (red, rest) = out.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let planes = [red, green, blue].map(|plane| &mut plane[start..][..pixels.len()]);
    normalize(pixels, preprocess.mean, preprocess.std, planes);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn normalize(pixels: &[[u8; 3]], mean: [f32; 3], std: [f32; 3], [red, green, blue]: [&mut [f32]; 3]) {
    let value = |byte: u8, channel: usize| (f32::from(byte) / 255.0 - mean[channel]) / std[channel];
    for (((&[r, g, b], red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        (*red, *green, *blue) = (value(r, 0), value(g, 1), value(b, 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Interpolation;

    fn preprocess(size: usize, resize_mode: ResizeMode) -> Preprocess {
        Preprocess {
            size,
            mean: [0.5; 3],
            std: [0.25; 3],
            interpolation: Interpolation::Bicubic,
            resize_mode,
            convert_rgb: false,
        }
    }

    #[test]
    fn image_of_the_right_size_is_unchanged() {
        let pixels = (0..4 * 4 * 3).map(|i| i as u8 * 5).collect::<Vec<_>>();
        let image = Decoded::from(RgbImage { width: 4, height: 4, pixels: pixels.clone() });
        for mode in [ResizeMode::Shortest, ResizeMode::Longest, ResizeMode::Squash] {
            assert_eq!(eval_pixels(&image, &preprocess(4, mode)).pixels, pixels);
        }
    }

    #[test]
    fn normalization_matches_values_computed_by_hand() {
        let image = Decoded::from(RgbImage { width: 1, height: 1, pixels: vec![255, 0, 51] });
        let mut out = [0f32; 3];
        eval_into(&image, &preprocess(1, ResizeMode::Shortest), &mut out);
        assert_eq!(out, [2.0, -2.0, (0.2 - 0.5) / 0.25]);
    }

    #[test]
    fn longest_pads_and_shortest_crops() {
        let image = Decoded::from(RgbImage { width: 8, height: 4, pixels: vec![200; 8 * 4 * 3] });
        let longest = eval_pixels(&image, &preprocess(4, ResizeMode::Longest)).pixels;
        assert_eq!(longest.iter().filter(|v| **v == 200).count(), 4 * 2 * 3);
        assert_eq!(&longest[..12], &[0; 12]);
        assert!(eval_pixels(&image, &preprocess(4, ResizeMode::Shortest)).pixels.iter().all(|v| *v == 200));
    }
}

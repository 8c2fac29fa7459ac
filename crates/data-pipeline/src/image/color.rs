//! Colour changes of 8-bit RGB, equal to PIL's `ImageEnhance`.

use crate::image::augment::ColorChange;

/// Applies a colour change to interleaved RGB pixels in place.
pub(crate) fn apply(pixels: &mut [u8], change: ColorChange) {
    match change {
        ColorChange::Brightness(factor) => {
            let table: [u8; 256] = std::array::from_fn(|v| blend(0.0, v as f64, factor));
            pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        }
        ColorChange::Contrast(factor) => {
            let sum: u64 = pixels.chunks_exact(3).map(|p| u64::from(luma(p))).sum();
            let mean = (sum as f64 / (pixels.len() / 3).max(1) as f64 + 0.5).floor();
            let table: [u8; 256] = std::array::from_fn(|v| blend(mean, v as f64, factor));
            pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        }
        ColorChange::Saturation(factor) => {
            for pixel in pixels.chunks_exact_mut(3) {
                let grey = f64::from(luma(pixel));
                pixel.iter_mut().for_each(|v| *v = blend(grey, f64::from(*v), factor));
            }
        }
        ColorChange::Hue(shift) => pixels.chunks_exact_mut(3).for_each(|pixel| shift_hue(pixel, shift)),
    }
}

fn blend(from: f64, to: f64, factor: f64) -> u8 {
    (from + (to - from) * factor).clamp(0.0, 255.0) as u8
}

/// Returns the ITU-R 601 luma, computed in 16-bit fixed point.
fn luma(pixel: &[u8]) -> u8 {
    ((u32::from(pixel[0]) * 19595 + u32::from(pixel[1]) * 38470 + u32::from(pixel[2]) * 7471 + 0x8000) >> 16)
        as u8
}

fn shift_hue(pixel: &mut [u8], shift: f64) {
    let [r, g, b] = [0, 1, 2].map(|c: usize| f64::from(pixel[c]) / 255.0);
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = high - low;
    if chroma == 0.0 {
        return;
    }
    let hue = if high == r {
        (g - b) / chroma
    } else if high == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    let hue = (hue / 6.0 + shift).rem_euclid(1.0) * 6.0;
    // Each channel is a function of its distance from the hue on the six-part circle.
    for (channel, offset) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
        let k: f64 = (offset + hue) % 6.0;
        let fraction = k.min(4.0 - k).clamp(0.0, 1.0);
        *channel = ((high - chroma * fraction) * 255.0).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_of_one_and_full_hue_shift_change_nothing() {
        let original = (0..60).map(|i| (i * 53) as u8).collect::<Vec<_>>();
        for change in [
            ColorChange::Brightness(1.0),
            ColorChange::Contrast(1.0),
            ColorChange::Saturation(1.0),
            ColorChange::Hue(0.0),
            ColorChange::Hue(1.0),
        ] {
            let mut pixels = original.clone();
            apply(&mut pixels, change);
            assert_eq!(pixels, original, "{change:?}");
        }
    }

    #[test]
    fn changes_match_values_computed_by_hand() {
        let mut pixels = vec![200, 100, 0];
        apply(&mut pixels, ColorChange::Brightness(0.5));
        assert_eq!(pixels, [100, 50, 0]);
        let mut red = vec![255, 0, 0];
        apply(&mut red, ColorChange::Hue(1.0 / 3.0));
        assert_eq!(red, [0, 255, 0]);
        apply(&mut red, ColorChange::Saturation(0.0));
        assert_eq!(red, [150; 3]);
    }
}

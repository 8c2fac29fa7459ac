//! Colour changes of 8-bit RGB, equal to PIL's `ImageEnhance`.

use multiversion::multiversion;

use crate::image::augment::ColorChange;

/// Applies a colour change to interleaved RGB pixels in place.
pub(crate) fn apply(pixels: &mut [u8], change: ColorChange) {
    match change {
        ColorChange::Brightness(factor) => {
            let table: [u8; 256] = std::array::from_fn(|v| blend(0.0, v as f64, factor));
            pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        }
        ColorChange::Contrast(factor) => {
            let (pixels_of_three, _) = pixels.as_chunks::<3>();
            let mean = (luma_sum(pixels_of_three) as f64 / pixels_of_three.len().max(1) as f64 + 0.5).floor();
            let table: [u8; 256] = std::array::from_fn(|v| blend(mean, v as f64, factor));
            pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        }
        ColorChange::Saturation(factor) => saturate(pixels.as_chunks_mut().0, factor),
        ColorChange::Hue(shift) => shift_hue(pixels.as_chunks_mut().0, shift),
    }
}

#[inline(always)]
fn blend(from: f64, to: f64, factor: f64) -> u8 {
    (from + (to - from) * factor).clamp(0.0, 255.0) as u8
}

/// Returns the ITU-R 601 luma, computed in 16-bit fixed point.
#[inline(always)]
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn luma_sum(pixels: &[[u8; 3]]) -> u64 {
    pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn saturate(pixels: &mut [[u8; 3]], factor: f64) {
    change(pixels, |pixel| {
        let grey = f64::from(luma(pixel));
        pixel.map(|v| blend(grey, f64::from(v), factor))
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn shift_hue(pixels: &mut [[u8; 3]], shift: f64) {
    change(pixels, |pixel| shifted(pixel, shift));
}

/// Shifts the hue of a pixel.
///
/// The function has no branches or calls into the C library, so that loops around it can be vectorised.
#[inline(always)]
fn shifted(pixel: [u8; 3], shift: f64) -> [u8; 3] {
    let [r, g, b] = pixel.map(|v| f64::from(v) / 255.0);
    let larger = |a: f64, b: f64| if a > b { a } else { b };
    let smaller = |a: f64, b: f64| if a < b { a } else { b };
    let (high, low) = (larger(larger(r, g), b), smaller(smaller(r, g), b));
    let chroma = high - low;
    let choose = |red, green, blue| {
        let others = if high == g { green } else { blue };
        if high == r { red } else { others }
    };
    let turn = (choose(0.0, 2.0, 4.0) + choose(g - b, b - r, r - g) / chroma) / 6.0 + shift;
    let fraction = turn - turn.trunc();
    let hue = (if fraction < 0.0 { fraction + 1.0 } else { fraction }) * 6.0;
    // Each channel is a function of its distance from the hue on the six-part circle.
    let channel = |old: u8, offset: f64| {
        let k = offset + hue;
        let k = if k < 6.0 { k } else { k - 6.0 };
        let part = larger(smaller(smaller(k, 4.0 - k), 1.0), 0.0);
        let value = (high - chroma * part) * 255.0;
        let whole = value.trunc();
        let rounded = whole + if value - whole < 0.5 { 0.0 } else { 1.0 };
        // A grey pixel has no hue.
        if chroma == 0.0 { old } else { rounded as u8 }
    };
    [channel(pixel[0], 5.0), channel(pixel[1], 3.0), channel(pixel[2], 1.0)]
}

/// Applies `changed` to all pixels. Works on blocks of 64 pixels with one array per channel, so that the compiler can
/// vectorise it.
#[inline(always)]
fn change(pixels: &mut [[u8; 3]], changed: impl Fn([u8; 3]) -> [u8; 3]) {
    for block in pixels.chunks_mut(64) {
        let [mut reds, mut greens, mut blues] = [[0; 64]; 3];
        for (place, pixel) in block.iter().enumerate() {
            [reds[place], greens[place], blues[place]] = *pixel;
        }
        for ((r, g), b) in reds.iter_mut().zip(&mut greens).zip(&mut blues) {
            [*r, *g, *b] = changed([*r, *g, *b]);
        }
        for (place, pixel) in block.iter_mut().enumerate() {
            *pixel = [reds[place], greens[place], blues[place]];
        }
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

    /// Computes the hue shift by definition, with the standard library's remainder and rounding.
    fn plainly_shifted(pixel: [u8; 3], shift: f64) -> [u8; 3] {
        let [r, g, b] = pixel.map(|v| f64::from(v) / 255.0);
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let chroma = high - low;
        if chroma == 0.0 {
            return pixel;
        }
        let hue = if high == r {
            (g - b) / chroma
        } else if high == g {
            2.0 + (b - r) / chroma
        } else {
            4.0 + (r - g) / chroma
        };
        let hue = (hue / 6.0 + shift).rem_euclid(1.0) * 6.0;
        [5.0, 3.0, 1.0].map(|offset: f64| {
            let k = (offset + hue) % 6.0;
            let fraction = k.min(4.0 - k).clamp(0.0, 1.0);
            ((high - chroma * fraction) * 255.0).round() as u8
        })
    }

    #[test]
    fn vectorised_changes_equal_changes_of_single_pixels() {
        let mut random = file_ext::SplitMix64::new(5);
        for length in [1, 2, 63, 64, 65, 20_000] {
            let mut bytes = (0..3 * length).map(|_| random.below(256) as u8).collect::<Vec<_>>();
            // Grey pixels, and pixels with two equal channels.
            bytes.chunks_exact_mut(3).step_by(5).for_each(|pixel| pixel.fill(pixel[0]));
            bytes.chunks_exact_mut(3).step_by(7).for_each(|pixel| pixel[1] = pixel[2]);
            let original = bytes.as_chunks::<3>().0;
            for shift in [-0.5, -0.1, 0.0, 1.0 / 6.0, random.between(-0.5, 0.5), 0.5] {
                let mut pixels = original.to_vec();
                apply(pixels.as_flattened_mut(), ColorChange::Hue(shift));
                let wanted = original.iter().map(|pixel| plainly_shifted(*pixel, shift)).collect::<Vec<_>>();
                assert_eq!(pixels, wanted, "{shift}");
            }
            for factor in [0.0, 0.3, 1.0, random.between(0.0, 2.0), 10.0] {
                let mut pixels = original.to_vec();
                apply(pixels.as_flattened_mut(), ColorChange::Saturation(factor));
                for (found, pixel) in pixels.iter().zip(original) {
                    let grey = f64::from(luma(*pixel));
                    assert_eq!(*found, pixel.map(|v| blend(grey, f64::from(v), factor)), "{factor}");
                }
            }
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

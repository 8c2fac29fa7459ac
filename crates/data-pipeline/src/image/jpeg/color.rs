//! Colour conversion (ITU-R 601) in libjpeg's fixed-point arithmetic with 16 fractional bits.

// The factors 1.402 - 1, 1.772 - 2, -0.34414 and 1 - 0.71414, times 2^16. `pixel` adds the integer parts separately.
const RED_CR: i32 = 91881 - 65536;
const BLUE_CB: i32 = 116_130 - 131_072;
const GREEN_CB: i32 = -22554;
const GREEN_CR: i32 = 65536 - 46802;
const HALF: i32 = 1 << 15;

/// Returns `(value * factor + HALF) >> 16`, computed from the high half of a 16-bit product, a single SIMD instruction.
#[inline(always)]
fn rounded(value: i16, factor: i32) -> i16 {
    let high = ((i32::from(2 * value) * factor) >> 16) as i16;
    (high + 1) >> 1
}

/// Converts a pixel from YCbCr to RGB.
#[inline(always)]
fn pixel(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = (i16::from(y), i16::from(cb) - 128, i16::from(cr) - 128);
    let red = y + cr + rounded(cr, RED_CR);
    let green = y - cr + ((i32::from(cb) * GREEN_CB + i32::from(cr) * GREEN_CR + HALF) >> 16) as i16;
    let blue = y + 2 * cb + rounded(cb, BLUE_CB);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Converts YCbCr to interleaved RGB.
#[inline(always)]
pub(super) fn rgb(y: &[u8], cb: &[u8], cr: &[u8], target: &mut [u8]) {
    for (((pixels, &y), &cb), &cr) in target.chunks_exact_mut(3).zip(y).zip(cb).zip(cr) {
        let [red, green, blue] = pixel(y, cb, cr);
        pixels[0] = red;
        pixels[1] = green;
        pixels[2] = blue;
    }
}

/// Interleaves three components without conversion.
#[inline(always)]
pub(super) fn interleave(lines: [&[u8]; 3], target: &mut [u8]) {
    for (((pixel, &a), &b), &c) in target.chunks_exact_mut(3).zip(lines[0]).zip(lines[1]).zip(lines[2]) {
        pixel.copy_from_slice(&[a, b, c]);
    }
}

/// Interleaves and inverts CMYK components: like PIL, it assumes that full ink is stored as 0, as Adobe's programs do.
#[inline(always)]
pub(super) fn inverted_cmyk(lines: [&[u8]; 4], target: &mut [u8]) {
    let [c, m, y, k] = lines;
    for ((((pixel, &c), &m), &y), &k) in target.chunks_exact_mut(4).zip(c).zip(m).zip(y).zip(k) {
        pixel.copy_from_slice(&[!c, !m, !y, !k]);
    }
}

/// Converts YCCK, which is inverted CMYK with the first three components converted to YCbCr. The two inversions cancel
/// out except for K.
#[inline(always)]
pub(super) fn inverted_ycck(lines: [&[u8]; 4], target: &mut [u8]) {
    let [y, cb, cr, k] = lines;
    for ((((pixels, &y), &cb), &cr), &k) in target.chunks_exact_mut(4).zip(y).zip(cb).zip(cr).zip(k) {
        let [c, m, y] = pixel(y, cb, cr);
        pixels.copy_from_slice(&[c, m, y, !k]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_formula() {
        for y in (0..=255).step_by(15) {
            for cb in (0..=255).step_by(15) {
                for cr in (0..=255).step_by(15) {
                    let found = pixel(y, cb, cr);
                    let (y, cb, cr) = (f64::from(y), f64::from(cb) - 128.0, f64::from(cr) - 128.0);
                    let expected = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb];
                    for (found, expected) in found.into_iter().zip(expected) {
                        assert!(
                            (f64::from(found) - expected.clamp(0.0, 255.0)).abs() <= 0.51,
                            "{found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_16_bits_round_like_those_of_32() {
        for value in -128..128 {
            for factor in [RED_CR, BLUE_CB] {
                let expected = (i32::from(value) * factor + HALF) >> 16;
                assert_eq!(i32::from(rounded(value, factor)), expected, "{value} {factor}");
            }
        }
    }

    #[test]
    fn rows_are_interleaved() {
        let mut pixels = [0; 6];
        rgb(&[76, 255], &[85, 128], &[255, 128], &mut pixels);
        assert_eq!(pixels, [254, 0, 0, 255, 255, 255]);
        interleave([&[1, 4], &[2, 5], &[3, 6]], &mut pixels);
        assert_eq!(pixels, [1, 2, 3, 4, 5, 6]);
        let mut pixels = [0; 4];
        inverted_cmyk([&[0], &[255], &[1], &[100]], &mut pixels);
        assert_eq!(pixels, [255, 0, 254, 155]);
        inverted_ycck([&[76], &[85], &[255], &[100]], &mut pixels);
        assert_eq!(pixels, [254, 0, 0, 155]);
    }
}

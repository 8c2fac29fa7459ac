//! Inverse DCT with the integer arithmetic of libjpeg's accurate method ("islow").
//!
//! The method is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 12 multiplications per row; the constants
//! have 13 fractional bits. Sums of two inputs wrap at 16 bits and results saturate, as in the vector code of
//! libjpeg-turbo, so that even coefficients that no encoder writes give its pixels.
//!
//! The loop of a pass runs over the columns, so that the compiler turns each operation into one on eight columns.

use wide::{i8x16, i16x8, i16x16, u8x16};

/// Fractional bits that the first pass keeps.
const PASS1_BITS: i32 = 2;
/// Fractional bits of the constants.
const CONST_BITS: i32 = 13;

// The method's constants, times 2^13, as sums that fit 16 bits.
const C_0_541: i32 = 4433;
const C_0_541_PLUS_0_765: i32 = 4433 + 6270;
const C_0_541_MINUS_1_847: i32 = 4433 - 15137;
const C_1_175: i32 = 9633;
const C_1_175_MINUS_1_961: i32 = 9633 - 16069;
const C_1_175_MINUS_0_390: i32 = 9633 - 3196;
const C_0_899: i32 = 7373;
const C_0_298_MINUS_0_899: i32 = 2446 - 7373;
const C_1_501_MINUS_0_899: i32 = 12299 - 7373;
const C_2_562: i32 = 20995;
const C_2_053_MINUS_2_562: i32 = 16819 - 20995;
const C_3_072_MINUS_2_562: i32 = 25172 - 20995;

/// Divides by 2^SHIFT with rounding, and saturates to 16 bits.
#[inline(always)]
fn descaled<const SHIFT: i32>(value: i32) -> i16 {
    let value = value.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
    value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

/// Transforms the columns of a block.
#[inline(always)]
fn pass<const SHIFT: i32>(rows: [i16x8; 8]) -> [i16x8; 8] {
    let rows = bytemuck::cast::<[i16x8; 8], [[i16; 8]; 8]>(rows);
    let mut out = [[0i16; 8]; 8];
    for c in 0..8 {
        let [r0, r1, r2, r3, r4, r5, r6, r7] =
            [rows[0][c], rows[1][c], rows[2][c], rows[3][c], rows[4][c], rows[5][c], rows[6][c], rows[7][c]];
        // Even rows.
        let sum = i32::from(r0.wrapping_add(r4)) << CONST_BITS;
        let difference = i32::from(r0.wrapping_sub(r4)) << CONST_BITS;
        let (r2, r6) = (i32::from(r2), i32::from(r6));
        let even2 = r2 * C_0_541 + r6 * C_0_541_MINUS_1_847;
        let even3 = r2 * C_0_541_PLUS_0_765 + r6 * C_0_541;
        let (a0, a3) = (sum.wrapping_add(even3), sum.wrapping_sub(even3));
        let (a1, a2) = (difference.wrapping_add(even2), difference.wrapping_sub(even2));
        // Odd rows.
        let (z3, z4) = (i32::from(r7.wrapping_add(r3)), i32::from(r5.wrapping_add(r1)));
        let cross3 = z3 * C_1_175_MINUS_1_961 + z4 * C_1_175;
        let cross4 = z3 * C_1_175 + z4 * C_1_175_MINUS_0_390;
        let (r1, r3, r5, r7) = (i32::from(r1), i32::from(r3), i32::from(r5), i32::from(r7));
        let b0 = (r1 * C_1_501_MINUS_0_899 - r7 * C_0_899).wrapping_add(cross4);
        let b1 = (r3 * C_3_072_MINUS_2_562 - r5 * C_2_562).wrapping_add(cross3);
        let b2 = (r5 * C_2_053_MINUS_2_562 - r3 * C_2_562).wrapping_add(cross4);
        let b3 = (r7 * C_0_298_MINUS_0_899 - r1 * C_0_899).wrapping_add(cross3);
        out[0][c] = descaled::<SHIFT>(a0.wrapping_add(b0));
        out[1][c] = descaled::<SHIFT>(a1.wrapping_add(b1));
        out[2][c] = descaled::<SHIFT>(a2.wrapping_add(b2));
        out[3][c] = descaled::<SHIFT>(a3.wrapping_add(b3));
        out[4][c] = descaled::<SHIFT>(a3.wrapping_sub(b3));
        out[5][c] = descaled::<SHIFT>(a2.wrapping_sub(b2));
        out[6][c] = descaled::<SHIFT>(a1.wrapping_sub(b1));
        out[7][c] = descaled::<SHIFT>(a0.wrapping_sub(b0));
    }
    bytemuck::cast(out)
}

/// Returns two vectors whose values alternate, in two halves.
#[inline(always)]
fn interleaved(a: i16x8, b: i16x8) -> [i16x8; 2] {
    let (a, b) = (a.to_array(), b.to_array());
    [
        i16x8::new([a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]]),
        i16x8::new([a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]]),
    ]
}

/// Exchanges rows and columns.
#[inline(always)]
fn transposed(mut rows: [i16x8; 8]) -> [i16x8; 8] {
    // A perfect shuffle of the 64 values moves the highest bit of the index to its lowest place; three of them exchange
    // the bits of row and column.
    for _ in 0..3 {
        let [a, b] = interleaved(rows[0], rows[4]);
        let [c, d] = interleaved(rows[1], rows[5]);
        let [e, f] = interleaved(rows[2], rows[6]);
        let [g, h] = interleaved(rows[3], rows[7]);
        rows = [a, b, c, d, e, f, g, h];
    }
    rows
}

/// Saturates two columns to 8 bits with sign, and centres at 128.
#[inline(always)]
fn samples(a: i16x8, b: i16x8) -> u8x16 {
    let values = i8x16::from_i16x16_saturate(bytemuck::cast::<[i16x8; 2], i16x16>([a, b]));
    bytemuck::cast::<i8x16, u8x16>(values) ^ u8x16::splat(128)
}

/// Transforms the coefficients of a block, multiplied by the quantization table, to samples.
///
/// `target` starts at the block's first sample; its rows are `stride` apart.
#[inline(always)]
pub(super) fn block(coefficients: &[i16; 64], quant: &[i16; 64], target: &mut [u8], stride: usize) {
    let (mut rows, mut details) = ([i16x8::ZERO; 8], i16x8::ZERO);
    for (r, row) in rows.iter_mut().enumerate() {
        let (at, end) = (8 * r, 8 * r + 8);
        let values = i16x8::from_slice_unaligned(&coefficients[at..end]);
        if r > 0 {
            details |= values;
        }
        *row = values * i16x8::from_slice_unaligned(&quant[at..end]);
    }
    let [low, high] = bytemuck::cast::<i16x8, [u64; 2]>(details);
    let columns = if low | high == 0 {
        // Without coefficients below the first row, the sums wrap instead of saturating.
        [rows[0] << PASS1_BITS; 8]
    } else {
        pass::<{ CONST_BITS - PASS1_BITS }>(rows)
    };
    let [a, b, c, d, e, f, g, h] = pass::<{ CONST_BITS + PASS1_BITS + 3 }>(transposed(columns));
    let mut pairs = [samples(a, b), samples(c, d), samples(e, f), samples(g, h)];
    // Pairs of columns to pairs of rows, as in `transposed`.
    for _ in 0..3 {
        let [a, b, c, d] = pairs;
        pairs = [
            u8x16::unpack_low(a, c),
            u8x16::unpack_high(a, c),
            u8x16::unpack_low(b, d),
            u8x16::unpack_high(b, d),
        ];
    }
    let target = &mut target[..7 * stride + 8];
    for (r, pair) in pairs.iter().enumerate() {
        let (first, second) = pair.as_array().split_at(8);
        target[2 * r * stride..2 * r * stride + 8].copy_from_slice(first);
        target[(2 * r + 1) * stride..(2 * r + 1) * stride + 8].copy_from_slice(second);
    }
}

/// Writes a block whose only coefficient is the mean, multiplied by the quantization table.
#[inline(always)]
pub(super) fn flat_block(mean: i16, target: &mut [u8], stride: usize) {
    let kept = i32::from(mean << PASS1_BITS);
    let value =
        (descaled::<{ CONST_BITS + PASS1_BITS + 3 }>(kept << CONST_BITS).clamp(-128, 127) + 128) as u8;
    let target = &mut target[..7 * stride + 8];
    for r in 0..8 {
        target[r * stride..r * stride + 8].fill(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition (ITU T.81, A.3.3), in f64.
    fn reference(coefficients: &[i16; 64]) -> [f64; 64] {
        let scale = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
        let wave = |x: usize, k: usize| {
            scale(k) * ((2 * x + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos()
        };
        std::array::from_fn(|place| {
            let (y, x) = (place / 8, place % 8);
            let term = |k: usize| f64::from(coefficients[k]) * wave(y, k / 8) * wave(x, k % 8);
            ((0..64).map(term).sum::<f64>() / 4.0 + 128.0).clamp(0.0, 255.0)
        })
    }

    #[test]
    fn samples_are_within_one_level_of_the_definition() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for count in 0..400 {
            let (mut coefficients, mut quant) = ([0; 64], [1; 64]);
            for _ in 0..count % 40 {
                let place = random() as usize % 64;
                quant[place] = 1 + (random() % 8) as i16;
                coefficients[place] = (random() % 61) as i16 - 30;
            }
            let products = std::array::from_fn(|i| coefficients[i] * quant[i]);
            let mut samples = [0; 64];
            block(&coefficients, &quant, &mut samples, 8);
            for (found, expected) in samples.iter().zip(reference(&products)) {
                assert!((f64::from(*found) - expected).abs() <= 1.0, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_flat_block_equals_a_block_with_a_mean_only() {
        for mean in (i16::MIN..=i16::MAX).step_by(7) {
            let (mut coefficients, mut flat, mut full) = ([0; 64], [0; 64], [0; 64]);
            coefficients[0] = mean;
            flat_block(mean, &mut flat, 8);
            block(&coefficients, &[1; 64], &mut full, 8);
            assert_eq!(flat, full, "{mean}");
        }
    }
}

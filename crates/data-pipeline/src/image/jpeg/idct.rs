//! Inverse DCT in the integer arithmetic of libjpeg's accurate method ("islow").
//!
//! The algorithm is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 12 multiplications per row. Constants
//! have 13 fractional bits. Sums of two inputs wrap at 16 bits and results saturate, as in libjpeg-turbo's SIMD code,
//! so the pixels are equal even for out-of-range coefficients.
//!
//! The first pass loops over the columns and the second over the rows, so the compiler vectorises each operation over
//! eight of them. Each iteration packs its results into wider integers, so the transposition moves 32 bits at a time.

/// Fractional bits that the first pass keeps.
const PASS1_BITS: i32 = 2;
/// Fractional bits of the constants.
const CONST_BITS: i32 = 13;

// The algorithm's constants, times 2^13, combined into sums that fit 16 bits.
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

/// Divides by 2^SHIFT and rounds to nearest.
#[inline(always)]
fn descaled<const SHIFT: i32>(value: i32) -> i32 {
    value.wrapping_add(1 << (SHIFT - 1)) >> SHIFT
}

/// Applies the one-dimensional inverse DCT to eight values, without saturation.
#[inline(always)]
fn transformed<const SHIFT: i32>([r0, r1, r2, r3, r4, r5, r6, r7]: [i16; 8]) -> [i32; 8] {
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
    [
        a0.wrapping_add(b0),
        a1.wrapping_add(b1),
        a2.wrapping_add(b2),
        a3.wrapping_add(b3),
        a3.wrapping_sub(b3),
        a2.wrapping_sub(b2),
        a1.wrapping_sub(b1),
        a0.wrapping_sub(b0),
    ]
    .map(descaled::<SHIFT>)
}

/// Saturates two values to 16 bits and packs them, the first in the low half.
#[inline(always)]
fn pair(values: [i32; 2]) -> u32 {
    let [first, second] = values.map(|value| value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u32);
    (first & 0xFFFF) | second << 16
}

/// Saturates four values to signed 8 bits, adds 128 to each, and packs them, the first in the lowest byte.
#[inline(always)]
fn samples(values: [i32; 4]) -> u32 {
    let [a, b, c, d] = values.map(|value| value.clamp(-128, 127) as u32);
    ((a & 0xFF) | (b & 0xFF) << 8 | (c & 0xFF) << 16 | d << 24) ^ 0x8080_8080
}

/// Dequantizes the coefficients of a block and transforms them to samples.
///
/// `target` starts at the block's first sample; consecutive rows are `stride` samples apart.
#[inline(always)]
pub(super) fn block(coefficients: &[i16; 64], quant: &[i16; 64], target: &mut [u8], stride: usize) {
    let product = |i: usize| coefficients[i].wrapping_mul(quant[i]);
    let mut columns = [[0; 4]; 8];
    if coefficients[8..].iter().fold(0, |all, value| all | value) == 0 {
        // As in libjpeg-turbo, a block without coefficients below the first row wraps instead of saturating.
        for (c, column) in columns.iter_mut().enumerate() {
            let kept = i32::from(product(c) << PASS1_BITS);
            *column = [pair([kept; 2]); 4];
        }
    } else {
        for (c, column) in columns.iter_mut().enumerate() {
            let values = std::array::from_fn(|r| product(8 * r + c));
            let [a, b, c, d, e, f, g, h] = transformed::<{ CONST_BITS - PASS1_BITS }>(values);
            *column = [pair([a, b]), pair([c, d]), pair([e, f]), pair([g, h])];
        }
    }
    // Reinterprets the packed pairs as 16-bit values.
    let mut bytes = [0; 128];
    for (bytes, pair) in bytes.chunks_exact_mut(4).zip(columns.as_flattened()) {
        bytes.copy_from_slice(&pair.to_le_bytes());
    }
    let mut rows = [[0; 2]; 8];
    for (r, row) in rows.iter_mut().enumerate() {
        let values = std::array::from_fn(|c| {
            let at = 16 * c + 2 * r;
            i16::from_le_bytes([bytes[at], bytes[at + 1]])
        });
        let [a, b, c, d, e, f, g, h] = transformed::<{ CONST_BITS + PASS1_BITS + 3 }>(values);
        *row = [samples([a, b, c, d]), samples([e, f, g, h])];
    }
    let target = &mut target[..7 * stride + 8];
    for (r, [left, right]) in rows.into_iter().enumerate() {
        let row = u64::from(left) | u64::from(right) << 32;
        target[r * stride..r * stride + 8].copy_from_slice(&row.to_le_bytes());
    }
}

/// Writes a block whose only nonzero coefficient is the dequantized DC coefficient `mean`.
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

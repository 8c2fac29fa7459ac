//! Resampling equal to PIL's `Image.resize` bit for bit: antialiased, 8-bit fixed point, rows first.

use crate::image::Interpolation;

/// Fixed-point bits of a weight: 32 bits minus 8 for the pixel and 2 of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Interleaved 8-bit pixels of an image or a part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels<'a> {
    pub(crate) data: &'a [u8],
    /// Pixels from the start of a row to the next.
    pub(crate) stride: usize,
    pub(crate) channels: usize,
    /// The part of the image to resample.
    pub(crate) part: Rect,
}

impl Pixels<'_> {
    fn row(&self, y: usize) -> &[u8] {
        let start = ((self.part.y + y) * self.stride + self.part.x) * self.channels;
        &self.data[start..start + self.part.width * self.channels]
    }
}

/// Weights of all output positions along one axis.
struct Weights {
    /// First input position and number of weights, for each output position.
    spans: Vec<(usize, usize)>,
    /// `taps` weights for each output position.
    values: Vec<i32>,
    taps: usize,
}

impl Weights {
    /// Computes the weights of the output positions `first..first + count`, for resizing `input` to `output` pixels.
    fn new(input: usize, output: usize, first: usize, count: usize, filter: Interpolation) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter_support(filter) * filter_scale;
        let taps = support.ceil() as usize * 2 + 1;
        let (mut spans, mut values) = (Vec::with_capacity(count), vec![0; count * taps]);
        let mut exact = vec![0.0; taps];
        for (index, slots) in values.chunks_exact_mut(taps).enumerate() {
            let center = ((first + index) as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let length = end - start;
            let mut sum = 0.0;
            for (tap, weight) in exact[..length].iter_mut().enumerate() {
                *weight = filter_value(filter, ((start + tap) as f64 - center + 0.5) / filter_scale);
                sum += *weight;
            }
            for (slot, weight) in slots.iter_mut().zip(&exact[..length]) {
                let weight = if sum != 0.0 { weight / sum } else { *weight };
                // Rounds half away from zero, like adding ±0.5 before a cast in C.
                *slot = (weight * f64::from(1 << PRECISION_BITS) + 0.5f64.copysign(weight)) as i32;
            }
            spans.push((start, length));
        }
        Weights { spans, values, taps }
    }

    fn at(&self, index: usize) -> (usize, &[i32]) {
        let (start, length) = self.spans[index];
        (start, &self.values[index * self.taps..index * self.taps + length])
    }
}

fn filter_support(filter: Interpolation) -> f64 {
    match filter {
        Interpolation::Bicubic => 2.0,
        Interpolation::Bilinear => 1.0,
    }
}

fn filter_value(filter: Interpolation, x: f64) -> f64 {
    let x = x.abs();
    match filter {
        Interpolation::Bilinear => (1.0 - x).max(0.0),
        Interpolation::Bicubic => {
            // Keys' kernel with a = -0.5.
            const A: f64 = -0.5;
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
    }
}

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes to `width` x `height` and returns the rectangle `wanted` of the result.
pub(crate) fn resize(
    source: &Pixels<'_>,
    width: usize,
    height: usize,
    wanted: Rect,
    filter: Interpolation,
) -> Vec<u8> {
    let (channels, part) = (source.channels, source.part);
    let vertical =
        (part.height != height).then(|| Weights::new(part.height, height, wanted.y, wanted.height, filter));
    let horizontal =
        (part.width != width).then(|| Weights::new(part.width, width, wanted.x, wanted.width, filter));
    // Resample only input rows that a wanted output row depends on.
    let (first_row, last_row) = match &vertical {
        Some(weights) => (
            weights.spans[0].0,
            weights.spans.iter().map(|(start, length)| start + length).max().unwrap_or(0),
        ),
        None => (wanted.y, wanted.y + wanted.height),
    };
    let row_bytes = wanted.width * channels;
    let mut rows = vec![0u8; (last_row - first_row) * row_bytes];
    for (y, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        let input = source.row(first_row + y);
        match &horizontal {
            None => row.copy_from_slice(&input[wanted.x * channels..][..row_bytes]),
            Some(weights) => match channels {
                1 => resample_row::<1>(input, weights, row),
                2 => resample_row::<2>(input, weights, row),
                3 => resample_row::<3>(input, weights, row),
                _ => resample_row::<4>(input, weights, row),
            },
        }
    }
    let Some(weights) = vertical else { return rows };
    let mut output = vec![0u8; wanted.height * row_bytes];
    let mut sums = vec![0i32; row_bytes];
    for (index, out) in output.chunks_exact_mut(row_bytes).enumerate() {
        let (start, taps) = weights.at(index);
        sums.fill(1 << (PRECISION_BITS - 1));
        for (tap, &weight) in taps.iter().enumerate() {
            let row = &rows[(start - first_row + tap) * row_bytes..][..row_bytes];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = clip8(sum);
        }
    }
    output
}

fn resample_row<const CHANNELS: usize>(input: &[u8], weights: &Weights, row: &mut [u8]) {
    for (index, out) in row.chunks_exact_mut(CHANNELS).enumerate() {
        let (start, taps) = weights.at(index);
        let mut sums = [1i32 << (PRECISION_BITS - 1); CHANNELS];
        for (pixel, &weight) in input[start * CHANNELS..].chunks_exact(CHANNELS).zip(taps) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = clip8(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(data: &[u8], width: usize, height: usize, channels: usize) -> Pixels<'_> {
        Pixels { data, stride: width, channels, part: Rect { x: 0, y: 0, width, height } }
    }

    proptest! {
        #[test]
        fn constant_image_stays_constant(value: u8, w in 1usize..40, h in 1usize..40, ow in 1usize..40, oh in 1usize..40) {
            let data = vec![value; w * h * 3];
            let all = Rect { x: 0, y: 0, width: ow, height: oh };
            for filter in [Interpolation::Bicubic, Interpolation::Bilinear] {
                let out = resize(&whole(&data, w, h, 3), ow, oh, all, filter);
                prop_assert!(out.iter().all(|v| *v == value));
            }
        }

        #[test]
        fn wanted_part_equals_that_part_of_the_whole(seed: u64, w in 2usize..30, h in 2usize..30, ow in 2usize..30, oh in 2usize..30) {
            let data = (0..w * h * 3).map(|i| (seed.wrapping_mul(i as u64 + 1) >> 13) as u8).collect::<Vec<_>>();
            let all = resize(&whole(&data, w, h, 3), ow, oh, Rect { x: 0, y: 0, width: ow, height: oh }, Interpolation::Bicubic);
            let wanted = Rect { x: 1, y: 1, width: ow - 1, height: oh - 1 };
            let part = resize(&whole(&data, w, h, 3), ow, oh, wanted, Interpolation::Bicubic);
            for y in 0..wanted.height {
                prop_assert_eq!(&part[y * wanted.width * 3..][..wanted.width * 3], &all[((y + 1) * ow + 1) * 3..][..wanted.width * 3]);
            }
        }
    }
}

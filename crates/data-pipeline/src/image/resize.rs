//! Resampling equal to PIL's `Image.resize` bit for bit: antialiased, 8-bit fixed point, rows first.

use std::cell::RefCell;
use std::ops::Range;

use crate::image::Interpolation;
use crate::image::kernel::{COLUMNS, PRECISION_BITS, across, down};

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
    /// Returns the bytes of `columns` in row `y` of the part.
    fn row(&self, y: usize, columns: &Range<usize>) -> &[u8] {
        let start = ((self.part.y + y) * self.stride + self.part.x + columns.start) * self.channels;
        &self.data[start..start + columns.len() * self.channels]
    }
}

/// Weights of the output positions along one axis.
pub(super) struct Weights {
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

    /// Returns the number of output positions.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Iterates over the output positions: first input position and weights.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let values = self.values.chunks_exact(self.taps);
        self.spans.iter().zip(values).map(|(&(start, length), values)| (start, &values[..length]))
    }

    /// Returns the smallest range that contains all input positions with a weight.
    pub(super) fn inputs(&self) -> Range<usize> {
        let start = self.spans.iter().map(|(start, _)| *start).min().unwrap_or(0);
        start..self.spans.iter().map(|(start, length)| start + length).max().unwrap_or(start)
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

/// Scratch buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// Rows after the horizontal pass.
    rows: Vec<u8>,
    tiles: [Vec<[u8; COLUMNS]>; 2],
    /// An output row.
    line: Vec<[u8; COLUMNS]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Resizes to `width` x `height` and passes the rows of the rectangle `wanted` of the result to `emit`, top to bottom.
///
/// `emit` must not resize an image, because the scratch buffers are in use.
pub(crate) fn resize(
    source: &Pixels<'_>,
    (width, height): (usize, usize),
    wanted: Rect,
    filter: Interpolation,
    mut emit: impl FnMut(&[u8]),
) {
    let (channels, part) = (source.channels, source.part);
    let vertical =
        (part.height != height).then(|| Weights::new(part.height, height, wanted.y, wanted.height, filter));
    let horizontal =
        (part.width != width).then(|| Weights::new(part.width, width, wanted.x, wanted.width, filter));
    // Resample only input rows that a wanted output row depends on.
    let input_rows = vertical.as_ref().map_or(wanted.y..wanted.y + wanted.height, Weights::inputs);
    let input_columns = horizontal.as_ref().map_or(wanted.x..wanted.x + wanted.width, Weights::inputs);
    let first_row = input_rows.start;
    let inputs = input_rows.map(|y| source.row(y, &input_columns)).collect::<Vec<_>>();
    if horizontal.is_none() && vertical.is_none() {
        return inputs.into_iter().for_each(emit);
    }
    SCRATCH.with_borrow_mut(|Scratch { rows, tiles: [tile, narrow], line }| {
        let row_bytes = wanted.width * channels;
        let stride = (row_bytes + 1).next_multiple_of(COLUMNS);
        rows.resize(inputs.len() * stride, 0);
        match &horizontal {
            Some(weights) => across(&inputs, channels, weights, rows, stride, [tile, narrow]),
            None => {
                for (row, input) in rows.chunks_exact_mut(stride).zip(&inputs) {
                    row[..row_bytes].copy_from_slice(input);
                }
            }
        }
        let Some(weights) = &vertical else {
            return rows.chunks_exact(stride).for_each(|row| emit(&row[..row_bytes]));
        };
        line.resize(stride / COLUMNS, [0; COLUMNS]);
        for (start, weights) in weights.iter() {
            down(&rows[(start - first_row) * stride..], stride, weights, line);
            emit(&line.as_flattened()[..row_bytes]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(data: &[u8], width: usize, height: usize, channels: usize) -> Pixels<'_> {
        Pixels { data, stride: width, channels, part: Rect { x: 0, y: 0, width, height } }
    }

    fn resize(
        source: &Pixels<'_>,
        width: usize,
        height: usize,
        wanted: Rect,
        filter: Interpolation,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        super::resize(source, (width, height), wanted, filter, |row| out.extend_from_slice(row));
        out
    }

    /// Resizes one row or column, one pixel at a time. `at` returns its bytes.
    fn plain_pass(at: impl Fn(usize) -> u8, input: usize, output: usize, filter: Interpolation) -> Vec<u8> {
        if input == output {
            return (0..input).map(at).collect();
        }
        let round = |sum: i32| (sum >> PRECISION_BITS).clamp(0, 255) as u8;
        Weights::new(input, output, 0, output, filter)
            .iter()
            .map(|(start, weights)| {
                let terms = weights.iter().enumerate().map(|(i, weight)| i32::from(at(start + i)) * weight);
                round(terms.fold(1 << (PRECISION_BITS - 1), |sum, term| sum + term))
            })
            .collect()
    }

    /// Resizes like [`resize`] with one sum per pixel: first all rows, then the wanted columns.
    fn plain_resize(
        source: &Pixels<'_>,
        width: usize,
        height: usize,
        wanted: Rect,
        filter: Interpolation,
    ) -> Vec<u8> {
        let (channels, part) = (source.channels, source.part);
        let byte = |x: usize, y: usize, c: usize| source.data[(y * source.stride + x) * channels + c];
        let mut out = vec![0; wanted.width * wanted.height * channels];
        for c in 0..channels {
            let rows = (0..part.height)
                .map(|y| plain_pass(|x| byte(part.x + x, part.y + y, c), part.width, width, filter))
                .collect::<Vec<_>>();
            for x in 0..wanted.width {
                let column = plain_pass(|y| rows[y][wanted.x + x], part.height, height, filter);
                for y in 0..wanted.height {
                    out[(y * wanted.width + x) * channels + c] = column[wanted.y + y];
                }
            }
        }
        out
    }

    /// Maps two numbers to a nonempty part of `0..size`: start and length.
    fn part_of(size: usize, [start, length]: [usize; 2]) -> (usize, usize) {
        let start = start % size;
        (start, 1 + length % (size - start))
    }

    proptest! {
        /// Covers sizes below and above the vector length. Black and white pixels reach the limits of a byte.
        #[test]
        fn equals_sums_per_pixel(
            seed: u64, channels in 1usize..5, size in [1usize..90, 1usize..90], to in [1usize..90, 1usize..90],
            parts: [[usize; 2]; 4], keeps: [bool; 2], bilinear: bool,
        ) {
            let mut random = file_ext::SplitMix64::new(seed);
            let bytes = (0..size[0] * size[1] * channels).map(|_| match random.below(4) {
                0 => 0,
                1 => 255,
                _ => random.below(256) as u8,
            });
            let data = bytes.collect::<Vec<_>>();
            let rect = |size: [usize; 2], parts: [[usize; 2]; 2]| {
                let ((x, width), (y, height)) = (part_of(size[0], parts[0]), part_of(size[1], parts[1]));
                Rect { x, y, width, height }
            };
            let part = rect(size, [parts[0], parts[1]]);
            let width = if keeps[0] { part.width } else { to[0] };
            let height = if keeps[1] { part.height } else { to[1] };
            let wanted = rect([width, height], [parts[2], parts[3]]);
            let source = Pixels { data: &data, stride: size[0], channels, part };
            let filter = if bilinear { Interpolation::Bilinear } else { Interpolation::Bicubic };
            prop_assert_eq!(
                resize(&source, width, height, wanted, filter),
                plain_resize(&source, width, height, wanted, filter)
            );
        }

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

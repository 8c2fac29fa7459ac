//! Conversion of decoded samples to pixels: upsampling and colour conversion.

use std::ops::Range;

use multiversion::multiversion;

use super::header::{Colors, Component, Frame};
use super::{color, upsample};
use crate::DamageKind;
use crate::image::decode::DecodeError;

/// Ring buffer of a component's sample rows. It holds two rows of MCUs, because upsampling reads the rows above and
/// below.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    /// Samples per row.
    pub(super) stride: usize,
    /// Number of rows in the buffer.
    rows: usize,
    width: usize,
    height: usize,
    method: Method,
}

impl Plane {
    fn new(component: &Component, frame: &Frame) -> Self {
        let (stride, rows) = (frame.groups_x * component.h * 8, 2 * component.v * 8);
        let (h, v) = (frame.max_h / component.h, frame.max_v / component.v);
        // As in libjpeg, components of at most two samples per row are not interpolated horizontally.
        let method = match (h, v) {
            (1, 1) => Method::Copy,
            (2, 1) if component.width > 2 => Method::Horizontal,
            (1, 2) => Method::Vertical,
            (2, 2) if component.width > 2 => Method::Both,
            _ => Method::Repeat { h, v },
        };
        let (width, height) = (component.width, component.height);
        Plane { samples: vec![0; stride * rows], stride, rows, width, height, method }
    }

    /// Returns the index of the first sample of row `y`.
    #[inline(always)]
    pub(super) fn start(&self, y: usize) -> usize {
        y % self.rows * self.stride
    }

    #[inline(always)]
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[self.start(y)..][..self.width]
    }

    /// Returns the two rows, the nearer one first, from which row `y` of the upsampled component is interpolated.
    #[inline(always)]
    fn neighbours(&self, y: usize) -> (&[u8], &[u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        (self.row(near), self.row(far))
    }
}

/// Upsampling of a component to the size of the image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Copy,
    /// Interpolates to twice the width.
    Horizontal,
    /// Interpolates to twice the height.
    Vertical,
    /// Interpolates to twice the size.
    Both,
    Repeat {
        h: usize,
        v: usize,
    },
}

/// Converts planes to pixels while they are decoded.
pub(super) struct Output {
    pub(super) planes: Vec<Plane>,
    colors: Colors,
    width: usize,
    height: usize,
    /// Image rows per row of MCUs.
    step: usize,
    /// Image rows at the end of a row of MCUs whose upsampling needs the next row of MCUs.
    delay: usize,
    /// Number of finished image rows.
    done: usize,
    lines: Vec<Vec<u8>>,
    sums: Vec<i16>,
    pixels: Vec<u8>,
}

impl Output {
    pub(super) fn new(frame: &Frame, colors: Colors) -> Result<Self, DecodeError> {
        let planes =
            frame.components.iter().map(|component| Plane::new(component, frame)).collect::<Vec<_>>();
        let is_delayed = planes.iter().any(|plane| matches!(plane.method, Method::Vertical | Method::Both));
        let mut pixels = Vec::new();
        pixels
            .try_reserve_exact(frame.width * frame.height * colors.channels())
            .map_err(|e| DecodeError::new(DamageKind::TooLarge, e))?;
        let longest = 8 * frame.max_h * frame.groups_x;
        Ok(Output {
            lines: vec![vec![0; longest]; planes.len()],
            sums: vec![0; longest + 2],
            planes,
            colors,
            width: frame.width,
            height: frame.height,
            step: 8 * frame.max_v,
            delay: if is_delayed { frame.max_v } else { 0 },
            done: 0,
            pixels,
        })
    }

    /// Converts samples to pixels, as far as the first `groups` rows of MCUs allow.
    pub(super) fn advance(&mut self, groups: usize) {
        let decoded = groups * self.step;
        let end = if decoded >= self.height { self.height } else { decoded - self.delay };
        let row_bytes = self.width * self.colors.channels();
        let start = self.pixels.len();
        self.pixels.resize(start + (end - self.done) * row_bytes, 0);
        let target = &mut self.pixels[start..];
        convert(&self.planes, self.colors, &mut self.lines, &mut self.sums, self.done..end, target);
        self.done = end;
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.pixels
    }
}

/// Upsamples rows and converts their colours.
#[multiversion(targets("x86_64+avx+avx2+bmi1+bmi2+lzcnt+popcnt+movbe+sse3+ssse3+sse4.1+sse4.2+fma"))]
fn convert(
    planes: &[Plane],
    colors: Colors,
    lines: &mut [Vec<u8>],
    sums: &mut [i16],
    rows: Range<usize>,
    target: &mut [u8],
) {
    let row_bytes = target.len() / rows.len().max(1);
    for (y, target) in rows.zip(target.chunks_exact_mut(row_bytes.max(1))) {
        for (plane, line) in planes.iter().zip(&mut *lines) {
            match plane.method {
                Method::Copy => {}
                Method::Horizontal => upsample::horizontal(plane.row(y), sums, line),
                Method::Vertical => {
                    let (near, far) = plane.neighbours(y);
                    upsample::vertical(near, far, 1 + (y % 2) as u16, line);
                }
                Method::Both => {
                    let (near, far) = plane.neighbours(y);
                    upsample::both(near, far, sums, line);
                }
                Method::Repeat { h, v } => upsample::repeat(plane.row(y / v), h, line),
            }
        }
        let line = |i: usize| match planes[i].method {
            Method::Copy => planes[i].row(y),
            _ => &lines[i][..],
        };
        match colors {
            Colors::Grey => target.copy_from_slice(line(0)),
            Colors::Rgb => color::interleave([line(0), line(1), line(2)], target),
            Colors::YCbCr => color::rgb(line(0), line(1), line(2), target),
            Colors::Cmyk => color::inverted_cmyk([line(0), line(1), line(2), line(3)], target),
            Colors::Ycck => color::inverted_ycck([line(0), line(1), line(2), line(3)], target),
        }
    }
}

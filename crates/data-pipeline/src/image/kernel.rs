//! Inner loops of resampling, on vectors of 32 columns.
//!
//! Both passes compute weighted sums of byte rows. For the horizontal pass, [`across`] first transposes a few image
//! rows into a tile; a row of the tile contains the pixels of one image column.
//!
//! The loops are plain array code, which `multiversion` compiles for several instruction sets. The arithmetic uses
//! integers, so every instruction set gives the same bytes.

use multiversion::multiversion;

use super::resize::Weights;

/// Fixed-point bits of a weight: 32 bits minus 8 for the pixel and 2 of headroom.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Length of a vector in bytes. The stride of row buffers is a multiple of it.
pub(super) const COLUMNS: usize = 32;
/// Number of pixels moved into or out of a tile per iteration.
const BLOCK: usize = 8;

type Vector = [u8; COLUMNS];

/// Vertical pass: computes an output row as the weighted sum of `rows`, which are `stride` bytes apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
pub(super) fn down(rows: &[u8], stride: usize, weights: &[i32], out: &mut [Vector]) {
    for (place, out) in out.iter_mut().enumerate() {
        *out = weighted_sum(&rows[place * COLUMNS..], stride, weights);
    }
}

/// Horizontal pass: computes the rows `out`, of `stride` bytes each, from image rows. `tile` and `narrow` are scratch
/// buffers.
///
/// `rows` must start at the first pixel with a weight and end at the last. A row of `out` needs room for one byte more
/// than its pixels.
pub(super) fn across(
    rows: &[&[u8]],
    channels: usize,
    weights: &Weights,
    out: &mut [u8],
    stride: usize,
    [tile, narrow]: [&mut Vec<Vector>; 2],
) {
    // A copy of 4 bytes is one instruction, a copy of 3 is not. The next pixel overwrites the extra byte, or it is
    // never read.
    let (into_tile, out_of_tile) = match channels {
        1 => (
            gather::<1, 1> as fn(&[&[u8]], &mut [Vector]),
            scatter::<1, 1> as fn(&[Vector], &mut [u8], usize),
        ),
        2 => (gather::<2, 2> as _, scatter::<2, 2> as _),
        3 => (gather::<3, 4> as _, scatter::<3, 4> as _),
        _ => (gather::<4, 4> as _, scatter::<4, 4> as _),
    };
    let at_once = COLUMNS / channels;
    for (rows, out) in rows.chunks(at_once).zip(out.chunks_mut(at_once * stride)) {
        tile.resize(rows[0].len() / channels, [0; COLUMNS]);
        narrow.resize(weights.len(), [0; COLUMNS]);
        into_tile(rows, tile);
        resample_tile(tile.as_flattened(), std::hint::black_box(COLUMNS), weights, narrow);
        out_of_tile(narrow, out, stride);
    }
}

/// Resamples a tile. `stride` is [`COLUMNS`]; it is a parameter because the compiler would vectorise over the weights
/// if it knew the value.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn resample_tile(tile: &[u8], stride: usize, weights: &Weights, narrow: &mut [Vector]) {
    let first = weights.inputs().start;
    for (out, (start, weights)) in narrow.iter_mut().zip(weights.iter()) {
        *out = weighted_sum(&tile[(start - first) * stride..], stride, weights);
    }
}

/// Returns the weighted sum of the first [`COLUMNS`] bytes of each row, rounded and clamped to bytes.
#[inline(always)]
fn weighted_sum(rows: &[u8], stride: usize, weights: &[i32]) -> Vector {
    let mut sums = [1i32 << (PRECISION_BITS - 1); COLUMNS];
    for (row, &weight) in weights.iter().enumerate() {
        for (sum, &value) in sums.iter_mut().zip(&rows[row * stride..][..COLUMNS]) {
            *sum += i32::from(value) * weight;
        }
    }
    let mut bytes = [0; COLUMNS];
    for (byte, sum) in bytes.iter_mut().zip(sums) {
        *byte = (sum >> PRECISION_BITS).clamp(0, 255) as u8;
    }
    bytes
}

/// Transposes rows of `C`-byte pixels into a tile, copying `MOVED` bytes per pixel.
fn gather<const C: usize, const MOVED: usize>(rows: &[&[u8]], tile: &mut [Vector]) {
    // No byte follows the last pixel, so it is not in a block.
    let in_blocks = (tile.len() - 1) / BLOCK * BLOCK;
    let (blocks, rest) = tile.split_at_mut(in_blocks);
    for (index, block) in blocks.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        for (row, pixels) in rows.iter().enumerate() {
            let pixels = &pixels[index * BLOCK * C..][..(BLOCK - 1) * C + MOVED];
            for (x, column) in block.iter_mut().enumerate() {
                column[row * C..][..MOVED].copy_from_slice(&pixels[x * C..][..MOVED]);
            }
        }
    }
    for (row, pixels) in rows.iter().enumerate() {
        for (column, pixel) in rest.iter_mut().zip(pixels[in_blocks * C..].as_chunks::<C>().0) {
            column[row * C..][..C].copy_from_slice(pixel);
        }
    }
}

/// Transposes a tile back into rows of `stride` bytes, copying `MOVED` bytes per pixel.
fn scatter<const C: usize, const MOVED: usize>(tile: &[Vector], rows: &mut [u8], stride: usize) {
    let (blocks, rest) = tile.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        for (row, pixels) in rows.chunks_exact_mut(stride).enumerate() {
            let pixels = &mut pixels[index * BLOCK * C..][..(BLOCK - 1) * C + MOVED];
            for (x, column) in block.iter().enumerate() {
                pixels[x * C..][..MOVED].copy_from_slice(&column[row * C..][..MOVED]);
            }
        }
    }
    for (row, pixels) in rows.chunks_exact_mut(stride).enumerate() {
        for (pixel, column) in pixels.as_chunks_mut::<C>().0[blocks.len() * BLOCK..].iter_mut().zip(rest) {
            pixel.copy_from_slice(&column[row * C..][..C]);
        }
    }
}

//! Files with several scans: progressive files, and sequential files whose components are not interleaved.

use std::ops::Range;

use multiversion::multiversion;

use super::bits::Bits;
use super::entropy::{Entropy, check};
use super::header::{Frame, Header, Scan, Stop};
use super::huffman::Table;
use super::output::{Output, Plane};
use super::progressive::{self, Band};
use super::scan::table;
use super::sequential::{self, BadCode};
use super::{damaged, idct, truncated};
use crate::image::decode::DecodeError;

/// Maximum number of scans, which bounds the decoding time. Encoders write about ten.
const MAX_SCANS: usize = 200;

/// Number of leading coefficients that a file must contain with all bits. libjpeg estimates these from neighbouring
/// blocks if bits are missing.
const NEEDED: usize = 10;

/// The coefficients of a component.
pub(super) struct Store {
    blocks: Vec<[i16; 64]>,
    /// Blocks per row, including those that pad the last MCU.
    stride: usize,
    /// Blocks that contain samples of the image, horizontally and vertically.
    width: usize,
    height: usize,
    h: usize,
    v: usize,
    quant: Option<[i16; 64]>,
    /// Number of missing low bits of each coefficient, or `None` before its first scan.
    missing: [Option<u32>; 64],
}

/// Decodes all scans, starting with the given one, and converts the coefficients to pixels.
pub(super) fn decode(
    header: &mut Header,
    frame: &Frame,
    (mut scan, mut start): (Scan, usize),
    bytes: &[u8],
    output: &mut Output,
) -> Result<(), DecodeError> {
    let mut stores = frame
        .components
        .iter()
        .map(|component| {
            let (stride, rows) = (frame.groups_x * component.h, frame.groups_y * component.v);
            Store {
                blocks: vec![[0; 64]; stride * rows],
                stride,
                width: component.width.div_ceil(8),
                height: component.height.div_ceil(8),
                h: component.h,
                v: component.v,
                quant: None,
                missing: [None; 64],
            }
        })
        .collect::<Vec<_>>();
    let mut scans = 0;
    loop {
        scans += 1;
        if scans > MAX_SCANS {
            return Err(damaged("too many scans"));
        }
        for part in &scan.components {
            let store = &mut stores[part.index];
            if store.quant.is_none() {
                // As in libjpeg, the table at the component's first scan applies.
                store.quant = Some(header.quant(&frame.components[part.index])?);
            }
            store.begin(&scan, frame.progressive)?;
        }
        let end = read(header, frame, &scan, (bytes, start), &mut stores)?;
        match header.read(bytes, end)? {
            Stop::EndOfImage => break,
            Stop::Scan(next, at) => (scan, start) = (next, at),
        }
    }
    if stores.iter().any(|store| store.missing[..NEEDED].iter().any(|&bits| bits != Some(0))) {
        return Err(truncated());
    }
    for y in 0..frame.groups_y {
        for (store, plane) in stores.iter().zip(&mut output.planes) {
            let quant = store.quant.as_ref().ok_or_else(truncated)?;
            for row in y * store.v..((y + 1) * store.v).min(store.height) {
                transform(&store.blocks[row * store.stride..][..store.width], quant, plane, row);
            }
        }
        output.advance(y + 1);
    }
    Ok(())
}

impl Store {
    /// Checks that a scan continues the earlier ones, and records the bits that it adds.
    fn begin(&mut self, scan: &Scan, progressive: bool) -> Result<(), DecodeError> {
        if progressive && scan.start > 0 && self.missing[0].is_none() {
            return Err(damaged("an AC scan before the first DC scan"));
        }
        for missing in &mut self.missing[scan.start..=scan.end] {
            let expected = if scan.high == 0 { None } else { Some(scan.high) };
            if *missing != expected {
                return Err(damaged("a scan that repeats or skips bits"));
            }
            *missing = Some(scan.low);
        }
        Ok(())
    }
}

/// Reads the data of a scan. Returns the offset of the marker after it.
fn read(
    header: &Header,
    frame: &Frame,
    scan: &Scan,
    (bytes, start): (&[u8], usize),
    stores: &mut [Store],
) -> Result<usize, DecodeError> {
    // DC refinement scans contain raw bits only and need no tables.
    let (is_mean, is_first) = (scan.start == 0, scan.high == 0);
    let mut tables = Vec::new();
    for part in &scan.components {
        let dc = if is_mean && is_first { Some(table(&header.dc, part.dc, false)?) } else { None };
        let ac = if !is_mean || !frame.progressive { Some(table(&header.ac, part.ac, true)?) } else { None };
        tables.push((part.index, dc, ac));
    }
    let mut entropy = Entropy::new(bytes, start, header.restart_interval)?;
    let band = Band { start: scan.start, end: scan.end, low: scan.low };
    let interleaved = scan.components.len() > 1;
    let first = &stores[scan.components[0].index];
    let (width, height) =
        if interleaved { (frame.groups_x, frame.groups_y) } else { (first.width, first.height) };
    let kind = match (frame.progressive, is_first) {
        (false, _) => Kind::Sequential,
        (true, true) => Kind::FirstMean,
        (true, false) => Kind::RefineMean,
    };
    let (mut next, total) = (0usize, width * height);
    loop {
        let end = total.min(next.saturating_add(entropy.groups()));
        let (mut bits, mut state) = (entropy.bits(), State::default());
        while next < end {
            let (y, x) = (next / width, next % width);
            let count = (end - next).min(width - x);
            let decoded = match tables[..] {
                [(index, None, Some(ac))] => {
                    let store = &mut stores[index];
                    let blocks = &mut store.blocks[y * store.stride + x..][..count];
                    details(is_first, &mut bits, ac, &mut state.ended, band, blocks)
                }
                _ => groups(
                    (kind, band.low, interleaved),
                    &mut bits,
                    &tables,
                    &mut state.means,
                    stores,
                    y,
                    x..x + count,
                ),
            };
            decoded.map_err(|BadCode| damaged("an invalid code"))?;
            check(&bits)?;
            next += count;
        }
        if next == total {
            return Ok(entropy.end);
        }
        entropy.restart()?;
    }
}

/// State of a scan that a restart resets.
#[derive(Default)]
struct State {
    /// The last DC coefficient of each component.
    means: [i16; 4],
    /// Remaining length of the end-of-band run, in blocks.
    ended: u32,
}

/// The content of a DC or sequential scan.
#[derive(Clone, Copy)]
enum Kind {
    Sequential,
    FirstMean,
    RefineMean,
}

/// Index of a component, with its DC and AC tables.
type Part<'a> = (usize, Option<&'a Table>, Option<&'a Table>);

/// Decodes the MCUs `columns` of row `y` in a DC or sequential scan.
#[multiversion(targets("x86_64+avx+avx2+bmi1+bmi2+lzcnt+popcnt+movbe+sse3+ssse3+sse4.1+sse4.2+fma"))]
fn groups(
    (kind, low, interleaved): (Kind, u32, bool),
    place: &mut Bits<'_>,
    parts: &[Part<'_>],
    means: &mut [i16; 4],
    stores: &mut [Store],
    y: usize,
    columns: Range<usize>,
) -> Result<(), BadCode> {
    let mut bits = *place;
    for x in columns {
        for (&(index, dc, ac), mean) in parts.iter().zip(&mut *means) {
            let store = &mut stores[index];
            let (h, v) = if interleaved { (store.h, store.v) } else { (1, 1) };
            for row in y * v..(y + 1) * v {
                for block in &mut store.blocks[row * store.stride + x * h..][..h] {
                    match (kind, dc, ac) {
                        (Kind::Sequential, Some(dc), Some(ac)) => {
                            let mut values = [0; 256];
                            sequential::block(&mut bits, (dc, ac), mean, &mut values)?;
                            block.copy_from_slice(&values[..64]);
                        }
                        (Kind::FirstMean, Some(dc), _) => {
                            progressive::first_mean(&mut bits, dc, mean, low, block)?;
                        }
                        (Kind::RefineMean, ..) => block[0] |= (bits.take(1) << low) as i16,
                        _ => return Err(BadCode),
                    }
                }
            }
        }
    }
    *place = bits;
    Ok(())
}

/// Decodes blocks of a row in an AC scan, which has a single component.
#[multiversion(targets("x86_64+avx+avx2+bmi1+bmi2+lzcnt+popcnt+movbe+sse3+ssse3+sse4.1+sse4.2+fma"))]
fn details(
    is_first: bool,
    place: &mut Bits<'_>,
    ac: &Table,
    ended: &mut u32,
    band: Band,
    blocks: &mut [[i16; 64]],
) -> Result<(), BadCode> {
    let mut bits = *place;
    let mut left = *ended;
    if is_first {
        for block in blocks {
            progressive::first(&mut bits, ac, &mut left, band, block)?;
        }
    } else {
        for block in blocks {
            progressive::refine(&mut bits, ac, &mut left, band, block)?;
        }
    }
    (*place, *ended) = (bits, left);
    Ok(())
}

/// Applies the inverse DCT to a row of blocks.
#[multiversion(targets("x86_64+avx+avx2+bmi1+bmi2+lzcnt+popcnt+movbe+sse3+ssse3+sse4.1+sse4.2+fma"))]
fn transform(blocks: &[[i16; 64]], quant: &[i16; 64], plane: &mut Plane, row: usize) {
    let start = plane.start(8 * row);
    for (x, block) in blocks.iter().enumerate() {
        idct::block(block, quant, &mut plane.samples[start + 8 * x..], plane.stride);
    }
}

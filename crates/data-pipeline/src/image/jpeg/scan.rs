//! Decoding of a sequential file with a single scan, one row of MCUs at a time.

use std::ops::Range;

use multiversion::{inherit_target, multiversion};

use super::bits::Bits;
use super::entropy::{Entropy, check};
use super::header::{Frame, Header, Scan};
use super::huffman::{STANDARD, Table};
use super::output::{Output, Plane};
use super::sequential::{self, BadCode, Block, Pairs};
use super::{damaged, idct};
use crate::image::decode::DecodeError;

/// Scan size in bytes above which [`Pairs`] are built.
const PAIRS_FROM: usize = 8192;

/// Tables and layout of a component.
pub(super) struct Part<'a> {
    pub(super) dc: &'a Table,
    pub(super) ac: &'a Table,
    pairs: Option<&'a Pairs>,
    quant: [i16; 64],
    /// Index of its plane.
    plane: usize,
    h: usize,
    v: usize,
}

/// Returns a Huffman table of the file, or else the default table.
pub(super) fn table(tables: &[Option<Table>; 4], index: usize, is_ac: bool) -> Result<&Table, DecodeError> {
    let standard = || STANDARD.get(index).map(|pair| &pair[usize::from(is_ac)]);
    tables[index].as_ref().or_else(standard).ok_or_else(|| damaged("no Huffman table"))
}

/// Decodes a scan that contains all components. Returns the offset of the marker after it.
pub(super) fn whole(
    header: &Header,
    frame: &Frame,
    scan: &Scan,
    (bytes, start): (&[u8], usize),
    output: &mut Output,
) -> Result<usize, DecodeError> {
    let mut pairs = [const { None }; 4];
    // Decoding a small scan takes less time than building these tables.
    if bytes.len() - start > PAIRS_FROM {
        for part in &scan.components {
            if pairs[part.ac].is_none() {
                pairs[part.ac] = Some(Pairs::new(table(&header.ac, part.ac, true)?));
            }
        }
    }
    let mut parts = Vec::new();
    for part in &scan.components {
        let component = &frame.components[part.index];
        let ac = table(&header.ac, part.ac, true)?;
        parts.push(Part {
            dc: table(&header.dc, part.dc, false)?,
            ac,
            pairs: pairs[part.ac].as_ref(),
            quant: header.quant(component)?,
            plane: part.index,
            h: component.h,
            v: component.v,
        });
    }
    let mut entropy = Entropy::new(bytes, start, header.restart_interval)?;
    let (mut next, total) = (0usize, frame.groups_x * frame.groups_y);
    loop {
        let end = total.min(next.saturating_add(entropy.groups()));
        let (mut bits, mut means) = (entropy.bits(), [0; 4]);
        while next < end {
            let (y, x) = (next / frame.groups_x, next % frame.groups_x);
            let count = (end - next).min(frame.groups_x - x);
            groups(&mut bits, &parts, &mut means, &mut output.planes, y, x..x + count)
                .map_err(|BadCode| damaged("an invalid code"))?;
            check(&bits)?;
            next += count;
            if x + count == frame.groups_x {
                output.advance(y + 1);
            }
        }
        if next == total {
            return Ok(entropy.end);
        }
        entropy.restart()?;
    }
}

/// Decodes the MCUs `columns` of row `y`.
#[multiversion(targets("x86_64+avx+avx2+bmi1+bmi2+lzcnt+popcnt+movbe+sse3+ssse3+sse4.1+sse4.2+fma"))]
fn groups(
    bits: &mut Bits<'_>,
    parts: &[Part<'_>],
    means: &mut [i16; 4],
    planes: &mut [Plane],
    y: usize,
    columns: Range<usize>,
) -> Result<(), BadCode> {
    // A separate function, so that the compiler keeps the reader in registers.
    #[inherit_target]
    #[inline(never)]
    fn decode(
        bits: &mut Bits<'_>,
        part: &Part<'_>,
        mean: &mut i16,
        block: &mut Block,
    ) -> Result<bool, BadCode> {
        match part.pairs {
            Some(pairs) => sequential::block_in_pairs(bits, (part.dc, part.ac, pairs), mean, block),
            None => sequential::block(bits, (part.dc, part.ac), mean, block),
        }
    }
    let mut block = [0; 256];
    let mut rows = [[0; 4]; 4];
    for (rows, part) in rows.iter_mut().zip(parts) {
        for (v, row) in rows.iter_mut().enumerate() {
            *row = planes[part.plane].start((y * part.v + v) * 8);
        }
    }
    for x in columns {
        for ((part, mean), rows) in parts.iter().zip(&mut *means).zip(&rows) {
            let plane = &mut planes[part.plane];
            for row in &rows[..part.v] {
                for h in 0..part.h {
                    let is_flat = decode(bits, part, mean, &mut block)?;
                    let target = &mut plane.samples[row + (x * part.h + h) * 8..];
                    if is_flat {
                        idct::flat_block(block[0].wrapping_mul(part.quant[0]), target, plane.stride);
                        block[0] = 0;
                    } else {
                        idct::block(
                            block.first_chunk().expect("64 coefficients"),
                            &part.quant,
                            target,
                            plane.stride,
                        );
                        block[..64].fill(0);
                    }
                }
            }
        }
    }
    Ok(())
}

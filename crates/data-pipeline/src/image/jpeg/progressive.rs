//! Decoding of blocks in progressive scans (ITU T.81, Annex G).

use super::bits::Bits;
use super::header::ZIGZAG;
use super::huffman::{END, Table};
use super::sequential::{BadCode, next_entry, value};

/// First and last coefficient of a scan in zigzag order, and the number of low bits that they lack after it.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) low: u32,
}

/// Returns the size of the value and the run of an entry.
#[inline(always)]
fn size_and_run(entry: u32) -> (u32, u32) {
    let (size, advance) = (63 - (entry >> 8 & 63), entry >> 24);
    (size, if advance >= END { advance - END } else { advance - 1 })
}

/// Reads the length of an end-of-band run in blocks, including the current one.
#[inline(always)]
fn ended_blocks(bits: &mut Bits<'_>, run: u32) -> u32 {
    (1 << run) + bits.take(run)
}

/// Decodes a DC coefficient in its first scan.
#[inline(always)]
pub(super) fn first_mean(
    bits: &mut Bits<'_>,
    dc: &Table,
    mean: &mut i16,
    low: u32,
    block: &mut [i16; 64],
) -> Result<(), BadCode> {
    bits.refill();
    let entry = next_entry(bits, dc)?;
    *mean = mean.wrapping_add(value(bits.buffer, entry) as i16);
    bits.skip(entry);
    block[0] = *mean << low;
    Ok(())
}

/// Decodes the AC coefficients of a block in their first scan. `ended` is the remaining end-of-band run.
#[inline(always)]
pub(super) fn first(
    bits: &mut Bits<'_>,
    ac: &Table,
    ended: &mut u32,
    band: Band,
    block: &mut [i16; 64],
) -> Result<(), BadCode> {
    if *ended > 0 {
        *ended -= 1;
        return Ok(());
    }
    let mut index = band.start;
    while index <= band.end {
        bits.refill();
        let entry = next_entry(bits, ac)?;
        let (size, run) = size_and_run(entry);
        if size == 0 {
            bits.skip(entry);
            if run < 15 {
                *ended = ended_blocks(bits, run) - 1;
                break;
            }
            index += 16;
            continue;
        }
        index += run as usize;
        let place = *ZIGZAG.get(index).ok_or(BadCode)?;
        block[usize::from(place & 63)] = (value(bits.buffer, entry) << band.low) as i16;
        bits.skip(entry);
        index += 1;
    }
    Ok(())
}

/// Reads a correction bit for a nonzero coefficient.
#[inline(always)]
fn refine_one(bits: &mut Bits<'_>, bit: i16, coefficient: &mut i16) {
    if bits.take(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient < 0 { -bit } else { bit });
    }
}

/// Decodes the AC coefficients of a block in a refinement scan, which adds one bit to each.
#[inline(always)]
pub(super) fn refine(
    bits: &mut Bits<'_>,
    ac: &Table,
    ended: &mut u32,
    band: Band,
    block: &mut [i16; 64],
) -> Result<(), BadCode> {
    let bit = 1i16 << band.low;
    let mut index = band.start;
    while *ended == 0 && index <= band.end {
        bits.refill();
        let entry = next_entry(bits, ac)?;
        let (size, mut run) = size_and_run(entry);
        let new = match size {
            0 if run < 15 => {
                bits.skip(entry);
                *ended = ended_blocks(bits, run);
                break;
            }
            0 => 0,
            1 if value(bits.buffer, entry) > 0 => bit,
            1 => -bit,
            _ => return Err(BadCode),
        };
        bits.skip(entry);
        // The run counts only coefficients that are still zero.
        while index <= band.end {
            let coefficient = &mut block[usize::from(ZIGZAG[index & 63])];
            if *coefficient != 0 {
                refine_one(bits, bit, coefficient);
            } else if run == 0 {
                *coefficient = new;
                break;
            } else {
                run -= 1;
            }
            index += 1;
        }
        if index > band.end && new != 0 {
            return Err(BadCode);
        }
        index += 1;
    }
    if *ended > 0 {
        for &place in &ZIGZAG[index..=band.end] {
            let coefficient = &mut block[usize::from(place & 63)];
            if *coefficient != 0 {
                refine_one(bits, bit, coefficient);
            }
        }
        *ended -= 1;
    }
    Ok(())
}

//! Decoding of blocks in baseline and extended sequential scans.

use super::bits::Bits;
use super::header::ZIGZAG;
use super::huffman::{END, LONG, LOOKUP_BITS, Table};

/// Position of each coefficient in row-major order. Indices past the last coefficient, which ends of blocks and damaged
/// files reach, map to [`SPARE`].
static PLACES: [u8; 256] = {
    let mut places = [SPARE; 256];
    let mut i = 0;
    while i < 64 {
        places[i] = ZIGZAG[i];
        i += 1;
    }
    places
};

/// Index after a block's coefficients, for values that are discarded.
const SPARE: u8 = 64;

/// The 64 coefficients of a block, then [`SPARE`]. The length lets the compiler omit bounds checks for `u8` indices.
pub(super) type Block = [i16; 256];

/// A code that the table does not contain, or a run past the last coefficient.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadCode;

/// Returns the entry of the next code. The buffer must contain [`LOOKUP_BITS`] bits; it is refilled for longer codes.
#[inline(always)]
pub(super) fn next_entry(bits: &mut Bits<'_>, table: &Table) -> Result<u32, BadCode> {
    let entry = table.lookup[(bits.buffer >> (64 - LOOKUP_BITS)) as usize];
    if entry != LONG {
        return Ok(entry);
    }
    bits.refill();
    table.long_code((bits.buffer >> 48) as u32).ok_or(BadCode)
}

/// Returns the value after a code. Its size is in the entry; its first bit is 0 for negative values.
#[inline(always)]
pub(super) fn value(buffer: u64, entry: u32) -> i32 {
    let bits = buffer << ((entry >> 16) & 63);
    // Shifts in two steps, because a size of 0 needs a shift by 64.
    let unused = (entry >> 8) & 63;
    let (magnitude, ones) = (bits >> 1 >> unused, u64::MAX >> 1 >> unused);
    let offset = if (bits as i64) < 0 { 0 } else { ones };
    magnitude.wrapping_sub(offset) as i32
}

/// Number of bits that index [`Pairs`].
const PAIR_BITS: u32 = 10;

/// A lookup table of up to two codes with their values, for the AC coefficients of sequential scans.
///
/// Most codes are short, so two codes with their values often fit into one lookup.
pub(super) struct Pairs(Box<[Pair; 1 << PAIR_BITS]>);

/// An entry of [`Pairs`]; 0 if the first code and its value do not fit.
///
/// | bits | content |
/// |---|---|
/// | 0 to 7 | length of both codes with their values |
/// | 8 to 15 | length of the first code with its value |
/// | 16 to 31, 32 to 47 | the two values |
/// | 48 to 55, 56 to 63 | number of coefficients that each symbol advances |
///
/// In an entry with one symbol, the second repeats the value of the first and advances by 0.
type Pair = u64;

impl Pairs {
    pub(super) fn new(table: &Table) -> Self {
        let mut pairs = Box::new([0; 1 << PAIR_BITS]);
        // Returns length, value and advance of the first code in `buffer` if code and value fit into `available` bits.
        let first = |buffer: u64, available: u32| {
            let entry = table.lookup[(buffer >> (64 - LOOKUP_BITS)) as usize];
            let fits = entry != LONG && entry & 0xFF <= available;
            fits.then(|| (entry & 0xFF, u64::from(value(buffer, entry) as u16), entry >> 24))
        };
        for (index, pair) in pairs.iter_mut().enumerate() {
            let buffer = (index as u64) << (64 - PAIR_BITS);
            if let Some((length, value, advance)) = first(buffer, PAIR_BITS) {
                let second = if advance < END { first(buffer << length, PAIR_BITS - length) } else { None };
                let (length2, value2, advance2) = second.unwrap_or((0, value, 0));
                let (lengths, advances) = ((length + length2) | length << 8, advance | advance2 << 8);
                *pair = u64::from(lengths) | value << 16 | value2 << 32 | u64::from(advances) << 48;
            }
        }
        Pairs(pairs)
    }
}

/// Decodes the DC coefficient of a block.
#[inline(always)]
fn mean_of(bits: &mut Bits<'_>, dc: &Table, mean: &mut i16, block: &mut Block) -> Result<(), BadCode> {
    bits.refill();
    let entry = next_entry(bits, dc)?;
    *mean = mean.wrapping_add(value(bits.buffer, entry) as i16);
    block[0] = *mean;
    bits.skip(entry);
    Ok(())
}

/// Whether a block that ended at `index` has no AC coefficients.
#[inline(always)]
fn is_flat(index: u32) -> Result<bool, BadCode> {
    match index {
        END => Ok(true),
        63 | END.. => Ok(false),
        _ => Err(BadCode),
    }
}

/// Decodes one AC code and its value. Returns the index of its coefficient.
#[inline(always)]
fn coefficient(bits: &mut Bits<'_>, ac: &Table, index: u32, block: &mut Block) -> Result<u32, BadCode> {
    let entry = next_entry(bits, ac)?;
    let index = index + (entry >> 24);
    // For a run of 16 zeros and for the end of a block, the value is 0.
    block[usize::from(PLACES[(index & 0xFF) as usize])] = value(bits.buffer, entry) as i16;
    bits.skip(entry);
    Ok(index)
}

/// Decodes a block into `block`, which must contain zeros. Returns whether it has no AC coefficients.
#[inline(always)]
pub(super) fn block(
    place: &mut Bits<'_>,
    (dc, ac): (&Table, &Table),
    mean: &mut i16,
    block: &mut Block,
) -> Result<bool, BadCode> {
    let mut bits = *place;
    mean_of(&mut bits, dc, mean, block)?;
    let mut index = 0;
    while index < 63 {
        bits.refill();
        // 56 bits suffice for one long code and one short code with their values.
        index = coefficient(&mut bits, ac, index, block)?;
        if index >= 63 {
            break;
        }
        index = coefficient(&mut bits, ac, index, block)?;
    }
    *place = bits;
    is_flat(index)
}

/// Decodes a block like [`block`], up to two codes per lookup.
#[inline(always)]
pub(super) fn block_in_pairs(
    place: &mut Bits<'_>,
    (dc, ac, pairs): (&Table, &Table, &Pairs),
    mean: &mut i16,
    block: &mut Block,
) -> Result<bool, BadCode> {
    let mut bits = *place;
    mean_of(&mut bits, dc, mean, block)?;
    bits.refill();
    let mut index = 0;
    macro_rules! step {
        () => {
            let pair = pairs.0[(bits.buffer >> (64 - PAIR_BITS)) as usize];
            if pair == 0 {
                bits.refill();
                index = coefficient(&mut bits, ac, index, block)?;
                if index >= 63 {
                    break;
                }
                bits.refill();
            } else {
                let first = index + ((pair >> 48) & 0xFF) as u32;
                block[usize::from(PLACES[(first & 0xFF) as usize])] = (pair >> 16) as i16;
                index = first + (pair >> 56) as u32;
                block[usize::from(PLACES[(index & 0xFF) as usize])] = (pair >> 32) as i16;
                if index >= 63 {
                    if first >= 63 {
                        // The second code belongs to the next block.
                        bits.skip((pair >> 8) as u32);
                        index = first;
                    } else {
                        bits.skip(pair as u32);
                    }
                    break;
                }
                bits.skip(pair as u32);
            }
        };
    }
    loop {
        step!();
        step!();
        step!();
        bits.refill();
    }
    *place = bits;
    is_flat(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::jpeg::bits::Segment;
    use crate::image::jpeg::huffman::STANDARD;

    #[test]
    fn pairs_of_codes_give_the_same_blocks() {
        let [[dc, ac], _] = &*STANDARD;
        let pairs = Pairs::new(ac);
        let (mut state, mut full, mut errors) = (1u32, 0, 0);
        for _ in 0..300 {
            let mut bytes = (0..2000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8 & 0xFE
                })
                .collect::<Vec<_>>();
            bytes.extend(b"\xFF\xD9");
            let mut segment = Segment::default();
            segment.read(&bytes, 0).unwrap();
            let (mut bits, mut mean) = ([Bits::new(&segment); 2], [0; 2]);
            loop {
                let mut blocks = [[0; 256]; 2];
                let found = block(&mut bits[0], (dc, ac), &mut mean[0], &mut blocks[0]);
                let paired = block_in_pairs(&mut bits[1], (dc, ac, &pairs), &mut mean[1], &mut blocks[1]);
                assert_eq!(found.is_err(), paired.is_err());
                if found.is_err() {
                    errors += 1;
                    break;
                }
                assert_eq!((found.unwrap(), mean[0]), (paired.unwrap(), mean[1]));
                assert_eq!(blocks[0][..64], blocks[1][..64]);
                assert_eq!(bits[0].take(16), bits[1].take(16));
                full += usize::from(blocks[0][63] != 0);
                if bits[0].overran() {
                    break;
                }
            }
        }
        assert!(full > 0 && errors > 0, "{full} blocks have a last coefficient, {errors} are invalid");
    }
}

//! Huffman tables, indexed by the next bits of a scan.

use std::sync::LazyLock;

/// Number of bits that index the lookup table. Longer codes, which are rare, need a second step.
pub(super) const LOOKUP_BITS: u32 = 10;

/// A Huffman table with codes of up to 16 bits.
#[derive(Clone)]
pub(super) struct Table {
    /// The [`entry`] for each value of the next bits, or [`LONG`].
    pub(super) lookup: Box<[u32; 1 << LOOKUP_BITS]>,
    /// For each code length, an upper bound (exclusive) of its codes, left-aligned to 16 bits.
    limits: [u32; 17],
    /// For each code length, the index of a symbol minus its code.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

/// Entry of codes that are longer than [`LOOKUP_BITS`].
pub(super) const LONG: u32 = 0;

/// Advance of an end-of-block symbol.
pub(super) const END: u32 = 128;

/// Returns the table entry of a symbol. A symbol holds a run of zeros (high four bits) and the size of a value in bits
/// (low four bits).
///
/// | bits | content |
/// |---|---|
/// | 0 to 7 | length of the code plus size of the value, so that one shift skips both |
/// | 8 to 15 | 63 minus the size of the value |
/// | 16 to 23 | length of the code |
/// | 24 to 31 | number of coefficients to advance in a sequential scan: run + 1, or run + [`END`] at the end of a block |
fn entry(symbol: u8, length: u32) -> u32 {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    let advance = if size == 0 && run != 15 { END + run } else { run + 1 };
    advance << 24 | length << 16 | (63 - size) << 8 | (length + size)
}

impl Table {
    /// Makes a table from the number of codes of each length (1 to 16) and the symbols in the order of their codes.
    /// Returns `None` if a length has too many codes or a symbol is missing.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Table> {
        let mut lookup = Box::new([LONG; 1 << LOOKUP_BITS]);
        let (mut limits, mut offsets) = ([0; 17], [0; 17]);
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            offsets[length as usize] = index as i32 - code as i32;
            for &symbol in symbols.get(index..index + count)? {
                if length <= LOOKUP_BITS {
                    let spare = LOOKUP_BITS - length;
                    let start = (code << spare) as usize;
                    lookup.get_mut(start..start + (1 << spare))?.fill(entry(symbol, length));
                }
                code += 1;
            }
            index += count;
            if code > 1 << length {
                return None;
            }
            limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Table { lookup, limits, offsets, symbols: symbols[..index].to_vec() })
    }

    /// Decodes a code that is longer than [`LOOKUP_BITS`] from the next 16 bits. Returns `None` for an unknown code.
    #[cold]
    #[inline(never)]
    pub(super) fn long_code(&self, next: u32) -> Option<u32> {
        let length = (LOOKUP_BITS as usize + 1..=16).find(|&length| next < self.limits[length])?;
        let index = (next >> (16 - length)) as i32 + self.offsets[length];
        self.symbols.get(index as usize).map(|&symbol| entry(symbol, length as u32))
    }

    /// Whether all symbols are valid sizes of DC differences.
    pub(super) fn fits_dc(&self) -> bool {
        self.symbols.iter().all(|&symbol| symbol < 16)
    }
}

/// Default tables for files without Huffman tables, such as Motion JPEG frames: DC and AC tables of luma, then of
/// chroma (ITU T.81, Annex K.3).
pub(super) static STANDARD: LazyLock<[[Table; 2]; 2]> = LazyLock::new(|| {
    let dc = |counts| Table::new(&counts, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]).expect("a valid table");
    let ac = |counts, symbols: &[u8]| Table::new(&counts, symbols).expect("a valid table");
    [
        [
            dc([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
            ac([0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D], &AC_LUMA),
        ],
        [
            dc([0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]),
            ac([0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77], &AC_CHROMA),
        ],
    ]
});

#[rustfmt::skip]
const AC_LUMA: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
    0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
    0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
    0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];
#[rustfmt::skip]
const AC_CHROMA: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
    0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
    0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
    0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
    0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
    0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
    0xF9, 0xFA,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_table_is_found() {
        let counts = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D];
        let table = Table::new(&counts, &AC_LUMA).unwrap();
        let (mut code, mut symbols) = (0u32, AC_LUMA.iter());
        for length in 1..=16u32 {
            for _ in 0..counts[length as usize - 1] {
                let next = code << (16 - length);
                let found = match table.lookup[(next >> (16 - LOOKUP_BITS)) as usize] {
                    LONG => table.long_code(next).unwrap(),
                    short => short,
                };
                assert_eq!(found, entry(*symbols.next().unwrap(), length));
                code += 1;
            }
            code <<= 1;
        }
        assert_eq!(table.long_code(0xFFFF), None);
    }

    #[test]
    fn invalid_code_lengths_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 2;
        assert!(Table::new(&counts, &[1, 2]).is_some());
        assert!(Table::new(&counts, &[1]).is_none());
        counts[1] = 1;
        assert!(Table::new(&counts, &[1, 2, 3]).is_none());
        counts = [0; 16];
        counts[15] = 255;
        assert!(Table::new(&counts, &[0; 255]).is_some());
    }
}

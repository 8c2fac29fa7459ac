//! Bit reader of entropy-coded data, and removal of stuffed bytes.

use memchr::memchr;

/// Number of zero bytes after the data, so that eight bytes can be read from every byte of the data on.
const PADDING: usize = 8;

/// The entropy-coded data between two markers, without stuffed bytes.
#[derive(Default)]
pub(super) struct Segment {
    data: Vec<u8>,
}

impl Segment {
    /// Reads the data from `start` to the next marker. Returns the offset of that marker, or `None` at
    /// the end of the file.
    pub(super) fn read(&mut self, bytes: &[u8], start: usize) -> Option<usize> {
        self.data.clear();
        let mut at = start;
        loop {
            let rest = bytes.get(at..)?;
            let length = memchr(0xFF, rest)?;
            self.data.extend_from_slice(&rest[..length]);
            let fill = rest[length..].iter().take_while(|&&byte| byte == 0xFF).count();
            match rest.get(length + fill)? {
                0 => self.data.push(0xFF),
                _ => {
                    self.data.extend_from_slice(&[0; PADDING]);
                    return Some(at + length + fill - 1);
                }
            }
            at += length + fill + 1;
        }
    }
}

/// A reader of a [`Segment`]'s bits.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    /// The next bits, most significant first. Bits after the valid ones are 0 or equal to those of the next bytes.
    pub(super) buffer: u64,
    /// Number of valid bits in `buffer`, in the lowest six bits; the higher bits are unused.
    count: u32,
    /// Bytes that `buffer` does not contain completely.
    rest: &'a [u8],
    /// Number of bytes read past the end of the data and its padding.
    beyond: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Bits { buffer: 0, count: 0, rest: &segment.data, beyond: 0 }
    }

    /// Fills the buffer to at least 56 bits, with zeros after the end of the data.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let read = ((!self.count >> 3) & 7) as usize;
        if let Some(bytes) = self.rest.first_chunk::<8>() {
            self.buffer |= u64::from_be_bytes(*bytes) >> (self.count & 63);
            self.rest = &self.rest[read..];
        } else {
            self.beyond += read;
        }
        self.count |= 56;
    }

    /// Skips as many bits as the lowest six bits of `length` state; the buffer must contain them.
    #[inline(always)]
    pub(super) fn skip(&mut self, length: u32) {
        self.buffer <<= length & 63;
        self.count = self.count.wrapping_sub(length);
    }

    /// Reads `length` bits, at most 16.
    #[inline(always)]
    pub(super) fn take(&mut self, length: u32) -> u32 {
        if self.count & 63 < 16 {
            self.refill();
        }
        let value = (self.buffer >> 1 >> (63 - length)) as u32;
        self.skip(length);
        value
    }

    /// Whether more bits were read than the data contains.
    pub(super) fn overran(&self) -> bool {
        let unread = 8 * self.rest.len() + (self.count & 63) as usize;
        unread < 8 * (PADDING + self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_and_fill_bytes_are_removed() {
        let mut segment = Segment::default();
        let bytes = b"..\x12\xFF\0\x34\xFF\xFF\0\xFF\xFF\xD9more";
        assert_eq!(segment.read(bytes, 2), Some(10));
        assert_eq!(segment.data[..4], [0x12, 0xFF, 0x34, 0xFF]);
        assert_eq!(bytes[10..12], [0xFF, 0xD9]);
        for bytes in [&b""[..], b"abc", b"abc\xFF", b"abc\xFF\0", b"abc\xFF\xFF"] {
            assert_eq!(segment.read(bytes, 0), None);
        }
    }

    #[test]
    fn bits_are_read_in_order_and_zeros_follow() {
        let mut segment = Segment::default();
        let bytes = (1..=40).collect::<Vec<u8>>();
        segment.read(&[&bytes[..], b"\xFF\xD9"].concat(), 0).unwrap();
        let mut bits = Bits::new(&segment);
        let mut place = 0u32;
        for length in (1..=16u32).cycle().take(37) {
            let expected = (place..place + length).fold(0, |value, bit| {
                let byte = u32::from(bytes[bit as usize / 8]);
                value << 1 | (byte >> (7 - bit % 8)) & 1
            });
            assert_eq!(bits.take(length), expected, "{length} bits at {place}");
            place += length;
        }
        while place < 8 * bytes.len() as u32 {
            bits.take(1);
            place += 1;
        }
        assert!(!bits.overran());
        for _ in 0..20 {
            assert_eq!(bits.take(16), 0);
            assert!(bits.overran());
        }
    }
}

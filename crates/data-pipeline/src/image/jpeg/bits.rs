//! The bits of a scan: removal of stuffed bytes, and a reader.

use memchr::memchr;

/// Zero bytes after the data, so that every byte can be read as the first of eight.
const PADDING: usize = 8;

/// The data between two markers without stuffed bytes.
#[derive(Default)]
pub(super) struct Segment {
    data: Vec<u8>,
}

impl Segment {
    /// Reads the data from `start` to the next marker. Returns the place of that marker, or `None` if there is none.
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
    /// The next bits, the first at the top. Bits behind the valid ones are 0 or equal to the next byte's.
    pub(super) buffer: u64,
    /// Number of valid bits in `buffer`, in the lowest six bits; the others have no meaning.
    count: u32,
    /// Bytes that are not completely in `buffer`.
    rest: &'a [u8],
    /// Bytes that were read behind the end of the data and its padding.
    beyond: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Bits { buffer: 0, count: 0, rest: &segment.data, beyond: 0 }
    }

    /// Fills the buffer to at least 56 bits. Zeros follow the data.
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

    /// Removes the number of bits in the lowest six bits of `length`, which must be in the buffer.
    #[inline(always)]
    pub(super) fn skip(&mut self, length: u32) {
        self.buffer <<= length & 63;
        self.count = self.count.wrapping_sub(length);
    }

    /// Takes up to 16 bits.
    #[inline(always)]
    pub(super) fn take(&mut self, length: u32) -> u32 {
        if self.count & 63 < 16 {
            self.refill();
        }
        let value = (self.buffer >> 1 >> (63 - length)) as u32;
        self.skip(length);
        value
    }

    /// Whether more bits were read than the data has.
    pub(super) fn overran(&self) -> bool {
        let unread = 8 * self.rest.len() + (self.count & 63) as usize;
        unread < 8 * (PADDING + self.beyond)
    }
}

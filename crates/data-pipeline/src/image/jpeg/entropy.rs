//! The entropy-coded data of a scan, with its restart markers.

use super::bits::{Bits, Segment};
use super::{damaged, truncated};
use crate::image::decode::DecodeError;

/// Reads the data of one scan, segment by segment.
pub(super) struct Entropy<'a> {
    bytes: &'a [u8],
    segment: Segment,
    /// Offset of the marker after the segment.
    pub(super) end: usize,
    /// MCUs between restart markers, 0 without restart markers.
    interval: usize,
    next_restart: u8,
}

impl<'a> Entropy<'a> {
    /// Reads the data from `start` to the first restart marker or the end of the scan.
    pub(super) fn new(bytes: &'a [u8], start: usize, interval: usize) -> Result<Self, DecodeError> {
        let mut segment = Segment::default();
        let end = segment.read(bytes, start).ok_or_else(truncated)?;
        Ok(Entropy { bytes, segment, end, interval, next_restart: 0 })
    }

    /// Returns the number of MCUs before the next restart marker.
    pub(super) fn groups(&self) -> usize {
        if self.interval == 0 { usize::MAX } else { self.interval }
    }

    /// Returns a reader of the current segment.
    pub(super) fn bits(&self) -> Bits<'_> {
        Bits::new(&self.segment)
    }

    /// Reads the restart marker and the data after it.
    pub(super) fn restart(&mut self) -> Result<(), DecodeError> {
        if self.bytes.get(self.end + 1) != Some(&(0xD0 + self.next_restart)) {
            return Err(damaged("a restart marker is missing"));
        }
        self.next_restart = (self.next_restart + 1) % 8;
        self.end = self.segment.read(self.bytes, self.end + 2).ok_or_else(truncated)?;
        Ok(())
    }
}

/// Returns an error if more bits were read than the segment contains.
pub(super) fn check(bits: &Bits<'_>) -> Result<(), DecodeError> {
    if bits.overran() {
        return Err(damaged("a scan ends before its blocks do"));
    }
    Ok(())
}

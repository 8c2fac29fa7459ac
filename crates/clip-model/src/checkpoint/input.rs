//! The bytes of a pickle, counted, so that no length in the file is believed.

use std::io::{BufRead, Read};

use super::fault::{Found, damaged, truncated};

/// Bytes of a pickle without its tensors; those of checkpoints have a few megabytes.
const MAX_BYTES: u64 = 1 << 26;
/// Letters in the name of a global.
pub(super) const MAX_NAME: u64 = 4096;

/// Bytes that are counted, so that no length in the file is believed beyond what there is.
pub(super) struct Input<'a> {
    reader: &'a mut dyn BufRead,
    left: u64,
    capped: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead, available: u64) -> Self {
        Input { reader, left: available.min(MAX_BYTES), capped: available > MAX_BYTES }
    }

    pub(super) fn end<T>(&self) -> Found<T> {
        if self.capped {
            return damaged(format!(
                "its pickle is longer than {MAX_BYTES} bytes, which no checkpoint needs"
            ));
        }
        damaged(truncated())
    }

    pub(super) fn bytes(&mut self, count: u64) -> Found<Vec<u8>> {
        if count > self.left {
            return self.end();
        }
        self.left -= count;
        let mut bytes = Vec::new();
        self.reader.take(count).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count { damaged(truncated()) } else { Ok(bytes) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Found<[u8; N]> {
        if N as u64 > self.left {
            return self.end();
        }
        self.left -= N as u64;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Found<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A line without its end, as protocol 0 writes arguments.
    pub(super) fn line(&mut self) -> Found<String> {
        let mut bytes = Vec::new();
        let limit = self.left.min(MAX_NAME);
        self.reader.take(limit).read_until(b'\n', &mut bytes)?;
        self.left -= bytes.len() as u64;
        match bytes.pop() {
            Some(b'\n') => text(bytes),
            _ => damaged("a line of its pickle has no end"),
        }
    }
}

/// Bytes as a text.
pub(super) fn text(bytes: Vec<u8>) -> Found<String> {
    String::from_utf8(bytes).or_else(|_| damaged("a text of its pickle is not UTF-8"))
}

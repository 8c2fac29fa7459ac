//! Bounded reader for the bytes of a pickle: lengths that the file states are never trusted.

use std::io::{BufRead, Read};

use super::read_error::{ReadResult, damaged, truncated};

/// Maximum number of bytes in a pickle without its tensors; checkpoints have a few megabytes.
const MAX_BYTES: u64 = 1 << 26;
/// Maximum length of a global's name in bytes.
pub(super) const MAX_NAME: u64 = 4096;

/// A reader that counts bytes and reads no more than are available.
pub(super) struct Input<'a> {
    reader: &'a mut dyn BufRead,
    left: u64,
    capped: bool,
}

impl<'a> Input<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead, available: u64) -> Self {
        Input { reader, left: available.min(MAX_BYTES), capped: available > MAX_BYTES }
    }

    pub(super) fn end<T>(&self) -> ReadResult<T> {
        if self.capped {
            return damaged(format!(
                "its pickle is longer than {MAX_BYTES} bytes, more than any checkpoint needs"
            ));
        }
        damaged(truncated())
    }

    pub(super) fn bytes(&mut self, count: u64) -> ReadResult<Vec<u8>> {
        if count > self.left {
            return self.end();
        }
        self.left -= count;
        let mut bytes = Vec::new();
        self.reader.take(count).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count { damaged(truncated()) } else { Ok(bytes) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> ReadResult<[u8; N]> {
        if N as u64 > self.left {
            return self.end();
        }
        self.left -= N as u64;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> ReadResult<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads a line without its newline; protocol 0 stores arguments in lines.
    pub(super) fn line(&mut self) -> ReadResult<String> {
        let mut bytes = Vec::new();
        let limit = self.left.min(MAX_NAME);
        self.reader.take(limit).read_until(b'\n', &mut bytes)?;
        self.left -= bytes.len() as u64;
        match bytes.pop() {
            Some(b'\n') => text(bytes),
            _ => damaged("a line of its pickle has no newline"),
        }
    }
}

/// Converts bytes to a string.
pub(super) fn text(bytes: Vec<u8>) -> ReadResult<String> {
    String::from_utf8(bytes).or_else(|_| damaged("a string of its pickle is not UTF-8"))
}

//! Directory of a zip archive with uncompressed entries, the only kind that torch writes.

use std::collections::HashMap;
use std::io::{Read, SeekFrom};

use super::container::ReadSeek;
use super::read_error::{ReadError, ReadResult, damaged, truncated};

const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Maximum size of the directory; a checkpoint with a thousand tensors has a tenth of a megabyte.
const MAX_DIRECTORY: u64 = 1 << 26;

/// An entry of the directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    method: u16,
    encrypted: bool,
    size: u64,
    header: u64,
}

/// Directory of an archive: all entries by name.
#[derive(Debug)]
pub(crate) struct Directory {
    entries: HashMap<String, Entry>,
    order: Vec<String>,
}

impl Directory {
    /// Parses the directory at the end of an archive.
    pub(crate) fn parse(source: &mut dyn ReadSeek, length: u64) -> ReadResult<Self> {
        let (start, size) = find(source, length)?;
        if size > MAX_DIRECTORY || start.checked_add(size).is_none_or(|end| end > length) {
            return damaged("its zip directory does not lie within the file: fetch or copy it again");
        }
        source.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        source.take(size).read_to_end(&mut bytes)?;
        let mut fields = Fields(&bytes);
        let mut directory = Directory { entries: HashMap::new(), order: Vec::new() };
        while !fields.0.is_empty() {
            let (name, entry) = fields.entry()?;
            if directory.entries.insert(name.clone(), entry).is_some() {
                return damaged(format!("its zip directory has `{}` twice", name.escape_debug()));
            }
            directory.order.push(name);
        }
        Ok(directory)
    }

    /// Iterates over the names, in the order of the directory.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// Returns the entry with a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }
}

impl Entry {
    /// Returns the first byte and the number of bytes of the content.
    pub(crate) fn locate(
        &self,
        source: &mut dyn ReadSeek,
        length: u64,
        name: &str,
    ) -> ReadResult<(u64, u64)> {
        if self.method != 0 {
            return Err(ReadError::Refused(format!(
                "the compressed entry `{name}` (torch does not compress)"
            )));
        }
        if self.encrypted {
            return Err(ReadError::Refused(format!("the encrypted entry `{name}`")));
        }
        if self.header > length.saturating_sub(30) {
            return damaged(truncated());
        }
        source.seek(SeekFrom::Start(self.header))?;
        let mut header = [0; 30];
        source.read_exact(&mut header)?;
        let mut fields = Fields(&header);
        if fields.array::<4>()? != LOCAL {
            return damaged(format!("zip entry `{name}` does not begin where the directory states"));
        }
        fields.skip(22)?;
        // The lengths may differ from those in the directory, since torch pads with extra fields.
        let skipped = u64::from(fields.u16()?) + u64::from(fields.u16()?);
        let start = self.header + 30 + skipped;
        if start.checked_add(self.size).is_none_or(|end| end > length) {
            return damaged(truncated());
        }
        Ok((start, self.size))
    }
}

/// Returns the start and the size of the directory.
fn find(source: &mut dyn ReadSeek, length: u64) -> ReadResult<(u64, u64)> {
    // A comment of up to 65535 bytes may follow the last record.
    let tail = length.min(22 + 0xffff);
    source.seek(SeekFrom::Start(length - tail))?;
    let mut bytes = Vec::new();
    source.take(tail).read_to_end(&mut bytes)?;
    let Some(at) = (0..bytes.len().saturating_sub(21)).rev().find(|at| bytes[*at..].starts_with(&END)) else {
        return damaged("its zip directory is missing; it may be truncated: fetch or copy it again");
    };
    let mut fields = Fields(&bytes[at + 4..]);
    fields.skip(8)?;
    let (size, start) = (fields.u32()?, fields.u32()?);
    if at < 20 || !bytes[at - 20..].starts_with(&LOCATOR64) {
        return Ok((start.into(), size.into()));
    }
    let mut fields = Fields(&bytes[at - 12..]);
    let record = fields.u64()?;
    if record > length.saturating_sub(56) {
        return damaged(truncated());
    }
    source.seek(SeekFrom::Start(record))?;
    let mut bytes = [0; 56];
    source.read_exact(&mut bytes)?;
    let mut fields = Fields(&bytes);
    if fields.array::<4>()? != END64 {
        return damaged("its zip directory is damaged: fetch or copy it again");
    }
    fields.skip(36)?;
    let (size, start) = (fields.u64()?, fields.u64()?);
    Ok((start, size))
}

/// Parser of consecutive little-endian fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, count: usize) -> ReadResult<&'a [u8]> {
        match self.0.split_at_checked(count) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => damaged("its zip directory is truncated: fetch or copy it again"),
        }
    }

    fn skip(&mut self, count: usize) -> ReadResult<()> {
        self.slice(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> ReadResult<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    fn u16(&mut self) -> ReadResult<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> ReadResult<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> ReadResult<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Parses one entry of the directory.
    fn entry(&mut self) -> ReadResult<(String, Entry)> {
        if self.array::<4>()? != CENTRAL {
            return damaged("its zip directory is damaged: fetch or copy it again");
        }
        self.skip(4)?;
        let (flags, method) = (self.u16()?, self.u16()?);
        self.skip(8)?;
        let (packed, size) = (self.u32()?, self.u32()?);
        let (name, extra, comment) = (self.u16()?, self.u16()?, self.u16()?);
        self.skip(8)?;
        let header = self.u32()?;
        let Ok(name) = String::from_utf8(self.slice(name.into())?.to_vec()) else {
            return damaged("its zip directory has a name that is not UTF-8");
        };
        let mut extra = Fields(self.slice(extra.into())?);
        self.skip(comment.into())?;
        let (mut size, packed, mut header) = (u64::from(size), u64::from(packed), u64::from(header));
        let mut packed64 = packed;
        while extra.0.len() >= 4 {
            let (id, count) = (extra.u16()?, extra.u16()?);
            let mut field = Fields(extra.slice(count.into())?);
            // The field contains only values that do not fit into 32 bits, in this order.
            if id == 1 {
                for value in [&mut size, &mut packed64, &mut header] {
                    if *value == u64::from(u32::MAX) {
                        *value = field.u64()?;
                    }
                }
            }
        }
        if method == 0 && size != packed64 {
            return damaged(format!("the sizes of zip entry `{}` differ", name.escape_debug()));
        }
        Ok((name, Entry { method, encrypted: flags & 1 != 0, size, header }))
    }
}

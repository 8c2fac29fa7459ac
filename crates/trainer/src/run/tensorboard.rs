//! TensorBoard event files: scalars as protocol buffer `Event`s in TFRecord framing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Writes the scalars of one session. TensorBoard joins the files of a folder.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: File,
    path: std::path::PathBuf,
}

impl EventFile {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let path = folder.join(format!("events.out.tfevents.{:.6}.clip-distill", now()));
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = EventFile { file, path };
        let mut event = new_event();
        field_bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    pub(crate) fn scalars<S: AsRef<str>>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (S, f64)>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            field_bytes(&mut entry, 1, tag.as_ref().as_bytes());
            entry.push((2 << 3) | 5);
            entry.extend((value as f32).to_le_bytes());
            field_bytes(&mut summary, 1, &entry);
        }
        let mut event = new_event();
        event.push(2 << 3);
        varint(&mut event, step);
        field_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&frame(event)).map_err(|e| Error::io(&self.path, e))
    }
}

fn frame(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c::crc32c(&length)).to_le_bytes());
    record.extend(event);
    record.extend(masked(crc32c::crc32c(event)).to_le_bytes());
    record
}

/// Masks a checksum, as TFRecord requires: a CRC over data that contains other CRCs is unreliable.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Starts an event with its wall time (field 1, a double).
fn new_event() -> Vec<u8> {
    let mut event = vec![(1 << 3) | 1];
    event.extend(now().to_le_bytes());
    event
}

fn field_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push((number << 3) | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorboard_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalars(300, [("loss", 2.5)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[..16 + length], frame(&rest[12..12 + length])[..]);
            records.push(&rest[12..12 + length]);
            rest = &rest[16 + length..];
        }
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(b"brain.Event:2"));
        // Step 300 as a varint, then summary { value { "loss", 2.5f } }.
        let expected =
            [&[0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4][..], b"loss", &[0x15, 0, 0, 0x20, 0x40]]
                .concat();
        assert!(records[1].ends_with(&expected), "{:02x?}", records[1]);
        // The check value of CRC-32C, masked.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}

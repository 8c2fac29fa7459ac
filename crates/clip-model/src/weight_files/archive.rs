//! torch's zip archives: `data.pkl` and one stored entry for each storage. An archive with `constants.pkl` is
//! TorchScript, whose code is ignored.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::rc::Rc;

use super::container::{ByteRange, Container, ReadSeek, from_pickle};
use super::pickle;
use super::read_error::{ReadError, ReadResult, damaged};
use super::zip::{Directory, Entry};

/// Lists the tensors of an archive.
pub(crate) fn list(mut source: Box<dyn ReadSeek>, length: u64) -> ReadResult<Container> {
    let directory = Directory::parse(&mut source, length)?;
    let Some(prefix) = directory.names().find_map(|name| {
        // The archive's folder is named after the file that was originally saved.
        let prefix = name.strip_suffix("data.pkl")?;
        (prefix.is_empty() || prefix.ends_with('/')).then(|| prefix.to_string())
    }) else {
        return damaged("it is a zip archive without `data.pkl`, so torch did not save it");
    };
    if let Some(entry) = directory.get(&format!("{prefix}byteorder")) {
        let range = locate(&mut source, length, "byteorder", entry)?;
        source.seek(SeekFrom::Start(range.start))?;
        let mut order = Vec::new();
        source.by_ref().take(range.length.min(16)).read_to_end(&mut order)?;
        if order.trim_ascii() != b"little" {
            return Err(ReadError::Refused(format!(
                "the byte order `{}` (only `little` is supported)",
                String::from_utf8_lossy(&order).escape_debug()
            )));
        }
    }
    let script = directory.get(&format!("{prefix}constants.pkl")).is_some();
    let Some(entry) = directory.get(&format!("{prefix}data.pkl")) else {
        return damaged("it is a zip archive without `data.pkl`, so torch did not save it");
    };
    let range = locate(&mut source, length, "data.pkl", entry)?;
    source.seek(SeekFrom::Start(range.start))?;
    let pickle = pickle::parse(&mut source, range.length)?;

    let mut ranges = HashMap::new();
    for storage in &pickle.storages {
        if ranges.contains_key(&storage.key) {
            continue;
        }
        // The key is only looked up in the directory, never used as a path.
        let Some(entry) = directory.get(&format!("{prefix}data/{}", storage.key)) else { continue };
        let range = locate(&mut source, length, &storage.key, entry)?;
        let element = storage.kind.map_or(1, |kind| kind.elt_size_in_bytes() as u64);
        if storage.count.checked_mul(element) != Some(range.length) {
            return damaged(format!(
                "storage `{}` has {} bytes instead of {} elements of {element}: fetch or copy it again",
                storage.key, range.length, storage.count
            ));
        }
        ranges.insert(Rc::clone(&storage.key), range);
    }
    from_pickle(source, length, &pickle, &ranges, script)
}

fn locate(source: &mut Box<dyn ReadSeek>, length: u64, name: &str, entry: &Entry) -> ReadResult<ByteRange> {
    let (start, size) = entry.locate(source, length, name)?;
    Ok(ByteRange { file: 0, start, length: size })
}

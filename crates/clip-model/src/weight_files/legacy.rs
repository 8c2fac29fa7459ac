//! torch's legacy files (before 1.6): five pickles, followed by the storages.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::rc::Rc;

use super::container::{ByteRange, Container, ReadSeek, from_pickle};
use super::pickle;
use super::read_error::{ReadError, ReadResult, damaged, truncated};
use super::value::{Node, Value};

/// Magic number at the start of such a file, as a pickle.
pub(crate) const MAGIC: [u8; 15] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The only version of the format.
const PROTOCOL: i64 = 1001;

/// Lists the tensors of a legacy file.
pub(crate) fn list(mut source: Box<dyn ReadSeek>, length: u64) -> ReadResult<Container> {
    source.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    let next = |source: &mut Box<dyn ReadSeek>| {
        let at = source.stream_position()?;
        pickle::parse(source, length.saturating_sub(at))
    };
    match next(&mut source)?.root {
        Value::Int(PROTOCOL) => {}
        other => return damaged(format!("its version {other:?} is not {PROTOCOL}")),
    }
    let system = next(&mut source)?;
    if let Some(Value::Bool(false)) = system.get(&system.root, "little_endian") {
        return Err(ReadError::Refused("the byte order `big` (only `little` is supported)".into()));
    }
    let main = next(&mut source)?;
    let keys = next(&mut source)?;
    let Some(Node::List(keys)) = keys.node(&keys.root) else {
        return damaged("its list of storages is missing");
    };
    let kinds = main.storages.iter().map(|s| (Rc::clone(&s.key), s)).collect::<HashMap<_, _>>();
    let mut ranges = HashMap::new();
    let mut at = source.stream_position()?;
    for key in keys {
        let Value::Text(key) = key else { return damaged("its list of storages contains more than keys") };
        let Some(storage) = kinds.get(key) else {
            return damaged(format!("its storage `{}` has no description", key.escape_debug()));
        };
        if length.saturating_sub(at) < 8 {
            return damaged(truncated());
        }
        source.seek(SeekFrom::Start(at))?;
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        let count = u64::from_le_bytes(count);
        let element = storage.kind.map_or(1, |kind| kind.elt_size_in_bytes() as u64);
        let (start, bytes) = (at + 8, count.checked_mul(element));
        let Some(bytes) = bytes.filter(|bytes| *bytes <= length - start) else { return damaged(truncated()) };
        if count != storage.count {
            return damaged(format!(
                "storage `{}` has {count} elements instead of {}",
                key.escape_debug(),
                storage.count
            ));
        }
        ranges.insert(Rc::clone(key), ByteRange { file: 0, start, length: bytes });
        at = start + bytes;
    }
    from_pickle(source, length, &main, &ranges, false)
}

//! Reader of safetensors files: a length, a JSON header, and the bytes of all tensors.

use std::io::{Read, Seek, SeekFrom};

use tch::Kind;

use super::container::{ByteRange, Container, ReadSeek};
use super::read_error::{ReadError, ReadResult, damaged, truncated};

/// Maximum size of the header according to the format.
const MAX_HEADER: u64 = 100_000_000;

/// Lists the tensors of a safetensors file.
pub(crate) fn list(mut source: Box<dyn ReadSeek>, length: u64) -> ReadResult<Container> {
    source.seek(SeekFrom::Start(0))?;
    let mut size = [0; 8];
    source.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        return damaged(format!("its header claims {size} bytes"));
    }
    let Some(data) = length.checked_sub(8 + size) else { return damaged(truncated()) };
    let mut header = Vec::new();
    source.by_ref().take(size).read_to_end(&mut header)?;
    let entries: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(&header) {
        Ok(entries) => entries,
        Err(error) => return damaged(format!("its header is damaged ({error}); it may be truncated")),
    };
    let mut container = Container { files: vec![(source, length)], ..Container::default() };
    for (name, entry) in entries {
        if name == "__metadata__" {
            let config = entry.get(super::CONFIG_ENTRY).and_then(serde_json::Value::as_str);
            container.config = config.map(String::from);
            continue;
        }
        let Ok(entry) = serde_json::from_value::<HeaderEntry>(entry) else {
            return damaged(format!("the header of `{name}` is damaged"));
        };
        let Some(kind) = kind(&entry.dtype) else {
            return Err(ReadError::Unsupported(format!(
                "tensor `{name}` has element type {}, which is not supported",
                entry.dtype
            )));
        };
        let [begin, end] = entry.data_offsets;
        if begin > end || end > data {
            return damaged(format!(
                "`{name}` ends after the file; it may be truncated: fetch or copy it again"
            ));
        }
        let bytes = entry.shape.iter().try_fold(kind.elt_size_in_bytes() as u64, |product, size| {
            product.checked_mul(u64::try_from(*size).ok()?)
        });
        if bytes != Some(end - begin) {
            return damaged(format!(
                "`{name}` of shape {:?} does not fill its {} bytes",
                entry.shape,
                end - begin
            ));
        }
        let range = ByteRange { file: 0, start: 8 + size + begin, length: end - begin };
        container.push(name, kind, entry.shape, range);
    }
    let listed = container.ranges.iter().map(|range| range.length).sum::<u64>();
    if listed != data {
        return damaged(format!(
            "its tensors take {listed} bytes of {data}; it may be truncated: fetch or copy it again"
        ));
    }
    Ok(container)
}

#[derive(serde::Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: [u64; 2],
}

fn kind(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "F64" => Kind::Double,
        "F32" => Kind::Float,
        "F16" => Kind::Half,
        "BF16" => Kind::BFloat16,
        "I64" => Kind::Int64,
        "I32" => Kind::Int,
        "I16" => Kind::Int16,
        "I8" => Kind::Int8,
        "U8" => Kind::Uint8,
        "BOOL" => Kind::Bool,
        _ => return None,
    })
}

//! Sharded weights: several files, with a JSON index that maps tensors to files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use super::container::{self, Container};
use crate::{Error, Result};

/// Maximum size of an index in bytes.
const MAX_INDEX: u64 = 1 << 26;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens all files of an index.
pub(super) fn open(path: &Path, reader: impl Read, length: u64) -> Result<Container> {
    let damaged = |reason: String| Error::damaged(path, reason);
    if length > MAX_INDEX {
        return Err(damaged("it is too large for an index of weight files".into()));
    }
    let mut json = Vec::new();
    reader.take(MAX_INDEX).read_to_end(&mut json).map_err(|e| Error::io(path, e))?;
    let index: Index = serde_json::from_slice(&json).map_err(|e| Error::UnsupportedFormat {
        path: path.into(),
        reason: format!("it is JSON, but not an index of weight files: {e}"),
    })?;
    let mut whole = Container::default();
    for file in index.weight_map.values().collect::<BTreeSet<_>>() {
        // A name that leaves the folder could open any file on the machine.
        if file.contains(['/', '\\']) || file.starts_with('.') {
            return Err(damaged(format!("it names `{file}`, which is not a file beside it")));
        }
        let part = path.with_file_name(file);
        if file.ends_with(".json") {
            return Err(damaged(format!("it names `{file}`, which is another index")));
        }
        whole.append(container::open(&part)?);
    }
    let names = whole.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<BTreeSet<_>>();
    if let Some(missing) = index.weight_map.keys().find(|name| !names.contains(name.as_str())) {
        return Err(damaged(format!("none of its files contains `{missing}`: fetch or copy them again")));
    }
    Ok(whole)
}

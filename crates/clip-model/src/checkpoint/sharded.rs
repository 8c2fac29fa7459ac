//! Weights in several files, with an index in JSON that says which tensor is where.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use super::container::{self, Container};
use crate::{Error, Result};

/// The largest index that is read.
const MAX_INDEX: u64 = 1 << 26;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens all files of an index.
pub(super) fn open(path: &Path, reader: impl Read, length: u64) -> Result<Container> {
    let format = |reason: String| Error::Format { path: path.into(), reason };
    if length > MAX_INDEX {
        return Err(format("it is too long for an index of weights".into()));
    }
    let mut json = Vec::new();
    reader.take(MAX_INDEX).read_to_end(&mut json).map_err(|e| Error::io(path, e))?;
    let index: Index = serde_json::from_slice(&json)
        .map_err(|e| format(format!("it is JSON, but no index of weight files: {e}")))?;
    let mut whole = Container::default();
    for file in index.weight_map.values().collect::<BTreeSet<_>>() {
        // A name that leaves the folder could open any file of the machine.
        if file.contains(['/', '\\']) || file.starts_with('.') {
            return Err(format(format!("it names `{file}`, which is no file beside it")));
        }
        let part = path.with_file_name(file);
        if file.ends_with(".json") {
            return Err(format(format!("it names `{file}`, which is an index again")));
        }
        whole.append(container::open(&part)?);
    }
    let names = whole.tensors.iter().map(|tensor| tensor.name.as_str()).collect::<BTreeSet<_>>();
    if let Some(missing) = index.weight_map.keys().find(|name| !names.contains(name.as_str())) {
        return Err(format(format!("`{missing}` is in none of its files: fetch or copy them again")));
    }
    Ok(whole)
}

//! Torch's zip archives: `data.pkl` and one stored entry for each storage; with `constants.pkl` beside
//! them it is TorchScript, whose code is not looked at.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::rc::Rc;

use super::container::{Container, Place, Source, from_pickle};
use super::fault::{Fault, Found, damaged};
use super::pickle;
use super::zip::{Directory, Entry};

/// Lists the tensors of an archive.
pub(crate) fn list(mut source: Box<dyn Source>, length: u64) -> Found<Container> {
    let directory = Directory::read(&mut source, length)?;
    let Some(prefix) = directory.names().find_map(|name| {
        // The folder of the archive has the name of the file that was once saved.
        let prefix = name.strip_suffix("data.pkl")?;
        (prefix.is_empty() || prefix.ends_with('/')).then(|| prefix.to_string())
    }) else {
        return damaged("it is a zip archive without `data.pkl`, so torch did not save it");
    };
    if let Some(entry) = directory.get(&format!("{prefix}byteorder")) {
        let place = locate(&mut source, length, "byteorder", entry)?;
        source.seek(SeekFrom::Start(place.start))?;
        let mut order = Vec::new();
        source.by_ref().take(place.length.min(16)).read_to_end(&mut order)?;
        if order.trim_ascii() != b"little" {
            return Err(Fault::Refused(format!(
                "the byte order `{}` (only `little` is read)",
                String::from_utf8_lossy(&order).escape_debug()
            )));
        }
    }
    let script = directory.get(&format!("{prefix}constants.pkl")).is_some();
    let Some(entry) = directory.get(&format!("{prefix}data.pkl")) else {
        return damaged("it is a zip archive without `data.pkl`, so torch did not save it");
    };
    let place = locate(&mut source, length, "data.pkl", entry)?;
    source.seek(SeekFrom::Start(place.start))?;
    let pickle = pickle::read(&mut source, place.length)?;

    let mut places = HashMap::new();
    for storage in &pickle.storages {
        if places.contains_key(&storage.key) {
            continue;
        }
        // The entry's name is asked for, never opened as a path.
        let Some(entry) = directory.get(&format!("{prefix}data/{}", storage.key)) else { continue };
        let place = locate(&mut source, length, &storage.key, entry)?;
        let element = storage.kind.map_or(1, |kind| kind.elt_size_in_bytes() as u64);
        if storage.count.checked_mul(element) != Some(place.length) {
            return damaged(format!(
                "storage `{}` has {} bytes instead of {} elements of {element}: fetch or copy it again",
                storage.key, place.length, storage.count
            ));
        }
        places.insert(Rc::clone(&storage.key), place);
    }
    from_pickle(source, length, &pickle, &places, script)
}

fn locate(source: &mut Box<dyn Source>, length: u64, name: &str, entry: &Entry) -> Found<Place> {
    let (start, size) = entry.locate(source, length, name)?;
    Ok(Place { file: 0, start, length: size })
}

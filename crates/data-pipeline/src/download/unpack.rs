//! Archives into a data folder: beside the target first, then moved in, and never over what is the user's.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use file_ext::with_suffix;

use crate::manifest::Packing;
use crate::{Error, Result};

/// Ending of the list of what an archive brought; once it is there, the archive is unpacked.
pub(super) const STAMP: &str = "unpacked";
/// Ending of that list while the parts are moved in.
const MOVING: &str = "moving";

/// Unpacks an archive into `folder`, and leaves a list of what came beside the archive.
///
/// # Errors
/// [`Error::Format`] where the archive is damaged, [`Error::Config`] where something that did not come
/// from an archive has the name of one of its parts; then nothing is changed.
pub(super) fn unpack(archive: &Path, packing: Packing, folder: &Path) -> Result<()> {
    let staging = with_suffix(archive, "unpacking");
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    }
    fs::create_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    extract(archive, packing, &staging)?;
    let names = names_in(&staging)?;
    let earlier = brought_before(folder)?;
    let foreign =
        names.iter().find(|name| folder.join(name).symlink_metadata().is_ok() && !earlier.contains(*name));
    if let Some(name) = foreign {
        fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
        let (there, stamp) = (folder.join(name), with_suffix(archive, STAMP));
        return Err(Error::Config(format!(
            "`{}` is there already and did not come from `{}`: move it away, or make an empty file `{}` if it is that data set",
            there.display(),
            archive.display(),
            stamp.display()
        )));
    }
    // Written before the first part is moved, so that a run that is stopped in between can go on.
    let moving = with_suffix(archive, MOVING);
    let list = names.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect::<Vec<_>>();
    fs::write(&moving, list).map_err(|e| Error::io(&moving, e))?;
    for name in &names {
        merge(&staging.join(name), &folder.join(name))?;
    }
    fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    let stamp = with_suffix(archive, STAMP);
    fs::rename(&moving, &stamp).map_err(|e| Error::io(&stamp, e))
}

fn extract(archive: &Path, packing: Packing, staging: &Path) -> Result<()> {
    let file = File::open(archive).map_err(|e| Error::io(archive, e))?;
    let damaged = |kind: &'static str, reason: String| Error::Format { path: archive.into(), kind, reason };
    // Both libraries refuse names that lead out of the folder.
    match packing {
        Packing::TarGz => tar::Archive::new(flate2::read::GzDecoder::new(file))
            .unpack(staging)
            .map_err(|e| damaged("gzipped tar", e.to_string())),
        Packing::Zip => zip::ZipArchive::new(file)
            .and_then(|mut zip| zip.extract(staging))
            .map_err(|e| damaged("zip", e.to_string())),
    }
}

/// Names at the top, without the folder of notes that macOS adds to its archives.
fn names_in(folder: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names = entries
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|e| Error::io(folder, e))?;
    names.retain(|name| name != "__MACOSX");
    names.sort();
    Ok(names)
}

/// What archives brought into this folder: theirs are the lists that lie in it.
fn brought_before(folder: &Path) -> Result<HashSet<OsString>> {
    let mut brought = HashSet::new();
    for name in names_in(folder)? {
        let path = folder.join(&name);
        if path.extension().is_some_and(|ending| ending == STAMP || ending == MOVING) && path.is_file() {
            let list = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            brought.extend(list.split(|byte| *byte == b'\n').map(|name| OsString::from_vec(name.to_vec())));
        }
    }
    brought.remove(OsStr::new(""));
    Ok(brought)
}

/// Moves a file or folder to where parts of it may lie already: archives can share a folder.
fn merge(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() && to.is_dir() {
        for entry in fs::read_dir(from).map_err(|e| Error::io(from, e))? {
            let name = entry.map_err(|e| Error::io(from, e))?.file_name();
            merge(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    fs::rename(from, to).map_err(|e| Error::io(to, e))
}

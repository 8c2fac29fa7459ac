//! Unpacks archives: first beside the data folder, then moved into it. Files of the user are never replaced.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use file_ext::with_suffix;

use crate::error::FileFormat;
use crate::manifest::Packing;
use crate::{Error, Result};

/// Suffix of the list of an archive's parts. If it exists, the archive is unpacked.
pub(super) const STAMP: &str = "unpacked";
/// Suffix of the list while the parts are moved.
const MOVING: &str = "moving";

/// Unpacks an archive into `folder`, and writes a list of its parts beside the archive.
///
/// # Errors
/// [`Error::Format`] if the archive is damaged. [`Error::Setting`] if a file of the user has the name of a part; nothing
/// is changed then.
pub(super) fn unpack(archive: &Path, packing: Packing, folder: &Path) -> Result<()> {
    let staging = with_suffix(archive, "unpacking");
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    }
    fs::create_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    extract(archive, packing, &staging)?;
    let names = names_in(&staging)?;
    let earlier = parts_of_archives(folder)?;
    let foreign =
        names.iter().find(|name| folder.join(name).symlink_metadata().is_ok() && !earlier.contains(*name));
    if let Some(name) = foreign {
        fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
        let (existing, stamp) = (folder.join(name), with_suffix(archive, STAMP));
        return Err(Error::setting(
            "folder",
            format!(
                "`{}` exists already and did not come from `{}`: move it away, or create an empty file `{}` if it is that data set",
                existing.display(),
                archive.display(),
                stamp.display()
            ),
        ));
    }
    // Written before the first part is moved, so that an interrupted run can resume.
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
    let damaged = |format: FileFormat, reason: String| Error::Format { path: archive.into(), format, reason };
    // Both libraries refuse names that leave the folder.
    match packing {
        Packing::TarGz => tar::Archive::new(flate2::read::GzDecoder::new(file))
            .unpack(staging)
            .map_err(|e| damaged(FileFormat::TarGz, e.to_string())),
        Packing::Zip => zip::ZipArchive::new(file)
            .and_then(|mut zip| zip.extract(staging))
            .map_err(|e| damaged(FileFormat::Zip, e.to_string())),
    }
}

/// Lists the names at the top of a folder, without the folder of metadata that macOS adds to archives.
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

/// Returns the names of parts of archives in this folder, according to the lists in it.
fn parts_of_archives(folder: &Path) -> Result<HashSet<OsString>> {
    let mut parts = HashSet::new();
    for name in names_in(folder)? {
        let path = folder.join(&name);
        if path.extension().is_some_and(|ending| ending == STAMP || ending == MOVING) && path.is_file() {
            let list = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            parts.extend(list.split(|byte| *byte == b'\n').map(|name| OsString::from_vec(name.to_vec())));
        }
    }
    parts.remove(OsStr::new(""));
    Ok(parts)
}

/// Moves a file, or merges a folder into an existing one: archives can share a folder.
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

//! Fetching data sets: over cut connections, with checksums, unpacked once.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::manifest::{Manifest, Packing, RemoteFile};
use crate::{Error, Result};

/// Connections that bring nothing new before giving up.
const FRUITLESS_ATTEMPTS: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Told of progress: the file, bytes that are there, and bytes in all where known.
pub type OnProgress<'a> = dyn FnMut(&str, u64, Option<u64>) + 'a;

/// Fetches and unpacks what a manifest names into `folder`; what is complete is left alone.
///
/// # Errors
/// [`Error::Download`] where a file cannot be had or a person has to fetch it; [`Error::Io`] where the disk fails.
pub fn fetch(manifest: &Manifest, folder: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    if let Some(manual) = &manifest.manual {
        let missing = manifest.expect.iter().find(|path| !folder.join(path).exists());
        return match missing {
            None => Ok(()),
            Some(path) => Err(Error::Download {
                url: manifest.homepage.clone(),
                reason: format!(
                    "its terms need a person: {} (`{}` is not there yet)",
                    manual.trim(),
                    folder.join(path).display()
                ),
            }),
        };
    }
    for file in &manifest.files {
        let path = folder.join(&file.path);
        let stamp = with_ending(&path, "unpacked");
        if file.unpack.is_some() && stamp.exists() {
            continue;
        }
        if !path.exists() {
            fetch_file(file, &path, on_progress)?;
        }
        if let Some(packing) = file.unpack {
            unpack(&path, packing, folder)?;
            fs::write(&stamp, b"").map_err(|e| Error::io(&stamp, e))?;
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    match manifest.expect.iter().find(|path| !folder.join(path).exists()) {
        None => Ok(()),
        Some(path) => Err(Error::Download {
            url: manifest.homepage.clone(),
            reason: format!("`{}` is not in what was fetched", path.display()),
        }),
    }
}

/// Fetches one file to `path`. Bytes that came before a cut are kept under `path.partial` and asked for only once.
///
/// # Errors
/// [`Error::Download`] after several connections without progress, or where the checksum differs.
pub fn fetch_file(file: &RemoteFile, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
    let partial = with_ending(path, "partial");
    let name = file.path.display().to_string();
    let mut fruitless = 0;
    loop {
        let before = length(&partial);
        let result = continue_download(&file.url, &partial, &mut |done, total| {
            on_progress(&name, done, total.or(file.bytes))
        });
        match result {
            Ok(()) => break,
            Err(Error::Io { path, source }) => return Err(Error::Io { path, source }),
            Err(error) => {
                fruitless = if length(&partial) > before { 0 } else { fruitless + 1 };
                tracing::warn!("{error}; trying again");
                if fruitless >= FRUITLESS_ATTEMPTS {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(200 << fruitless));
            }
        }
    }
    if let Some(problem) = checksum_problem(file, &partial)? {
        // What is wrong stays wrong: the next try starts from nothing.
        fs::remove_file(&partial).map_err(|e| Error::io(&partial, e))?;
        return Err(Error::Download { url: file.url.clone(), reason: problem });
    }
    fs::rename(&partial, path).map_err(|e| Error::io(path, e))
}

fn continue_download(url: &str, partial: &Path, on_progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<()> {
    let failed = |reason: String| Error::Download { url: url.into(), reason };
    let start = length(partial);
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    if start > 0 {
        request = request.header("Range", format!("bytes={start}-"));
    }
    let mut response = request.call().map_err(|e| failed(e.to_string()))?;
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
    let rest = header("content-length").and_then(|text| text.parse::<u64>().ok());
    let mut out =
        OpenOptions::new().create(true).append(true).open(partial).map_err(|e| Error::io(partial, e))?;
    let mut done = match response.status().as_u16() {
        206 => start,
        // The server sends everything again.
        200 => {
            out.set_len(0).map_err(|e| Error::io(partial, e))?;
            0
        }
        // Nothing is left to send: it was complete.
        416 if start > 0 => return Ok(()),
        status => return Err(failed(format!("the server answers {status}"))),
    };
    let total = rest.map(|rest| done + rest);
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = body.read(&mut buffer).map_err(|e| failed(format!("cut off after {done} bytes: {e}")))?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count]).map_err(|e| Error::io(partial, e))?;
        done += count as u64;
        on_progress(done, total);
    }
    out.sync_all().map_err(|e| Error::io(partial, e))?;
    match total {
        Some(total) if done < total => Err(failed(format!("cut off after {done} of {total} bytes"))),
        _ => Ok(()),
    }
}

fn checksum_problem(file: &RemoteFile, path: &Path) -> Result<Option<String>> {
    let found = length(path);
    if let Some(bytes) = file.bytes.filter(|bytes| *bytes != found) {
        return Ok(Some(format!("it has {found} bytes instead of {bytes}")));
    }
    for (kind, expected, found) in [
        ("SHA-256", &file.sha256, file.sha256.as_ref().map(|_| hash::<Sha256>(path)).transpose()?),
        ("MD5", &file.md5, file.md5.as_ref().map(|_| hash::<Md5>(path)).transpose()?),
    ] {
        if let (Some(expected), Some(found)) = (expected, found)
            && !expected.eq_ignore_ascii_case(&found)
        {
            return Ok(Some(format!(
                "its {kind} is {found} instead of {expected}: what the server gives has changed"
            )));
        }
    }
    Ok(None)
}

fn hash<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut hash = D::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

/// Unpacks beside the target and moves the parts in when all of it is there.
fn unpack(archive: &Path, packing: Packing, folder: &Path) -> Result<()> {
    let staging = with_ending(archive, "unpacking");
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    }
    fs::create_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
    let mut file = File::open(archive).map_err(|e| Error::io(archive, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::io(archive, e))?;
    let damaged = |kind: &'static str, reason: String| Error::Format { path: archive.into(), kind, reason };
    // Both libraries refuse names that lead out of the folder.
    match packing {
        Packing::TarGz => tar::Archive::new(flate2::read::GzDecoder::new(file))
            .unpack(&staging)
            .map_err(|e| damaged("gzipped tar", e.to_string()))?,
        Packing::Zip => zip::ZipArchive::new(file)
            .and_then(|mut zip| zip.extract(&staging))
            .map_err(|e| damaged("zip", e.to_string()))?,
    }
    for entry in fs::read_dir(&staging).map_err(|e| Error::io(&staging, e))? {
        let from = entry.map_err(|e| Error::io(&staging, e))?.path();
        let to = folder.join(from.file_name().unwrap_or_default());
        if to.is_dir() {
            fs::remove_dir_all(&to).map_err(|e| Error::io(&to, e))?;
        }
        fs::rename(&from, &to).map_err(|e| Error::io(&to, e))?;
    }
    fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

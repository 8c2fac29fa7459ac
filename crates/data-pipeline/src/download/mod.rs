//! Fetching data sets: over cut connections, with checksums, unpacked once.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use file_ext::{sha256_file, with_suffix};
use md5::{Digest, Md5};

use crate::manifest::{Manifest, RemoteFile};
use crate::{Error, Result};

mod lock;
mod token;
mod unpack;

use lock::Lock;
pub use token::Token;
use unpack::{STAMP, unpack};

/// Connections that bring nothing new before giving up.
const FRUITLESS_ATTEMPTS: u32 = 5;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Told of progress: the file, bytes that are there, and bytes in all where known.
pub type OnProgress<'a> = dyn FnMut(&str, u64, Option<u64>) + 'a;

/// How a download treats its server; [`fetch`] and [`fetch_file`] take the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// A connection that brings no byte for this long is given up, and the download goes on over a new one.
    pub stall_timeout: Duration,
    /// Who asks, where a server wants to know; told to that server only, not to one that it points to.
    pub token: Option<Token>,
}

impl Default for Download {
    fn default() -> Self {
        Download { stall_timeout: Duration::from_secs(60), token: None }
    }
}

/// [`Download::fetch`] with the default settings.
///
/// # Errors
/// As [`Download::fetch`].
pub fn fetch(manifest: &Manifest, folder: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
    Download::default().fetch(manifest, folder, on_progress)
}

/// [`Download::fetch_file`] with the default settings.
///
/// # Errors
/// As [`Download::fetch_file`].
pub fn fetch_file(file: &RemoteFile, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
    Download::default().fetch_file(file, path, on_progress)
}

impl Download {
    /// Fetches and unpacks what a manifest names into `folder`; what is complete is left alone.
    ///
    /// # Errors
    /// [`Error::Download`] where a file cannot be had, another process fetches it, or a person has to;
    /// [`Error::Refused`] where the server says no;
    /// [`Error::Config`] where what is unpacked would replace something else; [`Error::Io`] where the disk fails.
    pub fn fetch(&self, manifest: &Manifest, folder: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
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
            let is_done = || match file.unpack {
                Some(_) => with_suffix(&path, STAMP).exists(),
                None => path.exists(),
            };
            if is_done() {
                continue;
            }
            let _lock = self.lock(file, &path)?;
            // Who held the lock before may have done it.
            if is_done() {
                continue;
            }
            if !path.exists() {
                self.fetch_locked(file, &path, on_progress)?;
            }
            if let Some(packing) = file.unpack {
                unpack(&path, packing, folder)?;
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

    /// Fetches one file to `path`, unless one of its length is there. Bytes that came before a cut are kept under `path.partial` and asked for only once.
    ///
    /// # Errors
    /// [`Error::Download`] after several connections without progress, where the checksum differs, or
    /// where another process fetches to the same path; [`Error::Refused`] where the server says no.
    pub fn fetch_file(&self, file: &RemoteFile, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let _lock = self.lock(file, path)?;
        // Who held the lock before may have done it.
        if path.is_file() && file.bytes.is_none_or(|bytes| bytes == length(path)) {
            return Ok(());
        }
        self.fetch_locked(file, path, on_progress)
    }

    /// Two downloads that append to one partial file would mix their bytes.
    fn lock(&self, file: &RemoteFile, path: &Path) -> Result<Lock> {
        Lock::take(with_suffix(path, "lock"), &file.url)
    }

    fn fetch_locked(&self, file: &RemoteFile, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let partial = with_suffix(path, "partial");
        let name = file.path.display().to_string();
        let mut fruitless = 0;
        loop {
            let before = length(&partial);
            let result = self.continue_download(&file.url, &partial, &mut |done, total| {
                on_progress(&name, done, total.or(file.bytes))
            });
            match result {
                Ok(()) => break,
                // Asking again changes nothing.
                Err(error @ (Error::Io { .. } | Error::Refused { .. })) => return Err(error),
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

    fn continue_download(
        &self,
        url: &str,
        partial: &Path,
        on_progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<()> {
        let failed = |reason: String| Error::Download { url: url.into(), reason };
        let start = length(partial);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // Not of the whole body, which may take hours: of each read and write.
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_per_write(Some(self.stall_timeout))
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .build()
            .into();
        let mut request = agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.header());
        }
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let mut response = request.call().map_err(|e| failed(e.to_string()))?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
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
            // A server that is slow or busy is worth another try; one that says no is not.
            status @ (400..=407 | 409..=428 | 430..=499) => {
                return Err(Error::Refused { url: url.into(), status });
            }
            status => return Err(failed(format!("the server answers {status}"))),
        };
        let total = rest.map(|rest| done + rest);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count =
                body.read(&mut buffer).map_err(|e| failed(format!("cut off after {done} bytes: {e}")))?;
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
}

fn checksum_problem(file: &RemoteFile, path: &Path) -> Result<Option<String>> {
    let found = length(path);
    if let Some(bytes) = file.bytes.filter(|bytes| *bytes != found) {
        return Ok(Some(format!("it has {found} bytes instead of {bytes}")));
    }
    for (kind, expected, found) in [
        ("SHA-256", &file.sha256, file.sha256.as_ref().map(|_| sha256_file(path)).transpose()?),
        ("MD5", &file.md5, file.md5.as_ref().map(|_| md5(path)).transpose()?),
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

fn md5(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if count == 0 {
            return Ok(file_ext::to_hex(hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

//! Downloads of data sets: resumed after broken connections, verified by checksums, and unpacked.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use file_ext::{sha256_file, with_suffix};
use md5::{Digest, Md5};

pub use crate::error::DownloadProblem;
use crate::manifest::{Manifest, RemoteFile};
use crate::{Error, Result};

mod lock;
mod token;
mod unpack;

use lock::Lock;
pub use token::Token;
use unpack::{STAMP, unpack};

/// Connections without new bytes before a download fails.
const FRUITLESS_ATTEMPTS: u32 = 5;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file.
    pub file: &'a str,
    /// Downloaded bytes.
    pub done: u64,
    /// Length of the file, if known.
    pub total: Option<u64>,
}

/// A callback for the progress of downloads.
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) + 'a;

/// Settings of downloads; [`fetch`] and [`fetch_file`] use the default.
///
/// ```no_run
/// use std::time::Duration;
///
/// use data_pipeline::download::Download;
/// use data_pipeline::manifest::Manifest;
/// let manifest = Manifest::read("datasets/flickr8k.toml")?;
/// let download = Download::default().with_stall_timeout(Duration::from_secs(20));
/// download.fetch(&manifest, "data/flickr8k", &mut |progress| println!("{progress:?}"))?;
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Download {
    /// Time without a byte after which a new connection resumes the download.
    pub stall_timeout: Duration,
    /// Access token. It is sent to the server of the address, but not to servers to which that one redirects.
    pub token: Option<Token>,
}

impl Default for Download {
    fn default() -> Self {
        Download { stall_timeout: Duration::from_secs(60), token: None }
    }
}

/// Downloads and unpacks the files of a manifest with the default settings.
///
/// ```no_run
/// use data_pipeline::manifest::Manifest;
/// let manifest = Manifest::read("datasets/flickr8k.toml")?;
/// data_pipeline::download::fetch(&manifest, "data/flickr8k", &mut |_| {})?;
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// The errors of [`Download::fetch`].
pub fn fetch(manifest: &Manifest, folder: impl AsRef<Path>, on_progress: &mut OnProgress<'_>) -> Result<()> {
    Download::default().fetch(manifest, folder, on_progress)
}

/// Downloads a file with the default settings.
///
/// ```no_run
/// use data_pipeline::manifest::RemoteFile;
/// let file = RemoteFile::new("https://example.org/images.zip", "images.zip");
/// data_pipeline::download::fetch_file(&file, "data/images.zip", &mut |_| {})?;
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// The errors of [`Download::fetch_file`].
pub fn fetch_file(file: &RemoteFile, path: impl AsRef<Path>, on_progress: &mut OnProgress<'_>) -> Result<()> {
    Download::default().fetch_file(file, path, on_progress)
}

impl Download {
    /// Sets the time without a byte after which a new connection resumes the download.
    #[must_use]
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// Sets the access token.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// Downloads and unpacks the files of a manifest into `folder`. Existing files are not downloaded again.
    ///
    /// # Errors
    /// [`Error::Download`] if a file is unavailable or damaged, if another process downloads it, or if its terms require
    /// a manual download; [`Error::Refused`] if the server refuses; [`Error::Setting`] if an archive would replace
    /// other files; [`Error::Io`] if writing fails.
    pub fn fetch(
        &self,
        manifest: &Manifest,
        folder: impl AsRef<Path>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<()> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        if let Some(manual) = &manifest.manual {
            let missing = manifest.expect.iter().find(|path| !folder.join(path).exists());
            return match missing {
                None => Ok(()),
                Some(path) => Err(Error::Download {
                    url: manifest.homepage.clone(),
                    problem: DownloadProblem::Manual,
                    reason: format!(
                        "{} has to be downloaded by hand, because its terms require it: {}, in the folder `{}`; \
                         `{}` is still missing",
                        manifest.title,
                        manual.trim(),
                        folder.display(),
                        path.display()
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
            // The previous holder of the lock may have downloaded it.
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
                problem: DownloadProblem::Incomplete,
                reason: format!("the downloaded files lack `{}`", path.display()),
            }),
        }
    }

    /// Downloads a file to `path`, unless a file of the same length exists. Bytes of an interrupted download are kept as
    /// `path.partial` and not downloaded again.
    ///
    /// # Errors
    /// [`Error::Download`] after several connections without progress, if the checksum differs, or if another process
    /// downloads to the same path; [`Error::Refused`] if the server refuses.
    pub fn fetch_file(
        &self,
        file: &RemoteFile,
        path: impl AsRef<Path>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<()> {
        let path = path.as_ref();
        let _lock = self.lock(file, path)?;
        // The previous holder of the lock may have downloaded it.
        if path.is_file() && file.bytes.is_none_or(|bytes| bytes == length(path)) {
            return Ok(());
        }
        self.fetch_locked(file, path, on_progress)
    }

    /// Locks a file, because two downloads that append to one partial file would mix their bytes.
    fn lock(&self, file: &RemoteFile, path: &Path) -> Result<Lock> {
        Lock::acquire(with_suffix(path, "lock"), &file.url)
    }

    fn fetch_locked(&self, file: &RemoteFile, path: &Path, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let partial = with_suffix(path, "partial");
        let name = file.path.display().to_string();
        let mut fruitless = 0;
        loop {
            let before = length(&partial);
            let result = self.continue_download(&file.url, &partial, &mut |done, total| {
                on_progress(Progress { file: &name, done, total: total.or(file.bytes) })
            });
            match result {
                Ok(()) => break,
                // Another attempt would give the same error.
                Err(error @ (Error::Io { .. } | Error::Refused { .. })) => return Err(error),
                Err(error) => {
                    fruitless = if length(&partial) > before { 0 } else { fruitless + 1 };
                    crate::log_warn!("{error}; trying again");
                    if fruitless >= FRUITLESS_ATTEMPTS {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(200 << fruitless));
                }
            }
        }
        if let Some(problem) = checksum_problem(file, &partial)? {
            // Start the next attempt from the beginning.
            fs::remove_file(&partial).map_err(|e| Error::io(&partial, e))?;
            let (url, reason) = (file.url.clone(), problem);
            return Err(Error::Download { url, problem: DownloadProblem::Checksum, reason });
        }
        fs::rename(&partial, path).map_err(|e| Error::io(path, e))
    }

    fn continue_download(
        &self,
        url: &str,
        partial: &Path,
        on_progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<()> {
        let failed =
            |reason: String| Error::Download { url: url.into(), problem: DownloadProblem::Network, reason };
        let start = length(partial);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // Limits each read and write, because the whole body may take hours.
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
            // The partial file was already complete.
            416 if start > 0 => return Ok(()),
            // Retry if the server is slow or busy, but not if it refuses.
            status @ (400..=407 | 409..=428 | 430..=499) => {
                return Err(Error::Refused { url: url.into(), status });
            }
            status => return Err(failed(format!("the server answers {status}"))),
        };
        let total = rest.map(|rest| done + rest);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = body
                .read(&mut buffer)
                .map_err(|e| failed(format!("the connection failed after {done} bytes: {e}")))?;
            if count == 0 {
                break;
            }
            out.write_all(&buffer[..count]).map_err(|e| Error::io(partial, e))?;
            done += count as u64;
            on_progress(done, total);
        }
        out.sync_all().map_err(|e| Error::io(partial, e))?;
        match total {
            Some(total) if done < total => {
                Err(failed(format!("the connection closed after {done} of {total} bytes")))
            }
            _ => Ok(()),
        }
    }
}

/// Describes a difference in length or checksum.
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
                "its {kind} is {found} instead of {expected}: the file on the server has changed"
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

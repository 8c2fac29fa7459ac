//! Models and data sets of the Hugging Face hub, downloaded into the cache of Python's libraries.
//!
//! Offline, or for a commit as revision, a complete cached snapshot needs no request. Otherwise the hub returns the
//! commit of the branch, and only missing files are downloaded. If a model has several weight files, the first in a
//! fixed order is used.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod cache;
mod listing;
mod name;

use cache::Cached;
use listing::{HubFile, Listing};
use name::Repo;
pub use name::{DatasetName, ModelName};

use crate::download::{CONNECT_TIMEOUT, Download, OnProgress, Token};
use crate::error::DownloadProblem;
pub use crate::error::HubProblem;
use crate::manifest::RemoteFile;
use crate::tokenizer::PADDING_FILES;
use crate::{Error, Result};

/// Default address of the hub; `HF_ENDPOINT` replaces it.
const ENDPOINT: &str = "https://huggingface.co";
/// Configurations and preprocessing; the first two are configurations.
const CONFIG_FILES: [&str; 3] = ["open_clip_config.json", "config.json", "preprocessor_config.json"];
/// The tokenizer of a model that does not use CLIP's.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Suffix of an index of sharded weights.
const INDEX_SUFFIX: &str = ".index.json";
/// Weight files in the order of preference: safetensors before pickles.
const WEIGHT_FILES: [&str; 7] = [
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Maximum length of a listing in bytes.
const MAX_LISTING: u64 = 1 << 25;
/// Timeout of a request for a listing.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// The files of a model that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The configuration. A model without one needs its weights, whose shapes determine the architecture.
    Config,
    /// Configuration, tokenizer and weights.
    Weights,
}

/// The hub's address and cache.
///
/// ```no_run
/// use data_pipeline::hub::{Hub, ModelName, Need};
/// let name: ModelName = "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K".parse()?;
/// let folder = Hub::from_env()?.fetch(&name, Need::Weights, &mut |_| {})?;
/// println!("{}", folder.display());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hub {
    /// Folder of all models and data sets, in the layout of Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// Address of the server, without a slash at its end.
    pub endpoint: String,
    /// Access token for gated and private repositories.
    pub token: Option<Token>,
    /// Whether requests are forbidden.
    pub offline: bool,
}

/// The reason for a missing listing.
enum NoListing {
    /// The hub is unreachable or out of order. A cached snapshot can replace the listing.
    Unreachable(Error),
    /// The hub refuses, or its answer is invalid.
    Refused(Error),
}

impl Hub {
    /// Creates a hub with a cache folder, at the default address and without a token.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Hub { cache: cache.into(), endpoint: ENDPOINT.into(), token: None, offline: false }
    }

    /// Sets the address of the server.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into().trim_end_matches('/').into();
        self
    }

    /// Sets the access token.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    /// Sets whether requests are forbidden.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Reads the environment variables of Python's `huggingface_hub`: `HF_HUB_CACHE`, `HF_HOME` [default:
    /// `~/.cache/huggingface`], `HF_ENDPOINT`, `HF_TOKEN` or the file of the login, and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Setting`] if a variable is invalid, or if none determines the cache.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().trim().to_string());
        let user_cache = || match get("XDG_CACHE_HOME") {
            Some(cache) => Some(PathBuf::from(cache)),
            None => get("HOME").map(|home| Path::new(&home).join(".cache")),
        };
        let home = get("HF_HOME").map(PathBuf::from).or_else(|| Some(user_cache()?.join("huggingface")));
        let cache = get("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache
            .or_else(|| Some(home.as_ref()?.join("hub")))
            .ok_or_else(|| Error::setting("HF_HOME", "models of the hub need a cache folder: set HF_HOME"))?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let reason = format!("HF_ENDPOINT = `{endpoint}` is not the address of a server");
            return Err(Error::setting("HF_ENDPOINT", reason));
        }
        let file = get("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
        let token = text("HF_TOKEN").or_else(|| std::fs::read_to_string(file?).ok());
        let token = token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        let offline = text("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        Ok(Hub {
            cache,
            endpoint: endpoint.trim_end_matches('/').into(),
            token: token.map(Token::new).transpose()?,
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        })
    }

    /// Returns the folder of a model with the needed files, or the weight file of a model without a configuration.
    /// Missing files are downloaded.
    ///
    /// # Errors
    /// [`Error::Hub`] if the model does not exist, is restricted, has unusable files, or is not cached in offline mode;
    /// [`Error::Download`] if the hub is unreachable or a file is incomplete; [`Error::Io`] if the cache cannot be
    /// written.
    pub fn fetch(&self, name: &ModelName, need: Need, on_progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        let repo = &name.0;
        let cached = Cached::new(&self.cache, repo);
        let here = cached.known(repo).and_then(|snapshot| found(&snapshot, need));
        self.cached_or(repo, &cached, here, |listing| {
            let snapshot = self.complete(repo, &cached, listing, need, on_progress)?;
            found(&snapshot, need).ok_or_else(|| {
                let reason = format!("it has none of the weight files {}", WEIGHT_FILES.join(", "));
                hub_error(repo, HubProblem::NoWeights, reason)
            })
        })
    }

    /// Returns the folder of a data set with the files that `wants` selects by their names. Missing files are downloaded.
    /// `check` returns the problem of an incomplete folder.
    ///
    /// ```no_run
    /// use data_pipeline::hub::{DatasetName, Hub};
    /// let name: DatasetName = "hf-hub:datasets/clip-benchmark/wds_mnist".parse()?;
    /// let check = |folder: &std::path::Path| match folder.join("classnames.txt").is_file() {
    ///     true => Ok(()),
    ///     false => Err("classnames.txt is missing".into()),
    /// };
    /// let folder = Hub::from_env()?.fetch_dataset(&name, &|file| file.ends_with(".txt"), &check, &mut |_| {})?;
    /// # Ok::<(), data_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] if the data set does not exist, is restricted or incomplete, or is not cached in offline mode;
    /// [`Error::Download`] if the hub is unreachable or a file is incomplete; [`Error::Io`] if the cache cannot be
    /// written.
    pub fn fetch_dataset(
        &self,
        name: &DatasetName,
        wants: &dyn Fn(&str) -> bool,
        check: &dyn Fn(&Path) -> std::result::Result<(), String>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<PathBuf> {
        let repo = &name.0;
        let cached = Cached::new(&self.cache, repo);
        let here = cached.known(repo).filter(|snapshot| check(snapshot).is_ok());
        self.cached_or(repo, &cached, here, |listing| {
            cached.make_folders(&listing.commit)?;
            for file in listing.files.iter().filter(|file| wants(&file.name)) {
                self.get(repo, &cached, &listing.commit, file, on_progress)?;
            }
            let snapshot = cached.snapshot(&listing.commit);
            check(&snapshot).map_err(|reason| hub_error(repo, HubProblem::MissingFile, reason))?;
            // Last, so that a branch always points to a complete snapshot.
            if !repo.is_commit() {
                cached.write_ref(&repo.revision, &listing.commit)?;
            }
            Ok(snapshot)
        })
    }

    /// Returns the complete copy `here` if it needs no request or the hub is unreachable. Otherwise calls `download` with
    /// the listing of the repository.
    fn cached_or(
        &self,
        repo: &Repo,
        cached: &Cached,
        here: Option<PathBuf>,
        download: impl FnOnce(&Listing) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        if let Some(here) = here.as_ref().filter(|_| self.offline || repo.is_commit()) {
            return Ok(here.clone());
        }
        if self.offline {
            let reason = format!(
                "`{}` has no complete copy and HF_HUB_OFFLINE is set: unset it for the first download, or set HF_HUB_CACHE to the folder with the {}",
                cached.root().display(),
                repo.kind.noun()
            );
            return Err(hub_error(repo, HubProblem::Offline, reason));
        }
        match (self.list(repo), here) {
            (Ok(listing), _) => download(&listing),
            (Err(NoListing::Unreachable(error)), Some(here)) => {
                crate::log_warn!("{error}; the cached copy of {repo} is used");
                Ok(here)
            }
            (Err(NoListing::Unreachable(error) | NoListing::Refused(error)), _) => Err(error),
        }
    }

    /// Downloads the missing files of a snapshot.
    fn complete(
        &self,
        repo: &Repo,
        cached: &Cached,
        listing: &Listing,
        need: Need,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<PathBuf> {
        cached.make_folders(&listing.commit)?;
        let snapshot = cached.snapshot(&listing.commit);
        let mut get = |file: &str| match listing.get(file) {
            Some(file) => self.get(repo, cached, &listing.commit, file, on_progress),
            None => {
                let reason = format!("its index names `{file}`, which it lacks");
                Err(hub_error(repo, HubProblem::BadAnswer, reason))
            }
        };
        for file in CONFIG_FILES.iter().filter(|file| listing.get(file).is_some()) {
            get(file)?;
        }
        if need == Need::Weights && listing.get(TOKENIZER_FILE).is_some() {
            get(TOKENIZER_FILE)?;
            for name in PADDING_FILES.iter().filter(|name| listing.get(name).is_some()) {
                get(name)?;
            }
        }
        if (need == Need::Weights || !cache::has_config(&snapshot))
            && let Some(file) = WEIGHT_FILES.iter().find(|file| listing.get(file).is_some())
        {
            get(file)?;
            if file.ends_with(INDEX_SUFFIX) {
                cache::parts(&snapshot.join(file))?.iter().try_for_each(|part| get(part))?;
            }
        }
        // Last, so that a branch always points to a complete snapshot.
        if !repo.is_commit() {
            cached.write_ref(&repo.revision, &listing.commit)?;
        }
        Ok(snapshot)
    }

    /// Downloads a file into the blobs, and links it from the snapshot.
    fn get(
        &self,
        repo: &Repo,
        cached: &Cached,
        commit: &str,
        file: &HubFile,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<()> {
        let blob = cached.blob(&file.hash);
        let is_cached = std::fs::metadata(&blob).is_ok_and(|data| file.bytes.is_none_or(|n| n == data.len()));
        if !is_cached {
            let (prefix, name) = (repo.kind.prefix(), &repo.name);
            let url = format!("{}/{prefix}{name}/resolve/{commit}/{}", self.endpoint, file.name);
            let mut remote = RemoteFile::new(url, Path::new(name).join(&file.name));
            (remote.bytes, remote.sha256) = (file.bytes, file.sha256.clone());
            let download = Download::default().with_token(self.token.clone());
            download.fetch_file(&remote, &blob, on_progress).map_err(|error| match error {
                Error::Refused { status, .. } => self.refusal(repo, Some(&file.name), status),
                error => error,
            })?;
        }
        cached.link(commit, &file.name, &file.hash)
    }

    /// Requests the commit and the files of a revision.
    fn list(&self, repo: &Repo) -> std::result::Result<Listing, NoListing> {
        let revision = repo.revision.replace('/', "%2F");
        let (kind, name) = (repo.kind.plural(), &repo.name);
        let url = format!("{}/api/{kind}/{name}/revision/{revision}?blobs=true", self.endpoint);
        let unreachable = |reason: String| {
            let problem = DownloadProblem::Network;
            NoListing::Unreachable(Error::Download { url: url.clone(), problem, reason })
        };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(LISTING_TIMEOUT))
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .build()
            .into();
        let mut request = agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", token.header());
        }
        let mut response = request.call().map_err(|e| unreachable(e.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            status @ (408 | 429 | 500..) => return Err(unreachable(format!("the server answers {status}"))),
            status => return Err(NoListing::Refused(self.refusal(repo, None, status))),
        }
        let mut json = Vec::new();
        let mut body = response.body_mut().as_reader().take(MAX_LISTING);
        body.read_to_end(&mut json).map_err(|e| unreachable(format!("the connection failed: {e}")))?;
        Listing::read(&json)
            .map_err(|reason| NoListing::Refused(hub_error(repo, HubProblem::BadAnswer, reason)))
    }

    /// Returns the error for a refusal of the hub: of the listing, or of a file.
    fn refusal(&self, repo: &Repo, file: Option<&str>, status: u16) -> Error {
        let page = format!("{}/{}{}", self.endpoint, repo.kind.prefix(), repo.name);
        match (status, file) {
            // The hub also answers 401 for repositories that do not exist, to hide private ones.
            (401 | 403, _) => hub_error(
                repo,
                HubProblem::Restricted,
                format!(
                    "it is gated, private or missing (the server answers {status}): accept its licence at {page} \
                     and set HF_TOKEN to a token that may read it"
                ),
            ),
            (404, None) => hub_error(
                repo,
                HubProblem::NotFound,
                format!(
                    "the hub has no such {} or no revision `{}`; see {page}",
                    repo.kind.noun(),
                    repo.revision
                ),
            ),
            (404, Some(file)) => {
                let reason = format!("the hub lists its file `{file}`, but does not have it; see {page}");
                hub_error(repo, HubProblem::MissingFile, reason)
            }
            (status, _) => hub_error(repo, HubProblem::BadAnswer, format!("the server answers {status}")),
        }
    }
}

/// Returns the usable part of a snapshot: its folder, or its weights if it has no configuration.
fn found(snapshot: &Path, need: Need) -> Option<PathBuf> {
    let weights = cache::weights(snapshot);
    match (cache::has_config(snapshot), need) {
        (true, Need::Config) => Some(snapshot.into()),
        (true, Need::Weights) => weights.map(|_| snapshot.into()),
        (false, _) => weights,
    }
}

fn hub_error(repo: &Repo, problem: HubProblem, reason: String) -> Error {
    Error::Hub { name: repo.to_string(), problem, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Result<Hub> {
        Hub::from_variables(|name| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn environment_variables_set_cache_endpoint_and_token() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().display().to_string();
        let plain = hub(&[("HOME", &home)]).unwrap();
        assert_eq!(plain.cache, folder.path().join(".cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), &plain.token, plain.offline), (ENDPOINT, &None, false));
        let xdg = hub(&[("HOME", "x"), ("XDG_CACHE_HOME", "c")]).unwrap();
        assert_eq!(xdg.cache, Path::new("c/huggingface/hub"));

        std::fs::write(folder.path().join("token"), "from_file\n").unwrap();
        let own =
            hub(&[("HF_HOME", &home), ("HF_HUB_OFFLINE", "yes"), ("HF_ENDPOINT", "http://mirror/")]).unwrap();
        assert_eq!((own.cache, own.offline), (folder.path().join("hub"), true));
        assert_eq!(own.endpoint, "http://mirror");
        assert_eq!(own.token.unwrap().header(), "Bearer from_file");
        let other = hub(&[
            ("HF_HOME", &home),
            ("HF_HUB_CACHE", "there"),
            ("HF_TOKEN", "mine"),
            ("HF_HUB_OFFLINE", "0"),
        ]);
        let other = other.unwrap();
        assert_eq!((other.cache.as_path(), other.offline), (Path::new("there"), false));
        assert!(!format!("{other:?}").contains("mine"), "a message shows the token");
        assert_eq!(other.token.unwrap().header(), "Bearer mine");

        assert!(hub(&[]).unwrap_err().to_string().contains("HF_HOME"));
        assert!(hub(&[("HOME", "x"), ("HF_ENDPOINT", "ftp://x")]).is_err());
        assert!(hub(&[("HOME", "x"), ("HF_TOKEN", "two\nlines")]).is_err());
    }
}

//! Models of the Hugging Face hub: fetched once into the cache that Python's libraries use, then read there.
//!
//! What is here is taken first: offline, or for a revision that is a commit, a complete snapshot is used
//! without any request; otherwise the hub is asked which commit a branch is, and only files that are
//! missing are fetched. Of a model's weights one file is taken, the first of a fixed order.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod cache;
mod listing;
mod name;

use cache::Cached;
use listing::{HubFile, Listing};
pub use name::ModelName;

use crate::download::{CONNECT_TIMEOUT, Download, OnProgress, Token};
use crate::manifest::RemoteFile;
use crate::tokenizer::PADDING_FILES;
use crate::{Error, Result};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Files that say what a model is and wants of its images; the first two are configurations.
const CONFIG_FILES: [&str; 3] = ["open_clip_config.json", "config.json", "preprocessor_config.json"];
/// The tokenizer, of models that do not use CLIP's.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Ending of files that name the parts of large weights.
const INDEX_ENDING: &str = ".index.json";
/// Weight files in the order in which one is taken: no pickle where there is a safetensors file.
const WEIGHT_FILES: [&str; 7] = [
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The longest listing that is read.
const MAX_LISTING: u64 = 1 << 25;
/// The longest that the answer to a question may take.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// What it is; its weights only where it has no configuration, since their shapes then tell it.
    Config,
    /// All that it takes to use it.
    Weights,
}

/// Where models come from and where they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// The folder of all models, in the layout of Python's `huggingface_hub`.
    pub cache: PathBuf,
    /// The server, without a slash at its end.
    pub endpoint: String,
    /// Who asks, for models that not everyone may have.
    pub token: Option<Token>,
    /// Whether nothing is to be asked for.
    pub offline: bool,
}

/// What kept an answer away.
enum Silence {
    /// The hub cannot be reached or is out of order, so what is here may stand in.
    Unreachable(Error),
    /// It answers, and says no.
    Answer(Error),
}

impl Hub {
    /// The hub as the environment describes it to Python's `huggingface_hub` too: `HF_HUB_CACHE`,
    /// `HF_HOME` (by default `~/.cache/huggingface`), `HF_ENDPOINT`, `HF_TOKEN` or the file that logging in
    /// writes, and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Config`] where a variable cannot be used, or none says where the cache is.
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
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            Error::Config("there is no home folder for models of the hub: set HF_HOME".into())
        })?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Config(format!("HF_ENDPOINT = `{endpoint}` is no address of a server")));
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

    /// The folder of a model, with what is needed of it; of one without a configuration, its weight file.
    ///
    /// # Errors
    /// [`Error::Hub`] where there is no such model, it is not for everyone, its files cannot be used, or it is
    /// not in the cache and the hub cannot be reached; [`Error::Download`] where a file does not come whole;
    /// [`Error::Io`] where the cache cannot be written.
    pub fn fetch(&self, name: &ModelName, need: Need, on_progress: &mut OnProgress<'_>) -> Result<PathBuf> {
        let cached = Cached::new(&self.cache, name);
        let here = cached.known(name).and_then(|snapshot| found(&snapshot, need));
        if let Some(here) = here.as_ref().filter(|_| self.offline || name.is_commit()) {
            return Ok(here.clone());
        }
        if self.offline {
            let reason = format!(
                "it is not in full in `{}` and HF_HUB_OFFLINE is set: fetch it once without, or set HF_HUB_CACHE to where it is",
                cached.root().display()
            );
            return Err(hub_error(name, reason));
        }
        let listing = match (self.list(name), here) {
            (Ok(listing), _) => listing,
            (Err(Silence::Unreachable(error)), Some(here)) => {
                tracing::warn!("{error}; the copy of {name} in the cache is used as it is");
                return Ok(here);
            }
            (Err(Silence::Unreachable(error) | Silence::Answer(error)), _) => return Err(error),
        };
        let snapshot = self.complete(name, &cached, &listing, need, on_progress)?;
        found(&snapshot, need).ok_or_else(|| {
            hub_error(name, format!("it has none of the weight files {}", WEIGHT_FILES.join(", ")))
        })
    }

    /// Fetches what a snapshot lacks.
    fn complete(
        &self,
        name: &ModelName,
        cached: &Cached,
        listing: &Listing,
        need: Need,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<PathBuf> {
        cached.make_folders(&listing.commit)?;
        let snapshot = cached.snapshot(&listing.commit);
        let mut get = |file: &str| match listing.get(file) {
            Some(file) => self.get(name, cached, &listing.commit, file, on_progress),
            None => Err(hub_error(name, format!("its index names `{file}`, which it does not have"))),
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
            if file.ends_with(INDEX_ENDING) {
                cache::parts(&snapshot.join(file))?.iter().try_for_each(|part| get(part))?;
            }
        }
        // Last, so that a branch never points at less than what it pointed at before.
        if !name.is_commit() {
            cached.write_ref(name.revision(), &listing.commit)?;
        }
        Ok(snapshot)
    }

    /// One file, into the blobs and the snapshot.
    fn get(
        &self,
        name: &ModelName,
        cached: &Cached,
        commit: &str,
        file: &HubFile,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<()> {
        let blob = cached.blob(&file.hash);
        let is_here = std::fs::metadata(&blob).is_ok_and(|data| file.bytes.is_none_or(|n| n == data.len()));
        if !is_here {
            let remote = RemoteFile {
                url: format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repo(), file.name),
                path: Path::new(name.repo()).join(&file.name),
                bytes: file.bytes,
                sha256: file.sha256.clone(),
                md5: None,
                unpack: None,
            };
            let download = Download { token: self.token.clone(), ..Download::default() };
            download.fetch_file(&remote, &blob, on_progress).map_err(|error| match error {
                Error::Refused { status, .. } => self.refusal(name, status),
                error => error,
            })?;
        }
        cached.link(commit, &file.name, &file.hash)
    }

    /// Asks for the commit and the files of a revision.
    fn list(&self, name: &ModelName) -> std::result::Result<Listing, Silence> {
        let revision = name.revision().replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, name.repo());
        let unreachable = |reason: String| Silence::Unreachable(Error::Download { url: url.clone(), reason });
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
            status => return Err(Silence::Answer(self.refusal(name, status))),
        }
        let mut json = Vec::new();
        let mut body = response.body_mut().as_reader().take(MAX_LISTING);
        body.read_to_end(&mut json).map_err(|e| unreachable(format!("cut off: {e}")))?;
        Listing::read(&json).map_err(|reason| Silence::Answer(hub_error(name, reason)))
    }

    /// What an answer other than the wanted one means.
    fn refusal(&self, name: &ModelName, status: u16) -> Error {
        let page = format!("{}/{}", self.endpoint, name.repo());
        let reason = match status {
            // The hub says so too of what does not exist, so as not to tell what is private.
            401 | 403 => format!(
                "it is gated, private, or not there (the server answers {status}): accept its licence at {page} \
                 and set HF_TOKEN to a token that may read it"
            ),
            404 => format!("there is no such model, or it has no revision `{}`; see {page}", name.revision()),
            status => format!("the server answers {status}"),
        };
        hub_error(name, reason)
    }
}

/// What a snapshot offers: its folder, or its weights where nothing else says what they are.
fn found(snapshot: &Path, need: Need) -> Option<PathBuf> {
    let weights = cache::weights(snapshot);
    match (cache::has_config(snapshot), need) {
        (true, Need::Config) => Some(snapshot.into()),
        (true, Need::Weights) => weights.map(|_| snapshot.into()),
        (false, _) => weights,
    }
}

fn hub_error(name: &ModelName, reason: String) -> Error {
    Error::Hub { model: name.to_string(), reason }
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
    fn the_environment_says_where_things_are() {
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
        assert!(!format!("{other:?}").contains("mine"), "a token stands in no message");
        assert_eq!(other.token.unwrap().header(), "Bearer mine");

        assert!(hub(&[]).unwrap_err().to_string().contains("HF_HOME"));
        assert!(hub(&[("HOME", "x"), ("HF_ENDPOINT", "ftp://x")]).is_err());
        assert!(hub(&[("HOME", "x"), ("HF_TOKEN", "two\nlines")]).is_err());
    }
}

//! Names of repositories on the hub: `hf-hub:owner/name` or `hf:owner/name` for models, `hf-hub:datasets/owner/name` for
//! data sets, with an optional `@revision`. The address of a model's page is a name too.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Prefixes of such names; the first is open_clip's.
const PREFIXES: [&str; 2] = ["hf-hub:", "hf:"];
/// Hosts of the hub in addresses.
const HOSTS: [&str; 3] = ["huggingface.co/", "www.huggingface.co/", "hf.co/"];
/// Maximum length on the hub.
const MAX_NAME: usize = 96;
const MAX_REVISION: usize = 200;
/// Default revision.
const MAIN: &str = "main";

/// Prefix of data sets, after the hub's prefix.
const DATASETS: &str = "datasets/";

/// A repository of the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repo {
    pub(super) kind: RepoKind,
    /// `owner/name`.
    pub(super) name: String,
    /// Branch, tag or commit.
    pub(super) revision: String,
}

/// The kind of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepoKind {
    Model,
    Dataset,
}

impl RepoKind {
    /// Returns the name of the kind in the hub's interface and in its cache.
    pub(super) fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }

    /// Returns the name of the kind in messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        }
    }

    /// Returns the prefix of names and of the addresses of files.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            RepoKind::Model => "",
            RepoKind::Dataset => DATASETS,
        }
    }
}

impl Repo {
    /// Parses `owner/name` with an optional `@revision`; `text` is the whole name for messages.
    fn parse(kind: RepoKind, rest: &str, text: &str) -> Result<Self> {
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        // Both become part of paths and addresses.
        let good_repo = repo.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name));
        if !good_repo || repo.len() > MAX_NAME {
            return Err(invalid(kind, text));
        }
        if revision.len() > MAX_REVISION || !revision.split('/').all(is_part) {
            return Err(Error::setting(
                kind.noun(),
                format!(
                    "`{}` of `{}` is not a revision: give a branch, a tag or a commit",
                    revision.escape_debug(),
                    text.escape_debug()
                ),
            ));
        }
        Ok(Repo { kind, name: repo.into(), revision: revision.into() })
    }

    pub(super) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", PREFIXES[0], self.kind.prefix(), self.name)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// A model of the hub at a revision (branch, tag or commit).
///
/// ```
/// use data_pipeline::hub::ModelName;
/// let name: ModelName = "hf-hub:laion/CLIP-ViT-B-32@main".parse()?;
/// assert_eq!(name.repo(), "laion/CLIP-ViT-B-32");
/// assert_eq!(name.to_string(), "hf-hub:laion/CLIP-ViT-B-32");
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName(pub(super) Repo);

impl ModelName {
    /// Parses a name, or the address of a model's page or file. Returns `None` for any other text, such as a preset or a
    /// path.
    ///
    /// # Errors
    /// [`Error::Setting`] for an invalid name after the prefix, or for any other address.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if let Some(address) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
            let name = from_address(address).ok_or_else(|| not_an_address(text))?;
            return Self::parse(&format!("{}{name}", PREFIXES[0])).map_err(|_| not_an_address(text));
        }
        let Some(rest) = after_prefix(text) else { return Ok(None) };
        Repo::parse(RepoKind::Model, rest, text).map(|repo| Some(ModelName(repo)))
    }

    /// Returns `owner/name`.
    pub fn repo(&self) -> &str {
        &self.0.name
    }

    /// Returns the branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.0.revision
    }

    /// Whether the revision is a commit, which never changes.
    pub fn is_commit(&self) -> bool {
        self.0.is_commit()
    }
}

impl FromStr for ModelName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        ModelName::parse(text)?.ok_or_else(|| invalid(RepoKind::Model, text))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Returns `owner/name`, or `owner/name@revision`, for an address without its scheme.
fn from_address(address: &str) -> Option<String> {
    let path = HOSTS.iter().find_map(|host| address.strip_prefix(host))?;
    let path = path.split(['?', '#']).next()?.trim_matches('/');
    let mut parts = path.split('/');
    let (owner, name) = (parts.next()?, parts.next()?);
    match (parts.next(), parts.next()) {
        (Some("tree" | "blob" | "resolve" | "raw" | "commit"), Some(revision)) => {
            Some(format!("{owner}/{name}@{}", revision.replace("%2F", "/")))
        }
        // Pages of other kinds: data sets, spaces, papers.
        _ if ["datasets", "spaces", "papers", "docs", "collections"].contains(&owner) => None,
        (None | Some("tree" | "blob" | "resolve" | "discussions" | "commits"), _) => {
            Some(format!("{owner}/{name}"))
        }
        _ => None,
    }
}

fn not_an_address(text: &str) -> Error {
    Error::setting(
        "model",
        format!(
            "`{}` is not the address of a model of the Hugging Face hub: write hf-hub:owner/name, or download the file \
             and name its path",
            text.escape_debug()
        ),
    )
}

/// A data set of the hub at a revision (branch, tag or commit): `hf-hub:datasets/owner/name`.
///
/// ```
/// use data_pipeline::hub::DatasetName;
/// let name: DatasetName = "hf-hub:datasets/clip-benchmark/wds_vtab-cifar100".parse()?;
/// assert_eq!(name.repo(), "clip-benchmark/wds_vtab-cifar100");
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetName(pub(super) Repo);

impl DatasetName {
    /// Parses a name. Returns `None` for a text without the hub's prefix, such as a path.
    ///
    /// # Errors
    /// [`Error::Setting`] for an invalid name after the prefix, such as that of a model.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(rest) = after_prefix(text) else { return Ok(None) };
        let rest = rest.strip_prefix(DATASETS).ok_or_else(|| invalid(RepoKind::Dataset, text))?;
        Repo::parse(RepoKind::Dataset, rest, text).map(|repo| Some(DatasetName(repo)))
    }

    /// Returns `owner/name`.
    pub fn repo(&self) -> &str {
        &self.0.name
    }

    /// Returns the branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.0.revision
    }
}

impl FromStr for DatasetName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        DatasetName::parse(text)?.ok_or_else(|| invalid(RepoKind::Dataset, text))
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Returns the part of a name after the hub's prefix, if it has one.
fn after_prefix(text: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))
}

fn invalid(kind: RepoKind, text: &str) -> Error {
    let (noun, form) = (kind.noun(), format!("{}{}owner/name", PREFIXES[0], kind.prefix()));
    let text = text.escape_debug();
    Error::setting(noun, format!("`{text}` is not a {noun} of the hub: write {form}, or {form}@revision"))
}

/// Whether a text is the full hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hash(text)
}

/// Whether a text consists of lowercase hexadecimal digits.
pub(super) fn is_hash(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text can be an owner, a name or a part of a revision. `--` separates owner and name in the cache.
fn is_part(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty()
        && text.chars().all(good)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("..")
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<ModelName> {
        ModelName::parse(text).unwrap()
    }

    #[test]
    fn names_have_an_owner_and_an_optional_revision() {
        let name = parse("hf-hub:laion/CLIP-ViT-B-32").unwrap();
        assert_eq!((name.repo(), name.revision()), ("laion/CLIP-ViT-B-32", "main"));
        assert_eq!(parse("hf:laion/CLIP-ViT-B-32"), Some(name));
        let name = parse("hf:a/b@refs/pr/1").unwrap();
        assert_eq!((name.revision(), name.to_string().as_str()), ("refs/pr/1", "hf-hub:a/b@refs/pr/1"));
        assert!(parse(&format!("hf:a/b@{}", "0a".repeat(20))).unwrap().is_commit());
        assert!(!parse("hf:a/b@0a0a").unwrap().is_commit());
        for other in ["ViT-B-16", "a/b", "./hf:a/b", "models/x.pt"] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn addresses_of_models_are_names() {
        for (address, name) in [
            ("https://huggingface.co/openai/clip-vit-base-patch32", "hf-hub:openai/clip-vit-base-patch32"),
            ("https://huggingface.co/openai/clip-vit-base-patch32/", "hf-hub:openai/clip-vit-base-patch32"),
            ("http://hf.co/a/b?library=open_clip#use", "hf-hub:a/b"),
            ("https://huggingface.co/a/b/tree/main", "hf-hub:a/b"),
            ("https://huggingface.co/a/b/tree/v1", "hf-hub:a/b@v1"),
            ("https://huggingface.co/a/b/resolve/main/open_clip_model.safetensors", "hf-hub:a/b"),
            ("https://huggingface.co/a/b/blob/refs%2Fpr%2F1/config.json", "hf-hub:a/b@refs/pr/1"),
        ] {
            assert_eq!(parse(address).unwrap().to_string(), name, "{address}");
        }
        for other in [
            "https://huggingface.co/gpt2",
            "https://huggingface.co/datasets/a/b",
            "https://huggingface.co/a/../b",
            "https://example.org/a/b",
            "https://huggingface.co.example.org/a/b",
            "https://",
        ] {
            assert!(ModelName::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn data_sets_have_a_prefix() {
        let name = DatasetName::parse("hf:datasets/clip-benchmark/wds_mnist@v1").unwrap().unwrap();
        assert_eq!((name.repo(), name.revision()), ("clip-benchmark/wds_mnist", "v1"));
        assert_eq!(name.to_string(), "hf-hub:datasets/clip-benchmark/wds_mnist@v1");
        assert_eq!(DatasetName::parse("data/wds_mnist").unwrap(), None);
        for wrong in
            ["hf:clip-benchmark/wds_mnist", "hf:datasets/x", "hf:datasets/a/../b", "hf:datasets/a/b@../x"]
        {
            assert!(DatasetName::parse(wrong).is_err(), "{wrong}");
        }
        let error = ModelName::parse("hf:datasets/a/b").unwrap_err().to_string();
        assert!(error.contains("not a model"), "{error}");
        let error = DatasetName::parse("hf:a/b").unwrap_err().to_string();
        assert!(error.contains("hf-hub:datasets/owner/name"), "{error}");
    }

    #[test]
    fn hostile_names_are_refused() {
        for wrong in [
            "hf:",
            "hf:name",
            "hf:../..",
            "hf:a/..",
            "hf:/etc/passwd",
            "hf:a/b/c",
            "hf:a/b c",
            "hf:a//b",
            "hf:a\\b/c",
            "hf:a/b--c",
            "hf:-a/b",
            "hf:a/b?x=1",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b@/x",
            "hf:a/b@x//y",
            "hf:a/b@x y",
            "hf:a/b@refs/../../x",
            "hf:a/b@main#x",
            "hf:a/%2e%2e",
            "hf:a/b\n",
        ] {
            assert!(ModelName::parse(wrong).is_err(), "{wrong}");
        }
        assert!(ModelName::parse(&format!("hf:a/{}", "b".repeat(200))).is_err());
    }
}

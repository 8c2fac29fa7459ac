//! The hub's listing of a repository: its commit and files. Each name is checked before it becomes part of a path.

use std::path::{Component, Path};

use serde::Deserialize;

use super::name::{is_commit, is_hash};

/// A commit and its files.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<HubFile>,
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubFile {
    pub(super) name: String,
    /// Name of the blob.
    pub(super) hash: String,
    pub(super) bytes: Option<u64>,
    /// SHA-256 of the content; the hub has one for large files only.
    pub(super) sha256: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: Option<u64>,
}

impl Listing {
    /// Parses an answer of the hub.
    ///
    /// # Errors
    /// The problem of the answer.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        let answer: Answer =
            serde_json::from_slice(json).map_err(|e| format!("its answer is not a listing of files: {e}"))?;
        if !is_commit(&answer.sha) {
            return Err(format!("its commit `{}` is not a hash", answer.sha.escape_debug()));
        }
        let files = answer.siblings.into_iter().map(HubFile::read).collect::<Result<_, _>>()?;
        Ok(Listing { commit: answer.sha, files })
    }

    pub(super) fn get(&self, name: &str) -> Option<&HubFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

impl HubFile {
    fn read(own: Sibling) -> Result<Self, String> {
        let name = own.rfilename;
        let plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain || name.contains('\\') {
            return Err(format!(
                "it names the file `{}`, which leaves the repository's folder",
                name.escape_debug()
            ));
        }
        let sha256 = own.lfs.as_ref().map(|lfs| lfs.sha256.clone());
        // Python's library uses the same name, so both find each other's files.
        let hash = sha256.clone().or(own.blob_id).unwrap_or_default();
        if !matches!(hash.len(), 40 | 64)
            || !is_hash(&hash)
            || sha256.as_ref().is_some_and(|sum| sum.len() != 64)
        {
            return Err(format!("invalid hash `{}` for `{name}`", hash.escape_debug()));
        }
        Ok(HubFile { name, hash, bytes: own.lfs.and_then(|lfs| lfs.size).or(own.size), sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn read(files: &str) -> Result<Listing, String> {
        Listing::read(format!(r#"{{"sha":"{COMMIT}","private":false,"siblings":[{files}]}}"#).as_bytes())
    }

    #[test]
    fn large_files_have_a_checksum() {
        let sum = "ab".repeat(32);
        let listing = read(&format!(
            r#"{{"rfilename":"a.json","blobId":"{COMMIT}","size":7}},
            {{"rfilename":"onnx/m.bin","blobId":"{COMMIT}","size":9,"lfs":{{"sha256":"{sum}","size":9,"pointerSize":1}}}}"#
        ))
        .unwrap();
        assert_eq!(listing.commit, COMMIT);
        let small = listing.get("a.json").unwrap();
        assert_eq!((small.hash.as_str(), small.bytes, &small.sha256), (COMMIT, Some(7), &None));
        let large = listing.get("onnx/m.bin").unwrap();
        assert_eq!((&large.hash, large.sha256.as_ref()), (&sum, Some(&sum)));
    }

    #[test]
    fn hostile_answers_are_refused() {
        for name in ["../x", "/etc/x", "a/../../x", "", ".", "a\\\\b", ".."] {
            let answer = read(&format!(r#"{{"rfilename":"{name}","blobId":"{COMMIT}"}}"#));
            assert!(answer.unwrap_err().contains("leaves the repository's folder"), "{name}");
        }
        for hash in ["../../x", "", "ABCDEF7890123456789012345678901234567890"] {
            assert!(read(&format!(r#"{{"rfilename":"x","blobId":"{hash}"}}"#)).unwrap_err().contains("hash"));
        }
        assert!(read(r#"{"rfilename":"x"}"#).is_err());
        assert!(Listing::read(br#"{"sha":"../../x","siblings":[]}"#).unwrap_err().contains("not a hash"));
        assert!(Listing::read(b"<html>").is_err());
    }
}

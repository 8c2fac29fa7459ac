//! Paths of data: brace patterns, and paths relative to a base folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sources::walk::sorted;
use crate::{DamageKind, Error, Result};

/// Maximum number of paths. A pattern for more is a mistake.
const MAX_PATHS: usize = 1_000_000;

/// Expands `{000..123}` (with leading zeros) and `{a,b}` like a shell. Nested braces are not supported.
///
/// ```
/// let paths = data_pipeline::sources::expand_braces("cc3m/{00008..00010}.tar")?;
/// assert_eq!(paths, ["cc3m/00008.tar", "cc3m/00009.tar", "cc3m/00010.tar"]);
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// [`Error::Setting`] for an open brace, a descending range, or more than a million paths.
pub fn expand_braces(pattern: &str) -> Result<Vec<String>> {
    let Some((before, rest)) = pattern.split_once('{') else { return Ok(vec![pattern.to_string()]) };
    let Some((inside, after)) = rest.split_once('}') else {
        return Err(Error::setting("pattern", format!("`{pattern}` opens a brace and does not close it")));
    };
    let choices = match inside.split_once("..") {
        None => inside.split(',').map(str::to_string).collect(),
        Some((from, to)) => range(pattern, from, to)?,
    };
    let tails = expand_braces(after)?;
    if choices.len().saturating_mul(tails.len()) > MAX_PATHS {
        return Err(Error::setting("pattern", format!("`{pattern}` expands to more than {MAX_PATHS} paths")));
    }
    Ok(choices
        .iter()
        .flat_map(|choice| tails.iter().map(move |tail| format!("{before}{choice}{tail}")))
        .collect())
}

fn range(pattern: &str, from: &str, to: &str) -> Result<Vec<String>> {
    let wrong = || {
        let reason = format!("`{pattern}`: `{{{from}..{to}}}` is not an ascending range of numbers");
        Error::setting("pattern", reason)
    };
    let (Ok(first), Ok(last)) = (from.parse::<usize>(), to.parse::<usize>()) else { return Err(wrong()) };
    if first > last {
        return Err(wrong());
    }
    if last - first >= MAX_PATHS {
        return Err(Error::setting("pattern", format!("`{pattern}` expands to more than {MAX_PATHS} paths")));
    }
    // A single 0 has no leading zeros.
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let width = if padded(from) || padded(to) { from.len().max(to.len()) } else { 0 };
    Ok((first..=last).map(|number| format!("{number:0width$}")).collect())
}

/// Resolves a path; relative paths start at `base`.
pub(crate) fn resolve(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    base.join(path)
}

/// Reads a whole file.
pub(crate) fn read_to_end(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

/// One path or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Paths {
    /// One path.
    One(PathBuf),
    /// Several paths.
    Many(Vec<PathBuf>),
}

impl Paths {
    /// Returns the paths in order.
    ///
    /// ```
    /// use data_pipeline::sources::Paths;
    /// assert_eq!(Paths::from("a.csv").as_slice().len(), 1);
    /// ```
    pub fn as_slice(&self) -> &[PathBuf] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }
}

impl From<PathBuf> for Paths {
    fn from(path: PathBuf) -> Self {
        Paths::One(path)
    }
}

impl From<&str> for Paths {
    fn from(path: &str) -> Self {
        Paths::One(path.into())
    }
}

impl From<Vec<PathBuf>> for Paths {
    fn from(paths: Vec<PathBuf>) -> Self {
        Paths::Many(paths)
    }
}

/// Returns the scheme of a remote address such as `https://…`, `s3://…` or `pipe:…`.
pub(super) fn remote_scheme(path: &str) -> Option<&str> {
    let (scheme, rest) = path.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (is_scheme && (rest.starts_with("//") || scheme == "pipe")).then_some(scheme)
}

/// The data files that a setting names.
pub(super) struct Files {
    /// The setting, for messages.
    pub(super) setting: &'static str,
    /// Their extension, without the dot.
    pub(super) extension: &'static str,
}

impl Files {
    /// Finds the files of a folder, a path or a pattern with braces, `*` and `?`; several are separated by `::`.
    pub(super) fn find(&self, base: &Path, patterns: &str) -> Result<Vec<PathBuf>> {
        // `::` also separates the parts of addresses, which are refused.
        let mut found = Vec::new();
        for pattern in patterns.split("::") {
            if let Some(scheme) = remote_scheme(pattern) {
                return Err(Error::Remote { address: pattern.into(), scheme: scheme.into() });
            }
            for path in expand_braces(pattern)? {
                let path = resolve(base, path);
                if path.is_dir() {
                    found.extend(self.in_folder(&path)?);
                } else if path.exists() || !has_wildcard(&path) {
                    found.push(path);
                } else {
                    found.extend(self.matching(&path)?);
                }
            }
        }
        Ok(found)
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(self.extension))
    }

    /// Lists the files of a folder, sorted by name.
    fn in_folder(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = sorted(folder)?;
        files.retain(|path| self.is_file(path));
        if files.is_empty() {
            let (folder, extension) = (folder.display(), self.extension);
            return Err(Error::setting(
                self.setting,
                format!("the folder `{folder}` contains no .{extension} file{}", other_source(extension)),
            ));
        }
        Ok(files)
    }

    /// Lists the files that match a pattern, sorted by name within each folder.
    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>> {
        let mut found = expand_wildcards(self.setting, pattern)?;
        found.retain(|path| path.is_file());
        if found.is_empty() {
            let reason = format!("the pattern `{}` matches no file: check the path", pattern.display());
            return Err(Error::setting(self.setting, reason));
        }
        Ok(found)
    }
}

/// Lists the files and folders that match a pattern with `*` and `?`, sorted by name within each folder.
///
/// # Errors
/// [`Error::Setting`] for `**`, [`Error::Io`] if a folder cannot be read.
pub(super) fn expand_wildcards(setting: &'static str, pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let name = part.as_os_str().to_string_lossy();
        if name == "**" {
            let reason =
                format!("`{}`: `**` is not supported; write one `*` per folder level", pattern.display());
            return Err(Error::setting(setting, reason));
        }
        if !name.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut next = Vec::new();
        for folder in found.iter().filter(|path| path.is_dir() || path.as_os_str().is_empty()) {
            let list = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let matches = sorted(list)?.into_iter().filter_map(|path| {
                let file = path.file_name()?;
                matches_wildcards(&name, &file.to_string_lossy()).then(|| folder.join(file))
            });
            next.extend(matches);
        }
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

/// Returns a hint to other sources for a folder without files of this extension.
fn other_source(extension: &str) -> &'static str {
    match extension {
        "tar" => {
            ": `source = \"files\"` reads image files with captions beside them, `source = \"parquet\"` Parquet files"
        }
        _ => "",
    }
}

pub(super) fn has_wildcard(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b'*' | b'?'))
}

/// Whether a name matches a pattern, in which `*` stands for any text and `?` for one character.
fn matches_wildcards(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| matches_wildcards(rest, &name[at..]))
        }
        Some(first) => {
            let mut chars = name.chars();
            let fits = chars.next().is_some_and(|c| first == '?' || first == c);
            fits && matches_wildcards(&pattern[first.len_utf8()..], chars.as_str())
        }
    }
}

/// Reads the image file that a row of a table names. The error explains a name that is not a local path.
pub(super) fn read_named(folder: &Path, name: &str) -> Result<Vec<u8>, (DamageKind, String)> {
    let name = name.trim_start_matches("file://");
    if name.trim().is_empty() {
        return Err((DamageKind::NoImage, "the image path is empty".into()));
    }
    if let Some(scheme) = remote_scheme(name) {
        let reason = format!(
            "the image path is a {scheme} address: download the images, for example with img2dataset"
        );
        return Err((DamageKind::Unreadable, reason));
    }
    let path = folder.join(name);
    let error = match std::fs::read(&path) {
        Ok(bytes) => return Ok(bytes),
        Err(error) => error,
    };
    let path = path.display();
    let reason = if name.starts_with('~') {
        format!("`{name}`: `~` is not expanded; write the full path")
    } else if name.contains('\\') {
        format!("`{path}`: the path has backslashes; separate its folders with `/`")
    } else if name.trim() != name && folder.join(name.trim()).exists() {
        format!("the image path `{name}` has spaces at its ends: remove them")
    } else if error.kind() == std::io::ErrorKind::NotFound {
        format!("`{path}` does not exist: check the path and `root`")
    } else {
        format!("`{path}`: {error}")
    };
    Err((DamageKind::Unreadable, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_expand_like_in_a_shell() {
        let expand = |pattern| expand_braces(pattern).unwrap();
        assert_eq!(expand("a.tar"), ["a.tar"]);
        assert_eq!(expand("s-{008..011}.tar"), ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]);
        assert_eq!(expand("{0..10}").len(), 11);
        assert_eq!(expand("{0..10}")[9..], ["9", "10"]);
        assert_eq!(expand("{09..10}"), ["09", "10"]);
        assert_eq!(expand("{a,b}/{0..1}"), ["a/0", "a/1", "b/0", "b/1"]);
        for broken in ["{0..", "{3..1}", "{a..z}", "{0..99999999}", "{0..9999}{0..9999}"] {
            assert!(expand_braces(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn patterns_folders_and_lists_of_files_are_found_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a/s-1.tar",
            "a/s-0.tar",
            "a/x.tar",
            "a/00000.parquet",
            "b/s-2.tar",
            "b/s-2.json",
            "c/x.txt",
            "s*.tar",
        ] {
            std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let files = Files { setting: "shards", extension: "tar" };
        let find = |pattern: &str| {
            let found = files.find(folder.path(), pattern).map_err(|e| e.to_string())?;
            let relative = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
            Ok::<_, String>(found.iter().map(relative).collect::<Vec<_>>())
        };
        assert_eq!(find("a").unwrap(), ["a/s-0.tar", "a/s-1.tar", "a/x.tar"]);
        assert_eq!(find("a/s-*.tar").unwrap(), ["a/s-0.tar", "a/s-1.tar"]);
        assert_eq!(find("?/s-?.tar").unwrap(), ["a/s-0.tar", "a/s-1.tar", "b/s-2.tar"]);
        assert_eq!(find("b/s-2.tar::a/x.tar").unwrap(), ["b/s-2.tar", "a/x.tar"]);
        assert_eq!(find("{a,b}/s-*.tar").unwrap().len(), 3);
        // A file whose name contains an asterisk.
        assert_eq!(find("s*.tar").unwrap(), ["s*.tar"]);
        // A missing file without a pattern is an error when it is opened.
        assert_eq!(find("a/none.tar").unwrap(), ["a/none.tar"]);
        for (pattern, words) in [
            ("a/q*.tar", "matches no file"),
            ("c", "contains no .tar file"),
            ("a/**/s.tar", "`**`"),
            ("https://host/x.tar", "not supported yet"),
            ("a/x.tar::s3://bucket/{0..9}.tar", "s3"),
            ("pipe:curl -s x", "pipe"),
        ] {
            let error = find(pattern).unwrap_err();
            assert!(error.contains(words), "{pattern}: {error}");
        }
    }

    #[test]
    fn names_that_are_not_local_paths_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("x.jpg"), b"x").unwrap();
        assert_eq!(read_named(folder.path(), "x.jpg").unwrap(), b"x");
        for (name, words) in [
            ("", "empty"),
            ("  ", "empty"),
            ("https://host/a.jpg", "https address"),
            ("s3://bucket/a.jpg", "s3 address"),
            ("~/x.jpg", "`~`"),
            ("d\\x.jpg", "backslashes"),
            ("C:\\d\\x.jpg", "backslashes"),
            (" x.jpg", "spaces"),
            ("y.jpg", "does not exist"),
            ("d", "directory"),
        ] {
            let (_, reason) = read_named(folder.path(), name).unwrap_err();
            assert!(reason.contains(words), "{name}: {reason}");
        }
    }
}

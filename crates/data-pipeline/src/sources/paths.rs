//! Paths of data: brace patterns, and paths relative to a base folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

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
}

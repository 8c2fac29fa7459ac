//! Dead links and unfilled placeholders in documents.

use std::path::{Component, Path, PathBuf};

/// Finds placeholders for text that is not written yet.
pub(super) fn check_placeholders(file: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| line.contains("@@"));
    lines.map(|(index, _)| format!("{}:{}: `@@` is a placeholder", file.display(), index + 1)).collect()
}

/// Finds relative links to files that are not among `files`, the files of the repository.
///
/// The disk does not count: a file that git does not track is missing for everyone else.
pub(super) fn check(file: &Path, text: &str, files: &[PathBuf]) -> Vec<String> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || line.starts_with("    ") {
            continue;
        }
        for target in targets(&without_code(line)) {
            if !leads_somewhere(folder, target, files) {
                findings.push(format!("{}:{}: `{target}` does not exist", file.display(), index + 1));
            }
        }
    }
    findings
}

/// Returns a line without its parts in backticks, which contain no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("` `")
}

/// Returns the targets of a line's links: `[text](target "title")` and `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let mut rests = line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect::<Vec<_>>();
    if line.starts_with('[') {
        rests.extend(line.split_once("]: ").map(|(_, rest)| rest));
    }
    let first_word = |rest: &'_ str| rest.split_whitespace().next().map(str::len).unwrap_or_default();
    rests.into_iter().map(|rest| rest.trim()[..first_word(rest)].trim_matches(['<', '>'])).collect()
}

/// Returns whether a link points at a file of the repository, inside the document, or has a scheme.
fn leads_somewhere(folder: &Path, target: &str, files: &[PathBuf]) -> bool {
    // Links with a scheme are not checked: this command uses no network.
    let has_scheme = target.split_once(':').is_some_and(|(scheme, _)| !scheme.contains(['/', '.', '#']));
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if has_scheme || path.is_empty() {
        // Without a path, only a heading of this document is valid.
        return has_scheme || target.starts_with('#');
    }
    let mut place = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::Normal(part) => place.push(part),
            Component::CurDir => {}
            // Absolute paths, and paths above the root of the repository, are dead.
            Component::ParentDir if place.pop() => {}
            _ => return false,
        }
    }
    files.iter().any(|file| file.starts_with(&place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_links(file: &str, text: &str, dead: &[&str]) {
        let files = ["README.md", "docs/results.md", "docs/a.png", "crates/a/README.md"].map(PathBuf::from);
        let found = check(Path::new(file), text, &files);
        let found = found.iter().map(|finding| finding.split('`').nth(1).unwrap()).collect::<Vec<_>>();
        assert_eq!(found, dead, "{text}");
    }

    #[test]
    fn dead_links_are_found() {
        check_links(
            "README.md",
            "[a](docs/results.md), [b](docs/gone.md) and ![c](a.png)",
            &["docs/gone.md", "a.png"],
        );
        check_links("README.md", "[a]: docs/gone.md\n[b]: docs/results.md", &["docs/gone.md"]);
        check_links("docs/results.md", "![a](a.png) [b](../README.md) [c](README.md)", &["README.md"]);
        check_links("crates/a/README.md", "[a](../../docs) [b](../../../README.md)", &["../../../README.md"]);
        check_links("README.md", "[a](/README.md) [b]()", &["/README.md", ""]);
    }

    #[test]
    fn external_links_and_code_are_ignored() {
        check_links(
            "README.md",
            "[a](https://a.b/c.md) [b](mailto:a@b.c) [c](#part) [d](docs/results.md#part)",
            &[],
        );
        check_links("README.md", "[a](<docs/a.png> \"A title\") [b](./docs/a.png)", &[]);
        check_links("README.md", "`[a](gone.md)` and\n    [b](gone.md)\n```\n[c](gone.md)\n```", &[]);
        check_links("README.md", "[`a`](gone.md)", &["gone.md"]);
    }

    #[test]
    fn placeholders_are_found() {
        let found = check_placeholders(Path::new("README.md"), "fine, a@b.c\n\n@@TABLE@@");
        assert_eq!(found, ["README.md:3: `@@` is a placeholder"]);
    }
}

//! Required documents, and one section of ARCHITECTURE.md for each crate.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that the repository must have.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "NOTICE.md",
    ".ci/run",
];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let mut findings = Vec::new();
    for document in DOCUMENTS.iter().filter(|document| !root.join(document).is_file()) {
        findings.push(format!("{document}: missing"));
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    let sections = architecture
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect::<Vec<_>>();
    let mut members = Vec::new();
    for manifest in files.iter().filter(|file| file.ends_with("Cargo.toml") && file.components().count() > 1)
    {
        let folder = manifest.parent().unwrap_or(manifest);
        members.push(folder.display().to_string());
        if !root.join(folder).join("README.md").is_file() && folder.starts_with("crates") {
            findings.push(format!("{}: no README.md", folder.display()));
        }
    }
    for member in members.iter().filter(|member| !sections.contains(&member.as_str())) {
        findings.push(format!("ARCHITECTURE.md: no section \"### `{member}`\""));
    }
    for section in sections.iter().filter(|section| !members.iter().any(|member| member == *section)) {
        findings.push(format!("ARCHITECTURE.md: the section `{section}` has no crate"));
    }
    let invariants = architecture.matches("\nInvariant: ").count();
    if invariants < members.len() {
        findings.push(format!(
            "ARCHITECTURE.md: {} crates, but {invariants} lines that start with \"Invariant: \"",
            members.len()
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn crates_and_sections_must_match() {
        let root = tempfile::tempdir().unwrap();
        for document in DOCUMENTS {
            write(&root.path().join(document), "");
        }
        write(&root.path().join("ARCHITECTURE.md"), "### `crates/a`\n\nInvariant: knows nothing.\n");
        write(&root.path().join("crates/a/README.md"), "");
        let (a, b) = (PathBuf::from("crates/a/Cargo.toml"), PathBuf::from("crates/b/Cargo.toml"));
        assert!(check(root.path(), &["Cargo.toml".into(), a.clone()]).is_empty());
        // No README, no section, no invariant.
        assert_eq!(check(root.path(), &[a, b]).len(), 3);
        fs::remove_file(root.path().join("NOTICE.md")).unwrap();
        assert_eq!(
            check(root.path(), &[]),
            ["NOTICE.md: missing", "ARCHITECTURE.md: the section `crates/a` has no crate"]
        );
    }
}

//! What a compiler does not see: documents that keep up, files that stay small, nothing left behind.
//!
//! All findings are listed at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{output, root, say};

/// Lines of a source file above which it surely holds a second idea.
const MOST_LINES: usize = 700;
/// Bytes of a file above which it does not belong into the repository.
const MOST_BYTES: u64 = 3 << 20;
/// Documents that every change keeps true.
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

pub(crate) fn run() -> Result<()> {
    let root = root();
    let listed = output(
        "git",
        &["-C", &root.display().to_string(), "ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let files = listed.context("git is needed to list the files")?;
    let files = files.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect::<Vec<_>>();
    let mut findings = documents(&root, &files)?;
    for file in &files {
        findings.extend(file_findings(&root, file)?);
    }
    for finding in &findings {
        say(finding);
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

/// Documents that are missing, and crates without README or section in ARCHITECTURE.md (and the other way round).
fn documents(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for document in DOCUMENTS.iter().filter(|document| !root.join(document).is_file()) {
        findings.push(format!("{document}: is missing"));
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
            findings.push(format!("{}: has no README.md", folder.display()));
        }
    }
    for member in members.iter().filter(|member| !sections.contains(&member.as_str())) {
        findings.push(format!("ARCHITECTURE.md: has no section \"### `{member}`\""));
    }
    for section in sections.iter().filter(|section| !members.iter().any(|member| member == *section)) {
        findings.push(format!("ARCHITECTURE.md: the section `{section}` is of no crate"));
    }
    let invariants = architecture.matches("\nInvariant: ").count();
    if invariants < members.len() {
        findings.push(format!(
            "ARCHITECTURE.md: {} crates, but {invariants} lines that start with \"Invariant: \"",
            members.len()
        ));
    }
    Ok(findings)
}

fn file_findings(root: &Path, file: &Path) -> Result<Vec<String>> {
    let name = file.display();
    let size = fs::metadata(root.join(file)).with_context(|| format!("cannot read `{name}`"))?.len();
    let mut findings = Vec::new();
    if size > MOST_BYTES {
        findings.push(format!("{name}: {size} bytes are too many for the repository"));
    }
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !matches!(ending, "rs" | "toml" | "md" | "py" | "sh") {
        return Ok(findings);
    }
    let text = fs::read_to_string(root.join(file)).with_context(|| format!("cannot read `{name}`"))?;
    if ending == "rs" {
        if !text.starts_with("//!") {
            findings.push(format!("{name}: does not open with a //! line that says what it is for"));
        }
        if text.lines().count() > MOST_LINES {
            findings.push(format!("{name}: has more than {MOST_LINES} lines"));
        }
    }
    if ending == "toml" && file.starts_with("configs") && !text.starts_with('#') {
        findings.push(format!(
            "{name}: does not open with a comment: launch line, hardware, time, expected score"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(word) = leftovers().iter().find(|word| line.contains(word.as_str())) {
            findings.push(format!("{name}:{}: `{word}`", number + 1));
        }
    }
    Ok(findings)
}

/// What no file may contain; put together here, so that this one does not.
fn leftovers() -> Vec<String> {
    [
        ["todo", "!("],
        ["FIX", "ME"],
        ["XX", "X "],
        ["#[ign", "ore"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["crates", ".io"],
        ["pypi", ".org"],
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

//! Rules of the repository that the compiler does not check: documents, file sizes, leftovers.
//!
//! All findings are listed at once.

mod architecture;
mod files;
mod links;
mod recipes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{output, root, say};

pub(crate) fn run() -> Result<()> {
    let root = root();
    let listed = output(
        "git",
        &["-C", &root.display().to_string(), "ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let files = listed.context("listing the files requires git")?;
    let files = files.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect::<Vec<_>>();
    let findings = check(&root, &files)?;
    for finding in &findings {
        say(finding);
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

/// Returns all findings in a tree; `files` are relative to its root.
fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut findings = architecture::check(root, files);
    for file in files {
        let name = file.display();
        let path = root.join(file);
        let size = fs::metadata(&path).with_context(|| format!("cannot read `{name}`"))?.len();
        findings.extend(files::check_size(file, size));
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !matches!(ending, "rs" | "toml" | "md" | "py" | "sh") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{name}`"))?;
        findings.extend(files::check_leftovers(file, &text));
        match ending {
            "rs" => {
                findings.extend(files::check_source(file, &text));
                findings.extend(files::check_logging(file, &text));
            }
            "toml" => findings.extend(recipes::check(file, &text)),
            "md" => {
                findings.extend(links::check(file, &text, files));
                findings.extend(links::check_placeholders(file, &text));
            }
            _ => {}
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn all_checks_run_on_a_tree() {
        let root = tempfile::tempdir().unwrap();
        let texts = [
            ("README.md", "[a](gone.md)\n@@HERE@@"),
            ("configs/recipes/a.toml", "name = \"a\""),
            ("src/a.rs", "fn a() {}"),
        ];
        for (name, text) in texts {
            write(&root.path().join(name), text);
        }
        let findings = check(root.path(), &texts.map(|(name, _)| PathBuf::from(name))).unwrap().join("\n");
        for part in [
            "README.md:1: `gone.md`",
            "README.md:2: `@@`",
            "a.toml: has no comment",
            "a.rs: has no `//!`",
            "NOTICE.md: missing",
        ] {
            assert!(findings.contains(part), "{part} is not in\n{findings}");
        }
    }
}

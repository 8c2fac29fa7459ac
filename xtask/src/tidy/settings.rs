//! Settings that the reference does not document.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The reference of all settings.
const REFERENCE: &str = "docs/recipes.md";
/// Source files whose deserialised structs declare settings.
const DECLARED: [&str; 9] = [
    "crates/kd-losses/src/schedule.rs",
    "crates/kd-losses/src/settings.rs",
    "crates/trainer/src/recipe/",
    "crates/trainer/src/optim/adamw.rs",
    "crates/trainer/src/eval/suite.rs",
    "crates/experiments/src/sweep/file.rs",
    "crates/data-pipeline/src/sources/",
    "crates/data-pipeline/src/image/augment.rs",
    "crates/clip-model/src/cross_modal/mod.rs",
];
/// Deserialised structs in these files whose fields are not settings.
const OTHER: [&str; 3] = ["AugmentParams", "MeanPart", "SetRows"];
/// Private structs that declare settings (of sweep files); all other private structs describe data files.
const PRIVATE: [&str; 2] = ["File", "Entry"];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let Ok(reference) = fs::read_to_string(root.join(REFERENCE)) else { return Vec::new() };
    let known = keys(&reference);
    let declares = |file: &&PathBuf| DECLARED.iter().any(|place| file.to_string_lossy().starts_with(place));
    let is_declared = |place: &&str| files.iter().any(|file| file.to_string_lossy().starts_with(*place));
    let mut findings = Vec::new();
    // Settings in a moved file would not be checked.
    for place in DECLARED.iter().filter(|place| !is_declared(place)) {
        findings.push(format!("{place}: does not exist, but xtask/src/tidy/settings.rs lists it"));
    }
    for file in files.iter().filter(declares) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        let unknown = settings(&text).into_iter().filter(|setting| !known.contains(setting));
        findings.extend(
            unknown
                .map(|setting| format!("{}: `{setting}` is not in a table of {REFERENCE}", file.display())),
        );
    }
    findings
}

/// Returns the names in the first two columns of all tables.
fn keys(reference: &str) -> HashSet<&str> {
    let rows = reference.lines().filter(|line| line.starts_with('|'));
    let columns = rows.flat_map(|row| row.split('|').skip(1).take(2));
    columns.flat_map(|cell| cell.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

/// Returns the fields of the deserialised structs in a source file.
fn settings(text: &str) -> Vec<&str> {
    let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
    let mut found = Vec::new();
    let (mut is_read, mut is_inside, mut renamed) = (false, false, None);
    for line in code.lines() {
        if line.starts_with("#[derive(") {
            is_read = line.contains("Deserialize");
        } else if let Some(rest) = line.strip_prefix("pub struct ").or(line.strip_prefix("struct ")) {
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let is_one = !OTHER.contains(&name) && (line.starts_with("pub") || PRIVATE.contains(&name));
            (is_inside, is_read, renamed) = (is_read && is_one, false, None);
        } else if line.starts_with(|c: char| c.is_ascii_lowercase()) {
            is_read = false;
        } else if line == "}" {
            is_inside = false;
        } else if let Some((_, rest)) = line.split_once("rename = \"").filter(|_| is_inside) {
            renamed = rest.split('"').next();
        } else if let Some(field) = line.strip_prefix("    ").filter(|_| is_inside) {
            let field = field.strip_prefix("pub ").unwrap_or(field);
            let name = field.split_once(": ").map(|(name, _)| name);
            if let Some(name) =
                name.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c)))
            {
                found.push(renamed.take().unwrap_or(name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    const FILE: &str = "crates/trainer/src/optim/adamw.rs";

    #[track_caller]
    fn check_findings(reference: &str, missing: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        let text = "#[derive(Clone, Deserialize)]\npub struct A {\n    /// Not: this.\n    pub lr: f64,\n    \
                    #[serde(rename = \"until\")]\n    pub end: u64,\n    steps: u64,\n}\n\
                    #[derive(Clone)]\npub struct B {\n    pub own: u64,\n}\n\
                    #[derive(Deserialize)]\npub struct SetRows {\n    pub rows: u64,\n}\n\
                    struct D {\n    own: u64,\n}\n\
                    #[derive(Deserialize)]\nstruct Sentence {\n    raw: u64,\n}\n\
                    #[derive(Deserialize)]\nstruct Entry {\n    name: u64,\n}\n\
                    #[cfg(test)]\n#[derive(Deserialize)]\npub struct C {\n    pub test: u64,\n}\n";
        write(&root.path().join(FILE), text);
        write(&root.path().join(REFERENCE), reference);
        let files = [PathBuf::from(FILE), PathBuf::from("crates/other/src/lib.rs")];
        let expected = missing.iter().map(|key| format!("{FILE}: `{key}` is not in a table of {REFERENCE}"));
        let mut findings = check(root.path(), &files);
        findings.retain(|finding| finding.contains("not in a table"));
        assert_eq!(findings, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_listed_file_that_does_not_exist_is_found() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join(REFERENCE), "");
        let mut files = DECLARED.map(PathBuf::from).to_vec();
        assert!(check(root.path(), &files).is_empty());
        let moved = files.pop().unwrap();
        let findings = check(root.path(), &files);
        assert!(findings.len() == 1 && findings[0].starts_with(&*moved.to_string_lossy()), "{findings:?}");
    }

    #[test]
    fn an_undocumented_setting_is_found() {
        check_findings("| `lr`, `until`, `name` | - |\n| kind | `a.steps` | 0 |", &[]);
        check_findings(
            "steps\n| `lr` | 1 | until, `steps` |\n| `warmup_steps` | 0 |",
            &["until", "steps", "name"],
        );
    }

    #[test]
    fn without_a_reference_nothing_is_compared() {
        assert!(check(tempfile::tempdir().unwrap().path(), &[PathBuf::from(FILE)]).is_empty());
    }
}

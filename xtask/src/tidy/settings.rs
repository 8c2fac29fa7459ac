//! Settings that the reference does not name.

use std::fs;
use std::path::{Path, PathBuf};

/// What users look settings up in.
const REFERENCE: &str = "docs/recipes.md";
/// Where settings are declared, as public fields.
const DECLARED: [&str; 4] = [
    "crates/trainer/src/recipe/",
    "crates/trainer/src/optimizer.rs",
    "crates/data-pipeline/src/sources/",
    "crates/clip-model/src/cross_modal.rs",
];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let Ok(reference) = fs::read_to_string(root.join(REFERENCE)) else { return Vec::new() };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let known = reference.split(|c| !is_word(c)).collect::<std::collections::HashSet<_>>();
    let declares = |file: &&PathBuf| DECLARED.iter().any(|place| file.to_string_lossy().starts_with(place));
    let mut findings = Vec::new();
    for file in files.iter().filter(declares) {
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        let unknown = settings(&text).into_iter().filter(|setting| !known.contains(setting));
        findings
            .extend(unknown.map(|setting| format!("{}: `{setting}` is not in {REFERENCE}", file.display())));
    }
    findings
}

/// The public fields of the structs that are read from files.
fn settings(text: &str) -> Vec<&str> {
    let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
    let mut found = Vec::new();
    let (mut is_read, mut is_inside, mut renamed) = (false, false, None);
    for line in code.lines() {
        match line {
            _ if line.starts_with("#[derive(") => is_read = line.contains("Deserialize"),
            _ if line.starts_with("pub struct ") => is_inside = is_read,
            "}" => is_inside = false,
            _ => {}
        }
        if line.trim_start().starts_with("#[serde(") {
            renamed = line.split_once("rename = \"").and_then(|(_, rest)| rest.split('"').next());
        }
        let field = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(':'));
        if let Some((name, _)) = field.filter(|_| is_inside) {
            found.push(renamed.take().unwrap_or(name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn a_setting_without_a_line_is_found() {
        let root = tempfile::tempdir().unwrap();
        let file = "crates/trainer/src/optimizer.rs";
        let text = "#[derive(Clone, Deserialize)]\npub struct A {\n    pub lr: f64,\n    #[serde(rename = \"until\")]\n    pub end: u64,\n    pub steps: u64,\n}\n\
                    #[derive(Clone)]\npub struct B {\n    pub own: u64,\n}\n#[cfg(test)]\npub struct C {\n    pub test: u64,\n}\n";
        write(&root.path().join(file), text);
        let files = [PathBuf::from(file), PathBuf::from("crates/other/src/lib.rs")];
        assert!(check(root.path(), &files).is_empty(), "without a reference there is nothing to compare");
        write(&root.path().join(REFERENCE), "| `lr`, `until` | and `warmup_steps` |");
        assert_eq!(check(root.path(), &files), [format!("{file}: `steps` is not in {REFERENCE}")]);
    }
}

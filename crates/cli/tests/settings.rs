//! `clip-distill settings`: the reference in docs/recipes.md, and its check.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs `clip-distill settings`. Returns its output, or its error.
fn settings(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clip-distill"));
    let output = command.arg("settings").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn page() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md").display().to_string()
}

#[test]
fn the_reference_in_the_documentation_is_up_to_date() {
    assert_eq!(settings(&["--check", &page()]), Ok(String::new()));
}

#[test]
fn an_outdated_reference_fails_with_the_remedy_and_is_updated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.md").display().to_string();
    let original = fs::read_to_string(page()).unwrap();
    for (old, new) in [("| `warmup_steps` |", "| `warmup` |"), ("Peak learning rate", "Learning rate")] {
        assert!(original.contains(old), "{old}");
        fs::write(&path, original.replace(old, new)).unwrap();
        let error = settings(&["--check", &path]).unwrap_err();
        assert!(error.contains("out of date") && error.contains("settings --write"), "{error}");
        settings(&["--write", &path]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), original);
    }
    fs::write(&path, "# Recipes\n").unwrap();
    let error = settings(&["sweep", "--check", &path]).unwrap_err();
    assert!(error.contains("<!-- settings: sweep -->"), "{error}");
}

#[test]
fn each_kind_of_file_has_a_reference_and_a_json_schema() {
    let all = settings(&[]).unwrap();
    for (kind, key) in [("recipe", "batch_size"), ("sweep", "baseline"), ("suite", "confused")] {
        let text = settings(&[kind]).unwrap();
        assert!(text.contains(&format!("| `{key}` |")) && all.contains(&format!("| `{key}` |")), "{kind}");
        let schema: Value = serde_json::from_str(&settings(&[kind, "--json-schema"]).unwrap()).unwrap();
        assert!(schema["properties"]["name"].is_object(), "{kind}");
    }
}

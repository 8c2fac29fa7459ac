//! `clip-distill settings`: the reference in docs/recipes.md, and its check.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Place, done, failed};

fn page() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md").display().to_string()
}

#[test]
fn the_reference_in_the_documentation_is_up_to_date() {
    assert_eq!(done(&["settings", "--check", &page()]), "");
}

#[test]
fn an_outdated_reference_fails_with_the_remedy_and_is_updated() {
    let place = Place::new();
    let path = place.name("page.md");
    let original = fs::read_to_string(page()).unwrap();
    for (old, new) in [("| `warmup_steps` |", "| `warmup` |"), ("Peak learning rate", "Learning rate")] {
        assert!(original.contains(old), "{old}");
        fs::write(&path, original.replace(old, new)).unwrap();
        let error = failed(&["settings", "--check", &path]);
        assert!(error.contains("out of date") && error.contains("settings --write"), "{error}");
        done(&["settings", "--write", &path]);
        assert_eq!(fs::read_to_string(&path).unwrap(), original);
    }
    fs::write(&path, "# Recipes\n").unwrap();
    let error = failed(&["settings", "sweep", "--check", &path]);
    assert!(error.contains("<!-- settings: sweep -->"), "{error}");
}

#[test]
fn each_kind_of_file_has_a_reference_and_a_json_schema() {
    let all = done(&["settings"]);
    for (kind, key) in [("recipe", "batch_size"), ("sweep", "baseline"), ("suite", "confused")] {
        let text = done(&["settings", kind]);
        assert!(text.contains(&format!("| `{key}` |")) && all.contains(&format!("| `{key}` |")), "{kind}");
        let schema: Value = serde_json::from_str(&done(&["settings", kind, "--json-schema"])).unwrap();
        assert!(schema["properties"]["name"].is_object(), "{kind}");
    }
}

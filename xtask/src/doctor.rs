//! `cargo xtask doctor`: requirements of the workspace, with a remedy for each missing one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell::{cargo, output, run as run_program, say};
use crate::{program, setup};

/// Result of the search for requirements on this machine.
struct Found {
    rust: Option<String>,
    compiler: Option<String>,
    pip: Option<String>,
    /// Path, or the reason why it cannot be used.
    libtorch: Result<PathBuf, String>,
    cache: Result<PathBuf, String>,
    target: Result<PathBuf, String>,
}

/// One line of the report.
struct Fact {
    name: &'static str,
    text: String,
    is_missing: bool,
}

pub(crate) fn run() -> Result<()> {
    let found = search();
    let facts = facts(&found);
    for fact in &facts {
        say(&format!("{:<20} {}", fact.name, fact.text));
    }
    if facts.iter().any(|fact| fact.is_missing) {
        bail!("some requirements are missing");
    }
    say("the program runs the remaining checks; cargo builds it first if necessary");
    let mut doctor = cargo(&["run", "--package", "clip-distill", "--", "doctor"]);
    if let Ok(libtorch) = &found.libtorch {
        program::with_libtorch(&mut doctor, libtorch)?;
    }
    run_program(&mut doctor)
}

fn search() -> Found {
    let text = |result: Result<PathBuf>| result.map_err(|error| format!("{error:#}"));
    Found {
        rust: output("rustc", &["--version"]),
        compiler: ["c++", "g++", "clang++"].into_iter().find_map(|name| output(name, &["--version"])),
        pip: ["python3", "python"].into_iter().find_map(|name| output(name, &["-m", "pip", "--version"])),
        libtorch: text(setup::found()),
        cache: text(setup::cache()),
        target: text(program::target_folder()),
    }
}

fn facts(found: &Found) -> Vec<Fact> {
    let fact = |name, text: String| Fact { name, text, is_missing: false };
    let missing = |name, remedy: &str| Fact { name, text: format!("MISSING: {remedy}"), is_missing: true };
    let tool = |name, line: &Option<String>, remedy| match line {
        Some(line) => fact(name, line.lines().next().unwrap_or_default().to_string()),
        None => missing(name, remedy),
    };
    let place = |name, place: &Result<PathBuf, String>| match place {
        Ok(path) => fact(name, path.display().to_string()),
        Err(error) => fact(name, error.clone()),
    };
    let pip = "python3 with pip";
    let libtorch = "libtorch";
    vec![
        tool("rust", &found.rust, "install rustup"),
        tool("C++ compiler", &found.compiler, "install g++ or clang"),
        match (&found.pip, &found.libtorch) {
            // Only the installation of libtorch needs pip.
            (None, Ok(_)) => fact(pip, "not found; not needed, because libtorch is installed".into()),
            (line, _) => tool(pip, line, "install python3-pip, or set LIBTORCH"),
        },
        match &found.libtorch {
            Ok(path) => fact(libtorch, path.display().to_string()),
            Err(error) => missing(libtorch, &format!("run `cargo xtask setup` ({error})")),
        },
        place("cache", &found.cache),
        match &found.target {
            Ok(path) => fact("target folder", target(path)),
            Err(error) => fact("target folder", error.clone()),
        },
    ]
}

fn target(path: &Path) -> String {
    match program::limit_of(path) {
        None => path.display().to_string(),
        Some(limit) => format!("{} ({limit})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            rust: Some("rustc 1".into()),
            compiler: Some("c++ 1\nCopyright".into()),
            pip: Some("pip 1".into()),
            libtorch: Ok("somewhere/torch".into()),
            cache: Ok("cache".into()),
            target: Ok(crate::shell::root().join("target")),
        }
    }

    fn missing(found: &Found) -> Vec<&'static str> {
        facts(found).iter().filter(|fact| fact.is_missing).map(|fact| fact.name).collect()
    }

    #[test]
    fn pip_counts_as_missing_only_without_libtorch() {
        assert!(missing(&found()).is_empty());
        assert!(missing(&Found { pip: None, ..found() }).is_empty());
        let none = Err("missing".to_string());
        assert_eq!(missing(&Found { libtorch: none.clone(), ..found() }), ["libtorch"]);
        assert_eq!(
            missing(&Found { pip: None, libtorch: none, ..found() }),
            ["python3 with pip", "libtorch"]
        );
        assert_eq!(missing(&Found { compiler: None, ..found() }), ["C++ compiler"]);
    }

    #[test]
    fn a_target_folder_outside_the_workspace_is_reported_with_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let facts = facts(&Found { target: Ok(folder.path().into()), ..found() });
        let line = &facts.iter().find(|fact| fact.name == "target folder").unwrap().text;
        assert!(line.contains(program::SEARCH_PATH) && line.contains("cargo run"), "{line}");
    }
}

//! The commands that every change has to pass: `check` and `test`.

use anyhow::{Context, Result};

use crate::program::with_libtorch;
use crate::shell::{cargo, run as run_program, say};
use crate::{setup, tidy};

/// Tells the build script of `torch-ext` to skip its C++ part, which only linking needs.
const SKIP_CPP: &str = "TORCH_EXT_SKIP_CPP";

/// Checks format, repository rules, lints and documentation, the cheapest first.
pub(crate) fn run() -> Result<()> {
    step("format");
    run_program(&mut cargo(&["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all` to fix the format")?;
    step("tidy");
    tidy::run()?;
    setup::run(false)?;
    step("lints");
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run_program(cargo(&lints).env(SKIP_CPP, "1"))?;
    step("documentation");
    let mut doc =
        cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    run_program(doc.env("RUSTDOCFLAGS", "-D warnings").env(SKIP_CPP, "1"))
}

/// Runs all tests; `rest` are arguments for `cargo test`, and may choose a part of the workspace.
pub(crate) fn test(rest: &[String]) -> Result<()> {
    let libtorch = setup::run(false)?;
    step("tests");
    let mut test = cargo(&["test", "--locked"]);
    test.args(packages(rest)).args(rest);
    run_program(with_libtorch(&mut test, &libtorch)?)
}

/// Returns the packages to test: those that `rest` names, or all that have tests. The lints compile the benchmarks,
/// which have none, so building them and criterion here would only take time.
fn packages(rest: &[String]) -> &'static [&'static str] {
    let of_cargo = rest.iter().take_while(|word| *word != "--");
    let chosen =
        |word: &String| word.starts_with("-p") || word.starts_with("--package") || word == "--workspace";
    if of_cargo.into_iter().any(chosen) { &[] } else { &["--workspace", "--exclude", "clip-distill-benches"] }
}

fn step(name: &str) {
    say(&format!("== {name}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_packages_replace_the_whole_workspace() {
        let chosen = |words: &str| {
            packages(&words.split_whitespace().map(String::from).collect::<Vec<_>>()).is_empty()
        };
        assert!(chosen("-p kd-losses") && chosen("-pkd-losses") && chosen("--package kd-losses --lib"));
        assert!(!chosen("") && !chosen("gram -- --nocapture") && !chosen("-- -p"));
    }
}

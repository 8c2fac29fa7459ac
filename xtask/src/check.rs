//! The commands that every change has to pass: `check` and `test`.

use anyhow::{Context, Result};

use crate::program::with_libtorch;
use crate::shell::{cargo, run as run_program, say};
use crate::{setup, tidy};

/// Checks format, repository rules, lints and documentation, the cheapest first.
pub(crate) fn run() -> Result<()> {
    step("format");
    run_program(&mut cargo(&["fmt", "--all", "--check"]))
        .context("run `cargo fmt --all` to fix the format")?;
    step("tidy");
    tidy::run()?;
    setup::run(false)?;
    step("lints");
    run_program(&mut cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    step("documentation");
    let mut doc =
        cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    run_program(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs all tests; `rest` are arguments for `cargo test`.
pub(crate) fn test(rest: &[String]) -> Result<()> {
    let libtorch = setup::run(false)?;
    step("tests");
    let mut test = cargo(&["test", "--workspace", "--locked"]);
    run_program(with_libtorch(test.args(rest), &libtorch)?)
}

fn step(name: &str) {
    say(&format!("== {name}"));
}

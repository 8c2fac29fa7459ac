//! `cargo xtask train`: from nothing to a report.

use anyhow::{Context, Result};

use crate::setup;
use crate::shell::{cargo, root, run as run_program, say};

/// What is trained where no recipe is named.
const QUICKSTART: &str = "configs/recipes/quickstart.toml";

pub(crate) fn run(mut args: Vec<String>) -> Result<()> {
    setup::run(false)?;
    if args.first().is_none_or(|first| first.starts_with('-')) {
        args.insert(0, QUICKSTART.into());
    }
    // Running the same command again goes on, or shows what is finished.
    if !args.iter().any(|arg| arg == "--restart" || arg == "--resume" || arg == "--dry-run") {
        args.push("--resume".into());
    }
    say("building clip-distill");
    run_program(&mut cargo(&["build", "--quiet", "--package", "clip-distill"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let mut program = std::process::Command::new(target.join("debug/clip-distill"));
    program.arg("train").args(&args).current_dir(root());
    // Taking the place of this process, the program gets signals itself.
    let error = std::os::unix::process::CommandExt::exec(&mut program);
    Err(error).context("cannot start clip-distill")
}

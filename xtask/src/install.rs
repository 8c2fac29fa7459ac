//! `cargo xtask install`: a program that finds libtorch from any folder.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::shell::say;
use crate::{program, setup};

pub(crate) fn run() -> Result<()> {
    let libtorch = setup::run(false)?;
    let built = program::build_for_anywhere(&libtorch, true)?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let bin = home.context("neither CARGO_HOME nor HOME is set")?.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot create `{}`", bin.display()))?;
    let place = bin.join("clip-distill");
    // A running program cannot be overwritten, but another file can be renamed to its name.
    let fresh = bin.join(".clip-distill.new");
    std::fs::copy(built, &fresh)
        .and_then(|_| std::fs::rename(&fresh, &place))
        .with_context(|| format!("cannot write `{}`", place.display()))?;
    say(&format!("installed {}", place.display()));
    Ok(())
}

//! `cargo xtask bench`.

use anyhow::Result;

use crate::program::with_libtorch;
use crate::setup;
use crate::shell::{cargo, run as run_program};

pub(crate) fn run(rest: &[String]) -> Result<()> {
    let libtorch = setup::run(false)?;
    let mut bench = cargo(&["bench", "--package", "clip-distill-benches", "--"]);
    run_program(with_libtorch(bench.args(rest), &libtorch)?)
}

//! `cargo xtask bench`.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, run as run_program};

pub(crate) fn run(rest: &[String]) -> Result<()> {
    setup::run(false)?;
    run_program(cargo(&["bench", "--package", "clip-distill-benches", "--"]).args(rest))
}

//! Rounds of a benchmark, measured on request: this program's side of `cargo xtask bench peers`.
//!
//! `benches/peers/worker.py` is the other side. Both read the same case and input files and use the same protocol, so
//! that their rounds can alternate.

mod images;
mod step;
mod tokens;

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use super::memory;
use crate::output;

/// The work to measure.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum Case {
    /// Decoding and transforming JPEG images.
    Images(images::Case),
    /// Tokenising captions.
    Tokens(tokens::Case),
    /// Training or distillation steps.
    Step(step::Case),
}

/// Thread count of a case.
#[derive(Debug, Deserialize)]
struct Threads {
    threads: i32,
}

/// Work that is measured in rounds.
trait Work {
    /// Returns the results that both sides compare.
    fn check(&mut self) -> anyhow::Result<Vec<f32>>;

    /// Does a round and returns its number of items.
    fn round(&mut self) -> anyhow::Result<usize>;
}

/// Prepares the work of a case file (JSON), writes its results to `check` (little-endian f32) and prints a line. It
/// then measures a round for each line of standard input and prints a JSON object with its seconds, its number of items
/// and the peak resident memory in bytes.
///
/// # Errors
/// If the case or one of its inputs cannot be read, or the work fails.
pub(crate) fn serve(case: &Path, check: &Path) -> anyhow::Result<()> {
    let name = || format!("cannot use the case `{}`", case.display());
    let text = std::fs::read_to_string(case).with_context(name)?;
    tch::set_num_threads(serde_json::from_str::<Threads>(&text).with_context(name)?.threads);
    let mut work: Box<dyn Work> = match serde_json::from_str(&text).with_context(name)? {
        Case::Images(case) => Box::new(images::Images::open(&case)?),
        Case::Tokens(case) => Box::new(tokens::Tokens::open(&case)?),
        Case::Step(case) => Box::new(step::Step::open(case)?),
    };
    file_ext::write_atomic(check, &file_ext::f32_to_le_bytes(&work.check()?))?;
    output::json(&json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let items = work.round()?;
        let seconds = start.elapsed().as_secs_f64();
        output::json(&json!({ "seconds": seconds, "items": items, "memory": memory::peak_resident() }))?;
    }
    Ok(())
}

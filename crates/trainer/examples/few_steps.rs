//! Trains the smallest preset on the embedded emoji for a few steps, and prints its scores and the run folder.
//!
//! Run with `cargo run --release -p trainer --example few_steps`.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use trainer::run::{Options, Outcome, run};

const RECIPE: &str = r#"
    name = "few-steps"
    student.model = "ViT-nano-32px"
    losses.task = 1.0
    optimizer.lr = 1e-3
    train = { batch_size = 32, steps = 20, warmup_steps = 5 }
    [[data.train]]
    source = "emoji"
    [[eval.sets]]
    name = "held-out emoji"
    task = "retrieval"
    source = "emoji"
    split = "test"
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("few-steps-{}", std::process::id()));
    let job = trainer::recipe::parse(RECIPE, &[], "few steps")?;
    let stop = AtomicBool::new(false);
    let options =
        Options { stop: &stop, stop_after: None, resume: false, progress: true, version: "example" };
    let mut out = std::io::stdout();
    match run(&job.runs[0], &folder, &trainer::RunModels::default(), &options)? {
        Outcome::Finished(results) => write!(out, "{}", results.student.table())?,
        Outcome::Stopped { step } => writeln!(out, "stopped after step {step}")?,
    }
    writeln!(out, "the run is in {}", folder.display())?;
    Ok(())
}

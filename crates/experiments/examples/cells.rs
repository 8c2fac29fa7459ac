//! Lists the cells of a sweep with their steps and their state.
//!
//! Run with `cargo run -p experiments --example cells -- configs/sweeps/clip-rd.toml`.

use std::io::Write;

use experiments::Sweep;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("name a sweep file, such as configs/sweeps/clip-rd.toml")?;
    let sweep = Sweep::load(&file, &[], "runs/sweeps")?;
    let mut out = std::io::stdout();
    for cell in sweep.runs() {
        let plan = sweep.plan(cell)?;
        writeln!(out, "{:40} {:>7} steps  {}", cell.label(), plan.steps, cell.state())?;
    }
    Ok(())
}

//! `clip-distill sweep`: runs of several cells and seeds, and their comparison.

use anyhow::Context;
use experiments::{CellState, Limits, Progress, SweepReport, run_cells, write_reports};
use serde_json::json;

use crate::args::Sweep;
use crate::exit::Code;
use crate::processes::Processes;
use crate::{destination, output, provenance, signals};

pub(crate) fn run(args: Sweep) -> anyhow::Result<Code> {
    let sweep = experiments::Sweep::load(&args.file, &args.overrides.set, &args.out)?;
    for device in &args.devices {
        trainer::model::device::resolve(*device)?;
    }
    if args.dry_run {
        return dry_run(&sweep, args.output.json);
    }
    destination::folder(&args.out)?;
    let mut code = Code::Done;
    if !args.report {
        sweep.check_mean()?;
        for cell in sweep.runs() {
            trainer::run::check(&cell.recipe).with_context(|| cell.label())?;
        }
        let stop = signals::stop_flag()?;
        let limits = Limits::new(&stop)
            .with_jobs(args.jobs.get())
            .with_devices(args.devices.clone())
            .with_cells(args.limit);
        let program = std::env::current_exe()
            .context("cannot find the path of this program, which runs each cell as a process")?;
        let Progress { finished, open, failed } =
            run_cells(&sweep, &Processes { program }, &limits, &|line| output::note(line))?;
        output::note(format!("{finished} runs finished, {open} left, {} failed", failed.len()));
        if !failed.is_empty() {
            code = Code::Failed;
        } else if open > 0 {
            code = Code::Stopped;
        }
    }
    let report = SweepReport::read(&sweep, &provenance::today())?;
    let folder = args.out.join(&sweep.name);
    // A stopped or failed sweep keeps its exit code.
    if report.is_empty() && !args.report {
        output::note("no finished run, so no report is written");
        return Ok(code);
    }
    write_reports(&report, &folder)?;
    match args.output.json {
        true => output::json(&report)?,
        false => output::text(format!(
            "{}\nreport:  {}\n",
            report.markdown(),
            folder.join("report.html").display()
        ))?,
    }
    Ok(code)
}

fn dry_run(sweep: &experiments::Sweep, as_json: bool) -> anyhow::Result<Code> {
    let mut text = String::new();
    let mut cells = Vec::new();
    let mut flops = 0.0;
    let mut missing = Vec::<String>::new();
    for cell in sweep.runs() {
        let plan = sweep.plan(cell).with_context(|| cell.label())?;
        let state = cell.state();
        if state != CellState::Finished {
            flops += plan.flops;
        }
        let name = format!("{state:?}").to_lowercase();
        text.push_str(&format!(
            "{name:9} {:50} {:>7} steps  {:.2e} FLOPs  {}\n",
            cell.label(),
            plan.steps,
            plan.flops,
            cell.folder.display()
        ));
        // What a shared run will write is not missing.
        let is_shared =
            |line: &str| sweep.shared.iter().any(|shared| line.contains(&*shared.folder.to_string_lossy()));
        for line in plan.missing() {
            if !missing.contains(&line) && !is_shared(&line) {
                missing.push(line);
            }
        }
        cells.push(json!({
            "cell": cell.name, "seed": cell.seed, "state": state, "folder": cell.folder, "plan": plan,
        }));
    }
    match as_json {
        true => output::json(
            &json!({ "sweep": sweep.name, "cells": cells, "flops_left": flops, "missing": missing }),
        )?,
        false => {
            let missing = missing.iter().map(|line| format!("(missing)  {line}\n")).collect::<String>();
            output::text(format!("{text}{missing}{} runs, {flops:.2e} FLOPs left\n", cells.len()))?;
        }
    }
    Ok(Code::Done)
}

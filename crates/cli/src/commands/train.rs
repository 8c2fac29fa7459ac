//! `clip-distill train`: the runs of a recipe.

use std::path::{Path, PathBuf};

use serde_json::json;
use trainer::recipe::{self, Job};
use trainer::run::job::{self, JobOutcome};
use trainer::run::{BEST_FOLDER, Best, Options, PreparedJob, Results};

use crate::args::Train;
use crate::exit::Code;
use crate::provenance::{self, VERSION};
use crate::{destination, output, signals};

pub(crate) fn run(args: Train) -> anyhow::Result<Code> {
    let mut settings = args.overrides.set.clone();
    settings.extend(args.device.as_override());
    let job = recipe::load(&args.recipe, &settings)?;
    let prepared = PreparedJob::new(&job)?;
    if args.dry_run {
        match args.output.json {
            true => output::json(&prepared.plans())?,
            false => output::text(prepared.plans().iter().map(ToString::to_string).collect::<String>())?,
        }
        return Ok(Code::Done);
    }
    // All checks precede the removal of earlier runs.
    let prepared = prepared.check()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&job.name));
    destination::folder(&out)?;
    if args.restart {
        job::restart(&job, &out)?;
    }
    job::check_folders(&job, &out)?;
    for plan in prepared.plans() {
        output::note(plan.to_string().trim_end());
    }
    let stop = signals::stop_flag()?;
    let options =
        Options { stop: &stop, stop_after: args.stop_after, resume: true, progress: true, version: VERSION };
    match prepared.run(&out, &options)? {
        JobOutcome::Finished(results) => {
            let origin = experiments::Origin::new(&args.recipe, provenance::today());
            experiments::job::write(&job, &out, &results, &origin)?;
            match args.output.json {
                true => output::json(&json!({
                    "recipe": origin.file, "made": origin.made, "out": out.to_string_lossy(), "runs": results,
                }))?,
                false => output::text(summary(&job, &out, &results))?,
            }
            Ok(Code::Done)
        }
        JobOutcome::Stopped { run, step } => {
            output::note(format!(
                "run {run} stopped after step {step}; {} resumes it",
                resuming_command(&args, step)
            ));
            Ok(Code::Stopped)
        }
    }
}

/// Describes the command that resumes a run stopped after `step`.
fn resuming_command(args: &Train, step: u64) -> String {
    let reached = args.stop_after.is_some_and(|last| step >= last);
    let omitted = [("--restart", args.restart), ("this --stop-after", reached)];
    let omitted = omitted.iter().filter(|(_, given)| *given).map(|(option, _)| *option).collect::<Vec<_>>();
    match omitted.is_empty() {
        true => "the same command".into(),
        false => format!("the same command without {}", omitted.join(" and ")),
    }
}

fn summary(job: &Job, out: &Path, results: &[(String, Results)]) -> String {
    let model = results.last().map_or_else(PathBuf::new, |(run, _)| job::folder(job, out, run).join("model"));
    let best = results.iter().filter_map(|(run, results)| {
        let Best { step, score } = results.best?;
        let folder = job::folder(job, out, run).join(BEST_FOLDER);
        Some(format!(
            "best:    {} (step {step}, mean of the main metrics: {:.1} %)\n",
            folder.display(),
            score * 100.0
        ))
    });
    format!(
        "{}\n{}report:  {}\nmodel:   {} (load it in Python's open_clip as local-dir:FOLDER)\n{}try:     clip-distill classify {} IMAGE --labels a,b,c\n",
        experiments::job::table(job, results),
        experiments::job::counts(results)
            .lines()
            .map(|line| format!("set:     {line}\n"))
            .collect::<String>(),
        out.join("report.html").display(),
        model.display(),
        best.collect::<String>(),
        quoted(&model)
    )
}

/// Quotes a path for a shell, if necessary.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

//! `clip-distill train`.

use std::path::{Path, PathBuf};

use serde_json::json;
use trainer::recipe::{self, Job};
use trainer::run::job::{self, JobOutcome};
use trainer::run::{BEST_FOLDER, Best, Options, PreparedJob, Results};

use crate::args::Train;
use crate::exit::Code;
use crate::{destination, output, signals};

pub(crate) const VERSION: &str =
    concat!("clip-distill ", env!("CARGO_PKG_VERSION"), " ", env!("CLIP_DISTILL_COMMIT"));

pub(crate) fn run(args: Train) -> anyhow::Result<Code> {
    let job = recipe::load(&args.recipe, &args.set)?;
    let prepared = PreparedJob::new(&job)?;
    if args.dry_run {
        match args.json {
            true => output::json(&prepared.plans())?,
            false => output::text(prepared.plans().iter().map(ToString::to_string).collect::<String>())?,
        }
        return Ok(Code::Done);
    }
    // Before anything is removed, all is checked that can be.
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
            experiments::job::write(&job, &out, &results)?;
            match args.json {
                true => output::json(&json!({ "out": out.to_string_lossy(), "runs": results }))?,
                false => output::text(summary(&job, &out, &results))?,
            }
            Ok(Code::Done)
        }
        JobOutcome::Stopped { run, step } => {
            output::note(format!("stopped run {run} after step {step}; {} continues", next(&args, step)));
            Ok(Code::Stopped)
        }
    }
}

/// The command that resumes a run stopped after `step`.
fn next(args: &Train, step: u64) -> String {
    let reached = args.stop_after.is_some_and(|last| step >= last);
    let without = [("--restart", args.restart), ("this --stop-after", reached)];
    let without = without.iter().filter(|(_, given)| *given).map(|(option, _)| *option).collect::<Vec<_>>();
    match without.is_empty() {
        true => "the same command".into(),
        false => format!("the same command without {}", without.join(" and ")),
    }
}

fn summary(job: &Job, out: &Path, results: &[(String, Results)]) -> String {
    let model = results.last().map_or_else(PathBuf::new, |(run, _)| job::folder(job, out, run).join("model"));
    let best = results.iter().filter_map(|(run, results)| {
        let Best { step, score } = results.best?;
        let folder = job::folder(job, out, run).join(BEST_FOLDER);
        Some(format!(
            "best:    {} (step {step}: {:.1} % as the mean of the main figures)\n",
            folder.display(),
            score * 100.0
        ))
    });
    format!(
        "{}\nreport:  {}\nmodel:   {} (Python's open_clip loads it as local-dir:)\n{}try:     clip-distill classify {} PICTURE --labels a,b,c\n",
        experiments::job::table(job, results),
        out.join("report.html").display(),
        model.display(),
        best.collect::<String>(),
        quoted(&model)
    )
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

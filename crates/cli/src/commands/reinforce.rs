//! `clip-distill reinforce`: stores of teacher embeddings.

use std::path::Path;

use anyhow::Context;
use data_pipeline::store::StoreKind;
use serde_json::json;
use trainer::recipe;
use trainer::run::job;
use trainer::teacher::store::StoreOptions;

use crate::args::{Numbers, Reinforce};
use crate::exit::Code;
use crate::{destination, output, signals};

pub(crate) fn run(args: Reinforce) -> anyhow::Result<Code> {
    if args.variants == Some(0) {
        anyhow::bail!("--variants 0: pass at least 1 augmentation per image");
    }
    let mut settings = args.overrides.set.clone();
    settings.extend(args.device.as_override());
    settings.extend(args.variants.map(|count| format!("data.variants={count}")));
    let job = recipe::load(&args.recipe, &settings)?;
    let chosen = match &args.run {
        Some(name) => job.runs.iter().find(|run| run.name == *name),
        None => job.runs.iter().find(|run| !run.teachers.is_empty()),
    };
    let chosen = chosen.with_context(|| match &args.run {
        Some(name) => {
            let names = job.runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
            format!("--run: the recipe has no run `{name}`; its runs are {names}")
        }
        None => {
            "no run of the recipe has a teacher: add [teacher], for example with --set teacher.model=MODEL"
                .into()
        }
    })?;
    destination::store(&args.out)?;
    let runs = args.runs.clone().unwrap_or_else(|| Path::new("runs").join(&job.name));
    let stop = signals::stop_flag()?;
    let kind = match args.kind {
        Numbers::F32 => StoreKind::F32,
        Numbers::F16 => StoreKind::F16,
        Numbers::Bf16 => StoreKind::Bf16,
        Numbers::Int8 => StoreKind::Int8,
    };
    let store = StoreOptions { folder: &args.out, kind, stop: Some(&stop), progress: true, class_list: true };
    let outcome = job::reinforce_run(&job, &runs, chosen, &store)?;
    let (written, total) = outcome.shards;
    if outcome.damaged.skipped() > 0 {
        output::note(format!(
            "skipped {} damaged samples: {}",
            outcome.damaged.skipped(),
            outcome.damaged.summary()
        ));
    }
    if written < total {
        output::note(format!("stopped after shard {written} of {total}; the same command resumes"));
        return Ok(Code::Stopped);
    }
    let store = args.out.display();
    let setting = match job.is_single() {
        true => "teacher.store".to_string(),
        false => format!("runs.{}.teacher.store", chosen.name),
    };
    match args.output.json {
        true => output::json(&json!({ "store": store.to_string(), "shards": total, "rows": outcome.rows }))?,
        false => output::text(format!(
            "stored {} image embeddings in {total} shards: {store}\ntrain with: --set {setting}={store}\n",
            outcome.rows
        ))?,
    }
    Ok(Code::Done)
}

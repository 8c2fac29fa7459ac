//! `clip-distill reinforce`.

use std::path::Path;

use anyhow::Context;
use data_pipeline::store::StoreKind;
use serde_json::json;
use trainer::recipe;
use trainer::run::job;
use trainer::teacher::store::Making;

use crate::args::{Numbers, Reinforce};
use crate::exit::Code;
use crate::{destination, output, signals};

pub(crate) fn run(args: Reinforce) -> anyhow::Result<Code> {
    if args.variants == Some(0) {
        anyhow::bail!("--variants 0: an image needs at least one augmentation");
    }
    let mut settings = args.set.clone();
    settings.extend(args.variants.map(|count| format!("data.variants={count}")));
    let job = recipe::load(&args.recipe, &settings)?;
    let chosen = match &args.run {
        Some(name) => job.runs.iter().find(|run| run.name == *name),
        None => job.runs.iter().find(|run| !run.teachers.is_empty()),
    };
    let chosen = chosen.with_context(|| match &args.run {
        Some(name) => format!("the recipe has no run `{name}`"),
        None => "no run of the recipe has a [teacher] whose embeddings could be stored".into(),
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
    let making = Making { folder: &args.out, kind, stop: Some(&stop), progress: true, class_list: true };
    let made = job::reinforce_run(&job, &runs, chosen, &making)?;
    let (there, all) = made.shards;
    if made.damaged.skipped() > 0 {
        output::note(format!("{} samples were damaged: {}", made.damaged.skipped(), made.damaged.summary()));
    }
    if there < all {
        output::note(format!("stopped after shard {there} of {all}; the same command goes on"));
        return Ok(Code::Stopped);
    }
    let store = args.out.display();
    match args.json {
        true => output::json(&json!({ "store": store.to_string(), "shards": all, "rows": made.rows }))?,
        false => output::text(format!(
            "stored {} image rows in {all} shards: {store}\ntrain from it: --set teacher.store={store}\n",
            made.rows
        ))?,
    }
    Ok(Code::Done)
}

//! `clip-distill evaluate`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use trainer::eval::open_set::open_sets;
use trainer::eval::suite::{self, Suite};
use trainer::recipe::EvalSet;
use zeroshot_eval::{Evaluation, Report, StoredOptions, retention};

use crate::args::Evaluate;
use crate::data::{eval_set, open_model};
use crate::exit::Code;
use crate::{embeddings, output};

pub(crate) fn run(args: Evaluate) -> anyhow::Result<Code> {
    if let Some(file) = &args.embeddings {
        let own = embeddings::read(file)?;
        let teacher = args.teacher.as_ref().map(|file| embeddings::read(Path::new(file))).transpose()?;
        let details =
            vec![own.measure(&file.display().to_string(), teacher.as_ref(), &StoredOptions::default())?];
        let of_teacher = match (&teacher, &args.teacher) {
            (Some(teacher), Some(name)) => Some(suite::report(
                name,
                &[teacher.measure(&details[0].set, None, &StoredOptions::scores())?],
            )),
            _ => None,
        };
        return show(&args, &file.display().to_string(), &details, of_teacher.as_ref());
    }
    let name = args.model.as_deref().context("no model is named")?;
    let (sets, root, options) = sets(&args)?;
    let sets = open_sets(&sets, &root).map_err(|e| not_there(e, &args, &root))?;
    let student = open_model(name, args.arch.as_deref(), args.tokenizer.as_deref())?;
    let mut teacher = None;
    if let Some(name) = &args.teacher {
        let loaded = open_model(name, None, None)?;
        let rows =
            suite::encode_sets(&(&loaded).into(), &sets, None).map_err(|e| not_there(e, &args, &root))?;
        teacher = Some((suite::scores(name, &sets, &rows)?, rows));
    }
    let rows = teacher.as_ref().map(|(_, rows)| rows.as_slice());
    let details = suite::evaluate_sets(&(&student).into(), &sets, rows, &options)
        .map_err(|e| not_there(e, &args, &root))?;
    show(&args, name, &details, teacher.as_ref().map(|(report, _)| report))
}

/// Says of files that cannot be read where they were looked for, and what to do.
fn not_there(error: trainer::Error, args: &Evaluate, root: &Path) -> anyhow::Error {
    let io = matches!(&error, trainer::Error::Data(data_pipeline::Error::Io { .. }));
    let error = anyhow::Error::from(error);
    if !io {
        return error;
    }
    let described = args.data.as_deref().is_some_and(|data| data.ends_with(".toml"));
    let fetch = if described { ", or fetch it by `cargo xtask download`" } else { "" };
    error.context(format!(
        "the data's paths start at `{}`: name another place by --root{fetch}",
        root.display()
    ))
}

/// The data sets, where their paths start, and how they are measured.
fn sets(args: &Evaluate) -> anyhow::Result<(Vec<EvalSet>, PathBuf, StoredOptions)> {
    if let Some(file) = &args.suite {
        let suite = Suite::read(file)?;
        return Ok((suite.sets, args.root.clone().unwrap_or(suite.root), suite.options));
    }
    let data = args.data.as_deref().context("no data is named")?;
    let (set, root) = eval_set(args, data)?;
    Ok((vec![set], root, StoredOptions::default()))
}

fn show(
    args: &Evaluate,
    name: &str,
    details: &[Evaluation],
    teacher: Option<&Report>,
) -> anyhow::Result<Code> {
    let report = suite::report(name, details);
    let retained = teacher.map(|teacher| retention(&report, teacher));
    if args.json {
        output::json(&json!({
            "model": report.model, "sets": report.sets, "details": details, "teacher": teacher, "retention": retained,
        }))?;
        return Ok(Code::Done);
    }
    let mut text = match teacher {
        Some(teacher) => zeroshot_eval::report::compare(&[teacher.clone(), report], Some(0)),
        None => report.table(),
    };
    for found in details {
        text.push_str(&format!("\n## {}\n\n{}", found.set, found.table()));
        if args.per_class && !found.per_class.is_empty() {
            text.push_str(&format!("\n{}", found.class_table()));
        }
    }
    output::text(text)?;
    Ok(Code::Done)
}

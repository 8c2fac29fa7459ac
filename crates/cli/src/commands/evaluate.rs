//! `clip-distill evaluate`: zero-shot evaluation of models and of precomputed embeddings.

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
        let student = embeddings::read(file)?;
        let teacher = args.teacher.as_ref().map(|file| embeddings::read(Path::new(file))).transpose()?;
        let details = vec![student.measure(
            &file.display().to_string(),
            teacher.as_ref(),
            &StoredOptions::default(),
        )?];
        let teacher_report = match (&teacher, &args.teacher) {
            (Some(teacher), Some(name)) => Some(suite::report(
                name,
                &[teacher.measure(&details[0].set, None, &StoredOptions::scores())?],
            )),
            _ => None,
        };
        return show(&args, &file.display().to_string(), &details, teacher_report.as_ref());
    }
    let name = args.model.as_deref().context("MODEL is missing")?;
    let device = args.device.resolve()?;
    let (sets, root, options) = sets(&args)?;
    let sets = open_sets(&sets, &root).map_err(|e| missing_data(e, &args, &root))?;
    let student = open_model(name, args.arch.as_deref(), args.tokenizer.as_deref(), device)?;
    let mut teacher = None;
    if let Some(name) = &args.teacher {
        let loaded = open_model(name, None, None, device)?;
        let rows =
            suite::encode_sets(&(&loaded).into(), &sets, None).map_err(|e| missing_data(e, &args, &root))?;
        teacher = Some((suite::scores(name, &sets, &rows)?, rows));
    }
    let rows = teacher.as_ref().map(|(_, rows)| rows.as_slice());
    let details = suite::evaluate_sets(&(&student).into(), &sets, rows, &options)
        .map_err(|e| missing_data(e, &args, &root))?;
    show(&args, name, &details, teacher.as_ref().map(|(report, _)| report))
}

/// Adds the root folder of the data, and the remedy, to an error of a file that cannot be read.
fn missing_data(error: trainer::Error, args: &Evaluate, root: &Path) -> anyhow::Error {
    let io = matches!(&error, trainer::Error::Data(data_pipeline::Error::Io { .. }));
    let error = anyhow::Error::from(error);
    if !io {
        return error;
    }
    let is_manifest = args.data.as_deref().is_some_and(|data| data.ends_with(".toml"));
    let download = if is_manifest { ", or download the data with `cargo xtask download`" } else { "" };
    error.context(match root.as_os_str().is_empty() {
        true if args.classes.is_some() => "cannot read the data set: check --data and --classes".into(),
        true => "cannot read the data set: check --data".into(),
        false => format!(
            "cannot read the data set in `{}`: pass its root folder with --root{download}",
            root.display()
        ),
    })
}

/// Returns the data sets, the root folder of their paths, and the options of the measurements.
fn sets(args: &Evaluate) -> anyhow::Result<(Vec<EvalSet>, PathBuf, StoredOptions)> {
    if let Some(file) = &args.suite {
        let suite = Suite::read(file)?;
        return Ok((suite.sets, args.root.clone().unwrap_or(suite.root), suite.options));
    }
    let data = args.data.as_deref().context("--data is missing")?;
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
    let retention_report = teacher.map(|teacher| retention(&report, teacher));
    if args.output.json {
        output::json(&json!({
            "model": report.model, "sets": report.sets, "details": details, "teacher": teacher, "retention": retention_report,
        }))?;
        return Ok(Code::Done);
    }
    let mut text = match teacher {
        Some(teacher) => zeroshot_eval::report::compare(&[teacher.clone(), report], Some(0)),
        None => report.table(),
    }
    .to_markdown();
    for evaluation in details {
        text.push_str(&format!("\n## {}\n", evaluation.set));
        for table in evaluation.tables() {
            text.push_str(&format!("\n{table}"));
        }
        if args.per_class && !evaluation.per_class.is_empty() {
            text.push_str(&format!("\n{}", evaluation.class_table()));
        }
    }
    output::text(text)?;
    Ok(Code::Done)
}

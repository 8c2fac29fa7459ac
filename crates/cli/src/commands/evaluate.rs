//! `clip-distill evaluate`: zero-shot evaluation of models and of precomputed embeddings.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use data_pipeline::policy::ErrorPolicy;
use serde_json::{Value, json};
use trainer::eval::open_set::{OpenSet, open_sets};
use trainer::eval::suite::{self, SetEmbeddings, Suite};
use trainer::recipe::EvalSet;
use zeroshot_eval::report::{compare, main_metrics};
use zeroshot_eval::{Evaluation, Report, StoredOptions, retention};

use crate::args::Evaluate;
use crate::data::{eval_set, open_model};
use crate::exit::Code;
use crate::{embeddings, output, provenance};

/// The results of one model.
struct Evaluated {
    report: Report,
    details: Vec<Evaluation>,
}

/// The data sets of an evaluation.
struct Sets {
    sets: Vec<EvalSet>,
    root: PathBuf,
    options: StoredOptions,
    damaged: ErrorPolicy,
}

pub(crate) fn run(args: Evaluate) -> anyhow::Result<Code> {
    if let Some(file) = &args.embeddings {
        let student = embeddings::read(file)?;
        let teacher = args.teacher.as_ref().map(|file| embeddings::read(Path::new(file))).transpose()?;
        let name = file.display().to_string();
        let details = vec![student.measure(&name, teacher.as_ref(), &StoredOptions::default())?];
        let teacher_report = match (&teacher, &args.teacher) {
            (Some(teacher), Some(name)) => Some(suite::report(
                name,
                &[teacher.measure(&details[0].set, None, &StoredOptions::scores())?],
            )),
            _ => None,
        };
        let evaluated = Evaluated { report: suite::report(&name, &details), details };
        return show(&args, &[evaluated], teacher_report.as_ref());
    }
    if let Some((_, name)) =
        args.models.iter().enumerate().find(|(place, name)| args.models[..*place].contains(name))
    {
        bail!("the model `{name}` is given twice: pass it once");
    }
    let device = args.device.resolve()?;
    let Sets { sets, root, options, damaged } = sets(&args)?;
    let missing = |error| missing_data(error, &args, &root);
    let sets = open_sets(&sets, &root).map_err(missing)?;
    let sets = sets.into_iter().map(|set| set.with_damaged(damaged)).collect::<Vec<_>>();
    let mut teacher = None;
    if let Some(name) = &args.teacher {
        let loaded = open_model(name, None, None, device)?;
        let rows = suite::encode_sets(&(&loaded).into(), &sets, None).map_err(missing)?;
        teacher = Some((suite::scores(name, &sets, &rows)?, rows));
    }
    let mut evaluated = Vec::new();
    for name in &args.models {
        let rows = teacher.as_ref().map(|(_, rows)| rows.as_slice());
        match evaluate(&args, name, &sets, rows, &options, &root) {
            Ok(found) => evaluated.push(found),
            // An error would discard the results of the other models.
            Err(error) if args.models.len() > 1 => {
                output::note(format!(
                    "warning: `{name}` is left out, because its evaluation failed: {error:#}"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if evaluated.is_empty() {
        bail!("no model could be evaluated: the warnings above name the reasons");
    }
    let code = show(&args, &evaluated, teacher.as_ref().map(|(report, _)| report))?;
    Ok(if evaluated.len() < args.models.len() { Code::Failed } else { code })
}

/// Evaluates one model on all sets.
fn evaluate(
    args: &Evaluate,
    name: &str,
    sets: &[OpenSet],
    teacher: Option<&[SetEmbeddings]>,
    options: &StoredOptions,
    root: &Path,
) -> anyhow::Result<Evaluated> {
    let device = args.device.resolve()?;
    let loaded = open_model(name, args.arch.as_deref(), args.tokenizer.as_deref(), device)?;
    let details = suite::evaluate_sets(&(&loaded).into(), sets, teacher, options)
        .map_err(|error| missing_data(error, args, root))?;
    Ok(Evaluated { report: suite::report(name, &details), details })
}

/// Adds the root folder of the data, and the remedy, to an error of a file that cannot be read.
fn missing_data(error: trainer::Error, args: &Evaluate, root: &Path) -> anyhow::Error {
    let io = matches!(&error, trainer::Error::Data(data_pipeline::Error::Io { .. }));
    let lacks_prompts = matches!(&error, trainer::Error::Eval(zeroshot_eval::Error::MissingPrompts { .. }));
    if let (true, Some(file)) = (lacks_prompts, &args.prompts.prompts) {
        return anyhow::Error::from(error).context(format!("`{file}`"));
    }
    let several = matches!(&error, trainer::Error::Sets(_));
    let error = anyhow::Error::from(error);
    if several {
        return error.context("download the missing data, or select other data sets with --sets");
    }
    if !io {
        return error;
    }
    let is_manifest = args.data.as_deref().is_some_and(|data| data.ends_with(".toml"));
    let download = if is_manifest { ", or download the data with `clip-distill download`" } else { "" };
    error.context(match root.as_os_str().is_empty() {
        true if args.classes.is_some() => "cannot read the data set: check --data and --classes".into(),
        true => "cannot read the data set: check --data".into(),
        false => format!(
            "cannot read the data set in `{}`: pass its root folder with --root{download}",
            root.display()
        ),
    })
}

/// Returns the data sets with the settings of their evaluation.
fn sets(args: &Evaluate) -> anyhow::Result<Sets> {
    let own_policy = args.damage.policy();
    if let Some(file) = &args.suite {
        let mut suite = Suite::read(file)?;
        if !args.sets.is_empty() {
            suite.select(&args.sets)?;
        }
        let root = args.root.clone().unwrap_or(suite.root);
        let damaged = own_policy.unwrap_or(suite.damaged);
        return Ok(Sets { sets: suite.sets, root, options: suite.options, damaged });
    }
    let data = args.data.as_deref().context("--data is missing")?;
    let (set, root) = eval_set(args, data)?;
    let (options, damaged) = (StoredOptions::default(), own_policy.unwrap_or_default());
    Ok(Sets { sets: vec![set], root, options, damaged })
}

fn show(args: &Evaluate, evaluated: &[Evaluated], teacher: Option<&Report>) -> anyhow::Result<Code> {
    let made = provenance::today();
    if args.output.json {
        let object = |found: &Evaluated| {
            let retention = teacher.map(|teacher| retention(&found.report, teacher));
            let Evaluated { report, details } = found;
            json!({
                "made": made, "model": report.model, "sets": report.sets, "details": details, "teacher": teacher, "retention": retention,
            })
        };
        let all = evaluated.iter().map(object).collect::<Vec<_>>();
        output::json(&match args.models.len() {
            0 | 1 => all.into_iter().next().unwrap_or_default(),
            _ => Value::from(all),
        })?;
        return Ok(Code::Done);
    }
    let reports = teacher.into_iter().chain(evaluated.iter().map(|found| &found.report));
    let reports = reports.cloned().collect::<Vec<_>>();
    let teacher_index = teacher.map(|_| 0);
    let mut text = String::new();
    if reports[0].sets.len() > 1 {
        text.push_str(&format!("{}\n", main_metrics(&reports, teacher_index).to_markdown()));
    }
    text.push_str(&compare(&reports, teacher_index).to_markdown());
    for found in evaluated {
        for evaluation in &found.details {
            let of = if evaluated.len() > 1 { format!(": {}", found.report.model) } else { String::new() };
            text.push_str(&format!("\n## {}{of}\n\n{}\n", evaluation.set, evaluation.counts));
            for table in evaluation.tables() {
                text.push_str(&format!("\n{table}"));
            }
            if args.per_class && !evaluation.per_class.is_empty() {
                text.push_str(&format!("\n{}", evaluation.class_table()));
            }
        }
    }
    text.push_str(&format!("\n{made}\n"));
    output::text(text)?;
    Ok(Code::Done)
}

//! `clip-distill evaluate`.

use trainer::evaluate::{ModelEncoder, evaluate_source};
use zeroshot_eval::{Report, SetScore};

use crate::args::Evaluate;
use crate::data::{eval_input, open_model};
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Evaluate) -> anyhow::Result<Code> {
    let input = eval_input(&args)?;
    let (model, reader) = open_model(&args.model, args.arch.as_deref(), args.tokenizer.as_deref())?;
    let encoder = ModelEncoder { model: &model, reader: &reader };
    let score =
        evaluate_source(&encoder, &input.source, input.task, &input.templates, input.class_names.as_deref())?;
    let report = Report { model: args.model, sets: vec![SetScore { set: input.name, score }] };
    match args.json {
        true => output::json(&report)?,
        false => output::text(report.table())?,
    }
    Ok(Code::Done)
}

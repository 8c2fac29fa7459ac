//! `clip-distill classify`: zero-shot classification of single images.

use anyhow::{Context, bail};
use data_pipeline::image::{decode, eval_into};
use ndarray::Array4;
use serde_json::json;
use trainer::eval::encoder::ModelEncoder;
use zeroshot_eval::{Classifier, Encoder};

use crate::args::Classify;
use crate::data::{open_model, templates};
use crate::exit::Code;
use crate::output;

pub(crate) fn run(args: Classify) -> anyhow::Result<Code> {
    let labels = args.labels.iter().map(|label| label.trim().to_string()).collect::<Vec<_>>();
    if labels.iter().any(String::is_empty) {
        bail!("--labels contains an empty label: separate labels by single commas, as in --labels a,b,c");
    }
    if let Some((_, label)) =
        labels.iter().enumerate().find(|(index, label)| labels[..*index].contains(label))
    {
        bail!("--labels repeats `{label}`: list each label once");
    }
    if let Some(label) = labels.iter().find(|label| label.contains("{}")) {
        bail!(
            "the label `{label}` contains {{}}, the placeholder of prompt templates: remove it, or pass a template file \
             with --prompts"
        );
    }
    let loaded = open_model(&args.model, args.arch.as_deref(), args.tokenizer.as_deref())?;
    let encoder = ModelEncoder::from(&loaded);
    let classifier =
        Classifier::new(&encoder, &labels, &templates(args.prompts.prompts.as_deref().unwrap_or("plain"))?)?;
    let scale = loaded.model.logit_scale.exp().double_value(&[]);
    // Models with a logit bias (SigLIP) judge each label alone.
    let bias = loaded.model.logit_bias.as_ref().map(|bias| bias.double_value(&[]));
    let preprocess = loaded.processor.preprocess();
    let size = preprocess.size;
    for path in &args.images {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let image =
            decode(&bytes).with_context(|| format!("cannot decode the image `{}`", path.display()))?;
        let mut pixels = Array4::zeros((1, 3, size, size));
        eval_into(&image, preprocess, pixels.as_slice_mut().context("the image tensor is not contiguous")?);
        let rows = encoder.encode_images(pixels.view()).map_err(anyhow::Error::from_boxed)?;
        let scores = classifier.scores(rows.view())?;
        let scores = scores.row(0);
        let logits = scores.iter().map(|score| f64::from(*score) * scale);
        let probabilities = match bias {
            Some(bias) => logits.map(|logit| sigmoid(logit + bias)).collect(),
            None => softmax(logits),
        };
        let mut ranked = probabilities.into_iter().zip(&labels).collect::<Vec<_>>();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        if args.output.json {
            let probabilities = ranked.iter().map(|(p, label)| json!({ "label": label, "probability": p }));
            let kind = if bias.is_some() { "sigmoid" } else { "softmax" };
            output::json(
                &json!({ "image": path.to_string_lossy(), "function": kind, "labels": probabilities.collect::<Vec<_>>() }),
            )?;
        } else {
            let lines = ranked.iter().map(|(p, label)| format!("  {:5.1} %  {label}\n", p * 100.0));
            let heading = match bias {
                Some(_) => "probability of each label alone (sigmoid)",
                None => "probability among these labels (softmax)",
            };
            output::text(format!("{}: {heading}\n{}", path.display(), lines.collect::<String>()))?;
        }
    }
    Ok(Code::Done)
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn softmax(logits: impl Iterator<Item = f64>) -> Vec<f64> {
    let logits = logits.collect::<Vec<_>>();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials = logits.iter().map(|logit| (logit - largest).exp()).collect::<Vec<_>>();
    let sum = exponentials.iter().sum::<f64>();
    exponentials.into_iter().map(|value| value / sum).collect()
}

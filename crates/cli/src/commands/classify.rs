//! `clip-distill classify`: zero-shot classification of images among labels.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;
use trainer::eval::encoder::ModelEncoder;
use zeroshot_eval::{Classifier, Encoder};

use crate::args::Classify;
use crate::data::{open_model, templates};
use crate::exit::Code;
use crate::{images, output};

/// Number of images per batch.
const BATCH: usize = 64;

pub(crate) fn run(args: Classify) -> anyhow::Result<Code> {
    let labels = labels(&args)?;
    let named = args.prompts.prompts.as_deref().unwrap_or("plain");
    let prompts = templates(named)?.prompts(&labels, None).with_context(|| format!("`{named}`"))?;
    let loaded =
        open_model(&args.model, args.arch.as_deref(), args.tokenizer.as_deref(), args.device.resolve()?)?;
    let encoder = ModelEncoder::from(&loaded);
    let classifier = Classifier::from_prompts(&encoder, &labels, &prompts)?;
    let scale = loaded.model.logit_scale.exp().double_value(&[]);
    // Models with a logit bias (SigLIP) score each label independently.
    let bias = loaded.model.logit_bias.as_ref().map(|bias| bias.double_value(&[]));
    if let ([only], None) = (labels.as_slice(), bias) {
        output::note(format!(
            "warning: a softmax over the single label `{only}` is always 100 %: give at least two labels"
        ));
    }
    let (function, heading) = match bias {
        Some(_) => ("sigmoid", "probability of each label alone (sigmoid)"),
        None => ("softmax", "probability among these labels (softmax)"),
    };
    let preprocess = loaded.processor.preprocess();
    let (policy, orientation) = (args.damage.policy(), &args.orientation);
    images::in_batches(&args.images, preprocess, BATCH, policy, orientation, |batch, _| {
        let rows = encoder.encode_images(batch.images.view()).map_err(anyhow::Error::from_boxed)?;
        let scores = classifier.scores(rows.view())?;
        for (key, scores) in batch.keys.iter().zip(scores.rows()) {
            let logits = scores.iter().map(|score| f64::from(*score) * scale);
            let probabilities = match bias {
                Some(bias) => logits.map(|logit| sigmoid(logit + bias)).collect(),
                None => softmax(logits),
            };
            let mut ranked = probabilities.into_iter().zip(&labels).collect::<Vec<_>>();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            if args.output.json {
                let labels = ranked.iter().map(|(p, label)| json!({ "label": label, "probability": p }));
                let labels = labels.collect::<Vec<_>>();
                output::json(&json!({ "image": key, "function": function, "labels": labels }))?;
            } else {
                let lines = ranked.iter().map(|(p, label)| format!("  {:5.1} %  {label}\n", p * 100.0));
                output::text(format!("{key}: {heading}\n{}", lines.collect::<String>()))?;
            }
        }
        Ok(())
    })?;
    Ok(Code::Done)
}

/// Returns the labels of `--labels` or `--labels-file`.
fn labels(args: &Classify) -> anyhow::Result<Vec<String>> {
    let option = if args.labels_file.is_some() { "--labels-file" } else { "--labels" };
    let labels = match &args.labels_file {
        Some(file) => data_pipeline::names::read_names(file)?,
        None => {
            let lists = args.labels.iter().map(|text| split(text)).collect::<anyhow::Result<Vec<_>>>()?;
            lists.concat()
        }
    };
    if labels.iter().any(String::is_empty) {
        bail!("{option} contains an empty label: separate labels by single commas, as in --labels a,b,c");
    }
    if let Some((_, label)) =
        labels.iter().enumerate().find(|(index, label)| labels[..*index].contains(label))
    {
        bail!("{option} repeats `{label}`: list each label once");
    }
    if let Some(label) = labels.iter().find(|label| label.contains("{}")) {
        bail!(
            "the label `{label}` contains {{}}, the placeholder of prompt templates: remove it, or pass a template file \
             with --prompts"
        );
    }
    match labels.as_slice() {
        [] => bail!("{option} has no label: give at least two"),
        [only] if args.labels_file.is_none() && Path::new(only).is_file() => {
            bail!("`{only}` is a file: pass it with --labels-file")
        }
        _ => {}
    }
    Ok(labels)
}

/// Splits labels at commas outside double quotes. Within quotes, two double quotes stand for one.
fn split(text: &str) -> anyhow::Result<Vec<String>> {
    let (mut labels, mut label, mut quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                label.push('"');
            }
            '"' if quoted => quoted = false,
            // A quote inside an unquoted label, such as an inch sign, is an ordinary character.
            '"' if label.trim().is_empty() && !was_quoted => {
                label.clear();
                (quoted, was_quoted) = (true, true);
            }
            ',' if !quoted => {
                labels.push(std::mem::take(&mut label).trim().to_string());
                was_quoted = false;
            }
            c => label.push(c),
        }
    }
    if quoted {
        bail!("--labels has an unclosed double quote in `{text}`: close it, or remove it");
    }
    labels.push(label.trim().to_string());
    Ok(labels)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_labels_may_contain_commas() {
        let labels = |text: &str| split(text).unwrap();
        assert_eq!(labels("cat, a dog ,x"), ["cat", "a dog", "x"]);
        assert_eq!(labels(r#""a cat, sitting",dog"#), ["a cat, sitting", "dog"]);
        assert_eq!(labels(r#"dog, "a ""big"" cat""#), ["dog", r#"a "big" cat"#]);
        assert_eq!(labels(r#"a 5" disk,b"#), [r#"a 5" disk"#, "b"]);
        assert_eq!(labels("a,,b"), ["a", "", "b"]);
        assert!(split(r#""a,b"#).unwrap_err().to_string().contains("double quote"));
    }
}

//! Training in micro-batches: losses, gradients and weights equal those of whole batches.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::ClipConfig;
use clip_model::weights::read_safetensors;
use kd_losses::{Loss, LossSettings};
use tch::{Kind, Tensor};
use trainer::recipe::{Classes, LossConfig, parse};
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::{Options, run};

use super::no_models;

/// Samples per contrastive batch of the tiny recipe.
const BATCH: usize = 8;

/// Trains a student on the emoji for two steps with `losses`. Returns its steps and its weights.
fn train(folder: &Path, losses: &[Loss], settings: &str) -> (Vec<StepLine>, HashMap<String, Tensor>) {
    let mut text = tiny::recipe(&folder.join("student"), 2);
    if losses.iter().any(|loss| loss.needs_teacher()) {
        text += &format!("\nlosses.crd = 1.0\nteacher.model = '{}'\n", folder.join("teacher").display());
    }
    // With a large epsilon, AdamW's updates are proportional to the gradients, so rounding errors stay small.
    let overrides =
        ["optimizer.eps=1.0", "train.warmup_steps=0"].into_iter().chain(settings.split_whitespace());
    let mut overrides = overrides.map(String::from).collect::<Vec<_>>();
    if losses.iter().any(|loss| loss.reads_tokens()) {
        overrides.push("student.patch_dropout=0.0".into());
    }
    let mut recipe = parse(&text, &overrides, "micro").unwrap().runs.remove(0);
    recipe.losses = losses
        .iter()
        .map(|loss| {
            let classes = ["cat", "dog", "red flag"].map(String::from).to_vec();
            let classes = loss.reads_classes().then_some(Classes::Listed(classes));
            let mut config = LossConfig { classes, ..LossConfig::new(*loss, 1.0) };
            if let LossSettings::Anchors(settings) = &mut config.settings {
                settings.count = Some(8);
            }
            (*loss, config)
        })
        .collect::<BTreeMap<_, _>>();
    let (out, stop) = (tempfile::tempdir_in(folder).unwrap(), AtomicBool::new(false));
    let options = Options { stop: &stop, stop_after: None, resume: false, progress: false, version: "test" };
    run(&recipe, out.path(), &no_models(), &options).unwrap();
    let weights = read_safetensors(out.path().join("model/open_clip_model.safetensors")).unwrap();
    (read_steps(out.path()).unwrap(), weights)
}

/// Describes the first difference between two runs that exceeds `tolerance` times the value.
fn difference(folder: &Path, losses: &[Loss], [left, right]: [&str; 2], tolerance: f64) -> Option<String> {
    let ((whole, expected), (parts, found)) = (train(folder, losses, left), train(folder, losses, right));
    let far = |name: &str, expected: f64, found: f64| {
        let is_far = (found - expected).abs() > tolerance * expected.abs().max(1e-3);
        is_far.then(|| format!("{losses:?}, {name}: {expected} in whole batches, {found} in micro-batches"))
    };
    let steps = whole.iter().zip(&parts).find_map(|(whole, parts)| {
        let terms = whole.terms.iter().zip(&parts.terms);
        let terms = terms.map(|(whole, part)| (whole.name.as_str(), whole.raw, part.raw));
        let mut values = terms.chain([("gradient norm", whole.grad_norm, parts.grad_norm)]);
        values.find_map(|(name, expected, found)| far(name, expected, found))
    });
    steps.or_else(|| {
        expected.iter().find_map(|(name, expected)| {
            let largest = |values: &Tensor| values.abs().max().to_kind(Kind::Double).double_value(&[]);
            let (size, error) = (largest(expected), largest(&(&found[name] - expected)));
            far(name, size, size + error)
        })
    })
}

/// Writes a student with patch dropout, and a wider teacher.
fn models(folder: &Path) {
    let student = tiny::config(16, 16);
    let mut json = serde_json::to_value(&student).unwrap();
    json["vision_cfg"]["patch_dropout"] = 0.5.into();
    let student = ClipConfig::from_json("student", &json.to_string()).unwrap();
    tiny::model(folder, "student", &student, 1);
    tiny::model(folder, "teacher", &tiny::config(16, 24), 2);
}

#[test]
fn every_loss_equals_that_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let failures = Loss::all()
        .filter_map(|loss| difference(folder.path(), &[loss], ["", "train.micro_batch=3"], 1e-4))
        .collect::<Vec<_>>();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn losses_combine_and_settings_apply_in_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let by_rows = [Loss::Task, Loss::Crd, Loss::Fd, Loss::Icl];
    let mixed = [Loss::Task, Loss::Mfd, Loss::Gram, Loss::Vocabulary];
    for losses in [&by_rows[..], &mixed] {
        for settings in ["train.grad_checkpointing=true", "train.accumulate=2", "targets=\"equal-captions\""]
        {
            let parts = format!("{settings} train.micro_batch=3");
            let found = difference(folder.path(), losses, [settings, &parts], 1e-4);
            assert_eq!(found, None, "{settings}");
        }
        // A micro-batch as large as the batch changes nothing.
        let large = format!("train.micro_batch={BATCH}");
        assert_eq!(difference(folder.path(), losses, ["", &large], 0.0), None);
    }
    let settings = ["train.precision=\"bf16\"", "train.precision=\"bf16\" train.micro_batch=4"];
    assert_eq!(difference(folder.path(), &by_rows, settings, 2e-2), None);
}

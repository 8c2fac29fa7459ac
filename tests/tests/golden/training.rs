//! Training: runs of the reference implementation, compared at every step.

use clip_distill_tests::fill;
use clip_distill_tests::golden::{Coverage, assert_close, files, tensors};
use clip_model::{Clip, ClipConfig, weights};
use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};
use kd_losses::{Loss, Objective, Term};
use serde_json::Value;
use tch::{Device, Tensor};
use trainer::optim::adamw::OptimizerConfig;
use trainer::optim::schedule::LrSchedule;
use trainer::recipe::TargetRule;
use trainer::step::{MicroBatch, TeacherInput, TrainState, ViewTensors};
use trainer::teacher::frozen::Teacher;
use trainer::teacher::signal::TeacherSignal;

fn build(config: &Value, prefix: &Value) -> Clip {
    let config = ClipConfig::from_json("golden", &config.to_string()).unwrap();
    let model = Clip::new(&config, Device::Cpu, 0).unwrap();
    let prefix = prefix.as_str().unwrap();
    let named = model
        .params()
        .iter()
        .map(|p| (p.name.clone(), fill::parameter(&format!("{prefix}{}", p.name), &p.tensor.size())));
    weights::load(model.params(), &named.collect(), "golden").unwrap();
    model
}

fn tokens(texts: &Value, context: usize) -> Tensor {
    let tokenizer = ClipTokenizer::new();
    let texts = texts.as_array().unwrap();
    let mut ids = vec![0i64; texts.len() * context];
    for (row, text) in ids.chunks_mut(context).zip(texts) {
        tokenizer.encode_into(text.as_str().unwrap(), row);
    }
    Tensor::from_slice(&ids).view([texts.len() as i64, context as i64])
}

/// Parses an objective in the form of the golden files: `<term> + <weight>*<term> + …`.
fn terms(formula: &str) -> Vec<Term> {
    let term = |text: &str| {
        let (weight, name) = text.trim().split_once('*').unwrap_or(("1", text.trim()));
        let loss = Loss::all().find(|loss| loss.name() == name.replace('_', "-")).unwrap();
        Term::new(loss, weight.parse().unwrap())
    };
    formula.split('+').map(term).collect()
}

#[test]
fn training_agrees_with_the_reference() {
    let mut coverage = Coverage::new("training");
    for file in files("training", "json") {
        let name = file.path.display().to_string();
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&file.path).unwrap()).unwrap();
        let student = build(&golden["student"], &golden["weights_prefix"]["student"]);
        let teachers = (!golden["teacher"].is_null()).then(|| {
            let model = build(&golden["teacher"], &golden["weights_prefix"]["teacher"]);
            TeacherSignal::live(Teacher::new(model))
        });
        let teachers = teachers.into_iter().collect::<Vec<_>>();
        let size = student.config().vision_cfg.image_size;
        let context = student.config().text_cfg.context_length as usize;
        let (batch, steps) = (golden["batch_size"].as_i64().unwrap(), golden["steps"].as_u64().unwrap());

        let setting = |key: &str| golden["optimizer"][key].as_f64();
        let beta = |index: usize| golden["optimizer"]["betas"][index].as_f64().unwrap();
        let config = OptimizerConfig {
            lr: setting("base_lr").unwrap(),
            weight_decay: setting("weight_decay").unwrap(),
            beta1: beta(0),
            beta2: beta(1),
            eps: setting("eps").unwrap(),
            clip_norm: setting("clip_norm").unwrap_or(0.0),
        };
        let schedule = LrSchedule {
            base_lr: config.lr,
            warmup_steps: golden["optimizer"]["warmup"].as_u64().unwrap(),
            total_steps: steps,
        };
        let widths = teachers.iter().map(TeacherSignal::width).collect::<Vec<_>>();
        let terms = terms(golden["loss"].as_str().unwrap());
        let objective = Objective::new(&terms, student.config().embed_dim, &widths, Device::Cpu).unwrap();
        let mut state = TrainState::new(student, objective, &config, None).unwrap();
        // "unit('<tag>.image.<step>', …) * 2"
        let input = golden["image_input"].as_str().unwrap();
        let tag = input.split('\'').nth(1).unwrap().replace("<step>", "");

        for step in 0..steps {
            let row = &golden["trajectory"][step as usize];
            let lr = schedule.lr_at(step);
            let images = fill::unit(&format!("{tag}{step}"), &[batch, 3, size, size]) * 2.0;
            let tokens = tokens(&golden["texts"][step as usize], context);
            let inputs = teachers.iter().map(|_| TeacherInput::AsStudent).collect();
            let student = ViewTensors { images, tokens, boxes: Vec::new() };
            let micro = MicroBatch { student, teachers: inputs };
            let report = state.step(&[micro], &teachers, TargetRule::Diagonal, lr).unwrap();
            assert_eq!(row["step"], step, "{name}: rows are in the order of the steps");
            let term = |name: &str| {
                let name = name.replace('_', "-");
                report.terms.iter().find(|(term, ..)| *term == name).map(|term| term.1)
            };
            let keys = row.as_object().unwrap().keys().filter(|key| *key != "step").collect::<Vec<_>>();
            for key in &keys {
                let (found, tolerance) = match key.as_str() {
                    "lr" => (report.lr, 1e-9),
                    "loss" => (report.loss, 1e-3),
                    "grad_norm" => (report.grad_norm, 5e-3),
                    "logit_scale" => (report.logit_scale, 1e-4),
                    // Any other key is the name of a loss term.
                    other => (term(other).unwrap_or_else(|| panic!("{name}: unknown key `{other}`")), 1e-3),
                };
                let expected = row[key.as_str()].as_f64().unwrap();
                assert!(
                    (found - expected).abs() <= tolerance * expected.abs() + 1e-9,
                    "{name}, step {step}: {key} is {found}, expected {expected}"
                );
            }
            // All keys except the four above are terms. A file with a single term need not list it.
            let parts = keys.len() - 4;
            let is_complete = parts == report.terms.len() || (parts == 0 && report.terms.len() == 1);
            assert!(is_complete, "{name}, step {step}: not all of {:?} are compared: {keys:?}", report.terms);
        }
        let last = tensors(&file.path.with_extension("safetensors"));
        assert!(!last.is_empty(), "{name}: no weights after the last step");
        for (key, expected) in last {
            let found = state.student.params().get(&key).unwrap();
            assert_close(found, &expected, 1e-3, &format!("{name}: final {key}"));
        }
        coverage.add(&file, &file.name);
    }
    coverage.assert_exactly(["training/clip", "training/distill"]);
}

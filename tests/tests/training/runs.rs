//! What a run does and leaves behind.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::{Clip, weights};
use kd_losses::{Loss, Objective, Term};
use tch::{Device, Kind, Tensor};
use trainer::optim::adamw::OptimizerConfig;
use trainer::recipe::{TargetRule, parse};
use trainer::run::Options;
use trainer::run::job::{JobOutcome, run_job};
use trainer::step::{MicroBatch, TrainState, ViewTensors};
use trainer::{Error, Result};

fn job(text: &str, out: &Path) -> Result<JobOutcome> {
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let job = parse(text, &[], "test").unwrap();
    let outcome = run_job(&job, out, &options)?;
    if let JobOutcome::Finished(results) = &outcome {
        experiments::job::write(&job, out, results, &experiments::Origin::default()).unwrap();
    }
    Ok(outcome)
}

#[test]
fn a_recipe_of_several_runs_trains_a_teacher_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let text = tiny::recipe(&student, 4)
        + "
        metrics.tensorboard = true
        eval.every_steps = 2
        [[eval.sets]]
        name = 'held out'
        task = 'retrieval'
        source = 'emoji'
        split = 'test'
        [[eval.sets]]
        name = 'groups'
        prompts = ['{}', 'an emoji of {}']
        source = 'emoji'
        split = 'test'
        [[runs]]
        name = 'teacher'
        [[runs]]
        name = 'student'
        teacher.run = 'teacher'
        losses.crd = 1.0
        ";
    let out = folder.path().join("out");
    let JobOutcome::Finished(results) = job(&text, &out).unwrap() else { panic!("not finished") };
    assert_eq!(results.len(), 2);
    for (run, result) in &results {
        assert_eq!(result.student.sets.len(), 2);
        for part in [
            "recipe.toml",
            "run.json",
            "metrics.jsonl",
            "report.json",
            "model/open_clip_config.json",
            "best",
            "tensorboard",
        ] {
            assert!(out.join(run).join(part).exists(), "{run}/{part}");
        }
        assert!(out.join(run).join("checkpoints/step-00000004").is_dir());
    }
    let report = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("retained of the teacher") && report.contains("| held out"), "{report}");
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("<polyline"));
    let lines = trainer::run::metrics::read_steps(&out.join("student")).unwrap();
    assert_eq!(lines.len(), 4);
    assert!(lines[3].term("crd").unwrap().raw > 0.0);
    // The model folder opens again and is the one that was evaluated.
    let model = out.join("student/model").display().to_string();
    assert!(clip_model::folder::open(&model, Device::Cpu, 0).unwrap().has_weights);
}

#[test]
fn a_student_learns_eight_pairs_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 16), 1);
    let out = folder.path().join("run");
    job(&tiny::recipe_of_pairs(&student, &tiny::pairs(folder.path()), 60), &out).unwrap();
    let losses = tiny::losses(&out);
    println!("{losses:.3?}");
    // A student that knows nothing is at chance; at a tenth of it, the matching text has a probability of 0.8.
    assert!(losses[0] > 0.9 * tiny::CHANCE && losses[59] < 0.1 * tiny::CHANCE, "{losses:?}");
}

fn trainee(clip_norm: f64) -> TrainState {
    let model = Clip::new(&tiny::config(16, 8), Device::Cpu, 4).unwrap();
    let objective = Objective::new(&[Term::new(Loss::Task, 1.0)], 8, &[], Device::Cpu).unwrap();
    let config = OptimizerConfig { lr: 1e-2, clip_norm, ..Default::default() };
    TrainState::new(model, objective, &config, None).unwrap()
}

fn batch(seed: u64, scale: f64) -> MicroBatch {
    let (images, tokens) = clip_model::seeded(seed, || {
        let images = Tensor::randn([4, 3, 16, 16], (Kind::Float, Device::Cpu)) * scale;
        (images, Tensor::randint(1000, [4, 6], (Kind::Int64, Device::Cpu)))
    });
    MicroBatch { student: ViewTensors::new(images, tokens), teachers: Vec::new() }
}

#[test]
fn accumulation_averages_the_gradients_of_its_micro_batches() {
    let gradient = |seeds: &[u64]| {
        let mut trainee = trainee(0.0);
        let batches = seeds.iter().map(|&seed| batch(seed, 1.0)).collect::<Vec<_>>();
        trainee.step(&batches, &[], TargetRule::Diagonal, 0.0).unwrap();
        trainee.student.params().get("visual.proj").unwrap().grad().copy()
    };
    let expected = (gradient(&[1]) + gradient(&[2])) / 2.0;
    let difference = (gradient(&[1, 2]) - &expected).abs().max().double_value(&[]);
    assert!(difference < 1e-6 * expected.abs().max().double_value(&[]).max(1.0), "{difference}");
}

#[test]
fn a_loss_of_nan_stops_the_run_before_any_weight_changes() {
    let mut trainee = trainee(1.0);
    let before = trainee.student.params().get("visual.proj").unwrap().copy();
    let error = trainee.step(&[batch(1, f64::NAN)], &[], TargetRule::Diagonal, 1.0).unwrap_err();
    assert!(matches!(error, Error::NonFinite { step: 0, .. }), "{error}");
    assert!(before.equal(trainee.student.params().get("visual.proj").unwrap()));
}

#[test]
fn the_logit_scale_stays_within_its_bounds() {
    let mut trainee = trainee(0.0);
    let _ = tch::no_grad(|| trainee.student.logit_scale.shallow_clone().fill_(9.0));
    trainee.step(&[batch(1, 1.0)], &[], TargetRule::Diagonal, 1e-6).unwrap();
    assert!(trainee.student.logit_scale.exp().double_value(&[]) <= 100.0 + 1e-3);
}

#[test]
fn the_saved_model_holds_the_averaged_weights() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let out = folder.path().join("run");
    job(&tiny::recipe(&student, 5).replace("threads = 1", "threads = 1, ema = 0.99"), &out).unwrap();
    let read = |file: &str| weights::read_safetensors(out.join(file)).unwrap();
    let saved = read("model/open_clip_model.safetensors");
    let (last, averages) = (
        read("checkpoints/step-00000005/model.safetensors"),
        read("checkpoints/step-00000005/ema.safetensors"),
    );
    assert!(saved["visual.proj"].equal(&averages["visual.proj"]));
    assert!(!saved["visual.proj"].equal(&last["visual.proj"]));
}

#[test]
fn a_plan_refuses_masks_for_a_tower_without_patches() {
    let plan = |model: &str| {
        let recipe = format!(
            "name = 'masked'\nstudent.model = '{model}'\nteacher = {{ model = 'elsewhere', arch = 'ViT-B-32' }}\nlosses.mfd = 1.0\n\
             train = {{ batch_size = 8, steps = 2 }}\ndata.train = [{{ source = 'emoji' }}]"
        );
        let job = parse(&recipe, &[], "test").unwrap();
        trainer::run::plan::Plan::new(&job.runs[0], &job)
    };
    assert_eq!(plan("ViT-nano-32px").unwrap().steps, 2);
    let refused = plan("ResNet-18-64px").unwrap_err().to_string();
    assert!(refused.contains("losses.mfd leaves out patches"), "{refused}");
}

#[test]
fn a_recipe_that_cannot_run_fails_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let recipe = tiny::recipe(&student, 2);
    let out = folder.path().join("run");
    let count = std::cell::Cell::new(0);
    let error = |text: &str| {
        count.set(count.get() + 1);
        job(text, &out.join(count.get().to_string())).unwrap_err().to_string()
    };
    assert!(error(&recipe.replace("batch_size = 8", "batch_size = 100000")).contains("fewer than one batch"));
    assert!(error(&recipe.replace("threads = 1", "device = 'cuda:77'")).contains("cuda:77"));
    assert!(error(&recipe.replace("student.model = \"", "student.model = \"nowhere")).contains("nowhere"));
    let preset = "\nlosses.crd = 1.0\nteacher.model = 'ViT-nano-32px'\n";
    assert!(
        error(&format!("{preset}{}", recipe.replace("losses.task = 1.0", "losses.task = 1")))
            .contains("has no weights")
    );
    for (name, part) in [("nowhere", "nowhere"), ("ViT-nano-32px", "has no weights")] {
        let eval = format!(
            "eval = {{ fidelity = true, teacher.model = '{name}', sets = [{{ name = 'a', task = 'retrieval', source = 'emoji' }}] }}\n"
        );
        assert!(error(&format!("{eval}{recipe}")).contains(part));
        assert!(
            !out.join(count.get().to_string()).join("checkpoints").exists(),
            "it failed after the training"
        );
    }
    let empty = folder.path().join("empty");
    std::fs::create_dir_all(empty.join("class")).unwrap();
    let source = format!("{{ source = \"folder\", root = \"{}\" }}", empty.display());
    assert!(error(&recipe.replace("{ source = \"emoji\" }", &source)).contains("no sample"));
}

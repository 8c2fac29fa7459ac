//! Students that start as a part of a larger model, and jobs of several stages.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::weights::read_safetensors;
use trainer::recipe::parse;
use trainer::run::job::{JobOutcome, run_job};
use trainer::run::{Options, run};

use super::no_models;

fn options(stop: &AtomicBool, stop_after: Option<u64>) -> Options<'_> {
    Options { stop, stop_after, resume: true, progress: false, version: "test" }
}

/// A tiny model with `heads` heads of 8 channels in both towers.
fn model(parent: &Path, name: &str, heads: i64, seed: u64) -> PathBuf {
    let mut config = tiny::config(16, 8 * heads);
    config.text_cfg.heads = heads;
    tiny::model(parent, name, &config, seed)
}

#[test]
fn a_student_inherits_at_its_start_and_not_on_resume() {
    let folder = tempfile::tempdir().unwrap();
    let (large, student) = (model(folder.path(), "large", 2, 1), model(folder.path(), "student", 1, 2));
    let inherit = format!("student.inherit = '{}'\n", large.display());
    // A rate at which nothing moves, to see the start.
    let recipe = tiny::recipe(&student, 4).replace("lr = 1e-2", "lr = 1e-30") + &inherit;
    let out = folder.path().join("run");
    let stop = AtomicBool::new(false);
    let job = parse(&recipe, &[], "test").unwrap();
    run(&job.runs[0], &out, &no_models(), &options(&stop, Some(2))).unwrap();
    // What is inherited is needed no more.
    let theirs = read_safetensors(large.join("open_clip_model.safetensors")).unwrap();
    fs::remove_dir_all(&large).unwrap();
    run(&job.runs[0], &out, &no_models(), &options(&stop, None)).unwrap();
    let own = read_safetensors(out.join("model/open_clip_model.safetensors")).unwrap();
    for (name, value) in &own {
        let mut expected = theirs[name].shallow_clone();
        if name.contains("in_proj") {
            let each = expected.chunk(3, 0);
            expected = tch::Tensor::cat(&each.iter().map(|part| part.narrow(0, 0, 8)).collect::<Vec<_>>(), 0);
        }
        for (axis, size) in value.size().into_iter().enumerate() {
            expected = expected.narrow(axis as i64, 0, size);
        }
        assert!(value.allclose(&expected, 1e-6, 1e-7, false), "{name}");
    }
    // Another run of the recipe finds it missing.
    let error =
        run(&job.runs[0], &folder.path().join("new"), &no_models(), &options(&stop, None)).unwrap_err();
    assert!(error.to_string().contains("large"), "{error}");
}

#[test]
fn a_student_can_inherit_only_token_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let (large, student) = (model(folder.path(), "large", 2, 1), model(folder.path(), "student", 1, 2));
    let recipe = tiny::recipe(&student, 1).replace("lr = 1e-2", "lr = 1e-30");
    let tokens = "student.inherit_tokens = true\n";
    let error = parse(&format!("{recipe}{tokens}"), &[], "test").unwrap_err().to_string();
    assert!(error.contains("student.inherit_run"), "{error}");
    let inherit = format!("student.inherit = '{}'\n", large.display());
    let job = parse(&format!("{recipe}{tokens}{inherit}"), &[], "test").unwrap();
    let out = folder.path().join("run");
    let stop = AtomicBool::new(false);
    run(&job.runs[0], &out, &no_models(), &options(&stop, None)).unwrap();
    let read = |folder: &Path| read_safetensors(folder.join("open_clip_model.safetensors")).unwrap();
    let (own, start, theirs) = (read(&out.join("model")), read(&student), read(&large));
    for (name, value) in &own {
        let is_taken = ["token_embedding.weight", "positional_embedding"].contains(&name.as_str());
        assert_eq!(value.allclose(&start[name], 1e-6, 1e-7, false), !is_taken, "{name}");
    }
    let name = "token_embedding.weight";
    let (_, values, _) = theirs[name].svd(true, true);
    let expected = values.narrow(0, 0, 8).square().sum(tch::Kind::Float).double_value(&[]);
    let found = own[name].square().sum(tch::Kind::Float).double_value(&[]);
    assert!((found - expected).abs() < 1e-4 * expected, "{found}, {expected}");
}

#[test]
fn a_job_resumed_inside_its_second_stage_equals_the_unbroken_job() {
    let folder = tempfile::tempdir().unwrap();
    let (large, small) = (model(folder.path(), "large", 2, 1), model(folder.path(), "small", 1, 2));
    let recipe = tiny::recipe(&large, 3)
        + &format!(
            "
            checkpoint.every_steps = 2
            [[stages]]
            [[stages]]
            student.model = '{0}'
            train.steps = 6
            train.ema = 0.9
            teacher.model = '{1}'
            losses = {{ task = 0.5, fd = 10.0 }}
            [[stages]]
            student.model = '{0}'
            optimizer.lr = 1e-3
            ",
            small.display(),
            large.display()
        );
    let job = parse(&recipe, &[], "test").unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let stop = AtomicBool::new(false);
    let JobOutcome::Finished(expected) = run_job(&job, &whole, &options(&stop, None)).unwrap() else {
        panic!("not finished")
    };
    assert_eq!(expected.len(), 3);
    let stopped = run_job(&job, &broken, &options(&stop, Some(5))).unwrap();
    assert_eq!(stopped, JobOutcome::Stopped { run: "tiny-2".into(), step: 5 });
    let JobOutcome::Finished(found) = run_job(&job, &broken, &options(&stop, None)).unwrap() else {
        panic!("not finished")
    };
    for ((name, a), (other, b)) in expected.iter().zip(&found) {
        assert_eq!((name, &a.student, a.parameters), (other, &b.student, b.parameters));
        for file in [
            "model/open_clip_model.safetensors",
            &format!("checkpoints/step-{:08}/optimizer.safetensors", if name == "tiny-2" { 6 } else { 3 }),
        ] {
            let bytes = |job: &Path| fs::read(job.join(name).join(file)).unwrap();
            assert!(bytes(&whole) == bytes(&broken), "{name}: {file}");
        }
    }
    // The stages do build on one another.
    let weight = |run: &str| {
        let file = whole.join(run).join("model/open_clip_model.safetensors");
        read_safetensors(&file).unwrap().remove("token_embedding.weight").unwrap()
    };
    let (one, two) = (weight("tiny-1"), weight("tiny-2"));
    // Most tokens are in no caption; fresh ones would differ by 0.02 on average.
    let moved = (two - one.narrow(1, 0, 8)).abs().mean(tch::Kind::Float).double_value(&[]);
    assert!(moved < 0.005 && moved > 0.0, "{moved}");
}

//! A stopped and resumed run equals an unbroken one, bit for bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clip_distill_tests::tiny;
use serde_json::Value;
use trainer::recipe::parse;
use trainer::run::{Options, Outcome, run};

/// Trains in `folder`; where `stop_at` is given, a stop is asked for when that checkpoint is there.
fn train(recipe: &str, folder: &Path, stop_at: Option<u64>) -> Outcome {
    let job = parse(recipe, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    let options = Options { stop: &stop, resume: true, progress: false, version: "test" };
    std::thread::scope(|scope| {
        if let Some(step) = stop_at {
            let checkpoint = folder.join(format!("checkpoints/step-{step:08}/state.json"));
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                while !checkpoint.exists() && !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_micros(200));
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
        let outcome = run(&job.runs[0], folder, None, &options).unwrap();
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Everything of the metrics that does not depend on the clock.
fn metrics(folder: &Path) -> Vec<Value> {
    let mut lines = trainer::metrics::read_steps(folder).unwrap();
    for line in &mut lines {
        for clock in ["seconds", "samples_per_second", "data_wait"] {
            line.as_object_mut().unwrap().remove(clock);
        }
    }
    lines
}

fn last_checkpoint(folder: &Path, steps: u64) -> Vec<(String, Vec<u8>)> {
    let path = folder.join(format!("checkpoints/step-{steps:08}"));
    ["model", "optimizer", "learned", "ema"]
        .map(|name| (name.to_string(), fs::read(path.join(format!("{name}.safetensors"))).unwrap()))
        .to_vec()
}

/// Distillation with learned parts, averages and accumulation: everything that a checkpoint has to hold.
fn distillation(parent: &Path, steps: u64) -> String {
    let student = tiny::model(parent, "student", &tiny::config(16, 8), 1);
    let teacher = tiny::model(parent, "teacher", &tiny::config(24, 16), 2);
    tiny::recipe(&student, steps)
        .replace(
            "losses.task = 1.0",
            "losses = { task = 1.0, crd = 1.0, fd = 100.0, icl = 1.0, affinity = 0.5 }",
        )
        .replace("threads = 1", "threads = 1, accumulate = 2, ema = 0.9")
        + &format!(
            "\ncheckpoint = {{ every_steps = 2, keep = 3 }}\nteacher.model = \"{}\"\n",
            teacher.display()
        )
}

#[test]
fn stopped_and_resumed_equals_unbroken() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 12;
    let recipe = distillation(folder.path(), steps);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let Outcome::Finished(expected) = train(&recipe, &whole, None) else { panic!("not finished") };

    let mut stops = 0;
    let found = loop {
        match train(&recipe, &broken, Some(2 + 4 * stops)) {
            Outcome::Finished(results) => break results,
            Outcome::Stopped { step } => {
                assert!(step < steps);
                stops += 1;
            }
        }
    };
    assert!(stops > 0, "it never stopped, so nothing was shown");
    assert_eq!(found.student, expected.student);
    assert_eq!(metrics(&broken), metrics(&whole));
    for ((name, expected), (_, found)) in
        last_checkpoint(&whole, steps).iter().zip(last_checkpoint(&broken, steps))
    {
        assert!(*expected == found, "{name} differs");
    }
    let model = |run: &Path| fs::read(run.join("model/open_clip_model.safetensors")).unwrap();
    assert!(model(&whole) == model(&broken));
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 30;
    let recipe = distillation(folder.path(), steps);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    train(&recipe, &whole, None);
    let Outcome::Stopped { step } = train(&recipe, &broken, Some(4)) else { panic!("it did not stop") };
    let newest = broken.join(format!("checkpoints/step-{step:08}/optimizer.safetensors"));
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    train(&recipe, &broken, None);
    assert_eq!(metrics(&broken), metrics(&whole));
    assert!(last_checkpoint(&whole, steps) == last_checkpoint(&broken, steps));
}

#[test]
fn another_recipe_or_other_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let recipe = tiny::recipe(&student, 3);
    let out = folder.path().join("run");
    train(&recipe, &out, None);
    let stop = AtomicBool::new(false);
    let attempt = |text: &str, resume: bool| {
        let job = parse(text, &[], "test").unwrap();
        let options = Options { stop: &stop, resume, progress: false, version: "test" };
        run(&job.runs[0], &out, None, &options)
    };
    let error = attempt(&recipe.replace("1e-2", "1e-3"), true).unwrap_err().to_string();
    assert!(error.contains("optimizer.lr"), "{error}");
    let error = attempt(&recipe, false).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    // A finished run is given as it is.
    assert!(matches!(attempt(&recipe, true), Ok(Outcome::Finished(_))));
    fs::remove_file(out.join("report.json")).unwrap();
    let state = out.join("checkpoints/step-00000003/state.json");
    let text = fs::read_to_string(&state).unwrap();
    let fingerprint = serde_json::from_str::<Value>(&text).unwrap()["data"][0].as_str().unwrap().to_string();
    fs::write(&state, text.replace(&fingerprint, "other")).unwrap();
    let error = attempt(&recipe, true).unwrap_err().to_string();
    assert!(error.contains("training data changed"), "{error}");
}

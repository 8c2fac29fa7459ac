//! Evaluations during and after training: parts of sets, main metrics, and damaged images.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use serde_json::Value;
use trainer::Result;
use trainer::recipe::parse;
use trainer::run::{Options, Outcome, Results, run};

use super::no_models;

fn train(recipe: &str, folder: &Path) -> Result<Results> {
    let job = parse(recipe, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    match run(&job.runs[0], folder, &no_models(), &options)? {
        Outcome::Finished(results) => Ok(results),
        Outcome::Stopped { step } => panic!("stopped after step {step}"),
    }
}

/// Writes class folders with this number of images each, and returns the set's settings.
fn classes(folder: &Path, counts: &[usize]) -> String {
    for (class, count) in counts.iter().enumerate() {
        let path = folder.join(format!("class {class}"));
        fs::create_dir_all(&path).unwrap();
        for number in 0..*count {
            let color = image::Rgb([40 * class as u8, 30 * number as u8, 90]);
            image::RgbImage::from_pixel(16, 16, color).save(path.join(format!("{number}.png"))).unwrap();
        }
    }
    format!("[[eval.sets]]\nname = 'toys'\nsource = 'folder'\nroot = '{}'\n", folder.display())
}

/// Writes a file that is not an image into the first class.
fn damage(folder: &Path, name: &str) {
    fs::write(folder.join("class 0").join(name), b"<html>").unwrap();
}

/// Sets a recipe's policy for damage.
fn strict(recipe: &str, policy: &str) -> String {
    recipe.replace("data = { workers", &format!("data = {{ damaged = {policy}, workers"))
}

/// The evaluations in a run's metrics, with their steps.
fn evaluations(run: &Path) -> Vec<(u64, Value)> {
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["eval"].is_object())
        .map(|line| (line["step"].as_u64().unwrap(), line["eval"].clone()))
        .collect()
}

#[test]
fn evaluations_during_training_use_a_part_and_the_last_one_the_whole_set() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let text = |limit: &str| {
        tiny::recipe(&student, 6)
            + &format!(
                "\n[eval]\nevery_steps = 2\n[[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\nsource = 'emoji'\nsplit = 'test'\n{limit}\n"
            )
    };
    let out = folder.path().join("out");
    let results = train(&text("limit = 5"), &out).unwrap();
    let lines = evaluations(&out);
    assert_eq!(lines.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6]);
    // Among five images, the right one is always among the best five.
    for (_, line) in &lines[..2] {
        assert_eq!(line["held out"]["image recall@5"], 1.0, "{line}");
    }
    assert!(lines[2].1["held out"]["image recall@5"].as_f64().unwrap() < 0.5, "{lines:?}");
    assert!(results.details[0].counts.images > 300);
    // The best model is chosen by scores on the same part, also after the last step.
    let best = results.best.unwrap();
    assert!(best.score >= 2.0 / 6.0, "{best:?}");
    assert!(results.student.sets[0].main() < 1.0 / 6.0);
    // A limit does not change the final evaluation, so the finished run is not evaluated again.
    assert_eq!(train(&text(""), &out).unwrap(), results);
    assert_eq!(evaluations(&out).len(), 3);
}

#[test]
fn evaluations_may_be_due_by_epochs_and_choose_the_best_by_the_sets_metric() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    // 24 of the emoji: three steps of 8 samples per epoch.
    let share = 24.0 / 2871.0;
    let toys = classes(&folder.path().join("toys"), &[5, 1, 1]);
    let text = tiny::recipe(&student, 9)
        .replace("source = \"emoji\"", &format!("source = \"emoji\", weight = {share}"))
        + "\n[eval]\nevery_epochs = 1.0\n"
        + &toys
        + "metric = 'mean per-class recall'\n";
    let out = folder.path().join("out");
    let results = train(&text, &out).unwrap();
    let epochs =
        trainer::run::metrics::read_steps(&out).unwrap().iter().map(|line| line.at.epoch).collect::<Vec<_>>();
    let due = (1..9).filter(|step| {
        epochs[*step as usize - 1].floor() > if *step > 1 { epochs[*step as usize - 2].floor() } else { 0.0 }
    });
    let steps = evaluations(&out).iter().map(|(step, _)| *step).collect::<Vec<_>>();
    assert_eq!(steps, due.chain([9]).collect::<Vec<u64>>(), "{epochs:?}");
    assert!(steps.len() >= 3, "{steps:?}");
    let recalls = evaluations(&out)
        .iter()
        .map(|(_, line)| line["toys"]["mean per-class recall"].as_f64().unwrap())
        .collect::<Vec<_>>();
    let top = recalls.iter().copied().fold(0.0, f64::max);
    assert!((results.best.unwrap().score - top).abs() < 1e-12, "{recalls:?}");
    assert_eq!(results.student.sets[0].main(), *recalls.last().unwrap());
}

#[test]
fn too_many_damaged_images_are_found_before_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let toys = folder.path().join("toys");
    let sets = classes(&toys, &[4, 4]);
    let text = |policy: &str| strict(&tiny::recipe(&student, 2), policy) + &sets;
    let error = |policy: &str, out: &Path| {
        let error = train(&text(policy), out).unwrap_err();
        assert!(
            !out.join("checkpoints").exists() && !out.join("metrics.jsonl").exists(),
            "the run has begun"
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {cause}")
    };
    damage(&toys, "page.png");
    damage(&toys, "other.jpg");
    let out = folder.path().join("strict");
    let refused = error("\"fail\"", &out);
    for part in ["`toys`", "page.png", "other.jpg", "2 of 10"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    (0..9).for_each(|number| damage(&toys, &format!("more{number}.png")));
    let refused = error("{ skip = { max_fraction = 0.01 } }", &out);
    assert!(refused.contains("11 of 19") && refused.contains("more8.png"), "{refused}");
    (2..9).for_each(|number| fs::remove_file(toys.join(format!("class 0/more{number}.png"))).unwrap());
    let results = train(&text("{ skip = { max_fraction = 0.01 } }"), &out).unwrap();
    let counts = &results.details[0].counts;
    assert_eq!((counts.images, counts.damaged), (8, 4));
    assert_eq!(counts.to_string(), "8 images, 2 classes, 1 prompt per class; left out 4 damaged images");
}

#[test]
fn damage_after_the_check_does_not_end_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let toys = folder.path().join("toys");
    let sets = classes(&toys, &[4, 4]);
    let text = strict(&tiny::recipe(&student, 2), "\"fail\"") + &sets;
    let out = folder.path().join("out");
    let whole = train(&text, &out).unwrap();
    assert_eq!(whole.details[0].counts.images, 8);
    // A finished run is evaluated again on changed sets. Damaged images do not lose its training.
    (0..3).for_each(|number| fs::write(toys.join(format!("class 1/{number}.png")), b"x").unwrap());
    let again = train(&text.replace("'toys'", "'torn toys'"), &out).unwrap();
    let counts = &again.details[0].counts;
    assert_eq!((counts.images, counts.damaged), (5, 3));
}

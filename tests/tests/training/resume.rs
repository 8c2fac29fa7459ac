//! A stopped and resumed run equals an unbroken one, bit for bit.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use serde_json::Value;
use trainer::recipe::parse;
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::{Options, Outcome, run};

use super::no_models;

/// Trains in `folder`, and stops after step `stop_after`, if given.
fn train(recipe: &str, folder: &Path, stop_after: Option<u64>) -> Outcome {
    let job = parse(recipe, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after, resume: true, progress: false, version: "test" };
    run(&job.runs[0], folder, &no_models(), &options).unwrap()
}

/// Everything of the metrics that does not depend on the clock.
fn metrics(folder: &Path) -> Vec<StepLine> {
    read_steps(folder).unwrap().into_iter().map(StepLine::without_times).collect()
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

/// Fails unless two finished runs are the same in everything but the clock.
fn assert_same_run(whole: &Path, broken: &Path, steps: u64) {
    assert_eq!(metrics(broken), metrics(whole));
    for ((name, expected), (_, found)) in
        last_checkpoint(whole, steps).iter().zip(last_checkpoint(broken, steps))
    {
        assert!(*expected == found, "{name} differs");
    }
    let model = |run: &Path| fs::read(run.join("model/open_clip_model.safetensors")).unwrap();
    assert!(model(whole) == model(broken));
}

#[test]
fn a_resumed_run_equals_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 12;
    // A small share of the emoji makes an epoch of 3 steps; evaluations on the way choose a best model.
    let recipe = distillation(folder.path(), steps).replace(
        "train = [{ source = \"emoji\" }]",
        "train = [{ source = \"emoji\", weight = 0.01 }, { source = \"emoji\", weight = 0.005 }]",
    ) + "
        [eval]
        every_steps = 5
        [[eval.sets]]
        name = 'held out'
        task = 'retrieval'
        source = 'emoji'
        split = 'test'
        ";
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let Outcome::Finished(expected) = train(&recipe, &whole, None) else { panic!("not finished") };
    let last = metrics(&whole).last().unwrap().at.epoch;
    assert!(last > 2.0, "only {last} epochs, so nothing is shown about their border");

    for stop in [1, 5, 7, 11] {
        assert_eq!(train(&recipe, &broken, Some(stop)), Outcome::Stopped { step: stop });
    }
    let Outcome::Finished(found) = train(&recipe, &broken, None) else { panic!("not finished") };
    assert_eq!(found.student, expected.student);
    assert_eq!(found.damaged, expected.damaged);
    assert_same_run(&whole, &broken, steps);
    let best = |run: &Path| fs::read(run.join("best/open_clip_model.safetensors")).unwrap();
    assert!(best(&whole) == best(&broken));
}

/// Writes a table of up to eight single-colour images, each with the name of its colour as caption.
fn pairs(folder: &Path, count: usize) -> String {
    let names = ["black", "red", "green", "yellow", "blue", "pink", "cyan", "white"];
    let mut table = String::from("filepath,title\n");
    fs::create_dir_all(folder).unwrap();
    for (number, name) in names.iter().enumerate().take(count) {
        let color = image::Rgb([0, 1, 2].map(|channel| (number >> channel & 1) as u8 * 255));
        image::RgbImage::from_pixel(16, 16, color).save(folder.join(format!("{name}.png"))).unwrap();
        table.push_str(&format!("{name}.png,{name}\n"));
    }
    let file = folder.join("pairs.csv");
    fs::write(&file, table).unwrap();
    format!("source = 'csv'\npath = '{}'\n", file.display())
}

fn best_of(run: &Path) -> (Value, Vec<Value>) {
    let report: Value = serde_json::from_str(&fs::read_to_string(run.join("report.json")).unwrap()).unwrap();
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    (report["best"].clone(), lines.filter(|line| line["eval"].is_object()).collect())
}

/// Mean of the six recalls in a line of metrics.
fn score(line: &Value) -> f64 {
    let recalls = line["eval"]["held out"].as_object().unwrap();
    recalls.values().map(|value| value.as_f64().unwrap()).sum::<f64>() / recalls.len() as f64
}

#[test]
fn the_last_evaluation_competes_for_the_best_model() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 16), 1);
    // A few pairs that the model memorises, evaluated only at the start and at the end.
    let [learned, measured] = ["learned", "measured"].map(|name| folder.path().join(name));
    let [train_on, measure_on] = [&learned, &measured].map(|folder| pairs(folder, 8));
    let text = |every: u64| {
        tiny::recipe(&student, 60)
            .replace("source = \"emoji\"", &train_on.trim().replace('\n', ", "))
            .replace("augment = { scale = [0.5, 1.0], flip = 0.5 }, ", "")
            .replace("threads = 1", "threads = 1, ema = 0.5")
            + "\ncheckpoint.keep = 1\n"
            + &format!(
                "[eval]\nevery_steps = {every}\n[[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\n"
            )
            + &measure_on
    };
    let (start, rest) = (text(2), text(1000));
    let [whole, broken] = ["whole", "broken"].map(|name| folder.path().join(name));
    train(&start, &whole, Some(3));
    train(&rest, &whole, None);
    let (best, lines) = best_of(&whole);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (first, last) = (score(&lines[0]), score(&lines[1]));
    assert!(last > first, "the last of {lines:?} has to be the best for this test");
    assert_eq!(best["step"], 60);
    assert!((best["score"].as_f64().unwrap() - last).abs() < 1e-12);
    let model =
        |run: &Path, name: &str| fs::read(run.join(name).join("open_clip_model.safetensors")).unwrap();
    assert!(model(&whole, "best") == model(&whole, "model"));
    let state = |run: &Path| {
        let text = fs::read_to_string(run.join("checkpoints/step-00000060/state.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["best"].clone()
    };
    assert_eq!(state(&whole)[0], 60);
    assert_eq!(fs::read_dir(whole.join("checkpoints")).unwrap().count(), 1);

    // Stops between the last checkpoint and the report, because the model cannot be written.
    train(&start, &broken, Some(3));
    fs::write(broken.join("model"), "").unwrap();
    let job = parse(&rest, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    run(&job.runs[0], &broken, &no_models(), &options).unwrap_err();
    assert_eq!(state(&broken)[0], 2);
    fs::remove_file(broken.join("model")).unwrap();
    train(&rest, &broken, None);
    assert_eq!(best_of(&broken), (best.clone(), lines.clone()));
    assert_eq!(state(&broken), state(&whole));
    assert!(model(&broken, "best") == model(&whole, "best"));
    // Stops before the best model is complete.
    fs::remove_file(broken.join("report.json")).unwrap();
    fs::remove_dir_all(broken.join("best")).unwrap();
    train(&rest, &broken, None);
    assert_eq!(best_of(&broken), (best, lines));
    assert!(model(&broken, "best") == model(&whole, "best"));
}

#[test]
fn an_earlier_model_stays_the_best_if_the_last_is_worse() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 16), 1);
    let text = tiny::recipe(&student, 12)
        + "
        [eval]
        every_steps = 1
        [[eval.sets]]
        name = 'held out'
        task = 'retrieval'
        source = 'emoji'
        split = 'test'
        ";
    let out = folder.path().join("out");
    train(&text, &out, None);
    let (best, lines) = best_of(&out);
    let scores = lines.iter().map(score).collect::<Vec<_>>();
    let top = scores.iter().copied().fold(0.0, f64::max);
    assert!((best["score"].as_f64().unwrap() - top).abs() < 1e-12, "{best} of {scores:?}");
    let first = scores.iter().position(|score| (score - top).abs() < 1e-12).unwrap();
    assert_eq!(best["step"], first + 1, "of equal scores the first stays: {scores:?}");
    assert!(first + 1 < 12, "the last of {scores:?} must not be the best for this test");
}

#[test]
fn a_best_model_of_other_sets_does_not_compete() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 16), 1);
    let text = |source: &str| {
        tiny::recipe(&student, 6)
            + &format!(
                "\n[eval]\nevery_steps = 2\n[[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\n{source}\n"
            )
    };
    let out = folder.path().join("out");
    // Very few pairs give high scores.
    train(&text(&pairs(folder.path(), 4)), &out, Some(3));
    train(&text("source = 'emoji'\nsplit = 'test'"), &out, None);
    let (best, lines) = best_of(&out);
    let top = score(&lines[1]).max(score(&lines[2]));
    assert!(score(&lines[0]) > top, "{lines:?}");
    assert!((best["score"].as_f64().unwrap() - top).abs() < 1e-12, "{best}: {lines:?}");
}

#[test]
fn results_without_a_best_model_parse() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let out = folder.path().join("run");
    let Outcome::Finished(results) = train(&tiny::recipe(&student, 2), &out, None) else {
        panic!("not finished")
    };
    assert_eq!(results.best, None);
    assert!(!fs::read_to_string(out.join("report.json")).unwrap().contains("best"));
    assert_eq!(train(&tiny::recipe(&student, 2), &out, None), Outcome::Finished(results));
}

#[test]
fn mixed_precision_resumes_and_reaches_the_teachers() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 4;
    let exact = distillation(folder.path(), steps);
    let mixed = exact.replace("threads = 1", "threads = 1, precision = \"bf16\"");
    let [whole, broken, float] = ["whole", "broken", "float"].map(|name| folder.path().join(name));
    train(&mixed, &whole, None);
    assert!(matches!(train(&mixed, &broken, Some(2)), Outcome::Stopped { step: 2 }));
    train(&mixed, &broken, None);
    assert_same_run(&whole, &broken, steps);
    train(&exact, &float, None);
    for term in ["task", "fd"] {
        let raw = |run: &Path| metrics(run)[0].term(term).unwrap().raw;
        let (mixed, exact) = (raw(&whole), raw(&float));
        assert!(mixed != exact && (mixed - exact).abs() < 0.02 * exact.abs(), "{term}: {mixed}, {exact}");
    }
}

#[test]
fn random_drops_and_running_statistics_resume_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny::config(32, 8);
    config.vision_cfg = serde_json::from_str(
        r#"{"timm_model_name": "mobilenetv3_small_100", "image_size": 32, "timm_drop_path": 0.3, "timm_drop": 0.2}"#,
    )
    .unwrap();
    let student = tiny::model(folder.path(), "student", &config, 1);
    let steps = 5;
    let recipe = tiny::recipe(&student, steps)
        .replace("threads = 1", "threads = 1, grad_checkpointing = true, ema = 0.9");
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    train(&recipe, &whole, None);
    assert_eq!(train(&recipe, &broken, Some(3)), Outcome::Stopped { step: 3 });
    train(&recipe, &broken, None);
    assert_eq!(metrics(&broken), metrics(&whole));
    let checkpoint = |run: &Path| fs::read(run.join("checkpoints/step-00000005/model.safetensors")).unwrap();
    assert!(checkpoint(&whole) == checkpoint(&broken));
}

#[test]
fn a_damaged_checkpoint_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let steps = 8;
    let recipe = distillation(folder.path(), steps);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    train(&recipe, &whole, None);
    assert_eq!(train(&recipe, &broken, Some(6)), Outcome::Stopped { step: 6 });
    let newest = broken.join("checkpoints/step-00000006/optimizer.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    // An edited state counts as damaged, too.
    let state = broken.join("checkpoints/step-00000004/state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("\"samples\": 64", "\"samples\": 63")).unwrap();
    assert_ne!(fs::read_to_string(&state).unwrap(), text);
    train(&recipe, &broken, None);
    assert_same_run(&whole, &broken, steps);
}

#[test]
fn without_an_intact_checkpoint_the_error_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = distillation(folder.path(), 4);
    let out = folder.path().join("run");
    assert_eq!(train(&recipe, &out, Some(2)), Outcome::Stopped { step: 2 });
    fs::remove_file(out.join("checkpoints/step-00000002/model.safetensors")).unwrap();
    let job = parse(&recipe, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let error = run(&job.runs[0], &out, &no_models(), &options).unwrap_err().to_string();
    assert!(error.contains("--restart") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn files_of_an_interrupted_save_are_removed_or_restored() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = distillation(folder.path(), 8);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    train(&recipe, &whole, None);
    train(&recipe, &broken, Some(4));
    let checkpoints = broken.join("checkpoints");
    // Stopped while the checkpoint of step 4 was being replaced, and one of step 6 written.
    fs::rename(checkpoints.join("step-00000004"), checkpoints.join(".step-00000004.old.partial")).unwrap();
    fs::create_dir(checkpoints.join(".step-00000006.partial")).unwrap();
    assert_eq!(train(&recipe, &broken, Some(5)), Outcome::Stopped { step: 5 });
    let names = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().ends_with(".partial")));
    train(&recipe, &broken, None);
    assert_same_run(&whole, &broken, 8);
}

#[test]
fn old_checkpoints_are_removed_except_for_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let recipe =
        tiny::recipe(&student, 9) + "checkpoint = { every_steps = 2, every_minutes = 0.0, keep = 2 }";
    let out = folder.path().join("run");
    train(&recipe, &out, None);
    let names = || {
        let entries = fs::read_dir(out.join("checkpoints")).unwrap();
        let mut names = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
        names.sort();
        names
    };
    assert_eq!(names(), ["step-00000008", "step-00000009"]);
    trainer::run::checkpoint::retain(&out.join("checkpoints"), 1, Some(8)).unwrap();
    assert_eq!(names(), ["step-00000008", "step-00000009"]);
    trainer::run::checkpoint::retain(&out.join("checkpoints"), 1, None).unwrap();
    assert_eq!(names(), ["step-00000009"]);
    // So short an interval that every step is due.
    let often =
        recipe.replace("every_steps = 2, every_minutes = 0.0, keep = 2", "every_minutes = 1e-9, keep = 99");
    let out_often = folder.path().join("often");
    train(&often, &out_often, None);
    assert_eq!(fs::read_dir(out_often.join("checkpoints")).unwrap().count(), 9);
}

#[test]
fn a_finished_run_is_evaluated_on_new_sets_and_restores_a_lost_model() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let recipe = tiny::recipe(&student, 3);
    let out = folder.path().join("run");
    let Outcome::Finished(plain) = train(&recipe, &out, None) else { panic!("not finished") };
    assert!(plain.student.sets.is_empty());
    let more = format!(
        "{recipe}\n[[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\nsource = 'emoji'\nsplit = 'test'\n"
    );
    let Outcome::Finished(measured) = train(&more, &out, None) else { panic!("not finished") };
    assert_eq!(measured.student.sets.len(), 1);
    assert_eq!(measured.seconds, plain.seconds);
    assert_eq!(train(&more, &out, None), Outcome::Finished(measured.clone()));

    let model = out.join("model/open_clip_model.safetensors");
    let config = out.join("model/open_clip_config.json");
    let bytes = [&model, &config].map(|file| fs::read(file).unwrap());
    let damages: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(out.join("model")).unwrap(),
        &|| fs::write(&model, &bytes[0][..100]).unwrap(),
        &|| fs::write(&model, &bytes[0][..bytes[0].len() - 1]).unwrap(),
        &|| fs::write(&config, &bytes[1][..10]).unwrap(),
    ];
    for damage in damages {
        damage();
        let Outcome::Finished(again) = train(&more, &out, None) else { panic!("not finished") };
        assert_eq!(again.student, measured.student);
        assert!([&model, &config].map(|file| fs::read(file).unwrap()) == bytes);
    }
    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.matches("\"eval\"").count(), 1, "{lines}");
}

#[test]
fn a_run_replaces_its_damaged_run_file() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let (recipe, out) = (tiny::recipe(&student, 3), folder.path().join("run"));
    train(&recipe, &out, Some(1));
    let file = out.join("run.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(matches!(train(&recipe, &out, None), Outcome::Finished(_)));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_second_process_cannot_train_in_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let out = folder.path().join("run");
    fs::create_dir(&out).unwrap();
    let held = fs::File::create(out.join(".lock")).unwrap();
    held.lock().unwrap();
    let job = parse(&tiny::recipe(&student, 3), &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let attempt = || run(&job.runs[0], &out, &no_models(), &options);
    assert!(attempt().unwrap_err().to_string().contains("another process"));
    drop(held);
    assert!(matches!(attempt(), Ok(Outcome::Finished(_))));
}

#[test]
fn a_failed_start_releases_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let recipe = tiny::recipe(&student, 3);
    let out = folder.path().join("run");
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: false, progress: false, version: "test" };
    let attempt = |text: &str| run(&parse(text, &[], "test").unwrap().runs[0], &out, &no_models(), &options);
    let wrong = recipe.replace("threads = 1", "threads = 1, device = 'cuda:77'");
    assert!(attempt(&wrong).unwrap_err().to_string().contains("cuda:77"));
    assert!(matches!(attempt(&recipe), Ok(Outcome::Finished(_))));
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
        let options = Options { stop: &stop, stop_after: None, resume, progress: false, version: "test" };
        run(&job.runs[0], &out, &no_models(), &options)
    };
    let error = attempt(&recipe.replace("1e-2", "1e-3"), true).unwrap_err().to_string();
    assert!(error.contains("optimizer.lr"), "{error}");
    let several =
        recipe.replace("1e-2", "1e-3").replace("seed = 5", "seed = 6").replace("weight_decay = 0.1, ", "");
    let error = attempt(&several, true).unwrap_err().to_string();
    for part in ["optimizer.lr: 0.001, was 0.01", "seed: 6, was 5", "optimizer.weight_decay: 0.2, was 0.1"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let other = recipe.replace("{ source = \"emoji\" }", "{ source = \"emoji\", share = 0.5 }");
    let error = attempt(&other, true).unwrap_err().to_string();
    assert!(error.contains("data.train[0].share: 0.5, was not set"), "{error}");
    let error = attempt(&recipe, false).unwrap_err().to_string();
    assert!(error.contains("resume"), "{error}");
    // A finished run is returned unchanged.
    assert!(matches!(attempt(&recipe, true), Ok(Outcome::Finished(_))));
    // Other data: a smaller part of the same source.
    fs::remove_file(out.join("report.json")).unwrap();
    let table = folder.path().join("pairs.csv");
    let picture = clip_distill_tests::golden::own_folder().join("preprocess/images/up-100x100.png");
    fs::copy(picture, folder.path().join("a.png")).unwrap();
    let rows = |count: usize| "a.png,a picture\n".repeat(count);
    fs::write(&table, format!("filepath,title\n{}", rows(16))).unwrap();
    let own = recipe.replace(
        "{ source = \"emoji\" }",
        &format!("{{ source = \"csv\", path = \"{}\" }}", table.display()),
    );
    let out = folder.path().join("table");
    train(&own, &out, Some(2));
    fs::write(&table, format!("filepath,title\n{}", rows(17))).unwrap();
    let job = parse(&own, &[], "test").unwrap();
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let error = run(&job.runs[0], &out, &no_models(), &options).unwrap_err().to_string();
    assert!(error.contains("training data changed"), "{error}");
}

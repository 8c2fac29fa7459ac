//! Every loss and every method in a whole run.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::weights::read_safetensors;
use kd_losses::Loss;
use tch::Kind;
use trainer::methods::METHODS;
use trainer::recipe::{load, parse};
use trainer::run::plan::Plan;
use trainer::run::{Options, run};

use super::no_models;

const STEPS: u64 = 3;

/// Trains a student from a teacher by `losses`; returns the folder of the run.
fn train(folder: &Path, name: &str, losses: &str, more: &str) -> PathBuf {
    let (student, teacher) = (folder.join("student"), folder.join("teacher"));
    let guided = losses.split(',').any(|part| !part.trim().starts_with("task") && !part.contains("siglip"));
    let text = tiny::recipe(&student, STEPS)
        .replace("losses.task = 1.0", &format!("losses = {{ {losses} }}"))
        + &if guided { format!("\nteacher.model = '{}'\n", teacher.display()) } else { String::new() }
        + more;
    let out = folder.join(name);
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    run(&parse(&text, &[], name).unwrap().runs[0], &out, &no_models(), &options).unwrap();
    out
}

fn models(folder: &Path) {
    tiny::model(folder, "student", &tiny::config(16, 8), 1);
    tiny::model(folder, "teacher", &tiny::config(16, 16), 2);
}

/// What a loss needs besides its weight.
fn entry(loss: Loss) -> String {
    match loss {
        Loss::Hinton => "hinton = { weight = 1.0, temperature = 2.0, prompts = ['{}', 'an emoji of {}'], classes = ['cat', 'dog', 'red flag'], classes_per_step = 2 }".into(),
        Loss::Vocabulary => "vocabulary = { weight = 1.0, classes = ['cat', 'dog', 'red flag'], classes_per_step = 2 }".into(),
        loss if loss.reads_anchors() => format!("{} = {{ weight = 1.0, count = 20 }}", loss.name()),
        // Weights are such that each term counts beside the task; these two are tiny by themselves.
        Loss::Gd => "gd = 1e6".into(),
        Loss::Fd | Loss::Mfd => format!("{} = 100.0", loss.name()),
        _ => format!("{} = 1.0", loss.name()),
    }
}

#[test]
fn every_loss_changes_what_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let weights = |run: &Path| read_safetensors(run.join("model/open_clip_model.safetensors")).unwrap();
    let plain = weights(&train(folder.path(), "plain", "task = 1.0", ""));
    for loss in Loss::all().filter(|loss| *loss != Loss::Task) {
        let name = loss.name();
        let run = train(folder.path(), name, &format!("task = 1.0, {}", entry(loss)), "");
        for line in trainer::run::metrics::read_steps(&run).unwrap() {
            let raw = line.term(name).unwrap().raw;
            assert!(raw.is_finite() && raw != 0.0, "{name}: {line:?}");
        }
        let (own, mut moved) = (weights(&run), 0.0f64);
        assert_eq!(own.len(), plain.len(), "{name}: learned parts are not the student's");
        for (key, value) in &own {
            let change = (value - &plain[key]).abs().max().to_kind(Kind::Double).double_value(&[]);
            moved = moved.max(change);
        }
        assert!(moved > 1e-4, "{name}: the student is the one without it ({moved})");
    }
}

#[test]
fn scheduled_terms_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let losses = "task = 1.0, fd = { weight = 4.0, schedule = 'linear', end = 2.0, until = 2 }, crd = { weight = 1.0, from = 2 }";
    let run = train(folder.path(), "scheduled", losses, "");
    let lines = trainer::run::metrics::read_steps(&run).unwrap();
    let weight = |line: usize, name: &str| {
        let term = lines[line].term(name)?;
        Some((term.weighted / term.raw).round())
    };
    assert_eq!([0, 1, 2].map(|line| weight(line, "fd")), [Some(4.0), Some(3.0), Some(2.0)]);
    assert_eq!([0, 1, 2].map(|line| weight(line, "crd")), [None, None, Some(1.0)]);
}

#[test]
fn several_teachers_teach_at_once() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    // Another width and another image size.
    let other = tiny::model(folder.path(), "other", &tiny::config(24, 8), 3);
    let text = tiny::recipe(&folder.path().join("student"), STEPS)
        + &format!(
            "\nlosses.affinity = 1.0\nlosses.fd = 10.0\nteacher = [{{ model = '{}' }}, {{ model = '{}', logit_scale = 50.0 }}]\n",
            folder.path().join("teacher").display(),
            other.display()
        );
    let job = parse(&text, &[], "test").unwrap();
    let again: trainer::Recipe = toml::from_str(&job.runs[0].to_toml().unwrap()).unwrap();
    assert_eq!(again, job.runs[0]);
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let out = folder.path().join("out");
    run(&job.runs[0], &out, &no_models(), &options).unwrap();
    let learned = read_safetensors(out.join("checkpoints/step-00000003/learned.safetensors")).unwrap();
    // Each of the two, and the factor, counts.
    let loss = |teachers: &str, name: &str| {
        let text = text.replace(&text[text.find("teacher = [").unwrap()..], teachers);
        let out = folder.path().join(name);
        run(&parse(&text, &[], "test").unwrap().runs[0], &out, &no_models(), &options).unwrap();
        trainer::run::metrics::read_steps(&out).unwrap()[0].loss
    };
    let both = trainer::run::metrics::read_steps(&out).unwrap()[0].loss;
    let (one, two) = (folder.path().join("teacher"), other);
    let alone = loss(&format!("teacher.model = '{}'\n", one.display()), "alone");
    let own = loss(
        &format!("teacher = [{{ model = '{}' }}, {{ model = '{}' }}]\n", one.display(), two.display()),
        "own factor",
    );
    assert!((both - alone).abs() > 1e-3 && (both - own).abs() > 1e-3, "{both}, {alone}, {own}");
    // Only the wider one needs projections.
    assert!(learned.keys().all(|name| !name.starts_with("1.")) && learned.contains_key("visual_proj.weight"));
}

#[test]
fn every_method_has_its_recipe_and_is_planned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_to_string(root.join("docs/methods.md")).unwrap();
    for method in METHODS {
        let job = load(&root.join(method.recipe), &[]).unwrap();
        assert_eq!(job.name, method.name);
        for recipe in &job.runs {
            assert!(Plan::new(recipe, &job).unwrap().steps > 0, "{}", method.name);
        }
        assert!(docs.contains(method.recipe), "docs/methods.md has no word on {}", method.recipe);
    }
    for loss in Loss::all() {
        assert!(
            docs.contains(&format!("`{}`", loss.name())),
            "docs/methods.md has no word on {}",
            loss.name()
        );
    }
}

//! Every loss and every method in a whole run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::weights::read_safetensors;
use kd_losses::{Loss, LossSettings};
use trainer::methods::METHODS;
use trainer::recipe::{Classes, LossConfig, load, parse};
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::plan::Plan;
use trainer::run::{Options, run};

use super::no_models;

/// Steps of a test on how weights and teachers combine.
const STEPS: u64 = 3;
/// Steps in which a tiny student learns 8 pairs.
const LEARNING: u64 = 40;

fn options(stop: &AtomicBool) -> Options<'_> {
    Options { stop, stop_after: None, resume: true, progress: false, version: "test" }
}

/// Trains a student from a teacher by `losses`; returns the folder of the run.
fn train(folder: &Path, name: &str, losses: &str) -> PathBuf {
    let text = tiny::recipe(&folder.join("student"), STEPS)
        .replace("losses.task = 1.0", &format!("losses = {{ {losses} }}"))
        + &format!("\nteacher.model = '{}'\n", folder.join("teacher").display());
    let out = folder.join(name);
    let stop = AtomicBool::new(false);
    run(&parse(&text, &[], name).unwrap().runs[0], &out, &no_models(), &options(&stop)).unwrap();
    out
}

fn models(folder: &Path) {
    tiny::model(folder, "student", &tiny::config(16, 8), 1);
    tiny::model(folder, "teacher", &tiny::config(16, 16), 2);
}

/// Trains a student of 16 channels on 8 pairs, with a teacher of 24 if a loss needs one; returns the run's folder.
fn learn(folder: &Path, name: &str, losses: &BTreeMap<Loss, LossConfig>) -> PathBuf {
    let student = tiny::model(folder, "student", &tiny::config(16, 16), 1);
    let teacher = tiny::model(folder, "teacher", &tiny::config(16, 24), 2);
    let mut text = tiny::recipe_of_pairs(&student, &tiny::pairs(folder), LEARNING);
    if losses.iter().any(|(loss, config)| loss.needs_teacher() && config.weight.is_on()) {
        text += &format!("\nlosses.crd = 1.0\nteacher.model = '{}'\n", teacher.display());
    }
    let mut recipe = parse(&text, &[], name).unwrap().runs.remove(0);
    recipe.losses = losses.clone();
    for config in recipe.losses.values_mut() {
        if let LossSettings::Anchors(settings) = &mut config.settings {
            // The bank holds all pairs of the training data.
            settings.count = Some(8);
        }
    }
    let (out, stop) = (folder.join(name), AtomicBool::new(false));
    run(&recipe, &out, &no_models(), &options(&stop)).unwrap();
    out
}

/// A loss with weight 1 and the other settings it needs.
fn entry(loss: Loss) -> LossConfig {
    // AdamW divides the weight out again, except for its epsilon: a gradient has to be well above 1e-8.
    let weight = if loss == Loss::Gd { 1e6 } else { 1.0 };
    let classes = ["cat", "dog", "red flag"].map(String::from).to_vec();
    LossConfig {
        classes: loss.reads_classes().then_some(Classes::Listed(classes)),
        ..LossConfig::new(loss, weight)
    }
}

/// The value that a loss has to reach alone, within [`LEARNING`] steps on 8 pairs.
///
/// Unless a comment states otherwise, it is at most a third of the initial value, and a perfect student
/// has 0. With the opposite sign, every loss ends above its start.
fn to_reach(loss: Loss) -> f64 {
    match loss {
        Loss::Task => 0.5,
        Loss::Siglip => 1.0,
        Loss::Hinton => 0.02,
        Loss::Crd => 0.1,
        Loss::Fd => 0.02,
        Loss::Mfd => 0.02,
        Loss::Gd => 0.2,
        // The next two start at ln 8, with cosines to another model times a factor that starts at 2.66.
        Loss::Icl => 1.85,
        Loss::Afd => 1.4,
        Loss::CrossKd => 0.09,
        // The entropy of the teacher's rows, 1.58, is the least.
        Loss::Affinity => 1.65,
        Loss::Cosine => 0.2,
        Loss::PatchTokens => 0.02,
        Loss::Hidden => 0.04,
        Loss::RkdDistance => 0.02,
        Loss::RkdAngle => 0.02,
        // Four cross-entropies of cosines times 2.66, from twice ln 8.
        Loss::ClipRdVrd => 3.6,
        Loss::ClipRdXrd => 0.01,
        Loss::Gram => 0.2,
        Loss::GramImageImage => 0.005,
        Loss::GramTextText => 0.2,
        Loss::GramImageText => 0.1,
        Loss::Anchors => 0.2,
        Loss::AnchorsWithin => 0.2,
        Loss::AnchorsAcross => 0.02,
        Loss::Vocabulary => 0.05,
        _ => panic!("`{loss}` has no value to reach"),
    }
}

#[test]
fn every_loss_reaches_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for loss in Loss::all() {
        let name = loss.name();
        let losses = BTreeMap::from([(loss, entry(loss))]);
        let out = learn(folder.path(), name, &losses);
        // The learned parts of a loss are dropped from the model.
        let names =
            |model: &Path| read_safetensors(model.join("open_clip_model.safetensors")).unwrap().into_keys();
        let [saved, student] = [out.join("model"), folder.path().join("student")]
            .map(|model| names(&model).collect::<BTreeSet<_>>());
        assert_eq!(saved, student, "{name}");
        let raw = tiny::term(&out, name);
        let (first, last) = (raw[0], raw[raw.len() - 1]);
        println!("{name}: {first:.3e} to {last:.3e}");
        let reach = to_reach(loss);
        if last > reach || first <= reach {
            failures.push(format!("{name}: {first:.3e} to {last:.3e}, has to reach {reach} from above"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The sum of weighted terms that a method has to reach within [`LEARNING`] steps on 8 pairs.
///
/// The weights are those of the method's recipe. A number is at most a third of the sum at the start. Exceptions are
/// affinity mimicking, whose least value is the entropy of the teacher's rows (1.58), and `reinforced`, which weighs the
/// captions against a teacher that does not tell all of them apart.
const METHODS_REACH: [(&str, f64); 15] = [
    ("clip-rd", 50.0),
    ("clip", 0.5),
    ("siglip", 1.0),
    ("hinton", 1.0),
    ("clip-kd", 50.0),
    ("clip-kd-all", 1e7),
    ("tinyclip", 1.65),
    ("tinyclip-manual", 1.65),
    ("tinyclip-stages", 1.65),
    ("tinyclip-auto", 1.65),
    ("dclip", 1.0),
    ("rkd", 3.0),
    ("reinforced", 0.7),
    ("vocabulary", 50.0),
    ("structure", 50.0),
];

/// Describes what is wrong with a step's loss as the sum of the recipe's terms.
fn wrong_sum(line: &StepLine, losses: &BTreeMap<Loss, LossConfig>) -> Option<String> {
    let mut sum = 0.0;
    let on = losses.iter().filter(|(_, config)| config.weight.is_on()).collect::<Vec<_>>();
    for (loss, config) in &on {
        let Some(term) = line.term(loss.name()) else { return Some(format!("`{loss}` is missing")) };
        if term.raw < -1e-6 {
            return Some(format!("`{loss}` is negative: {}", term.raw));
        }
        sum += config.weight.start * term.raw;
    }
    let differs = (line.loss - sum).abs() > 1e-4 * sum || line.terms.len() != on.len();
    differs.then(|| format!("the loss is {}, and its terms add up to {sum}: {line:?}", line.loss))
}

#[test]
fn every_method_reaches_its_sum_of_terms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    assert_eq!(
        METHODS_REACH.map(|(name, _)| name).as_slice(),
        METHODS.iter().map(|m| m.name).collect::<Vec<_>>()
    );
    for (method, (name, reach)) in METHODS.iter().zip(METHODS_REACH) {
        let losses = load(&root.join(method.recipe), &[]).unwrap().runs.pop().unwrap().losses;
        let out = learn(folder.path(), name, &losses);
        let lines = read_steps(&out).unwrap();
        // Every term is in the sum, with the weight and the sign of the recipe.
        failures.extend(
            lines.iter().find_map(|line| wrong_sum(line, &losses)).map(|why| format!("{name}: {why}")),
        );
        let [first, last] = [0, lines.len() - 1].map(|k| lines[k].loss);
        println!("{name}: {first:.3e} to {last:.3e}");
        if last > reach || first <= reach {
            failures.push(format!("{name}: {first:.3e} to {last:.3e}, has to reach {reach} from above"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn scheduled_terms_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    models(folder.path());
    let losses = "task = 1.0, fd = { weight = 4.0, schedule = 'linear', end = 2.0, until = 2 }, crd = { weight = 1.0, from = 2 }";
    let run = train(folder.path(), "scheduled", losses);
    let lines = read_steps(&run).unwrap();
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
    let out = folder.path().join("out");
    run(&job.runs[0], &out, &no_models(), &options(&stop)).unwrap();
    let learned = read_safetensors(out.join("checkpoints/step-00000003/learned.safetensors")).unwrap();
    // Each of the two, and the factor, counts.
    let loss = |teachers: &str, name: &str| {
        let text = text.replace(&text[text.find("teacher = [").unwrap()..], teachers);
        let out = folder.path().join(name);
        run(&parse(&text, &[], "test").unwrap().runs[0], &out, &no_models(), &options(&stop)).unwrap();
        read_steps(&out).unwrap()[0].loss
    };
    let both = read_steps(&out).unwrap()[0].loss;
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

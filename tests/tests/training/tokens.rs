//! Distillation of patch tokens and hidden layers: what it compares, over widths, grids and depths, and what it refuses.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::ClipConfig;
use clip_model::weights::read_safetensors;
use trainer::Result;
use trainer::recipe::parse;
use trainer::run::{Options, Outcome, run};

use super::no_models;

const BOTH: &str = "losses = { task = 0.1, patch-tokens = 10.0, hidden = { weight = 10.0, layers = 2 } }";

/// A dual encoder with this side of images (patches of 8), width and numbers of blocks.
fn config(size: i64, width: i64, [image, text]: [i64; 2], more: &str) -> ClipConfig {
    let json = format!(
        r#"{{"embed_dim": 8, "vision_cfg": {{"image_size": {size}, "layers": {image}, "width": {width}, "patch_size": 8, "head_width": 8{more}}},
            "text_cfg": {{"context_length": 12, "vocab_size": 49408, "width": {width}, "heads": 1, "layers": {text}}}}}"#
    );
    ClipConfig::from_json("tiny", &json).unwrap()
}

fn text(student: &Path, teacher: &Path, steps: u64, losses: &str) -> String {
    tiny::recipe(student, steps).replace("losses.task = 1.0", losses)
        + &format!("\nteacher.model = '{}'\n", teacher.display())
}

fn train(text: &str, out: &Path, stop_after: Option<u64>) -> Result<Outcome> {
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after, resume: true, progress: false, version: "test" };
    run(&parse(text, &[], "test")?.runs[0], out, &no_models(), &options)
}

#[test]
fn a_copy_of_the_teacher_has_nothing_to_learn() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, seed| tiny::model(folder.path(), name, &config(16, 8, [3, 2], ""), seed);
    let (teacher, copy, other) = (model("teacher", 1), model("copy", 1), model("other", 2));
    let first = |student: &PathBuf, out: &str| {
        let out = folder.path().join(out);
        train(&text(student, &teacher, 1, BOTH), &out, None).unwrap();
        // Widths are equal, so nothing is projected; without learned parts, the file is absent.
        assert!(!out.join("checkpoints/step-00000001/learned.safetensors").exists());
        ["patch-tokens", "hidden"].map(|name| tiny::term(&out, name)[0])
    };
    assert!(first(&copy, "from the copy").iter().all(|value| value.abs() < 1e-9));
    assert!(first(&other, "from another").iter().all(|value| *value > 1e-2));
}

#[test]
fn a_smaller_student_learns_from_a_finer_grid_and_a_deeper_tower() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(16, 8, [2, 2], ""), 1);
    let teacher = tiny::model(folder.path(), "teacher", &config(24, 16, [5, 3], ""), 2);
    let recipe = tiny::recipe_of_pairs(&student, &tiny::pairs(folder.path()), 40)
        .replace("losses.task = 1.0", BOTH)
        + &format!("\nteacher.model = '{}'\n", teacher.display());
    let again: trainer::Recipe =
        toml::from_str(&parse(&recipe, &[], "test").unwrap().runs[0].to_toml().unwrap()).unwrap();
    assert_eq!(again, parse(&recipe, &[], "test").unwrap().runs[0]);
    let whole = folder.path().join("whole");
    train(&recipe, &whole, None).unwrap();
    // Half of the distance of unrelated unit tokens, which is 2 / 16 in 16 channels; `hidden` adds two towers.
    assert_eq!(tiny::losses(&whole).len(), 40);
    for (name, to_reach) in [("patch-tokens", 0.0625), ("hidden", 0.125)] {
        let values = tiny::term(&whole, name);
        println!("{name}: {values:.3?}");
        assert!(values[39] < to_reach, "{name}: {values:?}");
    }
    let learned = read_safetensors(whole.join("checkpoints/step-00000040/learned.safetensors")).unwrap();
    let mut names = learned.keys().filter(|name| name.ends_with("weight")).collect::<Vec<_>>();
    names.sort();
    let expected =
        ["image_block_proj.0", "image_block_proj.1", "patch_proj", "text_block_proj.0", "text_block_proj.1"];
    assert_eq!(names, expected.map(|name| format!("{name}.weight")).iter().collect::<Vec<_>>());
    assert_eq!(learned["patch_proj.weight"].size(), [16, 8]);

    // A run that stopped and resumed equals the unbroken one; so does one that recomputes its activations.
    let broken = folder.path().join("broken");
    for stop in [3, 17] {
        assert_eq!(train(&recipe, &broken, Some(stop)).unwrap(), Outcome::Stopped { step: stop });
    }
    train(&recipe, &broken, None).unwrap();
    for file in ["model/open_clip_model.safetensors", "checkpoints/step-00000040/learned.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&whole) == read(&broken), "{file} differs");
    }
    let checkpointed = folder.path().join("checkpointed");
    train(&recipe.replace("threads = 1", "threads = 1, grad_checkpointing = true"), &checkpointed, None)
        .unwrap();
    for (plain, again) in tiny::term(&whole, "hidden").iter().zip(tiny::term(&checkpointed, "hidden")) {
        assert!((plain - again).abs() < 1e-3 * plain, "{plain} and {again}");
    }
}

#[test]
fn models_without_tokens_to_compare_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, config: &ClipConfig| tiny::model(folder.path(), name, config, 1);
    let vit = model("vit", &config(16, 8, [2, 2], ""));
    let mut other = config(16, 8, [2, 2], "");
    other.vision_cfg = serde_json::from_str(r#"{"timm_model_name": "resnet18", "image_size": 32}"#).unwrap();
    let resnet = model("resnet", &other);
    let mut longer = config(16, 8, [2, 2], "");
    longer.text_cfg.context_length = 13;
    let longer = model("longer", &longer);
    let dropping = model("dropping", &config(16, 8, [2, 2], ", \"patch_dropout\": 0.5"));
    let error = |text: &str| train(text, &folder.path().join("out"), None).unwrap_err().to_string();
    let patches = "losses.patch-tokens = 1.0";
    for (student, teacher, losses, part) in [
        (&resnet, &vit, patches, "the student's image tower"),
        (&vit, &resnet, "losses.hidden = 1.0", "the teacher's image tower"),
        (&dropping, &vit, patches, "patch_dropout"),
        (&vit, &longer, "losses.hidden = 1.0", "context length"),
        (&vit, &vit, "losses.hidden = { weight = 1.0, layers = 3 }", "only 2"),
    ] {
        let found = error(&text(student, teacher, 2, losses));
        assert!(found.contains(part), "{losses}: {found}");
    }
    // Patches do not mind what the texts are.
    train(&text(&vit, &longer, 2, patches), &folder.path().join("longer texts"), None).unwrap();
    for losses in [patches, "losses.hidden = 1.0"] {
        let found = error(&(text(&vit, &vit, 2, losses) + "teacher.store = 'store'\n"));
        assert!(found.contains("store contains only embeddings"), "{found}");
    }
}

#[test]
fn several_teachers_and_a_cross_modal_one_supply_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(16, 8, [3, 3], ""), 1);
    let one = tiny::model(folder.path(), "one", &config(16, 8, [3, 3], ""), 1);
    let two = tiny::model(folder.path(), "two", &config(24, 16, [2, 4], ""), 2);
    let opened = clip_model::folder::open(&one, tch::Device::Cpu, 0).unwrap();
    clip_model::CrossModal::new(&Default::default(), &opened.model, 3).unwrap().save(&one).unwrap();
    let first = |teachers: &[&PathBuf], out: &str| {
        let list = teachers.iter().map(|path| format!("{{ model = '{}' }}", path.display()));
        let recipe = tiny::recipe(&student, 1).replace("losses.task = 1.0", BOTH)
            + &format!("\nteacher = [{}]\n", list.collect::<Vec<_>>().join(", "));
        let out = folder.path().join(out);
        train(&recipe, &out, None).unwrap();
        ["patch-tokens", "hidden"].map(|name| tiny::term(&out, name)[0])
    };
    // The head of the first changes none of its tokens, and those are the student's own.
    assert!(first(&[&one], "one").iter().all(|value| value.abs() < 1e-9));
    let [both, other] = [first(&[&one, &two], "both"), first(&[&two, &two], "twice")];
    assert!(both.iter().chain(&other).all(|value| *value > 1e-3), "{both:?} {other:?}");
}

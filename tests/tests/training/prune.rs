//! Runs that learn which parts of the student stay, and cut the others out on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use clip_model::ClipConfig;
use clip_model::folder::FolderConfig;
use clip_model::weights::read_safetensors;
use trainer::recipe::parse;
use trainer::run::job::{JobOutcome, run_job};
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::{Options, Outcome, run};

use super::no_models;

/// Two layers of two heads of 8 channels in both towers.
fn config() -> ClipConfig {
    let mut config = tiny::config(16, 16);
    config.vision_cfg.layers = clip_model::config::Layers::Depth(2);
    (config.text_cfg.layers, config.text_cfg.heads) = (2, 2);
    config
}

fn recipe(student: &Path, steps: u64, prune: &str) -> String {
    // Scores move by about lr in a step, and have some 12 to go.
    tiny::recipe(student, steps).replace("lr = 1e-2", "lr = 3e-3")
        + &format!("\nprune = {{ sparsity = 0.5, lr = 0.15, multiplier_lr = 0.15, {prune} }}\n")
}

fn train(recipe: &str, folder: &Path, stop_after: Option<u64>) -> Outcome {
    let job = parse(recipe, &[], "test").unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after, resume: true, progress: false, version: "test" };
    run(&job.runs[0], folder, &no_models(), &options).unwrap()
}

fn lines(folder: &Path) -> Vec<StepLine> {
    read_steps(folder).unwrap().into_iter().map(StepLine::without_times).collect()
}

fn in_blocks(file: PathBuf) -> usize {
    let tensors = read_safetensors(&file).unwrap();
    tensors.iter().filter(|(name, _)| name.contains("resblocks")).map(|(_, t)| t.numel()).sum()
}

#[test]
fn a_run_reaches_its_sparsity_and_saves_a_smaller_model() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(), 1);
    let out = folder.path().join("run");
    // Few samples, so that so small a student learns something of them.
    let few = recipe(&student, 130, "warmup_steps = 60, at_step = 120")
        .replace("{ source = \"emoji\" }", "{ source = \"emoji\", share = 0.006 }")
        .replace("augment = { scale = [0.5, 1.0], flip = 0.5 }, ", "");
    let Outcome::Finished(results) = train(&few, &out, None) else { panic!("not finished") };
    let lines = lines(&out);
    let sparsity = |line: usize| lines[line].sparsity;
    assert!(sparsity(0).unwrap() < 1e-3);
    assert!(lines[20].term("prune").unwrap().raw > 0.0);
    assert!(lines[120].term("prune").is_none());

    let file = "open_clip_model.safetensors";
    let (whole, left) = (in_blocks(student.join(file)), in_blocks(out.join("model").join(file)));
    let share = left as f64 / whole as f64;
    println!("share {share}, sparsity {:?}", [0, 30, 60, 90, 119].map(sparsity));
    // The sparsity follows its target, and the cut leaves half of the blocks, as far as whole heads allow.
    assert!((sparsity(119).unwrap() - 0.5).abs() < 0.1, "{:?}", sparsity(119));
    assert!((0.3..0.65).contains(&share), "{left} of {whole}");
    let size = |folder: &Path| fs::metadata(folder.join(file)).unwrap().len();
    assert!(size(&out.join("model")) < size(&student));
    let cut = FolderConfig::load(out.join("model")).unwrap().model_cfg;
    assert!(cut.vision_cfg.blocks.is_some() && cut.text_cfg.blocks.is_some());
    let cost = clip_model::cost::cost(&cut).unwrap();
    assert_eq!(results.parameters, (cost.image.parameters, cost.text.parameters));
}

#[test]
fn a_run_resumed_before_at_or_after_the_cut_equals_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(), 1);
    let teacher = tiny::model(folder.path(), "teacher", &tiny::config(24, 24), 2);
    let text = recipe(&student, 12, "start = 1, warmup_steps = 4, at_step = 8")
        .replace("lr = 0.15", "lr = 1.8")
        .replace("threads = 1", "threads = 1, accumulate = 2, ema = 0.9, grad_checkpointing = true")
        .replace("losses.task = 1.0", "losses = { task = 1.0, fd = 10.0 }")
        + &format!("checkpoint = {{ every_steps = 2, keep = 9 }}\nteacher.model = '{}'\n", teacher.display());
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let Outcome::Finished(expected) = train(&text, &whole, None) else { panic!("not finished") };
    for stop in [1, 5, 7, 8, 9] {
        assert_eq!(train(&text, &broken, Some(stop)), Outcome::Stopped { step: stop });
    }
    let Outcome::Finished(found) = train(&text, &broken, None) else { panic!("not finished") };
    assert_eq!((found.student, found.parameters), (expected.student, expected.parameters));
    assert_eq!(lines(&broken), lines(&whole));
    let same = |file: &str| {
        let bytes = |run: &Path| fs::read(run.join(file)).unwrap();
        assert!(bytes(&whole) == bytes(&broken), "{file} differs");
    };
    same("model/open_clip_model.safetensors");
    same("model/open_clip_config.json");
    for (step, masked) in [(6, true), (8, false), (12, false)] {
        let checkpoint = format!("checkpoints/step-{step:08}");
        for part in ["model", "optimizer", "learned", "ema"] {
            same(&format!("{checkpoint}/{part}.safetensors"));
        }
        let masks = format!("{checkpoint}/masks.safetensors");
        assert_eq!(whole.join(&masks).exists(), masked);
        if masked {
            same(&masks);
        }
    }
    // The cut removed something; otherwise this test would show nothing.
    let (before, after) = (
        in_blocks(whole.join("checkpoints/step-00000006/model.safetensors")),
        in_blocks(whole.join("checkpoints/step-00000008/model.safetensors")),
    );
    assert!(after * 10 < before * 9, "{after} of {before}");
}

#[test]
fn a_stage_after_a_pruning_one_starts_from_the_pruned_student() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(), 1);
    let text = recipe(&student, 12, "warmup_steps = 4, at_step = 8").replace("lr = 0.15", "lr = 1.8")
        + "[[stages]]\n[[stages]]\ntrain.steps = 14\nprune.sparsity = 0.3\n";
    let job = parse(&text, &[], "test").unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let stop = AtomicBool::new(false);
    let make = |out: &Path, stop_after| {
        let options = Options { stop: &stop, stop_after, resume: true, progress: false, version: "test" };
        run_job(&job, out, &options).unwrap()
    };
    make(&whole, None);
    assert_eq!(make(&broken, Some(13)), JobOutcome::Stopped { run: "tiny-2".into(), step: 13 });
    make(&broken, None);
    let file = |out: &Path, run: &str| out.join(run).join("model/open_clip_model.safetensors");
    let bytes = |out: &Path| fs::read(file(out, "tiny-2")).unwrap();
    assert!(bytes(&whole) == bytes(&broken));
    let sizes = ["tiny-1", "tiny-2"].map(|run| in_blocks(file(&whole, run)));
    let all = in_blocks(student.join("open_clip_model.safetensors"));
    assert!(sizes[0] < all && sizes[1] < sizes[0], "{all} to {sizes:?}");
}

#[test]
fn invalid_masks_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let student = tiny::model(folder.path(), "student", &config(), 1);
    let error = |prune: &str, more: &str| {
        let text = recipe(&student, 12, prune) + more;
        parse(&text, &[], "test").unwrap_err().to_string()
    };
    assert!(error("warmup_steps = 4, at_step = 12", "").contains("no step after the cut"));
    assert!(error("warmup_steps = 9, at_step = 8", "").contains("after the cut"));
    assert!(error("warmup_steps = 4, at_step = 8", "student.lock_text = true").contains("locked"));
    let teacher = format!("teacher.model = '{}'\nlosses.hidden = 1.0", student.display());
    assert!(error("warmup_steps = 4, at_step = 8", &teacher).contains("losses.hidden"));
    assert!(error("warmup_steps = 4, at_step = 8", "cross_modal.layers = 1").contains("cross_modal"));
    let both = "student.inherit = 'a'\nstudent.inherit_run = 'b'";
    assert!(error("warmup_steps = 4, at_step = 8", both).contains("give one of"));
    let epochs =
        recipe(&student, 12, "warmup_steps = 4, at_step = 4000").replace("steps = 12", "epochs = 1.0");
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
    let start = |text: &str, name: &str| {
        let job = parse(text, &[], "test").unwrap();
        run(&job.runs[0], &folder.path().join(name), &no_models(), &options).unwrap_err().to_string()
    };
    assert!(start(&epochs, "late").contains("no step after the cut"));
    let mut config = config();
    config.vision_cfg = serde_json::from_str(r#"{"timm_model_name": "resnet18", "image_size": 32}"#).unwrap();
    let other = tiny::model(folder.path(), "other", &config, 1);
    assert!(start(&recipe(&other, 12, "warmup_steps = 4, at_step = 8"), "resnet").contains("ViT"));
}

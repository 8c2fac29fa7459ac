//! DCLIP as a job: a CLIP, a cross-modal teacher on it, and a student with a frozen text tower.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny::{self, term};
use clip_model::cross_modal::{CONFIG_FILE, WEIGHTS_FILE};
use clip_model::weights::read_safetensors;
use tch::Tensor;
use trainer::recipe::{Job, parse};
use trainer::run::job::{JobOutcome, run_job};
use trainer::run::{Options, Outcome, run};

use super::no_models;

/// The three runs of `configs/recipes/methods/dclip.toml`, small.
fn job(folder: &Path) -> Job {
    let clip = tiny::model(folder, "start", &tiny::config(16, 8), 1);
    let text = tiny::recipe_of_pairs(&clip, &tiny::pairs(folder), 4)
        + "
        [[runs]]
        name = 'clip'
        [[runs]]
        name = 'teacher'
        student.run = 'clip'
        cross_modal = { layers = 2, heads = 2 }
        train = { steps = 40 }
        [[runs]]
        name = 'student'
        train = { steps = 40 }
        student.run = 'clip'
        student.lock_text = true
        teacher.run = 'teacher'
        losses = { task = 1.0, cosine = 1.0 }
        ";
    parse(&text, &[], "test").unwrap()
}

fn options(stop: &AtomicBool) -> Options<'_> {
    Options { stop, stop_after: None, resume: true, progress: false, version: "test" }
}

fn weights(run: &Path) -> std::collections::HashMap<String, Tensor> {
    read_safetensors(run.join("model/open_clip_model.safetensors")).unwrap()
}

#[test]
fn a_cross_modal_teacher_and_its_student_learn_from_a_frozen_clip() {
    let folder = tempfile::tempdir().unwrap();
    let (job, out) = (job(folder.path()), folder.path().join("out"));
    let stop = AtomicBool::new(false);
    let JobOutcome::Finished(finished) = run_job(&job, &out, &options(&stop)).unwrap() else {
        panic!("not finished")
    };
    assert_eq!(finished.len(), 3);
    let [clip, teacher, student] = ["clip", "teacher", "student"].map(|name| out.join(name));

    // The teacher is the CLIP, to the bit, with a head beside it that has learned.
    let start = weights(&clip);
    for (name, value) in &weights(&teacher) {
        assert!(value.equal(&start[name]), "{name} of the frozen CLIP moved");
    }
    assert!(
        teacher.join("model").join(CONFIG_FILE).is_file() && !clip.join("model").join(CONFIG_FILE).exists()
    );
    let head = read_safetensors(teacher.join("model").join(WEIGHTS_FILE)).unwrap();
    assert!(head["image.output.weight"].abs().max().double_value(&[]) > 0.0);
    let task = term(&teacher, "task");
    println!("teacher: {task:.3?}");
    // Half of chance: its head tells pairs apart that the CLIP below it, after 4 steps, does not.
    assert!(task[39] < 0.5 * tiny::CHANCE, "{task:?}");

    // The student is a plain dual encoder from the same CLIP whose image tower moved alone.
    let learned = weights(&student);
    assert_eq!(learned.len(), start.len());
    assert!(!student.join("model").join(WEIGHTS_FILE).exists());
    for (name, value) in &learned {
        let moved = !value.equal(&start[name]);
        let image = name.starts_with("visual.") || name == "logit_scale";
        assert!(image || !moved, "{name} of the locked text tower moved");
    }
    assert!(!learned["visual.proj"].equal(&start["visual.proj"]));
    // The sum of task and cosine falls by a third. The cosine of the locked texts stays, which is most of the term.
    let (cosine, sums) = (term(&student, "cosine"), tiny::losses(&student));
    println!("student: {cosine:.3?} {sums:.3?}");
    assert!(cosine[39] < 0.65, "{cosine:?}");
    assert!(sums[39] < 1.8, "{sums:?}");
}

#[test]
fn an_untrained_head_teaches_the_embeddings_of_its_clip() {
    let folder = tempfile::tempdir().unwrap();
    let start = tiny::model(folder.path(), "start", &tiny::config(16, 8), 1);
    let plain = tiny::model(folder.path(), "plain", &tiny::config(16, 8), 2);
    let enriched = tiny::model(folder.path(), "enriched", &tiny::config(16, 8), 2);
    let opened = clip_model::folder::open(&enriched, tch::Device::Cpu, 0).unwrap();
    let head = clip_model::CrossModal::new(&Default::default(), &opened.model, 3).unwrap();
    head.save(&enriched).unwrap();
    let stop = AtomicBool::new(false);
    let cosine = |teacher: &Path, out: &str| {
        let text = tiny::recipe(&start, 3)
            .replace("losses.task = 1.0", "losses = { cosine = 1.0, crd = 1.0 }")
            + &format!("\nteacher.model = '{}'\n", teacher.display());
        let out = folder.path().join(out);
        run(&parse(&text, &[], "test").unwrap().runs[0], &out, &no_models(), &options(&stop)).unwrap();
        [term(&out, "cosine"), term(&out, "crd")].concat()
    };
    let expected = cosine(&plain, "from the plain one");
    for (found, expected) in cosine(&enriched, "from the enriched one").iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
    // A changed head gives other embeddings.
    let _ = tch::no_grad(|| head.params().get("image.output.bias").unwrap().shallow_clone().fill_(0.5));
    head.save(&enriched).unwrap();
    assert!((cosine(&enriched, "from a changed one")[0] - expected[0]).abs() > 1e-3);
    // Its factor is its own, whatever its CLIP's is.
    let _ = tch::no_grad(|| head.logit_scale.shallow_clone().fill_(1.0));
    head.save(&enriched).unwrap();
    let place = enriched.display().to_string();
    let loaded = trainer::LoadedModel::open(&place, &trainer::LoadOptions::default()).unwrap();
    let teacher = trainer::teacher::frozen::Teacher::from(loaded);
    assert!((teacher.scale().double_value(&[]) - 1.0f64.exp()).abs() < 1e-5);
}

#[test]
fn a_cross_modal_run_resumes_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let clip = tiny::model(folder.path(), "start", &tiny::config(16, 8), 1);
    let text = tiny::recipe(&clip, 6).replace("threads = 1", "threads = 1, ema = 0.9, accumulate = 2")
        + "\ncross_modal.heads = 2\n";
    let recipe = &parse(&text, &[], "test").unwrap().runs[0];
    let again: trainer::Recipe = toml::from_str(&recipe.to_toml().unwrap()).unwrap();
    assert_eq!(again, *recipe);
    let stop = AtomicBool::new(false);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    run(recipe, &whole, &no_models(), &options(&stop)).unwrap();
    for last in [2, 5] {
        let sitting = Options { stop_after: Some(last), ..options(&stop) };
        assert_eq!(run(recipe, &broken, &no_models(), &sitting).unwrap(), Outcome::Stopped { step: last });
    }
    run(recipe, &broken, &no_models(), &options(&stop)).unwrap();
    assert_eq!(term(&whole, "task"), term(&broken, "task"));
    let files = ["model", "optimizer", "learned", "ema"]
        .map(|name| format!("checkpoints/step-00000006/{name}.safetensors"));
    for file in files.iter().map(PathBuf::from).chain([Path::new("model").join(WEIGHTS_FILE)]) {
        let read = |run: &Path| fs::read(run.join(&file)).unwrap();
        assert!(read(&whole) == read(&broken), "{} differs", file.display());
    }
    // What is saved is the averages, which the last weights are not.
    let averages = read_safetensors(whole.join("model").join(WEIGHTS_FILE)).unwrap();
    let last = read_safetensors(whole.join(&files[2])).unwrap();
    assert!(!averages["text.output.weight"].equal(&last["cross_modal.text.output.weight"]));
}

#[test]
fn a_tower_without_patches_is_enriched_by_crops() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny::config(32, 8);
    config.vision_cfg = serde_json::from_str(r#"{"timm_model_name": "resnet18", "image_size": 32}"#).unwrap();
    let clip = tiny::model(folder.path(), "start", &config, 1);
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let stop = AtomicBool::new(false);
    let out = folder.path().join("teacher");
    let recipe = |head: &str| tiny::recipe(&clip, 2) + "\n[cross_modal]\n" + head;
    let refused = parse(&recipe(""), &[], "test").unwrap();
    let error = run(&refused.runs[0], &out, &no_models(), &options(&stop)).unwrap_err().to_string();
    assert!(error.contains("crops = 2"), "{error}");
    let with_crops = parse(&recipe("crops = 2"), &[], "test").unwrap();
    run(&with_crops.runs[0], &folder.path().join("crops"), &no_models(), &options(&stop)).unwrap();
    let teacher = folder.path().join("crops/model");
    let text = tiny::recipe(&student, 2).replace("losses.task = 1.0", "losses.cosine = 1.0")
        + &format!("\nteacher.model = '{}'\n", teacher.display());
    let out = folder.path().join("distilled");
    run(&parse(&text, &[], "test").unwrap().runs[0], &out, &no_models(), &options(&stop)).unwrap();
    assert!(term(&out, "cosine").iter().all(|value| *value > 1e-3));
}

#[test]
fn object_boxes_enrich_teacher_and_student() {
    let folder = tempfile::tempdir().unwrap();
    let clip = tiny::model(folder.path(), "start", &tiny::config(16, 8), 1);
    let student = tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
    let mut shard = tar::Builder::new(fs::File::create(folder.path().join("a.tar")).unwrap());
    for number in 0..16u32 {
        let picture = image::RgbImage::from_fn(24, 24, |x, y| {
            image::Rgb([(x * number * 3) as u8, (y * 9) as u8, (number * 15) as u8])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let facts = serde_json::json!({
            "captions": [format!("picture {number}")], "boxes": [[number % 8, 2, 12, 16]], "others": [[0, number % 8, 16, 12]],
        });
        for (ending, bytes) in [("png", bytes.into_inner()), ("json", facts.to_string().into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            shard.append_data(&mut header, format!("{number:02}.{ending}"), bytes.as_slice()).unwrap();
        }
    }
    shard.finish().unwrap();
    let source = |boxes: &str| {
        let shards = folder.path().join("a.tar");
        format!("{{ source = \"webdataset\", shards = \"{}\"{boxes} }}", shards.display())
    };
    let stop = AtomicBool::new(false);
    let train = |name: &str, text: String| {
        let out = folder.path().join(name);
        run(&parse(&text, &[], "test")?.runs[0], &out, &no_models(), &options(&stop))?;
        Ok::<_, trainer::Error>(out)
    };
    let emoji = "{ source = \"emoji\" }";
    let teacher = |boxes: &str| {
        tiny::recipe(&clip, 3).replace(emoji, &source(boxes)) + "\ncross_modal = { heads = 2, boxes = 4 }\n"
    };
    let refused = train("refused", teacher("")).unwrap_err().to_string();
    assert!(refused.contains("cross_modal.boxes"), "{refused}");
    let whole = train("whole", teacher(", boxes = \"none\"")).unwrap();
    let boxed = train("boxed", teacher(", boxes = \"boxes\"")).unwrap();
    // The head starts as one that changes nothing, and then learns from what it sees.
    let (plain, seen) = (term(&whole, "task"), term(&boxed, "task"));
    assert!((plain[0] - seen[0]).abs() < 1e-6 && (plain[2] - seen[2]).abs() > 1e-6, "{plain:?} {seen:?}");
    // The teacher sees the boxes while a student learns from it, too.
    let distilled = |name: &str, boxes: &str| {
        let text = tiny::recipe(&student, 2).replace("losses.task = 1.0", "losses.cosine = 1.0");
        let text = text.replace(emoji, &source(boxes))
            + &format!("\nteacher.model = '{}'\n", boxed.join("model").display());
        term(&train(name, text).unwrap(), "cosine")[0]
    };
    let of = |key: &str| distilled(key, &format!(", boxes = \"{key}\""));
    let (own, others) = (of("boxes"), of("others"));
    assert!((own - others).abs() > 1e-7, "{own} {others}");
    assert!((distilled("no boxes", "") - own).abs() > 1e-7);
}

#[test]
fn losses_on_single_images_or_texts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let start = tiny::model(folder.path(), "start", &tiny::config(16, 8), 1);
    let opened = clip_model::folder::open(&start, tch::Device::Cpu, 0).unwrap();
    let head = clip_model::CrossModal::new(&Default::default(), &opened.model, 3).unwrap();
    let teacher = tiny::model(folder.path(), "teacher", &tiny::config(16, 8), 2);
    head.save(&teacher).unwrap();
    let stop = AtomicBool::new(false);
    let error = |losses: &str, more: &str| {
        let text = tiny::recipe(&start, 2).replace("losses.task = 1.0", losses)
            + &format!("\n[teacher]\nmodel = '{}'\n{more}\n", teacher.display());
        let recipe = parse(&text, &[], "test").unwrap().runs.remove(0);
        run(&recipe, &folder.path().join("out"), &no_models(), &options(&stop)).unwrap_err().to_string()
    };
    let store = folder.path().join("store");
    let refused = error("losses.cosine = 1.0", &format!("store = '{}'", store.display()));
    assert!(refused.contains("depends on the caption") && refused.contains("store"), "{refused}");
    assert!(!store.exists(), "the store was begun");
    let refused = error("losses.anchors = 1.0", "");
    assert!(refused.contains("image alone"), "{refused}");
    let refused = error("losses.hinton = { weight = 1.0, classes = ['cat', 'dog'] }", "");
    assert!(refused.contains("text alone"), "{refused}");
}

#[test]
fn invalid_recipes_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let clip = tiny::model(folder.path(), "start", &tiny::config(16, 8), 1);
    let base = tiny::recipe(&clip, 2);
    let text = format!(
        "{}\ncross_modal = {{}}\nteacher.model = 'x'\n",
        base.replace("losses.task = 1.0", "losses.crd = 1.0")
    );
    let error = parse(&text, &[], "test").unwrap_err().to_string();
    assert!(error.contains("trained by `task` alone"), "{error}");
    let runs = "\n[[runs]]\nname = 'a'\nstudent.run = 'b'\n[[runs]]\nname = 'b'\n";
    let error = parse(&(base.clone() + runs), &[], "test").unwrap_err().to_string();
    assert!(error.contains("not an earlier run"), "{error}");

    let stop = AtomicBool::new(false);
    let out = folder.path().join("out");
    let failed = |text: &str| {
        let job = parse(text, &[], "test").unwrap();
        run_job(&job, &out, &options(&stop)).unwrap_err().to_string()
    };
    assert!(failed(&(base.clone() + "\ncross_modal.heads = 3\n")).contains("heads"));
    let planned = |head: &str| {
        let job = parse(&(base.clone() + head), &[], "test").unwrap();
        trainer::run::plan::Plan::new(&job.runs[0], &job).map(|plan| plan.flops).map_err(|e| e.to_string())
    };
    assert!(planned("\ncross_modal.heads = 3\n").unwrap_err().contains("cross_modal: heads"));
    let [plain, patches, crops] =
        ["", "\ncross_modal = {}\n", "\ncross_modal.crops = 2\n"].map(|head| planned(head).unwrap());
    assert!((plain / patches - 3.0).abs() < 1e-9 && crops > 1.5 * patches, "{plain} {patches} {crops}");
}

//! The commands: their output, errors and exit codes. Tests of new commands go here; those of one model in `inference`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Place, clip_distill, done, failed, program, text};
use serde_json::Value;

#[test]
fn evaluate_reproduces_the_scores_that_train_reports() {
    let place = Place::new();
    let (recipe, out) = (place.recipe(""), place.name("out"));
    let table = done(&["train", &recipe, "--out", &out, "--set", "seed=3"]);
    assert!(table.contains("text recall@1") && table.contains("report.html"), "{table}");
    assert!(place.path("out/recipe.toml").is_file());
    assert!(fs::read_to_string(place.path("out/recipe.toml")).unwrap().contains("seed = 3"));
    let info: Value = serde_json::from_str(&fs::read_to_string(place.path("out/run.json")).unwrap()).unwrap();
    assert!(info["program"].as_str().unwrap().starts_with("clip-distill "));

    // The same command prints the results again; `--resume` has no effect.
    assert_eq!(done(&["train", &recipe, "--out", &out, "--set", "seed=3"]), table);
    assert_eq!(done(&["train", &recipe, "--out", &out, "--set", "seed=3", "--resume"]), table);
    for resume in [&[][..], &["--resume"]] {
        let more = ["--set", "train.steps=2", "--set", "train.ema=0.9"];
        let other = failed(&[&["train", &recipe, "--out", &out], &more[..], resume].concat());
        for part in ["seed: 0, was 3", "train.steps: 2, was 3", "train.ema: 0.9, was not set", "--restart"] {
            assert!(other.contains(part), "{part}: {other}");
        }
    }
    // A recipe without evaluation sets keeps the results.
    let report = fs::read(place.path("out/report.json")).unwrap();
    assert_eq!(done(&["train", &recipe, "--out", &out, "--set", "seed=3", "--set", "eval.sets=[]"]), table);
    assert_eq!(fs::read(place.path("out/report.json")).unwrap(), report);
    let json = done(&["train", &recipe, "--out", &out, "--restart", "--json"]);
    assert!(serde_json::from_str::<Value>(&json).unwrap()["runs"][0][1]["student"]["sets"].is_array());

    let report = done(&["evaluate", &place.name("out/model"), "--data", "emoji", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let own: Value =
        serde_json::from_str(&fs::read_to_string(place.path("out/report.json")).unwrap()).unwrap();
    assert_eq!(report["sets"][0]["text_to_image"], own["student"]["sets"][0]["text_to_image"]);
}

#[test]
fn dry_run_prints_the_plan_without_training() {
    let place = Place::new();
    let recipe = place.recipe("");
    let plan = done(&["train", &recipe, "--dry-run", "--out", &place.name("out")]);
    for part in ["steps       3", "samples", "parameters", "FLOPs", "MiB"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let json: Value = serde_json::from_str(&done(&["train", &recipe, "--dry-run", "--json"])).unwrap();
    assert_eq!(json[0]["samples"], 24);
    assert!(!place.path("out").exists());
}

#[test]
fn a_signal_stops_with_a_checkpoint_and_the_same_command_resumes() {
    let place = Place::new();
    let (recipe, out) = (place.recipe(""), place.name("out"));
    let settings = ["--set", "train.steps=100000", "--set", "metrics.every_steps=1"];
    let mut args = vec!["train", &recipe, "--out", &out];
    args.extend(settings);
    let mut child = program()
        .args(&args)
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The run logs a line per step, after its metrics; the end of its log means that it ended by itself.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = log.by_ref().map(Result::unwrap);
    assert!(seen.any(|line| line.contains("step 3/100000")), "{:?}", child.wait());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    log.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let metrics = place.path("out/metrics.jsonl");
    let checkpoints = fs::read_dir(place.path("out/checkpoints")).unwrap();
    let names =
        checkpoints.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    assert_eq!(names.len(), 1, "{names:?}");
    let step: u64 = names[0].strip_prefix("step-").unwrap().parse().unwrap();

    // A recipe with another number of steps is another run, so it is refused.
    let steps = format!("train.steps={}", step + 2);
    let refused = failed(&["train", &recipe, "--out", &out, "--set", &steps]);
    assert!(refused.contains("train.steps"), "{refused}");

    let last = (step + 2).to_string();
    args.extend(["--stop-after", &last]);
    let stopped = clip_distill(&args);
    assert_eq!(stopped.status.code(), Some(130));
    let said = text(&stopped.stderr);
    assert!(said.contains("the same command without this --stop-after resumes it"), "{said}");
    let lines = fs::read_to_string(&metrics).unwrap();
    let steps =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap());
    assert!(steps.eq(1..=step + 2), "each step once, from the first on: {lines}");
}

#[test]
fn restart_checks_everything_before_it_removes_anything() {
    let place = Place::new();
    let (recipe, out) = (place.recipe(""), place.name("out"));
    done(&["train", &recipe, "--out", &out]);
    for wrong in [
        "train.device=cuda:77",
        "data.augment.flip=7",
        "losses.task=nan",
        "train.threads=-5",
        "train.accumulate=4611686018427387904",
        "train.warmup_steps=100000",
        "checkpoint.every_minutes=nan",
        "data.damaged={skip={max_fraction=2.0}}",
        "eval.sets=[{name='x',source='folder',root='nowhere'}]",
        "eval.sets=[{name='x',source='emoji',split='test',prompts='unheard-of'}]",
        "eval.sets=[{name='x',source='emoji',split='test',prompts=['no place']}]",
    ] {
        failed(&["train", &recipe, "--out", &out, "--restart", "--set", wrong]);
        assert!(place.path("out/model/open_clip_model.safetensors").is_file(), "{wrong}");
        assert!(place.path("out/report.json").is_file(), "{wrong}");
    }
    // A process that trains in the folder holds this lock.
    let lock = fs::File::create(place.path("out/.lock")).unwrap();
    lock.lock().unwrap();
    let error = failed(&["train", &recipe, "--out", &out, "--restart"]);
    assert!(error.contains("another process"), "{error}");
    assert!(place.path("out/report.json").is_file());
}

#[test]
fn train_refuses_a_folder_with_unrelated_files_of_the_same_names() {
    let place = Place::new();
    let recipe = place.recipe("");
    for (folder, file) in
        [("a", "recipe.toml"), ("b", "model/open_clip_model.safetensors"), ("c", "report.md")]
    {
        let (out, file) = (place.name(folder), place.path(folder).join(file));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        // The user's recipe is not in the format that a run writes.
        fs::copy(&recipe, &file).unwrap();
        for restart in [&[][..], &["--restart"]] {
            let error = failed(&[&["train", &recipe, "--out", &out], restart].concat());
            assert!(error.contains("is not part of a run"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), fs::read(&recipe).unwrap());
        }
    }
    // Neither another program's `run.json` nor a report beside a recipe makes a folder a run folder.
    for (folder, file) in [("e", "run.json"), ("f", "recipe.toml")] {
        let (out, model) = (place.name(folder), place.path(folder).join("model/weights"));
        fs::create_dir_all(model.parent().unwrap()).unwrap();
        for (name, text) in
            [(file, "{}"), ("model/weights", "mine"), ("report.json", "{}"), ("report.md", "mine")]
        {
            fs::write(place.path(folder).join(name), text).unwrap();
        }
        for restart in [&[][..], &["--restart"]] {
            let error = failed(&[&["train", &recipe, "--out", &out], restart].concat());
            assert!(error.contains("is not part of a run") && error.contains(file), "{error}");
            assert_eq!(fs::read(&model).unwrap(), b"mine");
        }
    }
    // A run without its recipe resumes from its last checkpoint.
    let lost = place.name("lost");
    done(&["train", &recipe, "--out", &lost]);
    fs::remove_file(place.path("lost/recipe.toml")).unwrap();
    done(&["train", &recipe, "--out", &lost]);
    // Files with other names are ignored.
    fs::create_dir(place.path("d")).unwrap();
    fs::write(place.path("d/.lock"), "mine").unwrap();
    fs::write(place.path("d/notes.txt"), "mine").unwrap();
    done(&["train", &recipe, "--out", &place.name("d")]);
    done(&["train", &recipe, "--out", &place.name("d"), "--restart"]);
    assert_eq!(fs::read(place.path("d/notes.txt")).unwrap(), b"mine");
    assert_eq!(fs::read(place.path("d/.lock")).unwrap(), b"mine");
    for restart in [&[][..], &["--restart"]] {
        let error = failed(&[&["train", &recipe, "--out", &recipe], restart].concat());
        assert!(error.contains("is not a folder"), "{error}");
    }
}

#[test]
fn log_lines_report_the_progress_of_every_long_command() {
    let place = Place::new();
    let recipe = place.recipe("eval.every_steps = 2");
    let every = ["--set", "train.steps=5", "--set", "metrics.every_steps=2"];
    let output = clip_distill(&[&["train", &recipe, "--out", &place.name("out")], &every[..]].concat());
    assert!(output.status.success());
    let said = text(&output.stderr);
    let steps = said.lines().filter(|line| line.contains("small: step ")).collect::<Vec<_>>();
    assert_eq!(steps.len(), 3, "{said}");
    for (line, step) in steps.iter().zip(["step 2/5", "step 4/5", "step 5/5"]) {
        for part in [step, "epoch ", "loss ", " = task ", " samples/s", "lr ", "ETA "] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    for part in
        ["evaluation after step 2 of 5", "evaluation after step 4 of 5", "evaluation after the last step"]
    {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    let figures = said.lines().filter(|line| line.contains("held out: text recall@1 "));
    assert_eq!(figures.count(), 3, "{said}");
    assert_eq!(
        said.lines().filter(|line| line.contains("held out: ") && line.ends_with(" images")).count(),
        3
    );
    assert!(!said.contains('\u{1b}'), "colours or bars: {said}");
    // The table of results is printed to standard output only.
    assert!(text(&output.stdout).starts_with("| data set"));

    let model = place.name("out/model");
    let evaluated = text(&clip_distill(&["evaluate", &model, "--data", "emoji"]).stderr);
    assert!(evaluated.contains("emoji: ") && evaluated.contains("text recall@1"), "{evaluated}");
    let (pictures, file) = (place.pictures(), place.name("rows.safetensors"));
    let embedded = text(&clip_distill(&["embed", &model, "--images", &pictures, "--out", &file]).stderr);
    assert!(embedded.contains("embed: 4 images"), "{embedded}");
    let texts = "a line\n".repeat(256 * 32 + 1);
    fs::write(place.path("texts.txt"), texts).unwrap();
    let args = ["embed", &model, "--texts", &place.name("texts.txt"), "--out", &file, "--force"];
    let embedded = text(&clip_distill(&args).stderr);
    assert!(embedded.contains("embed: 8192 of 8193 texts, "), "{embedded}");
}

#[test]
fn the_summary_and_reports_name_the_best_model_with_step_and_score() {
    let place = Place::new();
    let (recipe, out) = (place.recipe("eval.every_steps = 1"), place.name("out"));
    let summary = done(&["train", &recipe, "--out", &out]);
    let report: Value =
        serde_json::from_str(&fs::read_to_string(place.path("out/report.json")).unwrap()).unwrap();
    let step = report["best"]["step"].as_u64().unwrap();
    let score = format!("{:.1}", report["best"]["score"].as_f64().unwrap() * 100.0);
    let best = place.name("out/best");
    assert!(
        summary.contains(&format!("best:    {best} (step {step}, mean of the main metrics: {score} %)")),
        "{summary}"
    );
    let markdown = fs::read_to_string(place.path("out/report.md")).unwrap();
    let row = markdown.lines().find(|line| line.starts_with("| small | best ")).unwrap();
    assert!(row.contains(&format!(" {step} ")) && row.contains(&format!(" {score} ")), "{row}");
    let html = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(html.contains("Best model of the evaluations") && html.contains(&format!(">{score}<")), "{html}");

    let plain = place.name("plain");
    let summary = done(&["train", &recipe, "--out", &plain, "--set", "eval.every_steps=0"]);
    assert!(!summary.contains("best:") && !place.path("plain/best").exists());
    assert!(!fs::read_to_string(place.path("plain/report.md")).unwrap().contains("Best model"));
}

#[test]
fn dry_run_refuses_invalid_class_lists_and_devices() {
    let place = Place::new();
    let recipe = place.recipe("");
    let vocabulary = |list: &str| format!("losses.vocabulary={{weight=1.0,{list}}}");
    for (setting, named) in [
        (vocabulary("classes=['cat',' CAT ']"), "twice"),
        (vocabulary("classes=['cat']"), "two names"),
        (vocabulary("classes=5"), "list of names"),
        (vocabulary("classes=['cat','dog'],classes_per_step=1"), "classes_per_step = 1"),
        (vocabulary("classes=['cat','dog'],prompts=['no place']"), "no place"),
    ] {
        let error = failed(&["train", &recipe, "--dry-run", "--set", "teacher.model='x'", "--set", &setting]);
        assert!(error.contains(named), "{setting}: {error}");
    }
    assert!(failed(&["train", &recipe, "--dry-run", "--set", "train.device=cudda"]).contains("cuda:N"));
}

#[test]
fn an_unavailable_device_is_refused_with_the_cause() {
    let place = Place::new();
    let recipe = place.recipe("");
    let out = place.name("out");
    let refused = failed(&["train", &recipe, "--out", &out, "--set", "train.device=cuda:77"]);
    assert!(refused.contains("`cuda:77` is not available"), "{refused}");
    // Without a GPU, the cause is a missing library or driver; with a GPU, it is the number of devices.
    assert!(
        ["setup --cuda", "driver", "devices are visible"].iter().any(|cause| refused.contains(cause)),
        "{refused}"
    );
    assert!(!place.path("out").exists());
}

#[test]
fn an_invalid_setting_is_reported_with_its_key_or_line() {
    let place = Place::new();
    let recipe = place.recipe("");
    let text = fs::read_to_string(&recipe).unwrap();
    for (from, to, named) in [
        ("threads = 1", "thread = 1", "train.thread"),
        ("batch_size = 8", "batch_size = 'many'", "train.batch_size"),
        ("losses.task = 1.0", "losses.tusk = 1.0", "losses.tusk"),
        ("name = 'small'", "name = 'small", "line 1"),
    ] {
        fs::write(place.path("wrong.toml"), text.replace(from, to)).unwrap();
        let error = failed(&["train", &place.name("wrong.toml"), "--dry-run"]);
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn weights_with_nan_are_refused() {
    let place = Place::new();
    let model = place.model();
    place.pictures();
    let file = place.path("tiny/open_clip_model.safetensors");
    let mut dict = clip_model::weights::read_safetensors(&file).unwrap();
    let broken = dict.remove("visual.proj").unwrap() * f64::NAN;
    dict.insert("visual.proj".into(), broken);
    clip_model::weights::write_safetensors(&file, dict.iter().map(|(n, t)| (n.as_str(), t))).unwrap();
    let error = failed(&["classify", &model, &place.name("pictures/red/0.png"), "--labels", "a,b"]);
    assert!(error.contains("visual.proj") && error.contains("not finite"), "{error}");
}

#[test]
fn unusual_arguments_give_one_line_and_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let model = place.model();
    place.pictures();
    let picture = place.name("pictures/red/0.png");
    for (labels, named) in [("a,a", "repeats"), ("a,{}b", "{}"), ("a,,b", "empty")] {
        let error = failed(&["classify", &model, &picture, "--labels", labels]);
        assert!(error.contains(named), "{labels}: {error}");
    }
    for context in ["99999999999999", "18446744073709551615"] {
        failed(&["tokenize", "--context", context]);
    }
    // A file name that is not UTF-8.
    let odd = place.0.path().join(std::ffi::OsStr::from_bytes(b"y\xff.png"));
    fs::copy(&picture, &odd).unwrap();
    let output =
        program().args(["classify", &model, "--labels", "a,b", "--json"]).arg(&odd).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["image"].as_str().unwrap().contains("y\u{fffd}.png"));
}

#[test]
fn inspect_lists_presets_or_describes_one_model() {
    let place = Place::new();
    let presets = done(&["inspect"]);
    assert!(presets.contains("ViT-B-16 ") && presets.contains("ViT-T-16"), "{presets}");
    let own: Value = serde_json::from_str(&done(&["inspect", &place.model(), "--json"])).unwrap();
    assert_eq!(own["config"]["embed_dim"], 8);
    assert!(own["cost"]["image_macs"].as_u64().unwrap() > 0);
}

#[test]
fn invalid_input_gives_one_line_that_names_the_input_or_remedy() {
    let place = Place::new();
    let missing = failed(&["train", &place.name("none.toml")]);
    assert!(missing.contains("none.toml"), "{missing}");
    assert!(failed(&["inspect", "ViT-Z-1"]).contains("ViT-B-16"));
    assert!(failed(&["evaluate", "ViT-B-16", "--data", "emoji"]).contains("has no weights"));
    let model = place.model();
    assert!(failed(&["evaluate", &model, "--data", &place.name("none")]).contains("none"));
    fs::create_dir(place.path("empty")).unwrap();
    let described =
        failed(&["evaluate", &model, "--data", "../../datasets/cifar10.toml", "--root", &place.name("none")]);
    assert!(described.contains("--root") && described.contains("clip-distill download"), "{described}");
    assert!(failed(&["evaluate", &model, "--data", &place.name("empty")]).contains("no sample"));
    for (bytes, words) in [
        (&b"a dog\na cat\n"[..], "a text file"),
        (b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR", "an image (PNG)"),
        (b"", "an empty file"),
    ] {
        std::fs::write(place.path("other.txt"), bytes).unwrap();
        let said = failed(&["evaluate", &model, "--data", &place.name("other.txt")]);
        assert!(said.contains(words) && said.contains("--data accepts"), "{said}");
        assert!(!said.contains("dog") && !said.trim_end().contains(char::is_control), "{said}");
    }
    assert!(failed(&["evaluate", &model, "--data", "emoji", "--prompts", "best"]).contains("openai-80"));
    let weights = Path::new(&model).join("open_clip_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..4], &[]] {
        fs::write(&weights, damaged).unwrap();
        assert!(failed(&["evaluate", &model, "--data", "emoji"]).contains("open_clip_model.safetensors"));
    }
    let unknown = clip_distill(&["nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
    let both = clip_distill(&["embed", &model, "--out", "x"]);
    assert_eq!(both.status.code(), Some(2));
}

//! Comparisons: evaluation with suites, teachers and precomputed embeddings; stores; sweeps; the list of methods.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::common::{Place, clip_distill, done, failed, program, text};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_model_that_is_its_own_teacher_agrees_with_it_and_retains_everything() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let suite = format!(
        "name = 'mine'\n[[sets]]\nname = 'colours'\nsource = 'folder'\nroot = '{pictures}'\nclass_names = ['scarlet', 'navy']\n\
         prompts = ['a {{}} square']\ntrain = {{ source = 'folder', root = '{pictures}' }}\n\
         [[sets]]\nname = 'held out'\ntask = 'retrieval'\nsource = 'emoji'\nsplit = 'test'\n"
    );
    fs::write(place.path("suite.toml"), suite).unwrap();
    let found = json(&done(&[
        "evaluate",
        &model,
        "--suite",
        &place.name("suite.toml"),
        "--teacher",
        &model,
        "--json",
    ]));
    assert_eq!(found["sets"].as_array().unwrap().len(), 2);
    let colours = &found["details"][0];
    // The model is its own teacher, and k-NN finds each test image among the training images.
    assert_eq!(colours["fidelity"]["top1_agreement"], 1.0);
    assert_eq!(colours["knn"]["top1"], 1.0);
    assert_eq!(colours["per_class"][0]["class"], "scarlet");
    assert_eq!(found["retention"]["sets"][1]["retained"], 1.0);
    let table = done(&["evaluate", &model, "--suite", &place.name("suite.toml"), "--per-class"]);
    for part in ["scarlet", "linear probe", "expected calibration error", "held out"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    fs::write(place.path("names.txt"), "one\n").unwrap();
    let error = failed(&["evaluate", &model, "--data", &pictures, "--class-names", &place.name("names.txt")]);
    assert!(error.contains("at least two"), "{error}");
    let error = failed(&["evaluate", &model, "--suite", &place.name("missing.toml")]);
    assert!(error.contains("missing.toml"), "{error}");
}

#[test]
fn precomputed_embeddings_are_evaluated_like_a_model() {
    let place = Place::new();
    let file = |name: &str, rows: &[f32], labels: &[i64]| {
        let bytes = rows.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let ids = labels.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let classes = [1f32, 0.0, 0.0, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let views = vec![
            ("images", TensorView::new(Dtype::F32, vec![rows.len() / 2, 2], &bytes).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![labels.len()], &ids).unwrap()),
            ("classes", TensorView::new(Dtype::F32, vec![2, 2], &classes).unwrap()),
        ];
        let names = HashMap::from([("class_names".to_string(), r#"["left", "right"]"#.to_string())]);
        fs::write(place.path(name), safetensors::serialize(views, Some(names)).unwrap()).unwrap();
        place.name(name)
    };
    // The student is right on three of four samples, the teacher on all.
    let own = file("own", &[1.0, 0.1, 0.9, 0.0, 0.1, 2.0, 3.0, 0.2], &[0, 0, 1, 1]);
    let teacher = file("teacher", &[1.0, 0.1, 0.9, 0.0, 0.1, 2.0, 0.0, 0.2], &[0, 0, 1, 1]);
    let found = json(&done(&["evaluate", "--embeddings", &own, "--teacher", &teacher, "--json"]));
    assert_eq!(found["sets"][0]["top1"], 0.75);
    assert_eq!(found["retention"]["mean"], 0.75);
    assert_eq!(found["details"][0]["fidelity"]["top1_agreement"], 0.75);
    assert_eq!(found["details"][0]["confused"][0]["predicted"], "left");
    for (name, rows, labels) in
        [("short", &[1.0, 0.0][..], &[0, 1][..]), ("far", &[1.0, 0.0], &[7]), ("below", &[1.0, 0.0], &[-1])]
    {
        failed(&["evaluate", "--embeddings", &file(name, rows, labels)]);
    }
    fs::write(place.path("text"), "hello").unwrap();
    assert!(
        failed(&["evaluate", "--embeddings", &place.name("text")]).contains("not a valid file of embeddings")
    );
    assert_eq!(clip_distill(&["evaluate", "--embeddings", &own, "--data", "emoji"]).status.code(), Some(2));
}

#[test]
fn methods_lists_all_methods_and_losses() {
    let found = json(&done(&["methods", "--json"]));
    let names = |key: &str| {
        let all = found[key].as_array().unwrap().iter();
        all.map(|own| own["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert!(
        names("methods").contains(&"clip-kd".to_string()) && names("losses").contains(&"gram".to_string())
    );
    let text = done(&["methods"]);
    assert!(names("methods").iter().chain(&names("losses")).all(|name| text.contains(name)), "{text}");
}

/// Starts the program, kills it as soon as `is_due` holds, and returns whether that was before its end.
fn killed(args: &[&str], is_due: impl Fn() -> bool) -> bool {
    let mut child = program().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !is_due() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
fn a_store_killed_at_any_point_resumes_to_the_same_files() {
    let place = Place::new();
    let model = place.model();
    let recipe = place.recipe(&format!("losses.crd = 1.0\nteacher.model = '{model}'"));
    // Samples for two shards.
    let twice = fs::read_to_string(&recipe)
        .unwrap()
        .replace("[{ source = 'emoji' }]", "[{ source = 'emoji' }, { source = 'emoji' }]");
    fs::write(&recipe, twice).unwrap();
    let whole = place.name("whole");
    let made = done(&["reinforce", &recipe, "--out", &whole, "--variants", "1"]);
    assert!(made.contains("teacher.store="), "{made}");
    assert!(place.path("whole/shard-00001.safetensors").exists());
    let parts = place.name("parts");
    let args = ["reinforce", &recipe, "--out", &parts, "--variants", "1"];
    let kill_at = |file: &str| {
        let [path, partial] = ["", ".partial"].map(|end| place.path("parts").join(format!("{file}{end}")));
        killed(&args, || path.exists() || partial.exists())
    };
    assert!(kill_at("store.json"), "it ended before its first shard");
    assert!(kill_at("shard-00000.safetensors"), "it ended before its second shard");
    // This one may have ended before the signal reached it.
    kill_at("shard-00001.safetensors");
    done(&args);
    let files = |folder: &str| {
        let mut all = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_os_string(), fs::read(path).unwrap()))
            .collect::<Vec<_>>();
        all.sort();
        all
    };
    assert!(files(&whole) == files(&parts), "the stores differ");
    // A student trains from the store without the teacher's model.
    fs::remove_dir_all(place.path("tiny")).unwrap();
    place.model();
    let out = place.name("out");
    let settings = format!("teacher={{ store = \"{whole}\" }}");
    done(&["train", &recipe, "--out", &out, "--set", &settings]);
    // Errors are found before a finished run is removed.
    for (setting, part) in [
        ("teacher={ store = \"nowhere\" }", "reinforce"),
        ("teacher={ model = \"ViT-nano-32px\" }", "has no weights"),
        (&format!("teacher={{ store = \"{whole}\", arch = \"x\" }}"), "belong to a model"),
    ] {
        let error = failed(&["train", &recipe, "--out", &out, "--restart", "--set", setting]);
        assert!(error.contains(part) && place.path("out/model").is_dir(), "{error}");
    }
    let other = ["--set", &settings, "--set", "data.augment.flip=0.25"];
    let error = failed(&[&["train", &recipe, "--out", &out, "--restart"][..], &other].concat());
    assert!(error.contains("data.augment") && place.path("out/model").is_dir(), "{error}");
    let error = failed(&["reinforce", &recipe, "--out", &whole, "--variants", "3"]);
    assert!(error.contains("variants"), "{error}");
    let error = failed(&["reinforce", &place.recipe(""), "--out", &whole]);
    assert!(error.contains("teacher"), "{error}");
}

#[test]
fn a_sweep_trains_each_run_once_and_reports_all_of_them() {
    let place = Place::new();
    place.recipe("");
    let sweep = "name = 'two'\ntitle = 'Two < cells'\nrecipe = 'small.toml'\nseeds = [0, 1]\nbaseline = 'plain'\n\
         [settings.eval]\nfidelity = true\nteacher.model = '@teacher'\n\
         [[shared]]\nname = 'teacher'\nsettings.train.steps = 4\n\
         [[cells]]\nname = 'plain'\n\
         [[cells]]\nname = 'stored'\nsettings = { losses.fd = 10.0, data.variants = 1, teacher = { model = '@teacher', store = '@teacher/store' } }\n";
    fs::write(place.path("two.toml"), sweep).unwrap();
    let (file, out) = (place.name("two.toml"), place.name("sweeps"));
    let plan = done(&["sweep", &file, "--out", &out, "--dry-run"]);
    assert!(
        plan.contains("5 runs") && plan.matches("open ").count() == 5 && !place.path("sweeps").exists(),
        "{plan}"
    );

    assert!(!plan.contains("(missing)"), "the shared run will write its model and its store: {plan}");
    let error = failed(&["sweep", &file, "--out", &out, "--report"]);
    assert!(error.contains("no finished run") && !place.path("sweeps/two").exists(), "{error}");

    // The first session runs the teacher and one cell.
    let first = clip_distill(&["sweep", &file, "--out", &out, "--limit", "2"]);
    assert_eq!(first.status.code(), Some(130), "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("2 of 5 finished"), "{}", text(&first.stderr));
    let table = done(&["sweep", &file, "--out", &out, "--jobs", "2"]);
    let trained = ["- Trained: clip-distill ", "cpu, float32; runs: 5"];
    for part in
        ["Two < cells", "| stored", "Difference to `plain`", "Fidelity", "retained"].iter().chain(&trained)
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let report = json(&fs::read_to_string(place.path("sweeps/two/report.json")).unwrap());
    assert_eq!(report["missing"].as_array().unwrap().len(), 0);
    let stored = &report["cells"][1];
    assert_eq!(stored["seeds"], serde_json::json!([0, 1]));
    assert_eq!(stored["main"][0][1].as_object().unwrap().len(), 2);
    let lines = fs::read_to_string(place.path("sweeps/two/report.csv")).unwrap();
    assert!(
        lines.starts_with("cell,seed,kind,metric,value\n") && lines.contains("\nstored,1,main,"),
        "{lines}"
    );
    let page = fs::read_to_string(place.path("sweeps/two/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Two &lt; cells") && !page.contains("NaN"));
    let picture = fs::read_to_string(place.path("sweeps/two/report.svg")).unwrap();
    // The chart has an axis and the name of a cell.
    assert!(
        picture.starts_with("<svg xmlns=")
            && picture.contains("class=\"axis\"")
            && picture.contains(">stored<")
    );

    // All runs are finished, so none is trained again.
    let began = place.path("sweeps/cells");
    let times = |folder: &std::path::Path| {
        let mut times = fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| fs::metadata(entry.unwrap().path().join("report.json")).ok()?.modified().ok())
            .collect::<Vec<_>>();
        times.sort();
        times
    };
    let before = times(&began);
    assert_eq!((before.len(), done(&["sweep", &file, "--out", &out, "--report"])), (5, table));
    done(&["sweep", &file, "--out", &out]);
    assert_eq!(times(&began), before);

    // An additional set is evaluated on all runs without training.
    let more = format!("{sweep}[[settings.eval.sets]]\nname = 'groups'\nsource = 'emoji'\nsplit = 'test'\n");
    fs::write(place.path("two.toml"), more).unwrap();
    let table = done(&["sweep", &file, "--out", &out]);
    assert!(table.contains("## Recall of each class in percent\n\n| data set | class"), "{table}");
    assert!(!table.contains("held out"), "the teacher's own set, which no cell has: {table}");
    fs::write(place.path("two.toml"), sweep).unwrap();
    done(&["sweep", &file, "--out", &out]);

    // Results do not need weights. A shared model is trained again only if an open cell depends on it.
    let folders = || {
        let entries = fs::read_dir(&began).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let weights = "model/open_clip_model.safetensors";
    let models = || folders().iter().filter(|folder| folder.join(weights).is_file()).count();
    for folder in folders() {
        fs::remove_dir_all(folder.join("checkpoints")).unwrap();
        fs::remove_file(folder.join(weights)).unwrap();
    }
    let before = times(&began);
    done(&["sweep", &file, "--out", &out]);
    assert_eq!((times(&began), models()), (before, 0));
    let learns = |folder: &std::path::PathBuf| {
        fs::read_to_string(folder.join("recipe.toml")).unwrap().contains("\nfd = ")
    };
    let stored = folders().into_iter().find(learns).unwrap();
    fs::remove_file(stored.join("report.json")).unwrap();
    done(&["sweep", &file, "--out", &out]);
    assert!(stored.join("report.json").exists());
    assert_eq!(models(), 2);

    // A cell that fails is reported, and the other cells run.
    let broken = sweep.replace(
        "losses.fd = 10.0",
        "losses.mfd = { weight = 1.0, masked = 0.5 }, student.patch_dropout = 0.5, optimizer.lr = 1e300",
    );
    fs::write(place.path("broken.toml"), broken.replace("'two'", "'broken'")).unwrap();
    let output = clip_distill(&["sweep", &place.name("broken.toml"), "--out", &out]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("failed: stored (seed 1)"), "{said}");
}

//! Messages for mistakes of users: the wrong command, missing data and models, and files of another kind.

use std::fs;

use serde_json::Value;

use crate::common::{Place, clip_distill, done, failed, text};

#[test]
fn the_version_names_the_commit() {
    let version = done(&["--version"]);
    assert!(version.starts_with(&format!("clip-distill {}", env!("CARGO_PKG_VERSION"))), "{version}");
    let in_git = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if in_git.is_ok_and(|output| output.status.success()) {
        let commit = version.split(['(', ')']).nth(1).unwrap_or_default();
        assert!(commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{version}");
    }
}

#[test]
fn a_file_for_another_command_names_that_command() {
    let place = Place::new();
    let recipe = place.recipe("");
    fs::write(place.path("sweep.toml"), "name = 's'\nrecipe = 'small.toml'\n[[cells]]\nname = 'a'").unwrap();
    let sweep = place.name("sweep.toml");
    let error = failed(&["train", &sweep]);
    assert!(error.contains(&format!("run it with `clip-distill sweep {sweep}`")), "{error}");
    let error = failed(&["sweep", &recipe]);
    assert!(error.contains(&format!("run it with `clip-distill train {recipe}`")), "{error}");
}

#[test]
fn a_missing_teacher_is_a_missing_folder() {
    let place = Place::new();
    let error = |settings: &[&str]| {
        let recipe = place.recipe("");
        let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
        failed(
            &[&["train", &recipe, "--out", &place.name("out"), "--set", "losses.crd=1"], &settings[..]]
                .concat(),
        )
    };
    let missing = error(&["teacher.model=runs/none/model"]);
    for part in ["teacher.model = \"runs/none/model\": no folder or file", "set teacher.arch"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    assert!(!missing.contains("unknown model"), "{missing}");
    let planned = error(&["teacher.model=runs/none/model", "teacher.arch=ViT-nano-32px"]);
    assert!(planned.contains("teacher.model = \"runs/none/model\": no folder or file"), "{planned}");
    assert!(!place.path("out").exists(), "the run has not begun");
    let recipe = place.recipe("");
    let inherit = ["--set", "student.inherit=runs/none/model"];
    let error = failed(&[&["train", &recipe, "--out", &place.name("out")], &inherit[..]].concat());
    assert!(error.contains("student.inherit = \"runs/none/model\": no folder or file"), "{error}");
    let plan = done(&[&["train", &recipe, "--dry-run"], &inherit[..]].concat());
    assert!(plan.contains("(missing)  student.inherit `runs/none/model`"), "{plan}");
    let error = failed(&["evaluate", "runs/none/model", "--data", "emoji"]);
    assert!(error.contains("no folder or file `runs/none/model`"), "{error}");
    let error = failed(&["evaluate", "ViT-nnao-32px", "--data", "emoji"]);
    assert!(error.contains("unknown model `ViT-nnao-32px`"), "{error}");
}

#[test]
fn the_plan_of_a_sweep_lists_what_is_missing() {
    let place = Place::new();
    place.recipe("");
    let sweep = "name = 's'\nrecipe = 'small.toml'\n[settings]\ndata.train = [{ source = 'csv', path = 'none.csv', samples = 64 }]\n\
                 eval.sets = [{ name = 'pets', source = 'folder', root = 'none' }]\n[[cells]]\nname = 'a'\n\
                 [[cells]]\nname = 'b'\nsettings.seed_of_nothing = 1\n";
    fs::write(place.path("sweep.toml"), sweep).unwrap();
    let error = failed(&["sweep", &place.name("sweep.toml"), "--dry-run"]);
    assert!(error.contains("line 10") && error.contains("seed_of_nothing: unknown key"), "{error}");
    fs::write(
        place.path("sweep.toml"),
        sweep.replace("settings.seed_of_nothing", "settings.train.warmup_steps"),
    )
    .unwrap();
    let plan = done(&["sweep", &place.name("sweep.toml"), "--dry-run"]);
    assert_eq!(plan.matches("(missing)  training data: ").count(), 1, "{plan}");
    assert!(plan.contains("none.csv") && plan.contains("(missing)  evaluation set pets: "), "{plan}");
    let json = done(&["sweep", &place.name("sweep.toml"), "--dry-run", "--json"]);
    let json = serde_json::from_str::<Value>(&json).unwrap();
    assert_eq!(json["missing"].as_array().map(Vec::len), Some(2), "{json}");
}

#[test]
fn the_name_of_a_data_set_says_how_to_get_it() {
    let place = Place::new();
    let model = place.model();
    for name in ["cifar10", "CIFAR-10"] {
        let error = failed(&["evaluate", &model, "--data", name]);
        for part in ["`clip-distill download cifar10`", "--data datasets/cifar10.toml"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn embeddings_without_labels_are_not_an_evaluation() {
    let place = Place::new();
    let (model, out) = (place.model(), place.name("e.safetensors"));
    fs::write(place.path("texts.txt"), "a cat\na dog\n").unwrap();
    done(&["embed", &model, "--texts", &place.name("texts.txt"), "--out", &out]);
    let error = failed(&["evaluate", "--embeddings", &out]);
    for part in ["the output of `clip-distill embed`", "no labels", "clip-distill evaluate MODEL --data DATA"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    for (command, other) in [("embed", "evaluate --embeddings"), ("evaluate", "clip-distill embed")] {
        let help = done(&["help", command]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(other), "{command}: {help}");
    }
}

#[test]
fn a_missing_store_is_not_called_a_store() {
    let place = Place::new();
    let recipe = place.recipe("");
    let store = place.name("store");
    let setting = format!("teacher.store={store}");
    let error = failed(&["train", &recipe, "--set", "losses.crd=1", "--set", &setting]);
    assert!(error.contains("does not exist") && error.contains("clip-distill reinforce"), "{error}");
    assert!(!error.contains("not a store"), "{error}");
}

#[test]
fn reports_of_training_and_evaluation_state_their_origin() {
    let place = Place::new();
    let (recipe, out) = (place.recipe(""), place.name("out"));
    let json = serde_json::from_str::<Value>(&done(&["train", &recipe, "--out", &out, "--json"])).unwrap();
    assert_eq!(json["recipe"], recipe.as_str());
    assert!(json["made"].as_str().unwrap().starts_with("clip-distill "), "{json}");
    let report = fs::read_to_string(place.path("out/report.md")).unwrap();
    for part in [
        &format!("- Recipe: {recipe}\n"),
        "- Losses: 1 × task; seed 0\n",
        "- Trained: clip-distill ",
        "- Report: clip-distill ",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    let own = fs::read_to_string(place.path("out/report.json")).unwrap();
    let own = serde_json::from_str::<Value>(&own).unwrap();
    assert_eq!((own["run"]["losses"].as_str(), own["run"]["seed"].as_u64()), (Some("1 × task"), Some(0)));
    assert!(
        own["run"]["program"].as_str().unwrap().starts_with("clip-distill ")
            && own["run"]["machine"]["cores"].is_u64()
    );
    let model = place.name("out/model");
    assert!(
        done(&["evaluate", &model, "--data", "emoji"]).lines().last().unwrap().starts_with("clip-distill ")
    );
    let json = done(&["evaluate", &model, "--data", "emoji", "--json"]);
    assert!(
        serde_json::from_str::<Value>(&json).unwrap()["made"].as_str().unwrap().starts_with("clip-distill ")
    );
}

#[test]
#[cfg(target_os = "linux")]
fn names_of_files_cannot_control_the_terminal() {
    let place = Place::new();
    let model = place.model();
    let folder = place.path("pictures");
    fs::create_dir_all(&folder).unwrap();
    image::RgbImage::new(20, 20).save(folder.join("good.png")).unwrap();
    fs::write(folder.join("bad\u{1b}[2J.png"), b"\x89PNG\r\n\x1a\nxx").unwrap();
    let out = place.name("e.safetensors");
    let output = clip_distill(&["embed", &model, "--images", &place.name("pictures"), "--out", &out]);
    let said = text(&output.stderr);
    assert!(said.contains("bad\\u{1b}[2J.png") && !said.contains('\u{1b}'), "{said:?}");
}

//! Where models come from and go to: folders, bare files, the hub's cache, other formats.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use clip_model::{Clip, PreprocessConfig, folder};
use common::{Place, clip_distill, done, failed, text};
use serde_json::Value;
use tch::Device;

#[test]
fn convert_goes_to_other_formats_and_back() {
    let place = Place::new();
    let (recipe, out) = (place.recipe(""), place.name("out"));
    done(&["train", &recipe, "--out", &out]);
    let (model, pictures) = (place.name("out/model"), place.pictures());
    let embeddings = |model: &str| {
        let file = place.name("embeddings.safetensors");
        done(&["embed", model, "--images", &pictures, "--out", &file, "--force"]);
        fs::read(file).unwrap()
    };
    let expected = embeddings(&model);

    let face = place.name("face");
    done(&["convert", &model, "--to", "huggingface", &face, "--license", "mit"]);
    assert!(embeddings(&face) == expected);
    let card = fs::read_to_string(place.path("face/README.md")).unwrap();
    for part in ["license: mit", "CLIPModel", "1 × task", "text recall@1"] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains(&place.name("")), "a card names a place on this machine: {card}");

    let back = place.name("back");
    done(&["convert", &face, "--to", "open-clip", &back]);
    assert!(embeddings(&back) == expected);
    let weights = |folder: &str| fs::read(place.path(folder).join("open_clip_model.safetensors")).unwrap();
    assert!(weights("back") == weights("out/model"));
    done(&["convert", &model, "--to", "safetensors", &place.name("bare.safetensors")]);
    assert!(fs::read(place.path("bare.safetensors")).unwrap() == weights("out/model"));

    let there = failed(&["convert", &model, "--to", "open-clip", &back]);
    assert!(there.contains("--force"), "{there}");
    done(&["convert", &model, "--to", "open-clip", &back, "--force"]);
    let preset = failed(&["convert", "ViT-B-16", "--to", "open-clip", &place.name("no")]);
    assert!(preset.contains("has no weights"), "{preset}");
    assert!(!place.path("no").exists());
}

#[test]
fn convert_replaces_models_alone() {
    let place = Place::new();
    let model = place.model();
    fs::create_dir(place.path("mine")).unwrap();
    for (name, text) in [("README.md", "mine"), ("config.json", "{\"theme\": \"dark\"}")] {
        fs::write(place.path("mine").join(name), text).unwrap();
    }
    let files = || fs::read_dir(place.path("mine")).unwrap().count();
    for format in ["open-clip", "huggingface", "safetensors"] {
        let error = failed(&["convert", &model, "--to", format, &place.name("mine"), "--force"]);
        assert!(error.contains("folder"), "{format}: {error}");
        // Noticed before the model is opened: it does not exist.
        let error = failed(&["convert", "no-such-model", "--to", format, &place.name("mine/README.md")]);
        assert!(error.contains("--force") || error.contains("is not a folder"), "{format}: {error}");
    }
    assert_eq!(files(), 2);
    assert_eq!(fs::read(place.path("mine/README.md")).unwrap(), b"mine");
    let error = failed(&["convert", "no-such-model", "--to", "safetensors", &place.name("none/file")]);
    assert!(error.contains("does not exist"), "{error}");
    // Parents of a folder are created; an empty one is free.
    done(&["convert", &model, "--to", "open-clip", &place.name("new/below")]);
    fs::create_dir(place.path("empty")).unwrap();
    done(&["convert", &model, "--to", "huggingface", &place.name("empty")]);
    let error = failed(&["convert", &model, "--to", "open-clip", &place.name("empty"), "--force"]);
    assert!(error.contains("another format"), "{error}");
}

#[test]
fn a_layout_that_is_not_the_projects_own_is_said() {
    let place = Place::new();
    let (model, face) = (place.model(), place.name("face"));
    done(&["convert", &model, "--to", "huggingface", &face]);
    let said = |model: &str| {
        let output = clip_distill(&["classify", model, &place.name("pictures/red/0.png"), "--labels", "a,b"]);
        text(&output.stderr)
    };
    place.pictures();
    assert!(said(&face).contains("Hugging Face"), "{}", said(&face));
    assert_eq!(said(&model), "");
}

#[test]
fn a_bare_file_is_read_as_the_preset_that_is_named() {
    let place = Place::new();
    let model = Clip::new(&clip_model::presets::get("ViT-nano-32px").unwrap(), Device::Cpu, 1).unwrap();
    folder::save(&place.path("nano"), &model, &PreprocessConfig::default()).unwrap();
    let bare = place.name("bare.safetensors");
    fs::copy(place.path("nano/open_clip_model.safetensors"), &bare).unwrap();
    fs::write(place.path("texts.txt"), "a cat\na dog\n").unwrap();
    place.pictures();
    let embedded = |model: &[&str]| {
        let out = place.name("rows.safetensors");
        done(&[&["embed"], model, &["--texts", &place.name("texts.txt"), "--out", &out, "--force"]].concat());
        fs::read(&out).unwrap()
    };
    assert!(embedded(&[&bare, "--arch", "ViT-nano-32px"]) == embedded(&[&place.name("nano")]));
    let picture = place.name("pictures/red/0.png");
    done(&["classify", &bare, "--arch", "ViT-nano-32px", &picture, "--labels", "a,b"]);
    done(&["evaluate", &bare, "--arch", "ViT-nano-32px", "--data", &place.name("pictures")]);
    let other = failed(&["classify", &bare, "--arch", "ViT-T-16", &picture, "--labels", "a,b"]);
    assert!(other.contains("bare.safetensors"), "{other}");
    let is_folder =
        failed(&["classify", &place.name("nano"), "--arch", "ViT-T-16", &picture, "--labels", "a,b"]);
    assert!(is_folder.contains("bare weight file"), "{is_folder}");
}

#[test]
fn a_model_of_the_hub_is_used_from_the_cache_offline() {
    let place = Place::new();
    let model = place.model();
    let commit = "0123456789".repeat(4);
    let root = place.path("hub/models--owner--tiny");
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::create_dir_all(root.join("snapshots")).unwrap();
    fs::write(root.join("refs/main"), &commit).unwrap();
    fs::rename(&model, root.join("snapshots").join(&commit)).unwrap();
    let cached = root.join("snapshots").join(&commit).display().to_string();
    let offline = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clip-distill"));
        command.args(args).stdin(Stdio::null());
        command.env("HF_HUB_CACHE", place.path("hub")).env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (done, inspected, said) = offline(&["inspect", "hf-hub:owner/tiny", "--json"]);
    assert!(done, "{said}");
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["config"]["embed_dim"], 8);
    assert_eq!(inspected["cost"]["model"], "hf-hub:owner/tiny");

    fs::write(place.path("texts.txt"), "one\ntwo\n").unwrap();
    let embedded = |model: &str| {
        let out = place.name("rows.safetensors");
        let (done, _, said) =
            offline(&["embed", model, "--texts", &place.name("texts.txt"), "--out", &out, "--force"]);
        assert!(done, "{said}");
        fs::read(out).unwrap()
    };
    assert!(embedded(&format!("hf:owner/tiny@{commit}")) == embedded(&cached));
    let (done, _, said) =
        offline(&["convert", "hf-hub:owner/tiny", "--to", "huggingface", &place.name("face")]);
    assert!(done && place.path("face/model.safetensors").is_file(), "{said}");

    // A student and a teacher of the hub; the run names them as the recipe does.
    let recipe = place.recipe("losses.crd = 1.0\nteacher.model = 'hf:owner/tiny'");
    let student = fs::read_to_string(&recipe).unwrap().replace(&model, "hf-hub:owner/tiny");
    fs::write(&recipe, student).unwrap();
    let (done, plan, said) = offline(&["train", &recipe, "--dry-run"]);
    assert!(
        done && plan.contains("hf-hub:owner/tiny") && plan.contains("teacher     hf:owner/tiny"),
        "{plan}{said}"
    );
    let (done, _, said) = offline(&["train", &recipe, "--out", &place.name("out")]);
    assert!(done, "{said}");
    let written = fs::read_to_string(place.path("out/recipe.toml")).unwrap();
    assert!(written.contains("hf-hub:owner/tiny") && !written.contains("snapshots"), "{written}");

    for (wrong, word) in [
        ("hf-hub:owner/other", "HF_HUB_OFFLINE"),
        ("hf-hub:owner/tiny@v2", "HF_HUB_OFFLINE"),
        ("hf-hub:../..", "no model of the hub"),
        ("hf-hub:tiny", "hf-hub:owner/name"),
    ] {
        let (done, _, said) = offline(&["inspect", wrong]);
        assert!(!done && said.lines().count() == 1 && said.contains(word), "{wrong}: {said}");
    }
}

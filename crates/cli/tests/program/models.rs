//! Models as input and output: folders, bare weight files, the hub's cache, other formats.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{Place, clip_distill, done, failed, program, text};
use clip_model::{Clip, PreprocessConfig, folder};
use serde_json::Value;
use tch::Device;

#[test]
fn a_model_survives_conversion_to_other_formats_and_back() {
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
    for part in ["license: mit", "CLIPProcessor", "pipeline(", "1 × task", "text recall@1"] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains(&place.name("")), "the card contains a path of this machine: {card}");

    let back = place.name("back");
    done(&["convert", &face, "--to", "open-clip", &back]);
    assert!(embeddings(&back) == expected);
    let weights = |folder: &str| fs::read(place.path(folder).join("open_clip_model.safetensors")).unwrap();
    assert!(weights("back") == weights("out/model"));
    let bare = place.name("bare.safetensors");
    done(&["convert", &model, "--to", "safetensors", &bare]);
    assert!(embeddings(&bare) == expected);
    done(&["convert", &bare, "--to", "open-clip", &place.name("from-bare")]);
    assert!(weights("from-bare") == weights("out/model"));

    let existing = failed(&["convert", &model, "--to", "open-clip", &back]);
    assert!(existing.contains("--force"), "{existing}");
    done(&["convert", &model, "--to", "open-clip", &back, "--force"]);
    let preset = failed(&["convert", "ViT-B-16", "--to", "open-clip", &place.name("no")]);
    assert!(preset.contains("has no weights"), "{preset}");
    assert!(!place.path("no").exists());
}

#[test]
fn embed_replaces_only_regular_files_with_force_and_never_an_input() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = Place::new();
    let model = place.model();
    fs::write(place.path("texts.txt"), "one\ntwo\n").unwrap();
    let texts = place.name("texts.txt");
    fs::write(place.path("old"), "old").unwrap();
    symlink("old", place.path("link")).unwrap();
    symlink("new", place.path("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    // The check precedes the opening of the model, which does not exist.
    for (out, reason) in [
        (place.name("old"), "--force"),
        (place.name("link"), "--force"),
        (place.name("pipe"), "regular file"),
        (place.name("tiny"), "folder"),
        (place.name("none/rows"), "does not exist"),
        ("/dev/full".into(), "regular file"),
    ] {
        let error = failed(&["embed", "no-such-model", "--texts", &texts, "--out", &out]);
        assert!(error.contains(reason), "{out}: {error}");
    }
    for (out, reason) in [("pipe", "regular file"), ("tiny", "folder"), ("none/rows", "does not exist")] {
        let error = failed(&["embed", &model, "--texts", &texts, "--out", &place.name(out), "--force"]);
        assert!(error.contains(reason), "{out}: {error}");
    }
    // An input cannot be the output, even with --force or through a link.
    symlink("texts.txt", place.path("same")).unwrap();
    for out in ["texts.txt", "same", "tiny/open_clip_model.safetensors"] {
        let error = failed(&["embed", &model, "--texts", &texts, "--out", &place.name(out), "--force"]);
        assert!(error.contains("input"), "{out}: {error}");
    }
    assert_eq!(fs::read(place.path("texts.txt")).unwrap(), b"one\ntwo\n");
    assert!(fs::symlink_metadata(place.path("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    assert_eq!(fs::read(place.path("old")).unwrap(), b"old");
    for (out, target, force) in [("link", "old", &["--force"][..]), ("dangling", "new", &[])] {
        done(&[&["embed", &model, "--texts", &texts, "--out", &place.name(out)], force].concat());
        assert!(fs::symlink_metadata(place.path(out)).unwrap().is_symlink(), "{out}");
        assert!(safetensors::SafeTensors::deserialize(&fs::read(place.path(target)).unwrap()).is_ok());
    }
}

#[test]
fn convert_replaces_only_models() {
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
        // The check precedes the opening of the model, which does not exist.
        let error = failed(&["convert", "no-such-model", "--to", format, &place.name("mine/README.md")]);
        assert!(error.contains("--force") || error.contains("is not a folder"), "{format}: {error}");
    }
    assert_eq!(files(), 2);
    assert_eq!(fs::read(place.path("mine/README.md")).unwrap(), b"mine");
    let error = failed(&["convert", "no-such-model", "--to", "safetensors", &place.name("none/file")]);
    assert!(error.contains("does not exist"), "{error}");
    // Parent folders are created, and an empty folder may be used.
    done(&["convert", &model, "--to", "open-clip", &place.name("new/below")]);
    fs::create_dir(place.path("empty")).unwrap();
    done(&["convert", &model, "--to", "huggingface", &place.name("empty")]);
    let error = failed(&["convert", &model, "--to", "open-clip", &place.name("empty"), "--force"]);
    assert!(error.contains("another format"), "{error}");
}

#[test]
fn convert_leaves_nothing_if_a_file_cannot_be_written() {
    let place = Place::new();
    let model = place.model();
    done(&["convert", &model, "--to", "open-clip", &place.name("old")]);
    let old = fs::read(place.path("old/open_clip_model.safetensors")).unwrap();
    for (format, out) in [("open-clip", "new/below"), ("huggingface", "new"), ("open-clip", "old")] {
        // The largest file may have 100 blocks, fewer than the weights.
        let limited = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
        let output = Command::new("sh")
            .args(["-c", limited, "sh", env!("CARGO_BIN_EXE_clip-distill")])
            .args(["convert", &model, "--to", format, &place.name(out), "--force"])
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot write the model to `{}`", place.name(out))), "{said}");
        assert!(!place.path("new").exists());
    }
    assert!(fs::read(place.path("old/open_clip_model.safetensors")).unwrap() == old);
    assert_eq!(fs::read_dir(place.path("old")).unwrap().count(), 3);
}

#[test]
fn a_foreign_layout_is_reported() {
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
fn a_hugging_face_folder_contains_clips_tokenizer() {
    let place = Place::new();
    let (model, face) = (place.model(), place.name("face"));
    done(&["convert", &model, "--to", "huggingface", &face]);
    let read = |name: &str| {
        let text = fs::read_to_string(place.path("face").join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (settings, text) = (read("tokenizer_config.json"), read("config.json")["text_config"].clone());
    assert_eq!(settings["tokenizer_class"], "CLIPTokenizer");
    assert_eq!(settings["model_max_length"], 12);
    for token in ["bos_token", "eos_token", "pad_token"] {
        let named = settings[token].as_str().unwrap();
        assert_eq!(read("vocab.json")[named], text[format!("{token}_id")], "{token}");
    }
    assert!(place.path("face/merges.txt").is_file() && place.path("face/tokenizer.json").is_file());
    // The folder is recognised to use CLIP's tokenizer, including its text cleaning.
    fs::write(place.path("texts.txt"), "cats &amp;amp; dogs\na \u{201c}caf\u{c3}\u{a9}\u{201d}\n").unwrap();
    let embedded = |model: &str| {
        let out = place.name("rows.safetensors");
        done(&["embed", model, "--texts", &place.name("texts.txt"), "--out", &out, "--force"]);
        fs::read(out).unwrap()
    };
    assert!(embedded(&face) == embedded(&model));
}

#[test]
fn a_text_tower_with_fewer_ids_than_clips_tokenizer_needs_another_one() {
    let place = Place::new();
    let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 30, "width": 8, "heads": 1, "layers": 1}}"#;
    let config = clip_model::ClipConfig::from_json("few", json).unwrap();
    let model = Clip::new(&config, Device::Cpu, 1).unwrap();
    folder::save(place.path("few"), &model, &PreprocessConfig::default()).unwrap();
    for to in ["huggingface", "open-clip"] {
        let said = failed(&["convert", &place.name("few"), "--to", to, &place.name("out")]);
        assert!(said.contains("49408 ids") && said.contains("30 ids"), "{said}");
        assert!(!place.path("out").exists());
    }
    // Weights alone need no tokenizer.
    done(&["convert", &place.name("few"), "--to", "safetensors", &place.name("few.safetensors")]);
}

/// A model whose settings cannot be inferred from a bare file's shapes or from OpenAI's usual values.
fn unusual(place: &Place) -> String {
    let json = r#"{"embed_dim": 8, "quick_gelu": true,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 4},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 4, "layers": 1}}"#;
    let config = clip_model::ClipConfig::from_json("unusual", json).unwrap();
    let model = Clip::new(&config, Device::Cpu, 1).unwrap();
    let preprocess = PreprocessConfig {
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: "bilinear".into(),
        resize_mode: "squash".into(),
        ..PreprocessConfig::default()
    };
    folder::save(place.path("unusual"), &model, &preprocess).unwrap();
    place.name("unusual")
}

#[test]
fn a_weight_file_takes_its_configuration_from_its_metadata_or_folder() {
    let place = Place::new();
    let model = unusual(&place);
    fs::create_dir(place.path("wide")).unwrap();
    let pixels = image::RgbImage::from_fn(40, 23, |x, y| image::Rgb([(x * 6) as u8, (y * 11) as u8, 90]));
    pixels.save(place.path("wide/0.png")).unwrap();
    fs::write(place.path("texts.txt"), "a cat\na dog\n").unwrap();
    let embedded = |model: &str| {
        let read = |kind: &str, what: &str| {
            let out = place.name("rows.safetensors");
            let output = clip_distill(&["embed", model, kind, &place.name(what), "--out", &out, "--force"]);
            assert!(output.status.success(), "{model}: {}", text(&output.stderr));
            (fs::read(out).unwrap(), text(&output.stderr))
        };
        let ((images, said), (texts, _)) = (read("--images", "wide"), read("--texts", "texts.txt"));
        ([images, texts], said)
    };
    let (expected, _) = embedded(&model);

    let bare = place.name("bare.safetensors");
    done(&["convert", &model, "--to", "safetensors", &bare]);
    assert!(embedded(&bare).0 == expected);
    let (beside, said) = embedded(&place.name("unusual/open_clip_model.safetensors"));
    assert!(beside == expected);
    assert!(said.contains("read with the configuration in"), "{said}");
    done(&["convert", &model, "--to", "huggingface", &place.name("face")]);
    assert!(embedded(&place.name("face/model.safetensors")).0 == expected);
    let inspected = done(&["inspect", &bare, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&inspected).unwrap()["config"]["quick_gelu"], true);

    // Outside its folder, the file does not state its settings, and a note lists the assumptions.
    for (file, assumed) in [
        ("unusual/open_clip_model.safetensors", ["GELU (not the QuickGELU", "`shortest`", "0.48145467"]),
        ("face/model.safetensors", ["QuickGELU (OpenAI's", "bicubic", "open_clip_config.json beside it"]),
    ] {
        fs::copy(place.path(file), place.path("lonely.safetensors")).unwrap();
        let (rows, said) = embedded(&place.name("lonely.safetensors"));
        assert!(rows != expected);
        for word in assumed {
            assert!(said.contains(word), "{file}, {word}: {said}");
        }
    }
    // With an explicit preset, the file's own configuration is ignored, and a note says so.
    let nano = Clip::new(&clip_model::presets::get("ViT-nano-32px").unwrap(), Device::Cpu, 1).unwrap();
    folder::save(place.path("nano"), &nano, &PreprocessConfig::default()).unwrap();
    let file = place.name("nano/open_clip_model.safetensors");
    let picture = place.name("wide/0.png");
    let output = clip_distill(&["classify", &file, "--arch", "ViT-nano-32px", &picture, "--labels", "a,b"]);
    assert!(
        text(&output.stderr).contains("is not used, as another one is named"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn arch_names_the_preset_of_a_bare_weight_file() {
    let place = Place::new();
    let model = Clip::new(&clip_model::presets::get("ViT-nano-32px").unwrap(), Device::Cpu, 1).unwrap();
    folder::save(place.path("nano"), &model, &PreprocessConfig::default()).unwrap();
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
    assert!(is_folder.contains("only to a bare weight file"), "{is_folder}");
}

#[test]
fn a_hub_model_is_read_from_the_cache_without_network() {
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
        let mut command = program();
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
    assert!(embedded("https://huggingface.co/owner/tiny") == embedded(&cached));
    assert!(embedded(&format!("local-dir:{cached}")) == embedded(&cached));
    // open_clip's name of published weights; a link stands for them here.
    let published = place.path("hub/models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K");
    std::os::unix::fs::symlink(&root, &published).unwrap();
    assert!(embedded("ViT-B-32:laion2b_s34b_b79k") == embedded(&cached));
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
        ("hf-hub:../..", "not a model of the hub"),
        ("hf-hub:tiny", "hf-hub:owner/name"),
        ("owner/tiny", "write hf-hub:owner/tiny"),
        ("ViT-B-32:laion3b", "laion2b_s34b_b79k"),
        ("https://example.org/model.pt", "download the file"),
    ] {
        let (done, _, said) = offline(&["inspect", wrong]);
        assert!(!done && said.lines().count() == 1 && said.contains(word), "{wrong}: {said}");
    }
    let (done, _, said) = offline(&["inspect", "ViT-B-16:openai"]);
    assert!(!done && said.contains("timm/vit_base_patch16_clip_224.openai"), "{said}");
}

#[test]
fn a_file_of_one_tower_embeds_its_own_inputs() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    fs::write(place.path("texts.txt"), "one\ntwo\n").unwrap();
    let whole =
        clip_model::weights::read_safetensors(place.path("tiny/open_clip_model.safetensors")).unwrap();
    let write = |name: &str, image: bool| {
        fs::create_dir_all(place.path(name)).unwrap();
        fs::copy(place.path("tiny/open_clip_config.json"), place.path(name).join("open_clip_config.json"))
            .unwrap();
        let kept = whole.iter().filter(|(key, _)| key.starts_with("visual.") == image);
        let file = place.path(name).join("open_clip_model.safetensors");
        clip_model::weights::write_safetensors(&file, kept.map(|(key, tensor)| (key.as_str(), tensor)))
            .unwrap();
        file.display().to_string()
    };
    let (image, text_tower) = (write("image", true), write("text", false));
    let out = place.name("rows.safetensors");
    let embedded = |model: &str, kind: &str, input: &str| {
        done(&["embed", model, kind, input, "--out", &out, "--force"]);
        fs::read(&out).unwrap()
    };
    let texts = place.name("texts.txt");
    assert!(embedded(&text_tower, "--texts", &texts) == embedded(&model, "--texts", &texts));
    assert!(embedded(&image, "--images", &pictures) == embedded(&model, "--images", &pictures));
    let wrong = failed(&["embed", &text_tower, "--images", &pictures, "--out", &out, "--force"]);
    assert!(wrong.contains("contains only the text tower"), "{wrong}");
    let picture = place.name("pictures/red/0.png");
    let wrong = failed(&["classify", &image, &picture, "--labels", "a,b"]);
    assert!(wrong.contains("contains only the image tower"), "{wrong}");
    let wrong = failed(&["convert", &image, "--to", "open-clip", &place.name("out")]);
    assert!(wrong.contains("contains only the image tower"), "{wrong}");
}

#[test]
fn a_run_starts_from_the_image_weights_of_timm() {
    let place = Place::new();
    let vision = r#"{"timm_model_name": "convnext_atto", "image_size": 32}"#;
    let json = format!(
        r#"{{"embed_dim": 8, "vision_cfg": {vision}, "text_cfg": {{"context_length": 12, "vocab_size": 49408,
        "width": 8, "heads": 1, "layers": 1}}}}"#
    );
    fs::write(place.path("student.json"), &json).unwrap();
    let config = clip_model::ClipConfig::from_json("student", &json).unwrap();
    let source = Clip::new(&config, Device::Cpu, 77).unwrap();
    fs::create_dir(place.path("timm")).unwrap();
    let trunk =
        source.params().state().filter_map(|p| Some((p.name.strip_prefix("visual.trunk.")?, &p.tensor)));
    let classifier = tch::Tensor::ones([4, 320], (tch::Kind::Float, Device::Cpu));
    let named = trunk.chain([("head.fc.weight", &classifier)]).collect::<Vec<_>>();
    clip_model::weights::write_safetensors(place.path("timm/model.safetensors"), named).unwrap();
    let timm = r#"{"architecture": "convnext_atto", "pretrained_cfg": {"mean": [0.485, 0.456, 0.406]}}"#;
    fs::write(place.path("timm/config.json"), timm).unwrap();

    // No step changes the image tower, so the weights are still those of the file.
    let student = format!("student.image_weights = '{}'\nstudent.lock_image = true\n", place.name("timm"));
    let recipe = place.recipe("");
    let written =
        fs::read_to_string(&recipe).unwrap().replace(&place.name("tiny"), &place.name("student.json"));
    fs::write(&recipe, format!("{student}{written}")).unwrap();
    let output = clip_distill(&["train", &recipe, "--out", &place.name("out"), "-v"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for part in ["left out: head.fc.weight", "visual.head.proj.weight", "trained with [0.485, 0.456, 0.406]"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let trained = folder::open(place.path("out/model"), Device::Cpu, 0).unwrap().model;
    let name = "visual.trunk.stages.2.blocks.5.conv_dw.weight";
    assert!(trained.params().get(name).unwrap().equal(source.params().get(name).unwrap()));
    done(&["convert", &place.name("out/model"), "--to", "open-clip", &place.name("again")]);
    let card = fs::read_to_string(place.path("again/README.md")).unwrap();
    assert!(card.contains("image tower initialised with"), "{card}");
}

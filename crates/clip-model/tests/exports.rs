//! Tests that random models round-trip through every format: weights bit for bit, configuration and image preprocessing.

use std::collections::HashMap;
use std::path::Path;

use clip_model::folder::{self, ConfigOverrides, OpenedModel};
use clip_model::{Clip, ClipConfig, PreprocessConfig, seeded, weights};
use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Models that every format can represent.
fn plain() -> impl Strategy<Value = Value> {
    let tower = || {
        let (ratio, eps) = (vec![4.0, 2.0, 2.5], vec![1e-5, 1e-6]);
        (1i64..4, 1i64..3, prop::sample::select(ratio), prop::sample::select(eps))
    };
    let activation = prop::sample::select(vec!["quick", "tanh", "erf"]);
    (tower(), tower(), 1i64..20, 1i64..4, 5i64..9, any::<bool>(), activation).prop_map(
        |(vision, text, embed, grid, context, eos, activation)| {
            let act = match activation {
                "tanh" => json!({ "approximate": "tanh" }),
                _ => Value::Null,
            };
            let norm = |eps: f64| if eps == 1e-5 { Value::Null } else { json!({ "eps": eps }) };
            json!({
                "embed_dim": embed,
                "quick_gelu": activation == "quick",
                "vision_cfg": {
                    "image_size": 8 * grid, "patch_size": 8, "width": 16 * vision.0, "layers": vision.1,
                    "head_width": 8, "mlp_ratio": vision.2, "norm_kwargs": norm(vision.3), "act_kwargs": act,
                },
                "text_cfg": {
                    "context_length": context, "vocab_size": 30, "width": 8 * text.0, "heads": 2,
                    "layers": text.1, "mlp_ratio": text.2, "norm_kwargs": norm(text.3), "act_kwargs": act,
                    "pool_type": if eos { "eos" } else { "argmax" },
                    "eos_id": if eos { json!(7) } else { Value::Null },
                },
            })
        },
    )
}

/// Models that only the open_clip formats can represent.
fn special() -> impl Strategy<Value = Value> {
    let change = prop::sample::select(vec![
        ("", "custom_text", json!(true)),
        ("", "init_logit_bias", json!(-10.0)),
        ("", "init_logit_scale", json!(1.5)),
        ("vision_cfg", "layers", json!([1, 1, 2, 1])),
        ("vision_cfg", "pool_type", json!("avg")),
        ("vision_cfg", "no_ln_pre", json!(true)),
        ("vision_cfg", "ls_init_value", json!(0.1)),
        ("text_cfg", "no_causal_mask", json!(true)),
        ("text_cfg", "pool_type", json!("last")),
        ("text_cfg", "proj_bias", json!(true)),
        ("text_cfg", "ls_init_value", json!(0.1)),
    ]);
    (plain(), prop::collection::vec(change, 0..4)).prop_map(|(mut config, changes)| {
        for (part, key, value) in changes {
            let is_resnet = config["vision_cfg"]["layers"].is_array();
            if key == "layers" {
                config["vision_cfg"] =
                    json!({ "image_size": 32, "layers": value, "width": 8, "patch_size": null });
            } else if part.is_empty() {
                config[key] = value;
            } else if part != "vision_cfg" || !is_resnet {
                config[part][key] = value;
            }
        }
        config
    })
}

fn preprocess() -> impl Strategy<Value = PreprocessConfig> {
    let three = || prop::array::uniform3(0.01f32..1.0);
    let convert = any::<Option<bool>>();
    (three(), three(), any::<bool>(), any::<bool>(), convert).prop_map(
        |(mean, std, bilinear, squash, convert)| PreprocessConfig {
            mean,
            std,
            interpolation: if bilinear { "bilinear" } else { "bicubic" }.into(),
            resize_mode: if squash { "squash" } else { "shortest" }.into(),
            do_convert_rgb: convert,
            ..PreprocessConfig::default()
        },
    )
}

fn model(json: &Value, seed: u64) -> Clip {
    let config = ClipConfig::from_json("random", &json.to_string()).unwrap();
    Clip::new(&config, Device::Cpu, seed).unwrap()
}

fn open(path: &Path) -> OpenedModel {
    folder::open(path, Device::Cpu, 0).unwrap()
}

fn assert_same_weights(found: &Clip, expected: &Clip) {
    let found = found.params().state().map(|p| (p.name.as_str(), &p.tensor)).collect::<HashMap<_, _>>();
    assert_eq!(found.len(), expected.params().state().count());
    for entry in expected.params().state() {
        assert!(found[entry.name.as_str()].equal(&entry.tensor), "{}", entry.name);
    }
}

/// Compares the image preprocessing, except for the size, which is always that of the tower.
fn assert_same_preprocess(found: &PreprocessConfig, expected: &PreprocessConfig) {
    assert_eq!(PreprocessConfig { size: None, ..found.clone() }, *expected);
}

/// Returns a text of the full context length, with the end token in the middle.
fn tokens(model: &Clip) -> Tensor {
    let mut tokens = vec![3i64; model.config().text_cfg.context_length as usize];
    (tokens[0], tokens[2], tokens[3]) = (1, 7, 29);
    Tensor::from_slice(&tokens).unsqueeze(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn open_clip_formats_round_trip_every_model(
        json in special(), preprocess in preprocess(), seed in 0u64..1000
    ) {
        let model = model(&json, seed);
        let dir = tempfile::tempdir().unwrap();
        let native = dir.path().join("own");
        folder::save(&native, &model, &preprocess).unwrap();
        let opened = open(&native);
        prop_assert_eq!(opened.model.config(), model.config());
        assert_same_weights(&opened.model, &model);
        assert_same_preprocess(&opened.preprocess, &preprocess);

        let file = dir.path().join("bare.safetensors");
        let state = model.params().state().map(|p| (p.name.as_str(), &p.tensor));
        weights::write_safetensors(&file, state).unwrap();
        let opened = folder::open_file(model.config(), &file, Device::Cpu, &ConfigOverrides::default()).unwrap();
        prop_assert_eq!(opened.model.config(), model.config());
        assert_same_weights(&opened.model, &model);

        // A single file with its own configuration.
        folder::save_file(&file, &model, &preprocess, None).unwrap();
        let opened = open(&file);
        prop_assert_eq!(opened.model.config(), model.config());
        prop_assert_eq!(folder::config(&file).unwrap(), model.config().clone());
        assert_same_weights(&opened.model, &model);
        assert_same_preprocess(&opened.preprocess, &preprocess);
        prop_assert!(opened.notes.is_empty());

        // The Hugging Face folder represents the model exactly, or refuses it.
        let face = dir.path().join("face");
        if folder::save_hugging_face(&face, &model, &preprocess).is_ok() {
            let reopened = open(&face).model;
            let size = model.config().vision_cfg.image_size;
            let images = seeded(5, || Tensor::randn([2, 3, size, size], (Kind::Float, Device::Cpu)));
            prop_assert!(reopened.encode_image(&images).unwrap().equal(&model.encode_image(&images).unwrap()));
            let tokens = tokens(&model);
            prop_assert!(reopened.encode_text(&tokens).unwrap().equal(&model.encode_text(&tokens).unwrap()));
            prop_assert!(reopened.logit_scale.equal(&model.logit_scale));
        } else {
            prop_assert!(!face.exists());
        }
    }

    #[test]
    fn the_hugging_face_format_round_trips_every_plain_model(
        json in plain(), preprocess in preprocess(), seed in 0u64..1000
    ) {
        let model = model(&json, seed);
        let dir = tempfile::tempdir().unwrap();
        folder::save_hugging_face(dir.path(), &model, &preprocess).unwrap();
        let opened = open(dir.path());
        prop_assert_eq!(opened.model.config(), model.config());
        assert_same_weights(&opened.model, &model);
        // transformers needs the conversion for grey images, so it is written unless the model disables it.
        let convert = Some(preprocess.do_convert_rgb.unwrap_or(true));
        assert_same_preprocess(&opened.preprocess, &preprocess.with_do_convert_rgb(convert));

        let size = model.config().vision_cfg.image_size;
        let images = seeded(5, || Tensor::randn([2, 3, size, size], (Kind::Float, Device::Cpu)));
        let tokens = tokens(&model);
        let (theirs, ours) = (&opened.model, &model);
        prop_assert!(theirs.encode_image(&images).unwrap().equal(&ours.encode_image(&images).unwrap()));
        prop_assert!(theirs.encode_text(&tokens).unwrap().equal(&ours.encode_text(&tokens).unwrap()));
    }
}

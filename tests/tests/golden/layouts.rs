//! Checkpoints as they are published: every container and layout gives the features that it has to (1e-4 of the largest value).

use std::path::{Path, PathBuf};

use clip_distill_tests::fill;
use clip_distill_tests::golden::{assert_close, files, tensors};
use clip_model::config::Layers;
use clip_model::{Clip, ClipConfig, checkpoint, folder};
use tch::{Device, Kind};

/// One row of `layouts.json`.
#[derive(serde::Deserialize)]
struct Row {
    path: String,
    config: serde_json::Value,
    expected: String,
}

/// All rows with the folder that they lie in, and the configuration that each was made with.
fn rows() -> Vec<(PathBuf, Row, ClipConfig)> {
    let mut rows = Vec::new();
    for path in files("layouts", "json") {
        if path.file_name().is_some_and(|name| name == "layouts.json") {
            let parent = path.parent().unwrap().to_path_buf();
            let found: Vec<Row> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            for row in found {
                let config = ClipConfig::from_json(&row.path, &row.config.to_string()).unwrap();
                rows.push((parent.clone(), row, config));
            }
        }
    }
    println!("layouts: {} found", rows.len());
    rows
}

/// The weight file of a row, which may be in a folder.
fn weight_file(path: &Path) -> PathBuf {
    ["open_clip_model.safetensors", "model.safetensors"]
        .iter()
        .map(|name| path.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| path.to_path_buf())
}

fn compare(model: &Clip, expected: &Path, what: &str) {
    let reference = tensors(expected);
    let images = fill::unit("input.image", &[2, 3, 32, 32]) * 2.0;
    tch::no_grad(|| {
        let image = model.encode_image(&images).unwrap();
        let text = model.encode_text(&reference["tokens"].to_kind(Kind::Int64)).unwrap();
        assert_close(&image, &reference["image_features"], 1e-4, &format!("{what}: image features"));
        assert_close(&text, &reference["text_features"], 1e-4, &format!("{what}: text features"));
    });
}

#[test]
fn every_layout_gives_its_features_with_its_configuration() {
    let rows = rows();
    assert!(!rows.is_empty(), "no golden layout");
    for (parent, row, config) in rows {
        let file = weight_file(&parent.join(&row.path));
        let model = folder::load_weights(&config, &file, Device::Cpu).unwrap();
        compare(&model, &parent.join(&row.expected), &row.path);
    }
}

#[test]
fn folders_give_their_features_with_their_own_configuration() {
    for (parent, row, config) in rows() {
        let path = parent.join(&row.path);
        if path.is_dir() {
            let opened = folder::open(&path.display().to_string(), Device::Cpu, 0).unwrap();
            assert!(opened.has_weights);
            assert_eq!(opened.model.config(), &config, "{}", row.path);
            assert_eq!(opened.preprocess.resize_mode, "shortest", "{}", row.path);
            compare(&opened.model, &parent.join(&row.expected), &row.path);
        }
    }
}

#[test]
fn shapes_tell_everything_but_the_heads() {
    for (parent, row, config) in rows() {
        let read = checkpoint::Checkpoint::open(weight_file(&parent.join(&row.path))).unwrap();
        println!("{}: {}, {:?}, dropped {:?}", row.path, read.layout, read.notes, read.dropped);
        let mut told = read.infer_config().unwrap();
        let pruned = checkpoint::infer_pruned_config(&config, &read.weights).unwrap();
        if pruned.vision_cfg.blocks.is_some() {
            // Heads of 32 channels look like half as many of 64; everything else is there.
            assert_eq!((told.vision_cfg.width, told.text_cfg.width), (48, 56));
            assert_eq!(told.vision_cfg.layers, Layers::Depth(3));
            let model = Clip::new(&pruned, Device::Cpu, 0).unwrap();
            clip_model::weights::load(model.params(), &read.weights, &row.path).unwrap();
            compare(&model, &parent.join(&row.expected), &row.path);
            continue;
        }
        told.vision_cfg.head_width = config.vision_cfg.head_width;
        told.text_cfg.heads = config.text_cfg.heads;
        assert_eq!(told, config, "{}", row.path);
        assert_eq!(pruned, config, "{}: nothing was pruned", row.path);
    }
}

#[test]
fn openai_weights_need_quickgelu() {
    for (parent, row, config) in rows() {
        if config.quick_gelu {
            let plain = config.with_quick_gelu(false);
            let error = folder::load_weights(&plain, &parent.join(&row.path), Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("-quickgelu"), "{error}");
        }
    }
}

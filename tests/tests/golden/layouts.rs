//! WeightFile layouts: every container and layout gives the expected features (within 1e-4 of the largest value).

use std::path::PathBuf;

use clip_distill_tests::fill;
use clip_distill_tests::golden::{Coverage, Golden, assert_close, folders, tensors_of};
use clip_model::weight_files::Layout;
use clip_model::{Clip, ClipConfig, folder, weight_files};
use tch::{Device, Kind};

/// The project's own checkpoints, with the layout that must be detected.
///
/// A folder of a `SiglipModel` is missing. The widths of SigLIP's towers are fixed, so even the smallest file has 340
/// MB. The tests of `clip_model::weight_files` compare its names and shapes.
const EXPECTED: [(&str, Layout); 7] = [
    ("hugging-face-folder", Layout::HuggingFaceClip),
    ("legacy.bin", Layout::OpenClip),
    ("open-clip-folder", Layout::OpenClip),
    ("openai-torchscript.pt", Layout::OpenAi),
    ("tinyclip-auto.pt", Layout::TinyClip),
    ("tinyclip.pt", Layout::TinyClip),
    ("training-checkpoint.pt", Layout::OpenClip),
];

/// One row of `layouts.json`.
#[derive(serde::Deserialize)]
struct Row {
    path: String,
    config: serde_json::Value,
    expected: String,
}

/// A checkpoint, the configuration of its model, and the file of its features.
struct Published {
    golden: Golden,
    name: String,
    path: PathBuf,
    config: ClipConfig,
    expected: PathBuf,
}

impl Published {
    /// Returns the weight file, which may be in a folder.
    fn weight_file(&self) -> PathBuf {
        ["open_clip_model.safetensors", "model.safetensors"]
            .iter()
            .map(|name| self.path.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| self.path.clone())
    }

    fn compare(&self, model: &Clip) {
        let reference = tensors_of(&self.expected, &["tokens", "image_features", "text_features"]);
        let images = fill::unit("input.image", &[2, 3, 32, 32]) * 2.0;
        tch::no_grad(|| {
            let image = model.encode_image(&images).unwrap();
            let text = model.encode_text(&reference["tokens"].to_kind(Kind::Int64)).unwrap();
            let what = self.path.display();
            assert_close(&image, &reference["image_features"], 1e-4, &format!("{what}: image features"));
            assert_close(&text, &reference["text_features"], 1e-4, &format!("{what}: text features"));
        });
    }
}

/// Returns the checkpoints of all `layouts.json`. Fails if a folder contains a file that its list does not name.
fn published() -> Vec<Published> {
    let mut found = Vec::new();
    for golden in folders("layouts") {
        let list = std::fs::read_to_string(golden.path.join("layouts.json")).unwrap();
        let rows: Vec<Row> = serde_json::from_str(&list).unwrap();
        assert!(!rows.is_empty(), "{} lists no checkpoint", golden.path.display());
        for entry in std::fs::read_dir(&golden.path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known =
                name == "layouts.json" || rows.iter().any(|row| row.path == name || row.expected == name);
            assert!(known, "{}: `{name}` is not in layouts.json", golden.path.display());
        }
        for row in rows {
            found.push(Published {
                path: golden.path.join(&row.path),
                config: ClipConfig::from_json(&row.path, &row.config.to_string()).unwrap(),
                expected: golden.path.join(&row.expected),
                golden: golden.clone(),
                name: row.path,
            });
        }
    }
    found
}

/// Returns the layout that [`EXPECTED`] gives for one of the project's own checkpoints.
fn expected_layout(name: &str) -> Layout {
    EXPECTED.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("`{name}` is not expected")).1
}

#[test]
fn every_layout_gives_its_features_with_its_configuration() {
    let mut coverage = Coverage::new("layouts");
    for published in published() {
        let model = folder::load_weights(&published.config, published.weight_file(), Device::Cpu).unwrap();
        published.compare(&model);
        coverage.add(&published.golden, &published.name);
    }
    coverage.assert_exactly(EXPECTED.map(|(name, _)| name));
}

#[test]
fn folders_give_their_features_with_their_own_configuration() {
    let mut coverage = Coverage::new("folders of layouts");
    for published in published().into_iter().filter(|published| published.path.is_dir()) {
        let name = &published.name;
        let opened = folder::open(&published.path, Device::Cpu, 0).unwrap();
        assert!(opened.has_weights);
        assert_eq!(opened.model.config(), &published.config, "{name}");
        assert_eq!(opened.preprocess.resize_mode, "shortest", "{name}");
        published.compare(&opened.model);
        coverage.add(&published.golden, name);
    }
    coverage.assert_exactly(["hugging-face-folder", "open-clip-folder"]);
}

#[test]
fn the_configuration_is_inferred_from_shapes_except_for_the_heads() {
    let mut coverage = Coverage::new("configurations of layouts");
    for published in published() {
        let (name, config) = (&published.name, &published.config);
        let read = weight_files::WeightFile::open(published.weight_file()).unwrap();
        println!("{name}: {}, {:?}, dropped {:?}", read.layout, read.notes, read.dropped);
        if published.golden.own {
            assert_eq!(read.layout, expected_layout(name), "{name}");
        }
        coverage.add(&published.golden, name);
        let mut inferred = read.infer_config().unwrap();
        let adapted = weight_files::infer_pruned_config(config, &read.weights).unwrap();
        if adapted.vision_cfg.blocks.is_some() {
            // Heads of 32 channels look like half as many of 64; the shapes determine everything else.
            assert_eq!(inferred.vision_cfg.width, adapted.vision_cfg.width, "{name}");
            assert_eq!(inferred.text_cfg.width, adapted.text_cfg.width, "{name}");
            assert_eq!(inferred.vision_cfg.layers, adapted.vision_cfg.layers, "{name}");
            let model = Clip::new(&adapted, Device::Cpu, 0).unwrap();
            clip_model::weights::load(model.params(), &read.weights, name).unwrap();
            published.compare(&model);
            continue;
        }
        inferred.vision_cfg.head_width = config.vision_cfg.head_width;
        inferred.text_cfg.heads = config.text_cfg.heads;
        assert_eq!(&inferred, config, "{name}");
        assert_eq!(&adapted, config, "{name}: nothing was pruned");
    }
    coverage.assert_exactly(EXPECTED.map(|(name, _)| name));
}

#[test]
fn openai_weights_need_quickgelu() {
    let mut coverage = Coverage::new("layouts with QuickGELU");
    for published in published().into_iter().filter(|published| published.config.quick_gelu) {
        let plain = published.config.clone().with_quick_gelu(false);
        let error = folder::load_weights(&plain, &published.path, Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("-quickgelu"), "{error}");
        coverage.add(&published.golden, &published.name);
    }
    coverage.assert_exactly(["openai-torchscript.pt"]);
}

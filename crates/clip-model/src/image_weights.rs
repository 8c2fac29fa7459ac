//! Image towers that start from the weights of timm's classifiers, such as those trained on ImageNet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::Tensor;

use crate::config::TowerKind;
use crate::vision::timm::Trunk;
use crate::weight_files::{self, layout};
use crate::{Clip, Error, PreprocessConfig, Result, resize, weights};

/// Prefix of the tower in a model of this crate and of open_clip.
const TRUNK: &str = "visual.trunk.";
/// Weight files in a timm folder, by priority.
const WEIGHT_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Name of the configuration in a folder of timm.
const CONFIG_FILE: &str = "config.json";
/// Buffers that timm stores and this crate computes.
const COMPUTED: [&str; 2] = ["relative_position_index", "attn_mask"];

/// Result of [`load_image_weights`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageWeights {
    /// Number of tensors loaded into the image tower.
    pub loaded: usize,
    /// Tensors of the file that are not part of the tower: its classifier.
    pub left_out: Vec<String>,
    /// Parameters of the model that keep their initial values.
    pub initial: Vec<String>,
    /// Differences between timm's image preprocessing and the model's, and interpolated tensors.
    pub notes: Vec<String>,
}

/// The parts of timm's `config.json` that are checked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TimmConfig {
    architecture: Option<String>,
    pretrained_cfg: PretrainedConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PretrainedConfig {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    input_size: Option<[i64; 3]>,
}

/// Loads the weights of a timm model into the image tower of `model`, and leaves out its classifier. `path` is a weight
/// file, or a folder with `model.safetensors` and timm's `config.json`. Names may be timm's own or start with
/// `visual.trunk.`. The image preprocessing stays; a difference from timm's is noted.
///
/// ```no_run
/// use clip_model::{Clip, PreprocessConfig, image_weights, presets};
///
/// let model = Clip::new(&presets::get("MobileNetV4-Conv-S-Text-3M")?, tch::Device::Cpu, 0)?;
/// let report = image_weights::load_image_weights(&model, "mobilenetv4", &PreprocessConfig::default())?;
/// println!("{} tensors keep their initial values", report.initial.len());
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::Unsupported`] if the image tower is not one of timm's; [`Error::Incompatible`] if the folder belongs to
/// another architecture; [`Error::Mismatch`] with every difference if the tensors do not fit the tower; the errors of
/// reading a weight file.
pub fn load_image_weights(
    model: &Clip,
    path: impl AsRef<Path>,
    preprocess: &PreprocessConfig,
) -> Result<ImageWeights> {
    let (path, vision) = (path.as_ref(), &model.config().vision_cfg);
    if vision.tower() != TowerKind::Timm {
        return Err(Error::unsupported(
            "image weights of timm in an image tower of open_clip; use a preset with a timm tower, or inherit from a CLIP model",
        ));
    }
    let trunk = vision.trunk().map_err(|problem| problem.of("vision_cfg"))?;
    let file = weight_file(path)?;
    let mut report = ImageWeights::default();
    if let Some(config) = file.parent().filter(|_| path.is_dir()).and_then(read_config) {
        let own = vision.timm_model_name.as_deref().unwrap_or_default();
        // Names of timm can have a tag, as in `convnext_tiny.in12k`.
        let theirs = config.architecture.as_deref().map(|name| name.split('.').next().unwrap_or(name));
        if let Some(theirs) = theirs.filter(|theirs| !same_architecture(theirs, own)) {
            return Err(Error::Incompatible {
                reason: format!(
                    "`{}` contains weights of {theirs}, but the image tower is {own}",
                    path.display()
                ),
            });
        }
        report.notes = differences(&config.pretrained_cfg, preprocess, vision.image_size);
    }
    let mut found = tower_tensors(weight_files::read_tensors(&file)?);
    report.left_out = leave_out(&mut found, trunk);
    report.loaded = found.len();
    let moved = resize::fit_image_size(model.params(), &mut found)?;
    if !moved.is_empty() {
        report.notes.push(format!("interpolated to {} px: {}", vision.image_size, moved.join(", ")));
    }
    for entry in model.params().state().filter(|entry| !entry.name.starts_with(TRUNK)) {
        found.insert(entry.name.clone(), entry.tensor.shallow_clone());
    }
    let initial = model.params().iter().map(|entry| &entry.name).filter(|name| !name.starts_with(TRUNK));
    report.initial = initial.cloned().collect();
    weights::load(model.params(), &found, &file.display().to_string())?;
    Ok(report)
}

/// Returns the weight file of a folder, or the file itself.
fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    let candidates = WEIGHT_FILES.iter().map(|file| path.join(file));
    candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| Error::NotAModelFolder {
        path: path.into(),
        reason: format!("it has neither {}", WEIGHT_FILES.join(" nor ")),
    })
}

/// Reads timm's configuration. Returns `None` if the folder has no such file, or one in a different format.
fn read_config(folder: &Path) -> Option<TimmConfig> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(CONFIG_FILE)).ok()?).ok()
}

/// Whether two names of timm denote the same architecture. SigLIP's names contain the image size, which may differ.
fn same_architecture(theirs: &str, own: &str) -> bool {
    let known = |name| Trunk::parse(name).ok();
    theirs == own || known(theirs).is_some_and(|trunk| known(own) == Some(trunk))
}

fn differences(config: &PretrainedConfig, own: &PreprocessConfig, image_size: i64) -> Vec<String> {
    let mut notes = Vec::new();
    let pairs = [("mean", config.mean, own.mean), ("std", config.std, own.std)];
    let differ = |theirs: [f32; 3], own: [f32; 3]| theirs.iter().zip(own).any(|(a, b)| (a - b).abs() > 1e-4);
    for (name, theirs, own) in pairs {
        if let Some(theirs) = theirs.filter(|theirs| differ(*theirs, own)) {
            notes.push(format!(
                "images are normalised with {name} {own:?}; these weights were trained with {theirs:?}"
            ));
        }
    }
    if let Some([_, size, _]) = config.input_size.filter(|[_, size, _]| *size != image_size) {
        notes.push(format!("images have {image_size} px; these weights were trained with {size} px"));
    }
    notes
}

/// Returns the tensors of the image tower under this crate's names.
fn tower_tensors(tensors: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let mut named = HashMap::new();
    for (name, tensor) in tensors {
        named.insert(layout::unwrapped(&name, &mut Default::default()), tensor);
    }
    // The tower may be part of a CLIP model or an attribute of a training class.
    let prefixes = [TRUNK, "trunk.", "model.", "backbone.", "encoder."];
    let prefix = prefixes.iter().find(|prefix| {
        let below = named.keys().filter(|name| name.starts_with(**prefix)).count();
        below == named.len() || (below > 0 && [TRUNK, "trunk."].contains(*prefix))
    });
    let is_computed = |name: &str| COMPUTED.iter().any(|buffer| name.ends_with(buffer));
    let own = named.into_iter().filter_map(|(name, tensor)| {
        let rest = match prefix {
            Some(prefix) => name.strip_prefix(prefix)?,
            None => &name,
        };
        (!is_computed(rest)).then(|| (format!("{TRUNK}{rest}"), tensor))
    });
    own.collect()
}

/// Removes the classifier, and returns the names of its tensors.
fn leave_out(found: &mut HashMap<String, Tensor>, trunk: Trunk) -> Vec<String> {
    let is_classifier = |name: &str| {
        let name = name.strip_prefix(TRUNK).unwrap_or(name);
        trunk
            .classifiers()
            .iter()
            .any(|path| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    };
    let mut names = found.keys().filter(|name| is_classifier(name)).cloned().collect::<Vec<_>>();
    names.sort();
    for name in &names {
        found.remove(name);
    }
    for name in &mut names {
        *name = name.strip_prefix(TRUNK).unwrap_or(name).to_string();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClipConfig, presets};
    use tch::{Device, Kind};

    fn model(tower: &str, seed: u64) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 8, "vision_cfg": {{"timm_model_name": "{tower}", "image_size": 64}},
            "text_cfg": {{"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1}}}}"#
        );
        Clip::new(&ClipConfig::from_json(tower, &json).unwrap(), Device::Cpu, seed).unwrap()
    }

    /// Writes timm's file of a tower, with a classifier.
    fn write(folder: &Path, source: &Clip, prefix: &str, classifier: &str) -> PathBuf {
        let one = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
        let trunk = source.params().state().filter_map(|p| Some((p.name.strip_prefix(TRUNK)?, &p.tensor)));
        let named = trunk.chain([(classifier, &one)]).map(|(name, t)| (format!("{prefix}{name}"), t));
        let named = named.collect::<Vec<_>>();
        let path = folder.join("model.safetensors");
        weights::write_safetensors(&path, named.iter().map(|(name, t)| (name.as_str(), *t))).unwrap();
        path
    }

    #[test]
    fn every_family_loads_the_weights_of_timm_without_the_classifier() {
        for (tower, classifier) in [
            ("resnet18", "fc.weight"),
            ("efficientnet_b0", "classifier.weight"),
            ("mobilenetv3_small_100", "classifier.bias"),
            ("mobilenetv4_conv_small", "classifier.weight"),
            ("convnext_atto", "head.fc.weight"),
            ("repvit_m0_9", "head.head_dist.l.weight"),
            ("fastvit_t8", "head.fc.weight"),
            ("efficientvit_b0", "head.classifier.4.weight"),
            ("mobilevit_xxs", "head.fc.weight"),
            ("swin_tiny_patch4_window7_224", "head.fc.weight"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (source, model) = (model(tower, 1), model(tower, 2));
            write(folder.path(), &source, "", classifier);
            let before = model.params().get("token_embedding.weight").unwrap().copy();
            let report = load_image_weights(&model, folder.path(), &PreprocessConfig::default()).unwrap();
            assert_eq!(report.left_out, [classifier], "{tower}");
            assert!(report.notes.is_empty(), "{tower}: {report:?}");
            for entry in model.params().state().filter(|entry| entry.name.starts_with(TRUNK)) {
                assert!(
                    entry.tensor.equal(source.params().get(&entry.name).unwrap()),
                    "{tower}: {}",
                    entry.name
                );
            }
            assert!(model.params().get("token_embedding.weight").unwrap().equal(&before));
            assert!(report.initial.iter().any(|name| name == "visual.head.proj.weight"), "{report:?}");
            assert!(report.initial.iter().all(|name| !name.starts_with(TRUNK)));
        }
    }

    #[test]
    fn names_may_have_a_prefix() {
        let source = model("convnext_atto", 1);
        for prefix in ["", "visual.trunk.", "module.", "model.", "module.visual._orig_mod.trunk."] {
            let folder = tempfile::tempdir().unwrap();
            let file = write(folder.path(), &source, prefix, "head.fc.weight");
            let model = model("convnext_atto", 2);
            load_image_weights(&model, &file, &PreprocessConfig::default()).unwrap();
            let name = "visual.trunk.stages.3.blocks.1.gamma";
            assert!(model.params().get(name).unwrap().equal(source.params().get(name).unwrap()), "{prefix}");
        }
    }

    #[test]
    fn weights_that_do_not_fit_are_refused_with_every_difference() {
        let folder = tempfile::tempdir().unwrap();
        let model = model("repvit_m0_9", 2);
        write(folder.path(), &self::model("repvit_m1_0", 1), "", "head.head.l.weight");
        let load = |model: &Clip| load_image_weights(model, folder.path(), &PreprocessConfig::default());
        let before = model.params().get("visual.trunk.stem.conv1.c.weight").unwrap().copy();
        assert!(matches!(load(&model).unwrap_err(), Error::Mismatch { .. }));
        assert!(model.params().get("visual.trunk.stem.conv1.c.weight").unwrap().equal(&before));

        std::fs::write(folder.path().join(CONFIG_FILE), r#"{"architecture": "repvit_m1_0"}"#).unwrap();
        let error = load(&model).unwrap_err().to_string();
        assert!(error.contains("repvit_m1_0") && error.contains("repvit_m0_9"), "{error}");

        let vit = Clip::new(&presets::get("ViT-nano-32px").unwrap(), Device::Cpu, 0).unwrap();
        assert!(matches!(load(&vit).unwrap_err(), Error::Unsupported { .. }));
        let empty = tempfile::tempdir().unwrap();
        let error = load_image_weights(&model, empty.path(), &PreprocessConfig::default()).unwrap_err();
        assert!(matches!(error, Error::NotAModelFolder { .. }), "{error}");
    }

    #[test]
    fn other_preprocessing_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let model = model("convnext_atto", 2);
        write(folder.path(), &model, "", "head.fc.weight");
        let config = r#"{"architecture": "convnext_atto", "num_classes": 1000, "pretrained_cfg":
            {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 288, 288]}}"#;
        std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
        let notes = load_image_weights(&model, folder.path(), &PreprocessConfig::default()).unwrap().notes;
        assert!(notes.len() == 3 && notes[0].contains("0.485") && notes[2].contains("288 px"), "{notes:?}");
        let own =
            PreprocessConfig::default().with_normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        assert_eq!(load_image_weights(&model, folder.path(), &own).unwrap().notes.len(), 1);
    }
}

//! `[teacher]` of a recipe: one table, or a list of them.

use std::path::PathBuf;

use clip_model::folder::ConfigOverrides;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model_ref::{ModelRef, StoreRef};

/// Maximum logit scale: a larger one concentrates every distribution on a single class.
const MAX_SCALE: f64 = 1e4;

/// A frozen teacher: a model, a store of its embeddings, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct TeacherConfig {
    /// The model. With a store, the model must be the one whose embeddings are stored.
    pub model: Option<ModelRef>,
    /// A store of embeddings that replaces the model in training.
    pub store: Option<StoreRef>,
    /// Logit scale that replaces the model's own.
    pub logit_scale: Option<f64>,
    /// Image size in pixels that replaces the model's own.
    pub image_size: Option<i64>,
    /// Architecture preset of a bare weight file.
    pub arch: Option<String>,
    /// A `tokenizer.json`; default: the one in the model's folder, or CLIP's tokenizer.
    pub tokenizer: Option<PathBuf>,
}

impl TeacherConfig {
    /// Name for messages and reports: the model, the run or the store.
    pub fn name(&self) -> String {
        let store = || self.store.as_ref().map(ToString::to_string);
        self.model.as_ref().map(ToString::to_string).or_else(store).unwrap_or_default()
    }

    /// Changes to the model's own configuration.
    pub fn adjust(&self) -> ConfigOverrides {
        ConfigOverrides::default().with_image_size(self.image_size)
    }
}

/// The keys of `[teacher]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// The teacher: a model folder, a checkpoint file, `hf-hub:owner/name`, or open_clip's `ARCHITECTURE:TAG`, such as
    /// `ViT-B-32:laion2b_s34b_b79k`. `model`, `run` or `store` is required; `model` and `run` exclude each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Earlier run of the recipe file that is the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Folder of stored embeddings (`clip-distill reinforce`) that replaces the model. With `model` or `run`, the store
    /// must come from that model; a missing store is created, with `data.variants` or 2 variants.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<StoreRef>,
    /// Logit scale after exp, above 0 and up to 10,000. A store contains the model's scale, and the recipe that trains
    /// from it can set another one. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logit_scale: Option<f64>,
    /// Input size in pixels; needs `model` or `run`. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<i64>,
    /// Preset of a bare weight file, or of a teacher that is not present (`--dry-run`); needs `model` or `run`, and is
    /// ignored for a model folder. Default: the configuration beside or in the file, else inferred from shapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    /// A `tokenizer.json`; needs `model` or `run`. Default: the one in the model folder, or CLIP's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<PathBuf>,
}

impl TryFrom<Keys> for TeacherConfig {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let needs = "[teacher] needs either `model`, `run` or `store`";
        let both = |_| "[teacher] has both `model` and `run`: give either `model`, `run` or `store`";
        let model = ModelRef::from_keys(keys.model, keys.run).map_err(both)?;
        if model.is_none() && keys.store.is_none() {
            return Err(needs.into());
        }
        let of_a_model = [keys.image_size.is_some(), keys.arch.is_some(), keys.tokenizer.is_some()];
        if model.is_none() && of_a_model.contains(&true) {
            return Err(
                "teacher.image_size, arch and tokenizer belong to a model, and only its store is named"
                    .into(),
            );
        }
        if let Some(scale) = keys.logit_scale.filter(|scale| !(*scale > 0.0 && *scale <= MAX_SCALE)) {
            return Err(format!(
                "teacher.logit_scale = {scale} is not in (0, {MAX_SCALE}] (CLIP's scales are up to 100)"
            ));
        }
        Ok(TeacherConfig {
            model,
            store: keys.store,
            logit_scale: keys.logit_scale,
            image_size: keys.image_size,
            arch: keys.arch,
            tokenizer: keys.tokenizer,
        })
    }
}

impl From<TeacherConfig> for Keys {
    fn from(teacher: TeacherConfig) -> Self {
        let (model, run) = teacher.model.map(ModelRef::into_keys).unwrap_or_default();
        Keys {
            model,
            run,
            store: teacher.store,
            logit_scale: teacher.logit_scale,
            image_size: teacher.image_size,
            arch: teacher.arch,
            tokenizer: teacher.tokenizer,
        }
    }
}

/// One table, or a list of them.
pub(super) mod written {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::TeacherConfig;

    pub(in crate::recipe) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<TeacherConfig>, D::Error> {
        let read = |value: toml::Value| {
            value.try_into().map_err(|e: toml::de::Error| de::Error::custom(e.message()))
        };
        match toml::Value::deserialize(from)? {
            toml::Value::Array(list) => list.into_iter().map(read).collect(),
            one => Ok(vec![read(one)?]),
        }
    }

    pub(in crate::recipe) fn serialize<S: Serializer>(
        teachers: &[TeacherConfig],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match teachers {
            [one] => one.serialize(to),
            several => several.serialize(to),
        }
    }
}

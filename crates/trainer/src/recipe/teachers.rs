//! The teachers in a recipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Maximum logit scale: a larger factor concentrates every distribution on a single class.
const MAX_SCALE: f64 = 1e4;

/// A frozen teacher. Requires one of `model` and `run`; with `store`, both are optional.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// A model folder, `hf-hub:owner/name`, or a checkpoint file (of the architecture `arch`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// An earlier run of the same recipe file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// A folder of stored embeddings (`clip-distill reinforce`) that replaces the model. If a model is also named, the
    /// store must come from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Logit scale (factor on its cosines) that replaces the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_scale: Option<f64>,
    /// Image size in pixels that replaces the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<i64>,
    /// The preset of a bare weight file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// A `tokenizer.json`; default: the one in the model's folder, or CLIP's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

impl TeacherConfig {
    /// Name for messages and reports: the model, the run or the store.
    pub fn name(&self) -> String {
        let store = || self.store.as_ref().map(|path| path.display().to_string());
        self.model.clone().or_else(|| self.run.clone()).or_else(store).unwrap_or_default()
    }

    /// Whether it names a model or run, with or without a store.
    pub fn names_a_model(&self) -> bool {
        self.model.is_some() || self.run.is_some()
    }

    /// Returns the reason why the settings are invalid, if they are.
    pub fn problem(&self) -> Option<String> {
        let named = usize::from(self.model.is_some()) + usize::from(self.run.is_some());
        if named > 1 || (named == 0 && self.store.is_none()) {
            return Some("[teacher] needs either `model`, `run` or `store`".into());
        }
        let of_a_model = [self.image_size.is_some(), self.arch.is_some(), self.tokenizer.is_some()];
        if named == 0 && of_a_model.contains(&true) {
            return Some(
                "teacher.image_size, arch and tokenizer belong to a model, and only its store is named"
                    .into(),
            );
        }
        match self.logit_scale {
            Some(scale) if !(scale > 0.0 && scale <= MAX_SCALE) => Some(format!(
                "teacher.logit_scale = {scale} is not in (0, {MAX_SCALE}] (CLIP's scales are up to 100)"
            )),
            _ => None,
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

//! `[student]` of a recipe.

use std::path::PathBuf;

use clip_model::folder::ConfigOverrides;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_zero;
use super::model_ref::ModelRef;

/// The setting of [`Student::inherit`].
pub(crate) const INHERIT: &str = "student.inherit";

/// The model that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Student {
    /// The model to start from: untrained for a preset or a configuration file, else with its weights.
    pub model: ModelRef,
    /// A larger model from which the student inherits its initial weights.
    pub inherit: Option<ModelRef>,
    /// Whether to inherit only the token and positional embeddings, projected to the student's width.
    pub inherit_tokens: bool,
    /// Weights of a timm model with which the image tower starts: a file, a folder or `hf-hub:owner/name`.
    pub image_weights: Option<String>,
    /// Image size in pixels that replaces the model's own.
    pub image_size: Option<i64>,
    /// Patch dropout rate of a ViT in training; default: the model's own.
    pub patch_dropout: Option<f64>,
    /// Maximum drop path rate of a timm tower; default: the model's own.
    pub drop_path: Option<f64>,
    /// Lock of the image tower.
    pub lock_image: TowerLock,
    /// Lock of the text tower.
    pub lock_text: TowerLock,
    /// A `tokenizer.json`; default: the one in the model's folder, or CLIP's tokenizer.
    pub tokenizer: Option<PathBuf>,
}

/// A lock (freeze) of a tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TowerLock {
    /// Whether the tower is locked.
    pub locked: bool,
    /// Number of groups of a locked tower that stay trainable, counted from the projection.
    pub unlocked_groups: usize,
}

impl Student {
    /// Changes to the model's own configuration.
    pub fn adjust(&self) -> ConfigOverrides {
        ConfigOverrides::default()
            .with_image_size(self.image_size)
            .with_patch_dropout(self.patch_dropout)
            .with_drop_path(self.drop_path)
    }
}

/// The keys of `[student]`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Architecture to train from scratch, or model to continue from; this or `run` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Earlier run of the recipe file whose final model is trained further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Weights that initialise a timm image tower, without their classifier: a file, a folder, or a name such as
    /// `hf-hub:timm/mobilenetv4_conv_small.e2400_r224_in1k`. The student keeps its own preprocessing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_weights: Option<String>,
    /// Input size in pixels. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<i64>,
    /// Fraction of patches dropped in training, 0 to below 1; ViT only. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch_dropout: Option<f64>,
    /// Largest drop path rate, 0 to below 1; timm towers only. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drop_path: Option<f64>,
    /// Freeze the image tower.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lock_image: bool,
    /// Number of last groups of a locked image tower that are trained: the projection, then the blocks from the last.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_image_unlocked_groups: usize,
    /// Freeze the text tower.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lock_text: bool,
    /// Number of last groups of a locked text tower that are trained: the projection, then the blocks from the last.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_text_unlocked_groups: usize,
    /// A `tokenizer.json`. Default: the one in the model folder, or CLIP's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<PathBuf>,
    /// Larger model whose weights initialise the student; docs/methods.md lists the requirements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherit: Option<String>,
    /// Earlier run of the recipe file whose model initialises the student; only one of `run`, `inherit` and
    /// `inherit_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherit_run: Option<String>,
    /// Inherit the token and positional embeddings only, projected to the student's width; needs `inherit` or
    /// `inherit_run`.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inherit_tokens: bool,
}

impl TryFrom<Keys> for Student {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        let continues = keys.run.is_some();
        let needs = "[student] needs either `model` or `run`";
        let one = "give one of student.inherit, student.inherit_run and student.run";
        let both = "[student] has both `model` and `run`: give either `model` or `run`";
        let model = ModelRef::from_keys(keys.model, keys.run).map_err(|_| both)?.ok_or(needs)?;
        let inherit = ModelRef::from_keys(keys.inherit, keys.inherit_run).map_err(|_| one)?;
        if continues && inherit.is_some() {
            return Err(one);
        }
        if keys.inherit_tokens && inherit.is_none() {
            return Err(
                "student.inherit_tokens needs student.inherit or student.inherit_run: the model to inherit from",
            );
        }
        if keys.image_weights.is_some() && (continues || (inherit.is_some() && !keys.inherit_tokens)) {
            return Err(
                "student.image_weights excludes student.run and student.inherit, which also set the image tower: remove one of them",
            );
        }
        let lock = |locked, unlocked_groups| TowerLock { locked, unlocked_groups };
        Ok(Student {
            model,
            inherit,
            inherit_tokens: keys.inherit_tokens,
            image_weights: keys.image_weights,
            image_size: keys.image_size,
            patch_dropout: keys.patch_dropout,
            drop_path: keys.drop_path,
            lock_image: lock(keys.lock_image, keys.lock_image_unlocked_groups),
            lock_text: lock(keys.lock_text, keys.lock_text_unlocked_groups),
            tokenizer: keys.tokenizer,
        })
    }
}

impl From<Student> for Keys {
    fn from(student: Student) -> Self {
        let (model, run) = student.model.into_keys();
        let (inherit, inherit_run) = student.inherit.map(ModelRef::into_keys).unwrap_or_default();
        Keys {
            model,
            run,
            image_weights: student.image_weights,
            image_size: student.image_size,
            patch_dropout: student.patch_dropout,
            drop_path: student.drop_path,
            lock_image: student.lock_image.locked,
            lock_image_unlocked_groups: student.lock_image.unlocked_groups,
            lock_text: student.lock_text.locked,
            lock_text_unlocked_groups: student.lock_text.unlocked_groups,
            tokenizer: student.tokenizer,
            inherit,
            inherit_run,
            inherit_tokens: student.inherit_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_weights_exclude_other_weights_of_the_image_tower() {
        let parse = |keys: &str| toml::from_str::<Student>(&format!("image_weights = \"a\"\n{keys}"));
        let student = parse("model = \"RN50\"").unwrap();
        assert_eq!(student.image_weights.as_deref(), Some("a"));
        let written = toml::to_string(&student).unwrap();
        assert_eq!(toml::from_str::<Student>(&written).unwrap(), student);
        assert!(parse("model = \"RN50\"\ninherit = \"b\"\ninherit_tokens = true").is_ok());
        for other in ["run = \"b\"", "model = \"RN50\"\ninherit = \"b\""] {
            assert!(parse(other).unwrap_err().to_string().contains("student.image_weights"), "{other}");
        }
    }
}

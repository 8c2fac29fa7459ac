//! `[student]` of a recipe.

use std::path::PathBuf;

use clip_model::folder::ConfigOverrides;
use serde::{Deserialize, Serialize};

use super::is_zero;
use super::model_ref::ModelRef;

/// The model that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Student {
    /// The model to start from: untrained for a preset or a configuration file, else with its weights.
    pub model: ModelRef,
    /// A larger model from which the student inherits its initial weights.
    pub inherit: Option<ModelRef>,
    /// Whether to inherit only the token and positional embeddings, projected to the student's width.
    pub inherit_tokens: bool,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// A preset, a configuration in open_clip's format (`*.json`), or a model to start from: a folder, a checkpoint
    /// file or `hf-hub:owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// An earlier run of the recipe file whose final model, of any shape, is the start instead of `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Image size in pixels that replaces the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<i64>,
    /// Patch dropout rate of a ViT in training; default: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch_dropout: Option<f64>,
    /// Maximum drop path rate of a timm tower; default: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drop_path: Option<f64>,
    /// Whether to lock (freeze) the image tower, except its last groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lock_image: bool,
    /// Number of groups of a locked image tower that stay trainable, counted from the projection.
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_image_unlocked_groups: usize,
    /// Whether to lock (freeze) the text tower, except its last groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lock_text: bool,
    /// Number of groups of a locked text tower that stay trainable, counted from the projection.
    #[serde(default, skip_serializing_if = "is_zero")]
    lock_text_unlocked_groups: usize,
    /// A `tokenizer.json`; default: the one in the model's folder, or CLIP's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokenizer: Option<PathBuf>,
    /// A larger model (folder or file) from which the student inherits its initial weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherit: Option<String>,
    /// An earlier run of the recipe file from whose model the student inherits its initial weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherit_run: Option<String>,
    /// Whether to inherit only the token and positional embeddings, projected to the student's width.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inherit_tokens: bool,
}

impl TryFrom<Keys> for Student {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        let continues = keys.run.is_some();
        let needs = "[student] needs either `model` or `run`";
        let one = "give one of student.inherit, student.inherit_run and student.run";
        let model = ModelRef::from_keys(keys.model, keys.run).map_err(|_| needs)?.ok_or(needs)?;
        let inherit = ModelRef::from_keys(keys.inherit, keys.inherit_run).map_err(|_| one)?;
        if continues && inherit.is_some() {
            return Err(one);
        }
        if keys.inherit_tokens && inherit.is_none() {
            return Err(
                "student.inherit_tokens needs student.inherit or student.inherit_run: the model to inherit from",
            );
        }
        let lock = |locked, unlocked_groups| TowerLock { locked, unlocked_groups };
        Ok(Student {
            model,
            inherit,
            inherit_tokens: keys.inherit_tokens,
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

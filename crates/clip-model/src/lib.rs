//! CLIP dual encoders on tch: towers, presets, checkpoints and model folders.
#![doc = include_str!("../README.md")]

mod activation;
mod attention;
mod block;
mod clip;
pub mod config;
mod conv;
pub mod cost;
pub mod cross_modal;
mod error;
pub mod folder;
mod gates;
pub mod image_weights;
pub mod inherit;
mod layers;
mod lock;
mod mode;
mod names;
mod params;
mod pooled_token;
pub mod presets;
pub mod prune;
pub mod resize;
mod states;
mod tape;
mod text;
mod text_groups;
mod vision;
pub mod weight_files;
pub mod weights;

pub use activation::Activation;
pub use clip::Clip;
pub use config::{ClipConfig, PreprocessConfig, TextConfig, VisionConfig};
pub use cross_modal::{CrossModal, CrossModalConfig};
pub use error::{Error, Result};
pub use folder::{ConfigOverrides, OpenedModel, open, save};
pub use lock::Tower;
pub use mode::{Mode, Precision, seeded};
pub use params::{Parameter, Params};
pub use states::{ImageStates, TextStates};
pub use tape::Tape;
pub use weight_files::WeightFile;

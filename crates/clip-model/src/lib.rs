//! CLIP's two towers on tch: an image tower and a text tower that meet in one embedding space.
//!
//! 1. an image `[batch, 3, size, size]` goes through the ViT image tower ([`vision`]),
//! 2. token ids `[batch, context]` go through the causal text transformer ([`text`]),
//! 3. both end in a projection to `[batch, embed_dim]` (raw; losses and evaluation normalise),
//! 4. similarities are cosines times the exponential of the learned logit scale ([`Clip`]).
//!
//! Parameter names are the state-dict names of open_clip's checkpoints, so weights move
//! between the two without a table; [`weights`] checks them strictly, and [`folder`] reads and
//! writes the model folders that Python's open_clip loads as `local-dir:`. [`checkpoint`] reads what others
//! have published, in its containers and under its names.
#![doc = include_str!("../README.md")]

pub mod activation;
pub mod attention;
pub mod block;
pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod conv;
pub mod cost;
pub mod cross_modal;
pub mod error;
pub mod folder;
pub mod gates;
pub mod inherit;
pub mod layers;
pub mod lock;
pub mod mode;
pub mod params;
pub mod presets;
pub mod prune;
pub mod resize;
pub mod states;
pub mod tape;
pub mod text;
mod text_groups;
pub mod vision;
pub mod weights;

pub use activation::Activation;
pub use clip::Clip;
pub use config::{ClipConfig, PreprocessConfig, TextConfig, VisionConfig};
pub use cross_modal::{CrossModal, CrossModalConfig};
pub use error::{Error, Result};
pub use lock::Tower;
pub use mode::{Precision, seeded};
pub use params::{Parameter, Params};
pub use states::{ImageStates, TextStates};
pub use tape::Tape;

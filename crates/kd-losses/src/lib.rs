//! Losses of CLIP training and distillation as pure functions on tch tensors.
//!
//! | term | formula | source |
//! | --- | --- | --- |
//! | [`contrastive::task`] | cross-entropy of image-text logits, both directions | CLIP |
//! | [`contrastive::siglip`] | pairwise sigmoid | SigLIP |
//! | [`relation::crd`] | KL of similarity distributions, teacher to student | CLIP-KD |
//! | [`relation::affinity`] | soft cross-entropy of similarity distributions | TinyCLIP |
//! | [`feature::fd`] | mean squared error of unit embeddings | CLIP-KD |
//! | [`feature::cosine`] | 1 − cosine of embeddings | DCLIP |
//! | [`tokens::patch_tokens`] | mean squared error of unit patch tokens | FitNets |
//! | [`tokens::image_block`], [`tokens::text_block`] | mean squared error of unit outputs of chosen blocks | FitNets |
//! | [`gradient::gd`] | mean squared error of contrastive gradients | CLIP-KD |
//! | [`interactive::icl`] | student images against teacher texts, and the reverse | CLIP-KD |
//! | [`interactive::cross_kd`] | KL of similarities between the models, teacher to student | CLIP-KD's code |
//! | [`fusion::afd`] | contrast of fused student and teacher embeddings | CLIP-KD |
//! | [`logit::hinton`] | KL of class logits at a temperature | Hinton et al. |
//! | [`rkd::distance`], [`rkd::angle`] | Huber loss of relations within a modality | RKD |
//! | [`clip_rd::vrd`], [`clip_rd::xrd`] | relations across teacher and student | CLIP-RD |
//! | [`structure::gram`], [`structure::anchors`] | relations of the joint space as distributions | this project |
//!
//! The functions do not depend on a model, data or process group. They take the embeddings of this process as rows,
//! those of all processes as columns, and the offset of the diagonal. With a single process, the logits are square.
//! [`Objective`] sums weighted terms over one or several teachers, and reports each of them.
#![doc = include_str!("../README.md")]

pub mod clip_rd;
pub mod contrastive;
pub mod embeddings;
mod error;
mod evaluation;
pub mod feature;
pub mod fusion;
pub mod gradient;
pub mod interactive;
mod learned;
pub mod logit;
mod loss;
mod objective;
pub mod relation;
pub mod rkd;
mod schedule;
mod settings;
pub mod structure;
mod term;
pub mod tokens;

pub use embeddings::{Embeddings, Logits, Targets, normalize};
pub use error::{Error, Result};
pub use loss::Loss;
pub use objective::{AuxOutputs, LossReport, ModelOutputs, Objective, TermValue};
pub use schedule::{Curve, WeightSchedule, WeightSettings, When};
pub use settings::{
    AnchorSettings, GramSettings, HiddenSettings, HintonSettings, LossSettings, MfdSettings,
    VocabularySettings,
};
pub use term::{Term, first_gap};
pub use tokens::{BlockPairs, TokenStates, TokenWidths};

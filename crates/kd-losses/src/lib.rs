//! Losses of CLIP training and distillation as pure functions on tch tensors.
//!
//! | term | formula | source |
//! | --- | --- | --- |
//! | [`contrastive::task`] | cross-entropy of image-text logits, both directions | CLIP |
//! | [`contrastive::siglip`] | pairwise sigmoid | SigLIP |
//! | [`relation::crd`] | KL of similarity distributions, teacher to student | CLIP-KD |
//! | [`relation::affinity`] | soft cross-entropy of the same | TinyCLIP |
//! | [`feature::fd`] | mean squared error of unit embeddings | CLIP-KD |
//! | [`interactive::icl`] | student images against teacher texts and the reverse | CLIP-KD |
//! | [`logit::hinton`] | KL of class logits at a temperature | Hinton et al. |
//!
//! The functions know no model, data or process group: they take this process's rows, the
//! columns of all processes and the offset of the diagonal; one process is the square case.
//! [`objective::Objective`] adds weighted terms up and reports each of them.
#![doc = include_str!("../README.md")]

pub mod contrastive;
pub mod embeddings;
pub mod error;
pub mod feature;
pub mod interactive;
pub mod learned;
pub mod logit;
pub mod objective;
pub mod relation;

pub use embeddings::{Embeddings, Logits, Targets};
pub use error::{Error, Result};
pub use objective::{Loss, LossReport, Objective, Term};

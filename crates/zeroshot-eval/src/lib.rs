//! Zero-shot evaluation of any dual encoder: classification by prompts, and retrieval in both directions.
//!
//! 1. An [`Encoder`] embeds images and texts in one space.
//! 2. A [`Classifier`] holds one unit embedding per class, the mean of its [`prompts`].
//! 3. [`Accuracy`] counts top-1, top-5 and per-class recall; [`retrieval()`] counts recall@k.
//! 4. [`evaluate_stored`] computes all metrics from embeddings: these, [`Calibration`], [`confusion`], k-NN and a linear
//!    probe (features `knn` and `probe`, on by default), and the [`fidelity`](mod@fidelity) to a teacher.
//! 5. [`Report`], [`retention()`] and [`Table`] present the results of models on data sets.
//!
//! A tie counts as wrong, so a collapsed encoder, whose embeddings are all equal, scores 0. Classes with the same name
//! ([`names`]) are the exception: the first one wins.
#![doc = include_str!("../README.md")]

pub mod accuracy;
pub mod calibration;
mod classifier;
pub mod confusion;
mod encoder;
mod error;
pub mod fidelity;
#[cfg(feature = "knn")]
mod knn;
#[cfg(feature = "probe")]
mod lbfgs;
#[cfg(feature = "probe")]
mod logistic;
pub mod metric;
pub mod names;
mod neighbors;
#[cfg(feature = "probe")]
mod probe;
pub mod prompts;
pub mod report;
mod retention;
mod retrieval;
mod rows;
mod run;
mod seeded;
mod stored;
pub mod table;

pub use accuracy::{Accuracy, Classification};
pub use calibration::{Calibration, calibration};
pub use classifier::Classifier;
pub use confusion::Confusion;
pub use encoder::{EncodeError, Encoder, normalize_rows};
pub use error::{Error, Result};
pub use fidelity::{Fidelity, FidelityInput, FidelityOptions, Sides, fidelity};
#[cfg(feature = "knn")]
pub use knn::{Knn, KnnOptions};
pub use metric::{FidelityMetric, Metric, MetricName, MetricValue};
#[cfg(feature = "probe")]
pub use probe::{Probe, ProbeOptions, ProbeTraining, Tried};
pub use report::{Report, Score, SetScore};
pub use retention::{Retention, SetRetention, retention};
pub use retrieval::{Recall, Retrieval, retrieval};
pub use run::{
    CaptionedEmbeddings, LabelledEmbeddings, classification, encode_captioned, encode_labelled, retrieval_set,
};
#[cfg(feature = "probe")]
pub use stored::ProbeResult;
pub use stored::{
    Evaluation, Labels, SetCounts, StoredEmbeddings, StoredOptions, StoredSet, evaluate_stored,
};
pub use table::Table;

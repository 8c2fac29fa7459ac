//! Zero-shot evaluation of any dual encoder: classification by prompts, and retrieval both ways.
//!
//! 1. an [`Encoder`] turns images and texts into rows of one space,
//! 2. a [`Classifier`] is one unit row per class, the mean over its prompts ([`prompts`]),
//! 3. [`accuracy`] counts top-1, top-5 and recall per class; [`mod@retrieval`] counts recall@k,
//! 4. [`stored`] takes all measures from rows that were made once: those, [`mod@calibration`],
//!    [`confusion`], [`knn`], a linear [`probe`], and [`mod@fidelity`] to a teacher,
//! 5. [`report`] puts models and data sets into tables and JSON, and [`mod@retention`] a student's
//!    scores beside its teacher's.
//!
//! Where scores are equal the model is counted as wrong, so that a collapsed encoder, whose rows are all the same,
//! scores nothing. Ties between classes with the same name ([`names`]) are the exception: the first one wins.
#![doc = include_str!("../README.md")]

pub mod accuracy;
pub mod calibration;
pub mod classifier;
pub mod confusion;
pub mod encoder;
pub mod error;
pub mod fidelity;
pub mod knn;
mod lbfgs;
mod logistic;
pub mod names;
mod neighbors;
pub mod probe;
pub mod prompts;
pub mod report;
pub mod retention;
pub mod retrieval;
mod rows;
pub mod run;
mod seeded;
pub mod stored;

pub use accuracy::{Accuracy, Classification};
pub use calibration::{Calibration, calibration};
pub use classifier::Classifier;
pub use confusion::Confusion;
pub use encoder::{EncodeError, Encoder, normalize_rows};
pub use error::{Error, Result};
pub use fidelity::{Fidelity, FidelityInput, FidelityOptions, Sides, fidelity};
pub use knn::{Knn, KnnOptions};
pub use probe::{Probe, ProbeOptions};
pub use report::{Report, Score, SetScore};
pub use retention::{Retention, retention};
pub use retrieval::{Recall, Retrieval, retrieval};
pub use run::{
    CaptionedRows, LabelledRows, classification, encode_captioned, encode_labelled, retrieval_set,
};
pub use stored::{Evaluation, Labels, StoredOptions, StoredRows, StoredSet, evaluate_stored};

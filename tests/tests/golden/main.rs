//! Golden tests: outputs of the reference implementations, compared file by file.
//!
//! The files are the project's own (`tests/golden`) and, if `CLIP_DISTILL_GOLDEN` names a folder, all files of that
//! folder too. A test knows the names that the project's own folder has to hold, and fails if one of them was not
//! compared, if a file holds an unknown name, or if a folder has nothing of its kind.

mod image_size;
mod layouts;
mod losses;
mod models;
mod preprocess;
mod tokenizer;
mod training;
mod training_mode;

//! Golden tests: outputs of the reference implementations, compared file by file.
//!
//! The files are the project's own (`tests/golden`) and, if `CLIP_DISTILL_GOLDEN` names a folder, the files of that
//! folder. Each test lists the names that the project's own folder must contain. It fails if one of them was not
//! compared, if a file contains an unknown name, or if a folder has no files of its kind.

mod image_size;
mod layouts;
mod losses;
mod models;
mod preprocess;
mod tokenizer;
mod training;
mod training_mode;

//! Golden tests: everything in the golden folder of a kind that the project knows is compared.
//!
//! The folder is `CLIP_DISTILL_GOLDEN`, or the project's own copy. Each test prints how many
//! files it compared and fails where there is none, so a new file is checked without a new line.

mod image_size;
mod layouts;
mod losses;
mod models;
mod preprocess;
mod tokenizer;
mod training;
mod training_mode;

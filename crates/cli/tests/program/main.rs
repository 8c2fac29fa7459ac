//! The program from outside, as one binary: each more links libtorch again.

mod benchmark;
mod commands;
mod common;
mod compare;
mod data;
mod inference;
mod lists;
mod machine;
mod messages;
mod models;
mod rounds;
mod settings;
mod teacher_tokenizer;

//! Teachers of a student: frozen models, or a store of their embeddings.

pub mod classes;
pub mod frozen;
pub(crate) mod model;
pub mod signal;
pub mod store;
pub(crate) mod teachers;

//! The crate's error type.

use crate::encoder::EncodeError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between an encoder and a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoder, or what it was fed from, gave an error.
    #[error("the encoder or its data failed")]
    Encoder(#[source] EncodeError),
    /// Arrays that do not fit each other.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which array.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A name that is not built in.
    #[error("there is no {kind} `{name}`; built in: {known}")]
    Unknown {
        /// Classes or templates.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Input with which nothing can be measured.
    #[error("{0}")]
    Input(String),
}

impl Error {
    pub(crate) fn shape(what: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Error::Shape { what, expected: expected.to_string(), found: found.to_string() }
    }
}

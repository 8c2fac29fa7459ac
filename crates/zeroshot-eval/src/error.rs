//! The crate's error type.

use crate::encoder::EncodeError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the encoder or of its batches.
    #[error(transparent)]
    Encoder(EncodeError),
    /// An array with a wrong size.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The array.
        what: &'static str,
        /// The expected size.
        expected: String,
        /// The actual size.
        found: String,
    },
    /// An unknown name.
    #[error("unknown {kind} `{name}`; known: {known}")]
    Unknown {
        /// The kind of name: classes, templates or a metric.
        kind: &'static str,
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// Classes without prompts among prompts per class.
    #[error(
        "the prompts per class lack {} of the classes, such as `{}`: add their prompts, under the names of the class list",
        classes.len(),
        classes.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("`, `")
    )]
    MissingPrompts {
        /// The classes.
        classes: Vec<String>,
    },
    /// Input that is empty, not finite or out of range.
    #[error("{0}")]
    Input(String),
}

impl Error {
    pub(crate) fn shape(what: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Error::Shape { what, expected: expected.to_string(), found: found.to_string() }
    }
}

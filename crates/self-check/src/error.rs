//! The crate's error type.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A check that could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A reference file lacks a value or holds one of the wrong type.
    #[error("the reference `{name}` is not valid: {reason}")]
    Reference {
        /// Name of the reference.
        name: String,
        /// The problem.
        reason: String,
    },
    /// A result of another shape than the reference.
    #[error("{name}: shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name of the value.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The reference's shape.
        expected: Vec<i64>,
    },
    /// A model that cannot be built or run.
    #[error(transparent)]
    Model(#[from] clip_model::Error),
    /// A loss that cannot be computed.
    #[error(transparent)]
    Loss(#[from] kd_losses::Error),
    /// A training that fails.
    #[error(transparent)]
    Trainer(#[from] trainer::Error),
    /// A tensor operation that fails.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A temporary folder that cannot be created.
    #[error("cannot create a temporary folder")]
    Io(#[from] std::io::Error),
}

impl Error {
    pub(crate) fn reference(name: &str, reason: impl Into<String>) -> Self {
        Error::Reference { name: name.into(), reason: reason.into() }
    }
}

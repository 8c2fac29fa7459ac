//! The crate's error type.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error in the inputs of a loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes of two tensors do not match.
    #[error("{left} has shape {left_shape:?}, but {right} has shape {right_shape:?}: {rule}")]
    Shapes {
        /// The first tensor.
        left: &'static str,
        /// Its shape.
        left_shape: Vec<i64>,
        /// The second tensor.
        right: &'static str,
        /// Its shape.
        right_shape: Vec<i64>,
        /// The rule that they violate.
        rule: &'static str,
    },
    /// A term lacks an input, or a setting is invalid.
    #[error("{0}")]
    Setting(String),
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

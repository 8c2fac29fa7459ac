//! The crate's error type.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with the inputs of a loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two tensors that have to agree in shape do not.
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
        /// How they have to agree.
        rule: &'static str,
    },
    /// A term needs something that was not given, or a setting cannot work.
    #[error("{0}")]
    Setting(String),
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

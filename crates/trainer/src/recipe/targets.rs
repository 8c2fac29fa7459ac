//! The pairs of a batch that the contrastive losses treat as positives.

use serde::{Deserialize, Serialize};

/// The pairs of a batch that count as positives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetRule {
    /// Only a sample's own pair, as in every published recipe.
    #[default]
    Diagonal,
    /// All pairs whose captions have the same tokens.
    EqualCaptions,
}

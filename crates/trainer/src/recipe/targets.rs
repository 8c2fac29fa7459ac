//! Which pairs of a batch the contrastive losses take as positives.

use serde::{Deserialize, Serialize};

/// Which pairs of a batch count as right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetRule {
    /// Only a sample's own pair, as every published recipe has it.
    #[default]
    Diagonal,
    /// All pairs whose captions have the same tokens.
    EqualCaptions,
}

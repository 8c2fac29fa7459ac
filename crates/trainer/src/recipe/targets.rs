//! The pairs of a batch that the contrastive losses treat as positives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pairs of a batch that count as positives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetRule {
    /// The sample's own pair only, as in every published recipe.
    #[default]
    Diagonal,
    /// All pairs whose captions have the same tokens.
    EqualCaptions,
}

//! Opens the training sources of a recipe.

use std::sync::Arc;

use data_pipeline::sources::{Source, Subset};

use crate::Result;
use crate::recipe::{Recipe, TrainSource};

/// Opens the training sources of a recipe.
///
/// # Errors
/// [`crate::Error::Data`] if a source cannot be opened.
pub(crate) fn open_sources(recipe: &Recipe) -> Result<Vec<(Arc<dyn Source>, f64)>> {
    recipe.data.train.iter().map(|own| share(own, own.source.open(&recipe.data.root)?)).collect()
}

/// The part of a source that the recipe uses, with its weight.
pub(crate) fn share(own: &TrainSource, source: Arc<dyn Source>) -> Result<(Arc<dyn Source>, f64)> {
    // If the recipe uses the whole source, the loader reads it without a wrapper.
    let source = if own.share == 1.0 { source } else { Arc::new(Subset::new(source, own.share)?) };
    Ok((source, own.weight))
}

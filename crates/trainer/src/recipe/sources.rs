//! The training sources of a recipe, opened.

use std::sync::Arc;

use data_pipeline::sources::{Share, Source};

use crate::Result;
use crate::recipe::{Recipe, TrainSource};

/// Opens the training sources of a recipe.
///
/// # Errors
/// [`Error::Data`] where one cannot be opened.
pub(crate) fn open_sources(recipe: &Recipe) -> Result<Vec<(Arc<dyn Source>, f64)>> {
    recipe.data.train.iter().map(|own| share(own, own.source.open(&recipe.data.root)?)).collect()
}

/// The part of a source that the recipe takes, with its weight.
pub(crate) fn share(own: &TrainSource, source: Arc<dyn Source>) -> Result<(Arc<dyn Source>, f64)> {
    // Unwrapped where all of it is meant: nothing stands between the loader and the source.
    let source = if own.share == 1.0 { source } else { Arc::new(Share::new(source, own.share)?) };
    Ok((source, own.weight))
}

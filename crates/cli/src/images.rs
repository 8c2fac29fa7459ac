//! Batches of the images that the arguments name; damaged images are left out.

use std::path::PathBuf;
use std::sync::Arc;

use data_pipeline::evaluation::{EvalBatch, EvalBatches};
use data_pipeline::image::Preprocess;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{Images, Source, Upright};

use crate::args::Orientation;
use crate::output;

/// Reads the images of files, folders and patterns in batches, and passes each batch to `process`. Damaged images are
/// left out up to the limit of the policy, and named.
///
/// # Errors
/// The errors of [`Images::open_all`] and [`EvalBatches`], and those of `process`.
pub(crate) fn in_batches(
    paths: &[PathBuf],
    preprocess: &Preprocess,
    batch: usize,
    policy: Option<ErrorPolicy>,
    orientation: &Orientation,
    mut process: impl FnMut(EvalBatch, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut source: Arc<dyn Source> = Arc::new(Images::open_all(paths)?);
    if orientation.exif_orientation {
        source = Arc::new(Upright::new(source));
    }
    let total = source.len();
    let mut batches =
        EvalBatches::with_policy(source, preprocess.clone(), batch, policy.unwrap_or_default())?;
    for batch in batches.by_ref() {
        process(batch?, total)?;
    }
    let damaged = batches.damaged();
    if damaged.len() == total {
        anyhow::bail!("no image can be decoded ({damaged}): check that the paths name images");
    }
    if !damaged.is_empty() {
        let noun = if damaged.len() == 1 { "image" } else { "images" };
        output::note(format!("warning: left out {} damaged {noun} of {total} ({damaged})", damaged.len()));
    }
    Ok(())
}

//! Batches in the background: reading, decoding and transforming on threads, behind a bounded prefetch.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use ndarray::{Array2, Array4};
use serde::{Deserialize, Serialize};

use crate::image::{AugmentConfig, Preprocess};
use crate::mixture::Mixture;
use crate::policy::{ErrorPolicy, SkipCounts};
use crate::store::Variants;
use crate::tokenizer::{Tokenizer, check_context};
use crate::{Error, Result};

mod maker;

/// Most threads of a loader.
pub const MAX_WORKERS: usize = 1024;
/// Most batches that a loader makes ahead.
pub const MAX_PREFETCH: usize = 4096;

/// What one model reads of every sample.
#[derive(Clone)]
pub struct InputSpec {
    /// The model's name, such as `student`.
    pub name: String,
    /// What it wants of its images.
    pub image: Preprocess,
    /// Text to ids.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Tokens per text.
    pub context_length: usize,
}

/// One view of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewBatch {
    /// The view's name.
    pub name: String,
    /// Normalised images `[batch, 3, height, width]`.
    pub images: Array4<f32>,
    /// Token ids `[batch, context]`.
    pub tokens: Array2<i64>,
    /// Object boxes of each image, where the source has them: left, top, right and bottom as shares of the view's side.
    pub boxes: Vec<Vec<[f32; 4]>>,
}

/// Samples in all views.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// One entry per view, in the order of the configuration; row i of each is the same sample,
    /// decoded once and augmented with the same parameters.
    pub views: Vec<ViewBatch>,
    /// Names of the samples.
    pub keys: Vec<String>,
    /// Classes, where the source has them.
    pub labels: Vec<Option<usize>>,
    /// The captions that were chosen.
    pub captions: Vec<String>,
    /// Rows of a store of teacher embeddings, where the configuration has variants.
    pub store_rows: Vec<u64>,
    /// Where the next batch starts: save it with a checkpoint.
    pub position: Position,
}

/// A place in the stream of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Samples of this epoch that are behind.
    pub cursor: u64,
}

/// Which of several captions a sample shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptionChoice {
    /// Always the first.
    First,
    /// One at random, new in each epoch.
    #[default]
    Random,
}

/// Settings of a [`Loader`].
#[derive(Clone)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch_size: usize,
    /// Names order, augmentation and caption choice.
    pub seed: u64,
    /// A new order in each epoch; otherwise that of the sources.
    pub shuffle: bool,
    /// Leaves out a last batch that is not full.
    pub drop_last: bool,
    /// Threads, at most [`MAX_WORKERS`]; 0 takes as many as there are cores.
    pub workers: usize,
    /// Batches made ahead, at most [`MAX_PREFETCH`].
    pub prefetch: usize,
    /// The training transform; none means the evaluation transform.
    pub augment: Option<AugmentConfig>,
    /// The models.
    pub views: Vec<InputSpec>,
    /// What to do with damaged samples.
    pub policy: ErrorPolicy,
    /// Which caption.
    pub caption: CaptionChoice,
    /// Augmentations that come again and again; none means a new one each time.
    pub variants: Option<Variants>,
    /// The stream ends before this epoch.
    pub epochs: u64,
}

/// A stream of batches, the same for any number of threads.
pub struct Loader {
    batches: Option<Receiver<Result<(Batch, SkipCounts)>>>,
    counts: SkipCounts,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts to read at `position`.
    ///
    /// # Errors
    /// [`Error::Config`] where a setting cannot work, such as a batch larger than an epoch that is to be full,
    /// [`Error::BrokenShards`] where the policy does not allow what shards have lost.
    pub fn new(mixture: Mixture, config: LoaderConfig, position: Position) -> Result<Self> {
        check(&mixture, &config)?;
        let mut counts = SkipCounts::default();
        mixture.sources().try_for_each(|source| counts.record_shards(source.as_ref(), config.policy))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.workers)
            .thread_name(|index| format!("loader-{index}"))
            .build()
            .map_err(|e| Error::Config(format!("cannot start the loader's threads: {e}")))?;
        // The batch in the making counts as one of those ahead.
        let (sender, batches) = sync_channel(config.prefetch.max(1) - 1);
        let maker = maker::BatchBuilder::new(mixture, config, pool, counts.clone());
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || maker.run(position, &sender))
            .map_err(|e| Error::Config(format!("cannot start the loader's thread: {e}")))?;
        Ok(Loader { batches: Some(batches), counts, thread: Some(thread) })
    }

    /// The next batch; none at the end of the last epoch. Batches do not reach over the end of an epoch.
    ///
    /// # Errors
    /// What reading gave under the policy, and [`Error::NothingLeft`] after an epoch without any batch;
    /// after an error the stream is over.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let Some(received) = self.batches.as_ref().and_then(|batches| batches.recv().ok()) else {
            return Ok(None);
        };
        match received {
            Ok((batch, counts)) => {
                self.counts = counts;
                Ok(Some(batch))
            }
            Err(error) => {
                self.batches = None;
                Err(error)
            }
        }
    }

    /// What was read and left out so far, up to the last batch that was given.
    pub fn counts(&self) -> &SkipCounts {
        &self.counts
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the next send fails, and the thread ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn check(mixture: &Mixture, config: &LoaderConfig) -> Result<()> {
    let fail = |reason: String| Err(Error::Config(reason));
    if config.batch_size == 0 || config.views.is_empty() {
        return fail("a batch needs at least one sample and one view".into());
    }
    for (name, value, most) in
        [("workers", config.workers, MAX_WORKERS), ("prefetch", config.prefetch, MAX_PREFETCH)]
    {
        if value > most {
            return fail(format!("{name} = {value} is more than {most}: take a smaller number"));
        }
    }
    if config.drop_last && mixture.len() < config.batch_size as u64 {
        return fail(format!(
            "{} samples per epoch are fewer than one batch of {}: take a smaller batch, or keep the last one",
            mixture.len(),
            config.batch_size
        ));
    }
    if let Some(problem) = config.augment.as_ref().and_then(AugmentConfig::problem) {
        return fail(format!("augmentation: {problem}"));
    }
    if config.variants.is_some_and(|variants| variants.count == 0) {
        return fail("there are no variants of an image to choose from: take at least 1".into());
    }
    if let Some(problem) = config.policy.problem() {
        return fail(problem);
    }
    for view in &config.views {
        if view.image.size == 0 || view.context_length == 0 {
            return fail(format!("view `{}` has no pixels or no tokens", view.name));
        }
        check_context(view.context_length)?;
    }
    Ok(())
}

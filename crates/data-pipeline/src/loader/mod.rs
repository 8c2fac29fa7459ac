//! The loader: reads, decodes and transforms samples on threads, and prefetches a bounded number of batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ndarray::{Array2, Array4};
use serde::{Deserialize, Serialize};

use crate::annotations::ViewAnnotations;
use crate::image::{AugmentConfig, Preprocess};
use crate::mixture::Mixture;
use crate::policy::{ErrorPolicy, SkipCounts};
use crate::tokenizer::{ClipTokenizer, Tokenizer, check_context};
use crate::variants::Variants;
use crate::{Error, Result};

mod batch_builder;

/// Maximum number of threads of a loader.
pub const MAX_WORKERS: usize = 1024;
/// Maximum number of batches that a loader prefetches.
pub const MAX_PREFETCH: usize = 4096;

/// The input of one model: its preprocessing and tokenizer. Each model has one view of a batch.
///
/// ```
/// use data_pipeline::{InputSpec, Preprocess};
/// let student = InputSpec::new("student", Preprocess::new(224));
/// assert_eq!(student.context_length, 77);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct InputSpec {
    /// The model's name, such as `student`.
    pub name: String,
    /// Image preprocessing.
    pub image: Preprocess,
    /// Tokenizer of the captions.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Tokens per caption.
    pub context_length: usize,
}

impl InputSpec {
    /// Creates an input with CLIP's tokenizer and a context length of 77.
    pub fn new(name: impl Into<String>, image: Preprocess) -> Self {
        InputSpec { name: name.into(), image, tokenizer: Arc::new(ClipTokenizer::new()), context_length: 77 }
    }

    /// Sets the tokenizer.
    #[must_use]
    pub fn with_tokenizer(mut self, tokenizer: Arc<dyn Tokenizer>) -> Self {
        self.tokenizer = tokenizer;
        self
    }

    /// Sets the number of tokens per caption.
    #[must_use]
    pub fn with_context_length(mut self, context_length: usize) -> Self {
        self.context_length = context_length;
        self
    }
}

/// One view of a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ViewBatch {
    /// Name of the view.
    pub name: String,
    /// Normalized images `[batch, 3, height, width]`.
    pub images: Array4<f32>,
    /// Token ids `[batch, context]`.
    pub tokens: Array2<i64>,
    /// Annotations of each image.
    pub annotations: Vec<ViewAnnotations>,
}

/// A batch of samples, with one view per model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Batch {
    /// One entry per view, in the order of the configuration. Row i of each view is the same sample, decoded once and
    /// augmented with the same parameters.
    pub views: Vec<ViewBatch>,
    /// Names of the samples.
    pub keys: Vec<String>,
    /// Classes, if the source has them.
    pub labels: Vec<Option<usize>>,
    /// The chosen captions.
    pub captions: Vec<String>,
    /// Rows in a store of teacher embeddings, if the configuration has variants.
    pub store_rows: Vec<u64>,
    /// Position of the next batch: save it with a checkpoint.
    pub position: Position,
}

/// A position in the stream of samples.
///
/// ```
/// use data_pipeline::Position;
/// assert_eq!(Position::default(), Position { epoch: 0, cursor: 0 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Samples already read in this epoch.
    pub cursor: u64,
}

/// Choice among the captions of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CaptionChoice {
    /// Always the first.
    First,
    /// A random one, drawn anew in each epoch.
    #[default]
    Random,
}

/// Settings of a [`Loader`].
///
/// ```
/// use data_pipeline::{InputSpec, LoaderConfig, Preprocess};
/// let config = LoaderConfig::default()
///     .with_views(vec![InputSpec::new("student", Preprocess::new(224))])
///     .with_batch_size(256)
///     .with_seed(1)
///     .with_epochs(10);
/// assert!(config.shuffle);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch_size: usize,
    /// Seed of order, augmentation and caption choice.
    pub seed: u64,
    /// Whether each epoch has a new random order. Otherwise samples come in the order of the sources.
    pub shuffle: bool,
    /// Whether to drop an incomplete last batch.
    pub drop_last: bool,
    /// Number of threads, at most [`MAX_WORKERS`]; 0 for the number of cores.
    pub workers: usize,
    /// Number of prefetched batches, at most [`MAX_PREFETCH`].
    pub prefetch: usize,
    /// Settings of the training transform; unset for the evaluation transform.
    pub augment: Option<AugmentConfig>,
    /// The models' inputs, at least one.
    pub views: Vec<InputSpec>,
    /// Handling of damaged samples.
    pub policy: ErrorPolicy,
    /// Choice among the captions.
    pub caption: CaptionChoice,
    /// Fixed augmentations of each image; unset for a new one each time.
    pub variants: Option<Variants>,
    /// Number of epochs after which the stream ends.
    pub epochs: u64,
}

impl Default for LoaderConfig {
    /// Returns settings for one epoch of shuffled batches of 32, without augmentation. Set [`LoaderConfig::views`].
    fn default() -> Self {
        LoaderConfig {
            batch_size: 32,
            seed: 0,
            shuffle: true,
            drop_last: true,
            workers: 0,
            prefetch: 2,
            augment: None,
            views: Vec::new(),
            policy: ErrorPolicy::default(),
            caption: CaptionChoice::default(),
            variants: None,
            epochs: 1,
        }
    }
}

impl LoaderConfig {
    /// Sets the number of samples per batch.
    #[must_use]
    pub fn with_batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets whether each epoch has a new random order.
    #[must_use]
    pub fn with_shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// Sets whether to drop an incomplete last batch.
    #[must_use]
    pub fn with_drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the number of prefetched batches.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets the training transform.
    #[must_use]
    pub fn with_augment(mut self, augment: Option<AugmentConfig>) -> Self {
        self.augment = augment;
        self
    }

    /// Sets the models' inputs.
    #[must_use]
    pub fn with_views(mut self, views: Vec<InputSpec>) -> Self {
        self.views = views;
        self
    }

    /// Sets the handling of damaged samples.
    #[must_use]
    pub fn with_policy(mut self, policy: ErrorPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the choice among the captions.
    #[must_use]
    pub fn with_caption(mut self, caption: CaptionChoice) -> Self {
        self.caption = caption;
        self
    }

    /// Sets the fixed augmentations.
    #[must_use]
    pub fn with_variants(mut self, variants: Option<Variants>) -> Self {
        self.variants = variants;
        self
    }

    /// Sets the number of epochs.
    #[must_use]
    pub fn with_epochs(mut self, epochs: u64) -> Self {
        self.epochs = epochs;
        self
    }
}

/// A stream of batches that is the same for any number of threads.
///
/// ```
/// use std::sync::Arc;
/// # use data_pipeline::image::RgbImage;
/// # use data_pipeline::{RawImage, RawSample, Result, Source};
/// use data_pipeline::{InputSpec, Loader, LoaderConfig, Mixture, Position, Preprocess};
/// # struct Greys;
/// # impl Source for Greys {
/// #     fn name(&self) -> &str { "greys" }
/// #     fn len(&self) -> usize { 10 }
/// #     fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
/// #         let image = RgbImage { width: 8, height: 8, pixels: vec![index as u8; 3 * 64] };
/// #         Ok(RawSample::new("grey", RawImage::Rgb(image)).with_captions(["grey"]))
/// #     }
/// # }
/// # fn open_source() -> Arc<dyn Source> { Arc::new(Greys) }
/// let config = LoaderConfig::default()
///     .with_views(vec![InputSpec::new("student", Preprocess::new(32))])
///     .with_batch_size(4);
/// let mut loader = Loader::new(Mixture::single(open_source())?, config, Position::default())?;
/// while let Some(batch) = loader.next_batch()? {
///     assert_eq!(batch.views[0].images.dim(), (4, 3, 32, 32));
///     assert_eq!(batch.views[0].tokens.dim(), (4, 77));
/// }
/// # Ok::<(), data_pipeline::Error>(())
/// ```
pub struct Loader {
    batches: Option<Receiver<Result<Delivery>>>,
    /// Image buffers for later batches.
    spares: SyncSender<Vec<f32>>,
    counts: SkipCounts,
    thread: Option<JoinHandle<()>>,
}

/// A batch with the counts up to it.
struct Delivery {
    batch: Batch,
    counts: SkipCounts,
}

impl Loader {
    /// Starts reading at `position`.
    ///
    /// # Errors
    /// [`Error::Setting`] for an invalid setting, such as a full batch that is larger than an epoch;
    /// [`Error::BrokenShards`] if shards have lost more than the policy allows; [`Error::Thread`] if no thread can
    /// start.
    pub fn new(mixture: Mixture, config: LoaderConfig, position: Position) -> Result<Self> {
        check(&mixture, &config)?;
        let mut counts = SkipCounts::default();
        mixture.sources().try_for_each(|source| counts.record_shards(source.as_ref(), config.policy))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.workers)
            .thread_name(|index| format!("loader-{index}"))
            .build()
            .map_err(|e| Error::Thread(format!("cannot start the loader's threads: {e}")))?;
        // The batch under construction counts as prefetched.
        let (sender, batches) = sync_channel(config.prefetch.max(1) - 1);
        let (spares, returned) = sync_channel(config.views.len() * (config.prefetch.max(1) + 1));
        let builder = batch_builder::BatchBuilder::new(mixture, config, pool, counts.clone(), returned);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || builder.run(position, &sender))
            .map_err(|e| Error::Thread(format!("cannot start the loader's thread: {e}")))?;
        Ok(Loader { batches: Some(batches), spares, counts, thread: Some(thread) })
    }

    /// Returns the next batch, or `None` after the last epoch. A batch never spans two epochs.
    ///
    /// # Errors
    /// [`Error::Sample`], [`Error::TooManyDamaged`] or the source's errors, depending on the policy, and
    /// [`Error::NothingLeft`] after an epoch without a batch. An error ends the stream.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let Some(received) = self.batches.as_ref().and_then(|batches| batches.recv().ok()) else {
            return Ok(None);
        };
        match received {
            Ok(Delivery { batch, counts }) => {
                self.counts = counts;
                Ok(Some(batch))
            }
            Err(error) => {
                self.batches = None;
                Err(error)
            }
        }
    }

    /// Takes back a used batch. Later batches reuse its image buffers, which saves allocating and clearing them.
    pub fn recycle(&self, batch: Batch) {
        for view in batch.views {
            let (images, _) = view.images.into_raw_vec_and_offset();
            // If the channel is full, the buffer is freed.
            let _ = self.spares.try_send(images);
        }
    }

    /// Returns the counts of read and damaged samples up to the last returned batch.
    pub fn counts(&self) -> &SkipCounts {
        &self.counts
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver, the next send fails and the thread ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn check(mixture: &Mixture, config: &LoaderConfig) -> Result<()> {
    let fail = |name: &'static str, reason: String| Err(Error::setting(name, reason));
    if config.batch_size == 0 {
        return fail("batch_size", "a batch needs at least one sample".into());
    }
    if config.views.is_empty() {
        return fail("views", "a batch needs at least one view".into());
    }
    for (name, value, most) in
        [("workers", config.workers, MAX_WORKERS), ("prefetch", config.prefetch, MAX_PREFETCH)]
    {
        if value > most {
            return fail(name, format!("{name} = {value} is more than {most}: take a smaller number"));
        }
    }
    if config.drop_last && mixture.len() < config.batch_size as u64 {
        return fail(
            "batch_size",
            format!(
                "{} samples per epoch are fewer than one batch of {}: take a smaller batch, or keep the last one",
                mixture.len(),
                config.batch_size
            ),
        );
    }
    if let Some(augment) = &config.augment {
        augment.validate()?;
    }
    if config.variants.is_some_and(|variants| variants.count == 0) {
        return fail("variants", "an image needs at least one variant".into());
    }
    config.policy.validate()?;
    for view in &config.views {
        if view.image.size == 0 || view.context_length == 0 {
            return fail("views", format!("view `{}` has no pixels or no tokens", view.name));
        }
        check_context(view.context_length)?;
    }
    Ok(())
}

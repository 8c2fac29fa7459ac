//! Batches in the background: reading, decoding and transforming on threads, behind a bounded prefetch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use ndarray::{Array2, Array4};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::image::{AugmentConfig, AugmentParams, Decoded, Preprocess, augment_into, decode, eval_into};
use crate::mixture::Mixture;
use crate::policy::{ErrorPolicy, SkipCounts};
use crate::random::mix;
use crate::sample::RawImage;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What one model reads of every sample.
#[derive(Clone)]
pub struct View {
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
    /// Threads; 0 takes as many as there are cores.
    pub workers: usize,
    /// Batches made ahead.
    pub prefetch: usize,
    /// The training transform; none means the evaluation transform.
    pub augment: Option<AugmentConfig>,
    /// The models.
    pub views: Vec<View>,
    /// What to do with damaged samples.
    pub policy: ErrorPolicy,
    /// Which caption.
    pub caption: CaptionChoice,
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
    /// [`Error::Config`] where a setting cannot work, such as a batch larger than an epoch that is to be full.
    pub fn new(mixture: Mixture, config: LoaderConfig, position: Position) -> Result<Self> {
        check(&mixture, &config)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.workers)
            .thread_name(|index| format!("loader-{index}"))
            .build()
            .map_err(|e| Error::Config(format!("cannot start the loader's threads: {e}")))?;
        // The batch in the making counts as one of those ahead.
        let (sender, batches) = sync_channel(config.prefetch.max(1) - 1);
        let maker = Maker { mixture, config, pool, counts: SkipCounts::default() };
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || maker.run(position, &sender))
            .map_err(|e| Error::Config(format!("cannot start the loader's thread: {e}")))?;
        Ok(Loader { batches: Some(batches), counts: SkipCounts::default(), thread: Some(thread) })
    }

    /// The next batch; none at the end of the last epoch. Batches do not reach over the end of an epoch.
    ///
    /// # Errors
    /// What reading gave under the policy; after an error the stream is over.
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
    if let ErrorPolicy::Skip { max_fraction } = config.policy
        && !(0.0..=1.0).contains(&max_fraction)
    {
        return fail(format!("max_fraction = {max_fraction} is not a share"));
    }
    for view in &config.views {
        if view.image.size == 0 || view.context_length == 0 {
            return fail(format!("view `{}` has no pixels or no tokens", view.name));
        }
    }
    Ok(())
}

struct Maker {
    mixture: Mixture,
    config: LoaderConfig,
    pool: rayon::ThreadPool,
    counts: SkipCounts,
}

/// The places in a batch's arrays that one sample fills.
struct Slot<'a> {
    views: Vec<(&'a mut [f32], &'a mut [i64])>,
    place: u64,
    outcome: Option<Result<SampleFacts>>,
}

struct SampleFacts {
    key: String,
    label: Option<usize>,
    caption: String,
}

impl Maker {
    fn run(mut self, mut position: Position, sender: &SyncSender<Result<(Batch, SkipCounts)>>) {
        while position.epoch < self.config.epochs {
            let made = catch_unwind(AssertUnwindSafe(|| self.make(&mut position)))
                .unwrap_or_else(|_| Err(Error::Config("a loader thread stopped unexpectedly".into())));
            let message = match made {
                Ok(None) => continue,
                Ok(Some(batch)) => Ok((batch, self.counts.clone())),
                Err(error) => Err(error),
            };
            let failed = message.is_err();
            if sender.send(message).is_err() || failed {
                return;
            }
        }
    }

    /// The batch at `position`, which moves on; none where the epoch has no further one.
    fn make(&mut self, position: &mut Position) -> Result<Option<Batch>> {
        let epoch = position.epoch;
        let left = self.mixture.len().saturating_sub(position.cursor);
        let size = (self.config.batch_size as u64).min(left) as usize;
        let full = size == self.config.batch_size;
        if size == 0 || (self.config.drop_last && !full) {
            return self.end_epoch(position);
        }
        let mut arrays = self
            .config
            .views
            .iter()
            .map(|view| {
                let side = view.image.size;
                (vec![0f32; size * 3 * side * side], vec![0i64; size * view.context_length])
            })
            .collect::<Vec<_>>();
        let mut slots = split(&mut arrays, size);
        let mut open = (0..size).collect::<Vec<_>>();
        // Damaged samples are replaced by the next ones in order, whatever thread met them first.
        while !open.is_empty() {
            let left = self.mixture.len() - position.cursor;
            open.truncate(left as usize);
            for &slot in &open {
                slots[slot].place = position.cursor;
                slots[slot].outcome = None;
                position.cursor += 1;
            }
            let (mixture, config) = (&self.mixture, &self.config);
            self.pool.install(|| {
                slots.par_iter_mut().filter(|slot| slot.outcome.is_none()).for_each(|slot| {
                    let place = slot.place;
                    slot.outcome = Some(fill(mixture, config, epoch, place, &mut slot.views));
                });
            });
            self.counts.seen += open.len() as u64;
            open.retain(|&slot| matches!(slots[slot].outcome, Some(Err(_))));
            for &slot in &open {
                if let Some(Err(error)) = &slots[slot].outcome {
                    self.counts.record(error, self.config.policy)?;
                }
            }
            self.counts.check(self.config.policy, false)?;
            if position.cursor == self.mixture.len() {
                break;
            }
        }
        let complete = open.is_empty();
        let facts = slots.into_iter().map(|slot| slot.outcome.and_then(Result::ok)).collect::<Vec<_>>();
        if !complete && self.config.drop_last {
            return self.end_epoch(position);
        }
        if position.cursor == self.mixture.len() {
            self.counts.check(self.config.policy, true)?;
            *position = Position { epoch: epoch + 1, cursor: 0 };
        }
        self.assemble(arrays, facts, *position).map(Some)
    }

    fn end_epoch(&mut self, position: &mut Position) -> Result<Option<Batch>> {
        self.counts.check(self.config.policy, true)?;
        *position = Position { epoch: position.epoch + 1, cursor: 0 };
        Ok(None)
    }

    /// Puts the arrays together; rows whose sample was damaged (only at the end of an epoch) are left out.
    fn assemble(
        &self,
        arrays: Vec<(Vec<f32>, Vec<i64>)>,
        facts: Vec<Option<SampleFacts>>,
        position: Position,
    ) -> Result<Batch> {
        let rows = facts.iter().filter(|row| row.is_some()).count();
        let keep = |index: usize| facts[index].is_some();
        let shape_error = |e: ndarray::ShapeError| Error::Config(format!("a batch has the wrong shape: {e}"));
        let mut views = Vec::with_capacity(arrays.len());
        for (view, (mut images, mut tokens)) in self.config.views.iter().zip(arrays) {
            let (side, context) = (view.image.size, view.context_length);
            if rows < facts.len() {
                images = kept(&images, 3 * side * side, keep);
                tokens = kept(&tokens, context, keep);
            }
            views.push(ViewBatch {
                name: view.name.clone(),
                images: Array4::from_shape_vec((rows, 3, side, side), images).map_err(shape_error)?,
                tokens: Array2::from_shape_vec((rows, context), tokens).map_err(shape_error)?,
            });
        }
        let mut batch = Batch { views, keys: Vec::new(), labels: Vec::new(), captions: Vec::new(), position };
        for SampleFacts { key, label, caption } in facts.into_iter().flatten() {
            batch.keys.push(key);
            batch.labels.push(label);
            batch.captions.push(caption);
        }
        Ok(batch)
    }
}

fn kept<T: Copy>(values: &[T], width: usize, keep: impl Fn(usize) -> bool) -> Vec<T> {
    values
        .chunks_exact(width)
        .enumerate()
        .filter(|(row, _)| keep(*row))
        .flat_map(|(_, row)| row.iter().copied())
        .collect()
}

fn split(arrays: &mut [(Vec<f32>, Vec<i64>)], size: usize) -> Vec<Slot<'_>> {
    let mut slots =
        (0..size).map(|_| Slot { views: Vec::new(), place: 0, outcome: None }).collect::<Vec<_>>();
    for (images, tokens) in arrays {
        let (image, text) = (images.len() / size, tokens.len() / size);
        let rows = images.chunks_exact_mut(image).zip(tokens.chunks_exact_mut(text));
        for (slot, row) in slots.iter_mut().zip(rows) {
            slot.views.push(row);
        }
    }
    slots
}

/// Reads, decodes and transforms one sample into all views.
fn fill(
    mixture: &Mixture,
    config: &LoaderConfig,
    epoch: u64,
    place: u64,
    views: &mut [(&mut [f32], &mut [i64])],
) -> Result<SampleFacts> {
    let (number, index) = mixture.locate(place, epoch, config.seed, config.shuffle);
    // Named by what is drawn, not by who draws it: threads and batch size do not matter.
    let draw = mix(&[config.seed, epoch, number as u64, index as u64, place]);
    let sample = mixture.source(number).read(index, draw)?;
    let damaged =
        |kind: &'static str, reason: String| Error::Sample { key: sample.key.clone(), kind, reason };
    let caption = match config.caption {
        CaptionChoice::First => sample.captions.first(),
        CaptionChoice::Random => {
            let count = sample.captions.len().max(1) as u64;
            sample.captions.get((mix(&[draw, 1]) % count) as usize)
        }
    };
    let caption = caption.ok_or_else(|| damaged("no caption", "the sample has no caption".into()))?.clone();
    let image = match sample.image {
        RawImage::Rgb(pixels) => Decoded::from(pixels),
        RawImage::Encoded(ref bytes) => catch_unwind(|| decode(bytes))
            .map_err(|_| damaged("decoder panic", "the decoder gave up on this file".into()))?
            .map_err(|e| damaged(e.kind, e.reason))?,
    };
    let params = config
        .augment
        .as_ref()
        .map(|augment| AugmentParams::draw(augment, mix(&[draw, 2]), image.width(), image.height()));
    for (view, (pixels, tokens)) in config.views.iter().zip(views) {
        match &params {
            Some(params) => augment_into(&image, params, &view.image, pixels),
            None => eval_into(&image, &view.image, pixels),
        }
        view.tokenizer.encode_into(&caption, tokens);
    }
    Ok(SampleFacts { key: sample.key, label: sample.label, caption })
}

//! The loader's thread: builds one batch after the other. All worker threads write the samples into the final arrays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender};

use file_ext::random::mix;
use ndarray::{Array2, Array4};
use rayon::prelude::*;

use super::{Batch, CaptionChoice, Delivery, LoaderConfig, Position, ViewBatch};
use crate::annotations::ViewAnnotations;
use crate::augmented::AugmentedSample;
use crate::mixture::Mixture;
use crate::policy::SkipCounts;
use crate::{Error, Result};

pub(super) struct BatchBuilder {
    mixture: Mixture,
    config: LoaderConfig,
    pool: rayon::ThreadPool,
    counts: SkipCounts,
    /// Image buffers of used batches.
    spares: Receiver<Vec<f32>>,
    /// Whether the epoch has had a batch.
    has_batch: bool,
}

/// The parts of a batch's arrays that one sample fills, in each view.
struct Slot<'a> {
    views: Vec<SlotView<'a>>,
    place: u64,
    outcome: Option<Result<SampleFacts>>,
}

struct SlotView<'a> {
    pixels: &'a mut [f32],
    tokens: &'a mut [i64],
}

/// The arrays of one view.
struct ViewArrays {
    images: Vec<f32>,
    tokens: Vec<i64>,
}

/// The data of a sample other than its arrays.
struct SampleFacts {
    key: String,
    label: Option<usize>,
    caption: String,
    store_row: Option<u64>,
    /// Annotations in each view.
    annotations: Vec<ViewAnnotations>,
}

impl BatchBuilder {
    pub(super) fn new(
        mixture: Mixture,
        config: LoaderConfig,
        pool: rayon::ThreadPool,
        counts: SkipCounts,
        spares: Receiver<Vec<f32>>,
    ) -> Self {
        BatchBuilder { mixture, config, pool, counts, spares, has_batch: false }
    }

    pub(super) fn run(mut self, mut position: Position, sender: &SyncSender<Result<Delivery>>) {
        // A position inside an epoch follows a batch.
        self.has_batch = position.cursor > 0;
        while position.epoch < self.config.epochs {
            let built = catch_unwind(AssertUnwindSafe(|| self.build(&mut position)))
                .unwrap_or_else(|_| Err(Error::Thread("a loader thread stopped unexpectedly".into())));
            let message = match built {
                Ok(None) => continue,
                Ok(Some(batch)) => Ok(Delivery { batch, counts: self.counts.clone() }),
                Err(error) => Err(error),
            };
            let failed = message.is_err();
            if sender.send(message).is_err() || failed {
                return;
            }
        }
    }

    /// Builds the batch at `position` and advances the position. Returns `None` at the end of an epoch.
    fn build(&mut self, position: &mut Position) -> Result<Option<Batch>> {
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
                let length = size * 3 * view.image.size.pow(2);
                // Every value is overwritten, so a reused buffer need not be cleared.
                let images = self.spares.try_recv().map_or_else(
                    |_| vec![0f32; length],
                    |mut spare| {
                        spare.resize(length, 0.0);
                        spare
                    },
                );
                ViewArrays { images, tokens: vec![0i64; size * view.context_length] }
            })
            .collect::<Vec<_>>();
        let mut slots = split(&mut arrays, size);
        let mut open = (0..size).collect::<Vec<_>>();
        // The next samples in order replace damaged ones, whichever thread found the damage.
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
                let outcome = &mut slots[slot].outcome;
                if let Some(Err(Error::Sample { key, kind, reason })) = outcome {
                    self.counts.record(key, *kind, reason, self.config.policy)?;
                } else if let Some(Err(error)) = outcome.take() {
                    return Err(error);
                }
            }
            self.counts.check(self.config.policy, false)?;
            if position.cursor == self.mixture.len() {
                break;
            }
        }
        let complete = open.is_empty();
        let facts = slots.into_iter().map(|slot| slot.outcome.and_then(Result::ok)).collect::<Vec<_>>();
        if !complete && (self.config.drop_last || facts.iter().all(Option::is_none)) {
            return self.end_epoch(position);
        }
        self.has_batch = true;
        if position.cursor == self.mixture.len() {
            self.end_epoch(position)?;
        }
        self.assemble(arrays, facts, *position).map(Some)
    }

    fn end_epoch(&mut self, position: &mut Position) -> Result<Option<Batch>> {
        self.counts.check(self.config.policy, true)?;
        // A policy that allows any amount of damage would loop forever.
        if !std::mem::take(&mut self.has_batch) {
            return Err(Error::NothingLeft {
                epoch: position.epoch,
                skipped: self.counts.skipped(),
                seen: self.counts.seen,
                summary: self.counts.summary(),
            });
        }
        *position = Position { epoch: position.epoch + 1, cursor: 0 };
        Ok(None)
    }

    /// Assembles the batch. Rows of damaged samples, which remain only at the end of an epoch, are left out.
    fn assemble(
        &self,
        arrays: Vec<ViewArrays>,
        facts: Vec<Option<SampleFacts>>,
        position: Position,
    ) -> Result<Batch> {
        let rows = facts.iter().filter(|row| row.is_some()).count();
        let keep = |index: usize| facts[index].is_some();
        let mut views = Vec::with_capacity(arrays.len());
        for (view, ViewArrays { mut images, mut tokens }) in self.config.views.iter().zip(arrays) {
            let (side, context) = (view.image.size, view.context_length);
            if rows < facts.len() {
                images = kept(&images, 3 * side * side, keep);
                tokens = kept(&tokens, context, keep);
            }
            views.push(ViewBatch {
                name: view.name.clone(),
                images: Array4::from_shape_vec((rows, 3, side, side), images)?,
                tokens: Array2::from_shape_vec((rows, context), tokens)?,
                annotations: Vec::with_capacity(rows),
            });
        }
        let (keys, labels, captions, store_rows) = Default::default();
        let mut batch = Batch { views, keys, labels, captions, store_rows, position };
        for SampleFacts { key, label, caption, store_row, annotations } in facts.into_iter().flatten() {
            batch.keys.push(key);
            batch.labels.push(label);
            batch.captions.push(caption);
            batch.store_rows.extend(store_row);
            for (view, annotations) in batch.views.iter_mut().zip(annotations) {
                view.annotations.push(annotations);
            }
        }
        Ok(batch)
    }
}

/// Keeps the rows of an array for which `keep` holds.
fn kept<T: Copy>(values: &[T], width: usize, keep: impl Fn(usize) -> bool) -> Vec<T> {
    values
        .chunks_exact(width)
        .enumerate()
        .filter(|(row, _)| keep(*row))
        .flat_map(|(_, row)| row.iter().copied())
        .collect()
}

/// Splits the arrays of all views into one slot per sample.
fn split(arrays: &mut [ViewArrays], size: usize) -> Vec<Slot<'_>> {
    let mut slots =
        (0..size).map(|_| Slot { views: Vec::new(), place: 0, outcome: None }).collect::<Vec<_>>();
    for ViewArrays { images, tokens } in arrays {
        let (image, text) = (images.len() / size, tokens.len() / size);
        let rows = images.chunks_exact_mut(image).zip(tokens.chunks_exact_mut(text));
        for (slot, (pixels, tokens)) in slots.iter_mut().zip(rows) {
            slot.views.push(SlotView { pixels, tokens });
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
    views: &mut [SlotView<'_>],
) -> Result<SampleFacts> {
    let (number, index) = mixture.locate(place, epoch, config.seed, config.shuffle);
    // The draw depends on the sample and its place alone, not on threads or batch size.
    let draw = mix(&[config.seed, epoch, number as u64, index as u64, place]);
    // The augmentation of a variant depends on the image and the variant alone.
    let variant = config.variants.map(|variants| {
        let variant = mix(&[draw, 3]) % variants.count;
        let row = (mixture.first_sample(number) + index as u64) * variants.count + variant;
        (row, variants.draw(number, index, variant))
    });
    let augmentation = variant.map_or(draw, |(_, variant_draw)| variant_draw);
    let sample = AugmentedSample::read(mixture.source(number), index, augmentation, config.augment.as_ref())?;
    let caption = match config.caption {
        CaptionChoice::First => 0,
        CaptionChoice::Random => (mix(&[draw, 1]) % sample.captions.len() as u64) as usize,
    };
    let caption = sample.captions[caption].clone();
    for (view, slot) in config.views.iter().zip(views) {
        sample.view_into(&view.image, slot.pixels);
        view.tokenizer.encode_into(&caption, slot.tokens);
    }
    let annotations = config.views.iter().map(|view| sample.annotations(&view.image)).collect();
    let store_row = variant.map(|(row, _)| row);
    Ok(SampleFacts { key: sample.key, label: sample.label, caption, store_row, annotations })
}

//! The loader's thread: makes one batch after the other, its samples on all threads, into arrays of their final form.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;

use ndarray::{Array2, Array4};
use rayon::prelude::*;

use super::{Batch, CaptionChoice, LoaderConfig, Position, ViewBatch};
use crate::mixture::Mixture;
use crate::policy::SkipCounts;
use crate::seen::AugmentedSample;
use crate::{Error, Result};
use file_ext::random::mix;

pub(super) struct BatchBuilder {
    mixture: Mixture,
    config: LoaderConfig,
    pool: rayon::ThreadPool,
    counts: SkipCounts,
    /// Whether the epoch gave a batch.
    fruitful: bool,
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
    store_row: Option<u64>,
    /// Object boxes in each view.
    boxes: Vec<Vec<[f32; 4]>>,
}

impl BatchBuilder {
    pub(super) fn new(
        mixture: Mixture,
        config: LoaderConfig,
        pool: rayon::ThreadPool,
        counts: SkipCounts,
    ) -> Self {
        BatchBuilder { mixture, config, pool, counts, fruitful: false }
    }

    pub(super) fn run(mut self, mut position: Position, sender: &SyncSender<Result<(Batch, SkipCounts)>>) {
        // Inside an epoch there is only a place behind a batch.
        self.fruitful = position.cursor > 0;
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
        if !complete && (self.config.drop_last || facts.iter().all(Option::is_none)) {
            return self.end_epoch(position);
        }
        self.fruitful = true;
        if position.cursor == self.mixture.len() {
            self.end_epoch(position)?;
        }
        self.assemble(arrays, facts, *position).map(Some)
    }

    fn end_epoch(&mut self, position: &mut Position) -> Result<Option<Batch>> {
        self.counts.check(self.config.policy, true)?;
        // A policy that allows everything to be damaged would go round for ever.
        if !std::mem::take(&mut self.fruitful) {
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
                boxes: Vec::with_capacity(rows),
            });
        }
        let (keys, labels, captions, store_rows) = Default::default();
        let mut batch = Batch { views, keys, labels, captions, store_rows, position };
        for SampleFacts { key, label, caption, store_row, boxes } in facts.into_iter().flatten() {
            batch.keys.push(key);
            batch.labels.push(label);
            batch.captions.push(caption);
            batch.store_rows.extend(store_row);
            for (view, boxes) in batch.views.iter_mut().zip(boxes) {
                view.boxes.push(boxes);
            }
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
    // What is seen again and again is named by the image and the variant alone.
    let variant = config.variants.map(|variants| {
        let variant = mix(&[draw, 3]) % variants.count;
        let row = (mixture.first_sample(number) + index as u64) * variants.count + variant;
        (row, variants.draw(number, index, variant))
    });
    let seen = variant.map_or(draw, |(_, seen)| seen);
    let sample = AugmentedSample::read(mixture.source(number), index, seen, config.augment.as_ref())?;
    let caption = match config.caption {
        CaptionChoice::First => 0,
        CaptionChoice::Random => (mix(&[draw, 1]) % sample.captions.len() as u64) as usize,
    };
    let caption = sample.captions[caption].clone();
    for (view, (pixels, tokens)) in config.views.iter().zip(views) {
        sample.view_into(&view.image, pixels);
        view.tokenizer.encode_into(&caption, tokens);
    }
    let boxes = config.views.iter().map(|view| sample.boxes(&view.image)).collect();
    let store_row = variant.map(|(row, _)| row);
    Ok(SampleFacts { key: sample.key, label: sample.label, caption, store_row, boxes })
}

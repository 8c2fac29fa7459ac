//! Gradient caching (GradCache, Gao et al. 2021): forward and backward pass of a contrastive batch in chunks of
//! samples, for batches whose activations do not fit into memory.
//!
//! 1. The student encodes the chunks without a graph. Only the outputs (embeddings and token states) are kept.
//! 2. The loss of the whole batch is computed from the outputs, and its gradient with respect to them.
//! 3. The student encodes each chunk again, with a graph, and backpropagates these gradients to the weights.
//!
//! Chunks drop the same elements as the whole batch, so loss and gradients equal those of a single pass, up to
//! rounding. BatchNorm is the exception: it uses the statistics of each chunk.

use clip_model::Tape;
use kd_losses::{AuxOutputs, Embeddings, Loss, ModelOutputs, TokenStates};
use tch::{Kind, Tensor};

use crate::Result;
use crate::recipe::TargetRule;
use crate::step::{Features, MicroBatch, Part, TrainState, targets};
use crate::teacher::signal::TeacherSignal;

/// First row and number of rows of a chunk.
type Span = (i64, i64);

/// Splits `rows` into chunks of at most `size`.
pub(crate) fn spans(rows: i64, size: i64) -> impl Iterator<Item = Span> + Clone {
    let size = size.max(1);
    (0..rows).step_by(size as usize).map(move |start| (start, size.min(rows - start)))
}

impl TrainState {
    /// Runs the forward and backward pass of a contrastive batch in chunks of `size` samples, and adds its losses to
    /// `parts`.
    pub(super) fn backward_in_chunks(
        &self,
        batch: &MicroBatch,
        size: i64,
        share: f64,
        (active, signals, rule): (&[Loss], &[TeacherSignal], TargetRule),
        drop_seed: u64,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let (input, mode) = (&batch.student, self.student.mode());
        let rows = input.rows();
        let mut chunks = Vec::new();
        for (start, count) in spans(rows, size) {
            mode.set_first_row(start as u64);
            let view = input.narrow(start, count);
            chunks.push(tch::no_grad(|| self.features(&view, active, &mut Tape::off()))?);
        }
        mode.set_first_row(0);
        let outputs = Features::cat(&chunks)?.map(|tensor| tensor.detach().set_requires_grad(true));
        drop(chunks);
        let mut class_tape = Tape::new(self.settings.grad_checkpointing);
        let classes = self.drawn_classes(active, drop_seed, &mut class_tape)?;
        let class_leaf = classes.as_ref().map(|drawn| drawn.weights.detach().set_requires_grad(true));

        let indices = classes.as_ref().map(|drawn| &drawn.indices);
        let teachers = signals
            .iter()
            .zip(&batch.teachers)
            .map(|(signal, teacher)| signal.read_in_chunks(input, teacher, indices, spans(rows, size)))
            .collect::<Result<Vec<_>>>()?;
        let in_blocks = self.objective.is_mean_over_rows(self.step);
        let blocks = if in_blocks { spans(rows, size).collect() } else { vec![(0, rows)] };
        for (start, count) in blocks {
            let part = outputs.narrow(start, count);
            let scale = self.logit_scale().exp();
            let extra = AuxOutputs {
                masked_image: part.masked.as_ref(),
                classes: class_leaf.as_ref(),
                logit_bias: self.student.logit_bias.as_ref(),
                tokens: Some(&part.tokens),
                ..AuxOutputs::default()
            };
            let student = ModelOutputs {
                local: &part.embeddings,
                all: if in_blocks { &outputs.embeddings } else { &part.embeddings },
                scale: &scale,
                extra,
            };
            let rows_of = teachers.iter().map(|teacher| teacher.narrow(start, count)).collect::<Vec<_>>();
            let teachers = signals.iter().zip(&rows_of).zip(&teachers);
            let teachers = teachers.map(|((signal, rows), whole)| signal.model_outputs_of_rows(rows, whole));
            let teachers = teachers.collect::<Vec<_>>();
            let targets = targets(rule, input, start, count)?;
            let losses = self.objective.evaluate(self.step, &student, &teachers, &targets)?;
            let share = share * count as f64 / rows as f64;
            (&losses.total * share).backward();
            parts.push(Part { losses, scale: scale.detach(), share });
        }

        if let (Some(drawn), Some(leaf)) = (&classes, &class_leaf)
            && let Some(sum) = dot(&drawn.weights, &leaf.grad())
        {
            sum.f_backward()?;
        }
        class_tape.backward(mode)?;
        for (start, count) in spans(rows, size) {
            let view = input.narrow(start, count);
            let mut tape = Tape::new(self.settings.grad_checkpointing);
            mode.set_first_row(start as u64);
            let again = mode.recompute(|| self.features(&view, active, &mut tape))?;
            let gradients = outputs.tensors().map(|output| {
                let gradient = output.grad();
                if gradient.defined() { gradient.narrow(0, start, count) } else { gradient }
            });
            let sums = again.tensors().zip(gradients).filter_map(|(output, gradient)| dot(output, &gradient));
            if let Some(sum) = sums.reduce(|sum, part| sum + part) {
                sum.f_backward()?;
            }
            tape.backward(mode)?;
        }
        mode.set_first_row(0);
        Ok(())
    }
}

/// Returns the dot product of an output with its gradient, whose backward pass propagates that gradient. Returns `None`
/// if the output does not require a gradient, or its gradient is undefined.
fn dot(output: &Tensor, gradient: &Tensor) -> Option<Tensor> {
    (output.requires_grad() && gradient.defined()).then(|| (output * gradient).sum(Kind::Float))
}

impl Features {
    /// Returns the outputs that may have a gradient, in a fixed order.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let TokenStates { patches, image_blocks, text_blocks, .. } = &self.tokens;
        let Embeddings { image, text, .. } = &self.embeddings;
        [image, text].into_iter().chain(&self.masked).chain(patches).chain(image_blocks).chain(text_blocks)
    }

    /// Applies `f` to each output that may have a gradient.
    fn map(self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Features {
            embeddings: self.embeddings.map(&f),
            tokens: self.tokens.map(&f),
            masked: self.masked.as_ref().map(&f),
        }
    }

    /// Returns the outputs of the rows `start..start + count`.
    fn narrow(&self, start: i64, count: i64) -> Self {
        Features {
            embeddings: self.embeddings.narrow(start, count),
            tokens: self.tokens.narrow(start, count),
            masked: self.masked.as_ref().map(|masked| masked.narrow(0, start, count)),
        }
    }

    /// Concatenates the outputs of chunks.
    fn cat(parts: &[Self]) -> Result<Self> {
        let masked = parts.iter().filter_map(|part| part.masked.as_ref()).collect::<Vec<_>>();
        Ok(Features {
            embeddings: Embeddings::cat(parts.iter().map(|part| &part.embeddings))?,
            tokens: TokenStates::cat(parts.iter().map(|part| &part.tokens))?,
            masked: if masked.is_empty() { None } else { Some(Tensor::f_cat(&masked, 0)?) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_once() {
        assert_eq!(spans(10, 4).collect::<Vec<_>>(), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(spans(4, 4).collect::<Vec<_>>(), [(0, 4)]);
        assert_eq!(spans(3, 9).collect::<Vec<_>>(), [(0, 3)]);
        assert_eq!(spans(0, 9).count(), 0);
    }
}

//! Activation checkpointing: recomputes the inner activations of blocks in the backward pass instead of storing them
//! (Chen et al. 2016).
//!
//! A checkpointed block runs without a graph, and its output is a leaf. After the loss has been propagated to these
//! leaves, [`Tape::backward`] visits the blocks from last to first, runs each again with a graph, and propagates the
//! gradient of its leaf. Only one tensor per block stays in memory.

use tch::Tensor;

use crate::mode::Mode;
use crate::{Error, Result};

/// The checkpointed blocks of one forward pass, in order.
///
/// ```no_run
/// use clip_model::Tape;
///
/// # let images = tch::Tensor::new();
/// # let model = clip_model::open("ViT-B-32", tch::Device::Cpu, 0)?.model;
/// model.mode().train(1);
/// let mut tape = Tape::new(true);
/// let embeddings = model.encode_image_taped(&images, &mut tape)?;
/// embeddings.sum(tch::Kind::Float).backward();
/// tape.backward(model.mode())?;
/// # Ok::<(), clip_model::Error>(())
/// ```
pub struct Tape<'a> {
    segments: Vec<Segment<'a>>,
    on: bool,
}

struct Segment<'a> {
    input: Tensor,
    output: Tensor,
    run: Box<dyn Fn(&Tensor) -> Tensor + 'a>,
}

impl<'a> Tape<'a> {
    /// Creates a tape; blocks are checkpointed if `on` is true.
    pub fn new(on: bool) -> Self {
        Tape { segments: Vec::new(), on }
    }

    /// Creates a tape that does not checkpoint: every block keeps its activations.
    pub fn off() -> Self {
        Tape::new(false)
    }

    /// Runs a block on `xs`. If the tape is on, only the input and the output are kept.
    pub fn run(&mut self, xs: Tensor, block: impl Fn(&Tensor) -> Tensor + 'a) -> Tensor {
        if !self.on {
            return block(&xs);
        }
        let output = tch::no_grad(|| block(&xs)).detach().set_requires_grad(true);
        self.segments.push(Segment { input: xs, output: output.shallow_clone(), run: Box::new(block) });
        output
    }

    /// Runs the second half of the backward pass. Call it after the loss's `backward` and before `mode` gets another
    /// seed, so that the blocks drop the same elements again.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn backward(self, mode: &Mode) -> Result<()> {
        mode.recompute(|| {
            for Segment { input, output, run } in self.segments.into_iter().rev() {
                let gradient = output.grad();
                if !gradient.defined() {
                    continue;
                }
                let wanted = input.requires_grad();
                let leaf = input.detach().set_requires_grad(wanted);
                let again = run(&leaf);
                if !again.requires_grad() {
                    continue; // a locked block whose input needs no gradient
                }
                backward_with(&again, &gradient)?;
                if wanted {
                    backward_with(&input, &leaf.grad())?;
                }
            }
            Ok(())
        })
    }
}

/// Propagates `gradient` backward from `tensor`, as the gradient of the sum of their product.
fn backward_with(tensor: &Tensor, gradient: &Tensor) -> Result<()> {
    if gradient.defined() {
        (tensor * gradient).f_sum(tensor.kind())?.f_backward().map_err(Error::from)?;
    }
    Ok(())
}

impl std::fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("on", &self.on).field("segments", &self.segments.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ClipConfig};
    use std::collections::BTreeMap;
    use tch::{Device, Kind};

    const TEXT: &str =
        r#""text_cfg": {"layers": 2, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8}"#;

    /// Returns the gradients of all parameters and the running statistics after one training pass.
    fn pass(vision: &str, checkpointed: bool) -> BTreeMap<String, Tensor> {
        let json = format!(r#"{{"embed_dim": 16, "vision_cfg": {vision}, {TEXT}}}"#);
        let model = Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, 0).unwrap();
        let size = model.config().vision_cfg.image_size;
        let (images, tokens) = crate::seeded(5, || {
            let images = Tensor::randn([4, 3, size, size], (Kind::Float, Device::Cpu));
            (images, Tensor::randint(31, [4, 8], (Kind::Int64, Device::Cpu)))
        });
        model.mode().train(3);
        let mut tape = Tape::new(checkpointed);
        let image = model.encode_image_taped(&images, &mut tape).unwrap();
        let text = model.encode_text_taped(&tokens, &mut tape).unwrap();
        ((image * text).sum(Kind::Float) * model.logit_scale.exp()).backward();
        tape.backward(model.mode()).unwrap();
        model.mode().eval();
        let gradients = model.params().iter().map(|p| (p.name.clone(), p.tensor.grad()));
        let buffers = model.params().buffers().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
        gradients.chain(buffers).collect()
    }

    #[test]
    fn checkpointed_gradients_and_statistics_match_the_plain_pass() {
        for vision in [
            r#"{"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32, "patch_dropout": 0.5}"#,
            r#"{"layers": [1, 2, 1, 1], "width": 8, "patch_size": null, "image_size": 64}"#,
            r#"{"timm_model_name": "resnet18", "image_size": 32, "timm_drop_path": 0.2}"#,
            r#"{"timm_model_name": "mobilevit_xxs", "image_size": 64}"#,
            r#"{"timm_model_name": "mobilenetv3_small_100", "image_size": 32}"#,
            r#"{"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 32}"#,
        ] {
            let (plain, checkpointed) = (pass(vision, false), pass(vision, true));
            assert_eq!(plain.len(), checkpointed.len());
            for (name, expected) in &plain {
                let found = &checkpointed[name];
                assert_eq!(found.defined(), expected.defined(), "{vision}: {name}");
                let scale = expected.abs().max().to_kind(Kind::Double).double_value(&[]);
                let error = (found - expected).abs().max().to_kind(Kind::Double).double_value(&[]);
                assert!(error <= 1e-4 * scale + 1e-6, "{vision}: {name} differs by {error} of {scale}");
            }
        }
    }
}

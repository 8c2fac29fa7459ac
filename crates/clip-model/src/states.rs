//! Hidden states of the towers: token states and the outputs of selected blocks.

use tch::Tensor;

use crate::lock::Tower;
use crate::tape::Tape;
use crate::{Clip, Error, Result};

/// Embeddings and hidden states of images, from a ViT.
#[derive(Debug)]
pub struct ImageStates {
    /// Embeddings `[batch, embed_dim]`, not normalised.
    pub embedding: Tensor,
    /// Patch tokens `[batch, grid * grid, width]` in row-major order, after the last norm.
    ///
    /// If the tower pools the class token, that norm was trained on the class token only. It is applied to the
    /// patches anyway, as is usual.
    pub patches: Tensor,
    /// Outputs `[batch, 1 + grid * grid, width]` of the selected blocks, in the order of the selection.
    pub blocks: Vec<Tensor>,
}

/// Embeddings and hidden states of texts.
#[derive(Debug)]
pub struct TextStates {
    /// Embeddings `[batch, embed_dim]`, not normalised.
    pub embedding: Tensor,
    /// Token states `[batch, length, width]` after the last norm.
    pub tokens: Tensor,
    /// Attention mask `[batch, length]` (bool): true up to the end token. All true if the tower pools the first or
    /// last position.
    pub mask: Tensor,
    /// Outputs `[batch, length, width]` of the selected blocks, in the order of the selection.
    pub blocks: Vec<Tensor>,
}

impl Clip {
    /// Encodes normalised images `[batch, 3, size, size]` and returns their patch tokens and the outputs of `blocks`
    /// (indices from 0) as well.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another shape; [`Error::Unsupported`] if the tower is not a ViT or leaves
    /// out patches in this pass; [`Error::UnknownBlock`] for an index beyond the last block.
    pub fn image_states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        self.visual.states(images, blocks, tape)
    }

    /// Encodes token ids `[batch, length <= context]` (i64) and returns the states of all tokens and the outputs of
    /// `blocks` (indices from 0) as well.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tokens have another shape; [`Error::UnknownBlock`] for an index beyond the last block.
    pub fn text_states<'a>(
        &'a self,
        tokens: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<TextStates> {
        self.text.states(tokens, blocks, tape)
    }
}

/// Collects the outputs of selected blocks.
pub(crate) struct BlockOutputs<'a> {
    selected: &'a [usize],
    outputs: Vec<Option<Tensor>>,
}

impl<'a> BlockOutputs<'a> {
    pub(crate) fn new(selected: &'a [usize], depth: usize, tower: Tower) -> Result<Self> {
        if let Some(block) = selected.iter().copied().find(|block| *block >= depth) {
            return Err(Error::UnknownBlock { tower, block, depth });
        }
        Ok(BlockOutputs { selected, outputs: selected.iter().map(|_| None).collect() })
    }

    pub(crate) fn record(&mut self, block: usize, xs: &Tensor) {
        let matching = self.selected.iter().zip(&mut self.outputs).filter(|(index, _)| **index == block);
        for (_, output) in matching {
            *output = Some(xs.shallow_clone());
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Tensor> {
        self.outputs.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClipConfig;
    use tch::{Device, Kind};

    fn model(vision: &str, text: &str) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 16, "vision_cfg": {vision},
                "text_cfg": {{"layers": 2, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8{text}}}}}"#
        );
        Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, 4).unwrap()
    }

    const VIT: &str = r#"{"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32"#;

    fn inputs() -> (Tensor, Tensor) {
        crate::seeded(5, || {
            let images = Tensor::randn([3, 3, 32, 32], (Kind::Float, Device::Cpu));
            (images, Tensor::randint(30, [3, 8], (Kind::Int64, Device::Cpu)))
        })
    }

    fn close(a: &Tensor, b: &Tensor) -> bool {
        a.size() == b.size() && (a - b).abs().max().double_value(&[]) < 1e-5
    }

    #[test]
    fn states_produce_the_embeddings() {
        let (images, tokens) = inputs();
        for pool in ["", r#", "pool_type": "avg""#, r#", "pool_type": "avg", "final_ln_after_pool": true"#] {
            let model = model(&format!("{VIT}{pool}}}"), "");
            let image = model.image_states(&images, &[2, 0], &mut Tape::off()).unwrap();
            assert!(close(&image.embedding, &model.encode_image(&images).unwrap()), "{pool}");
            assert_eq!(image.patches.size(), [3, 16, 32]);
            if pool == r#", "pool_type": "avg""# {
                // Here the embedding is the projected mean of the patches.
                let proj = model.params().get("visual.proj").unwrap();
                let mean = image.patches.mean_dim(1, false, None::<Kind>).matmul(proj);
                assert!(close(&mean, &image.embedding));
            }
            let [last, first] = image.blocks.as_slice() else { panic!("two blocks") };
            let norm = |xs: &Tensor| {
                let get = |part: &str| model.params().get(&format!("visual.ln_post.{part}")).unwrap();
                xs.layer_norm([32], Some(get("weight")), Some(get("bias")), 1e-5, true)
            };
            assert!(close(&norm(last).narrow(1, 1, 16), &image.patches) && !close(last, first));
        }
        let model = model(&format!("{VIT}}}"), "");
        let text = model.text_states(&tokens, &[1], &mut Tape::off()).unwrap();
        assert!(close(&text.embedding, &model.encode_text(&tokens).unwrap()));
        let projection = model.params().get("text_projection").unwrap();
        for (row, end) in Vec::<i64>::try_from(tokens.argmax(1, false)).unwrap().into_iter().enumerate() {
            let row = row as i64;
            let state = text.tokens.select(0, row).select(0, end).unsqueeze(0).matmul(projection);
            assert!(close(&state.squeeze(), &text.embedding.select(0, row)));
            // The end token is the last one in the mask.
            let mask = (0..8).map(|position| text.mask.int64_value(&[row, position]) == 1);
            assert!(mask.enumerate().all(|(position, inside)| inside == (position as i64 <= end)));
        }
    }

    #[test]
    fn unavailable_states_are_refused() {
        let (images, tokens) = inputs();
        let vit = model(
            &format!("{VIT}, \"patch_dropout\": 0.5}}"),
            r#", "pool_type": "last", "no_causal_mask": true"#,
        );
        assert!(vit.image_states(&images, &[], &mut Tape::off()).is_ok());
        let error = vit.image_states(&images, &[3], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("no block 3"), "{error}");
        let error = vit.text_states(&tokens, &[2], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("the text tower has no block 2: it has 2 blocks"), "{error}");
        // A tower that pools the last position uses its padding as well.
        let text = vit.text_states(&tokens, &[], &mut Tape::off()).unwrap();
        assert!(text.mask.all().int64_value(&[]) == 1);
        vit.mode().train(1);
        let error = vit.image_states(&images, &[], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("patch_dropout"), "{error}");
        let other = model(r#"{"timm_model_name": "resnet18", "image_size": 32}"#, "");
        let error = other.image_states(&images, &[], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("ViT") && other.image_depth().is_none(), "{error}");
    }

    #[test]
    fn checkpointed_gradients_match_the_plain_pass() {
        let (images, tokens) = inputs();
        let gradients = |checkpointed: bool| {
            let model = model(&format!("{VIT}}}"), "");
            model.mode().train(3);
            let mut tape = Tape::new(checkpointed);
            let image = model.image_states(&images, &[0, 2], &mut tape).unwrap();
            let text = model.text_states(&tokens, &[0, 1], &mut tape).unwrap();
            let square = |xs: &Tensor| (xs * xs * xs).mean(Kind::Float);
            let mut sum = square(&image.patches) + square(&text.tokens) + square(&image.embedding);
            for block in image.blocks.iter().chain(&text.blocks) {
                sum += square(block);
            }
            sum.backward();
            tape.backward(model.mode()).unwrap();
            model.params().iter().map(|p| (p.name.clone(), p.tensor.grad())).collect::<Vec<_>>()
        };
        for ((name, plain), (_, checkpointed)) in gradients(false).iter().zip(&gradients(true)) {
            assert_eq!(plain.defined(), checkpointed.defined(), "{name}");
            assert!(!plain.defined() || close(plain, checkpointed), "{name}");
        }
    }
}

//! What a tower gives beside its embedding: the states of its tokens, and the outputs of chosen blocks.

use tch::Tensor;

use crate::tape::Tape;
use crate::{Clip, Error, Result};

/// Images in the eyes of a ViT.
#[derive(Debug)]
pub struct ImageStates {
    /// Raw embeddings `[batch, embed_dim]`.
    pub embedding: Tensor,
    /// Patch tokens `[batch, grid * grid, width]`, row by row, after the last norm.
    ///
    /// Where the class token is pooled, that norm was trained on it alone; it is taken for the patches all the same, as
    /// is usual.
    pub patches: Tensor,
    /// Outputs `[batch, 1 + grid * grid, width]` of the chosen blocks, in the order in which they were named.
    pub blocks: Vec<Tensor>,
}

/// Texts in the eyes of the text tower.
#[derive(Debug)]
pub struct TextStates {
    /// Raw embeddings `[batch, embed_dim]`.
    pub embedding: Tensor,
    /// Token states `[batch, length, width]` after the last norm.
    pub tokens: Tensor,
    /// Which of them count, `[batch, length]` of truth values: up to the end token, or all where the tower
    /// pools by place.
    pub counts: Tensor,
    /// Outputs `[batch, length, width]` of the chosen blocks, in the order in which they were named.
    pub blocks: Vec<Tensor>,
}

impl Clip {
    /// Normalised images `[batch, 3, size, size]` with the states of their patches, and what `blocks` (numbers from 0)
    /// give.
    ///
    /// # Errors
    /// [`Error::Shape`] where the images have another shape; [`Error::Config`] where the tower is no ViT, leaves out
    /// patches in this pass or has no such block.
    pub fn image_states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        self.visual.states(images, blocks, tape)
    }

    /// Token ids `[batch, length <= context]` (i64) with the states of all tokens, and what `blocks` (numbers from
    /// 0) give.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tokens have another shape; [`Error::Config`] where there is no such block.
    pub fn text_states<'a>(
        &'a self,
        tokens: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<TextStates> {
        self.text.states(tokens, blocks, tape)
    }
}

/// Keeps what chosen blocks give.
pub(crate) struct BlockTaps<'a> {
    wanted: &'a [usize],
    states: Vec<Option<Tensor>>,
}

impl<'a> BlockTaps<'a> {
    pub(crate) fn new(wanted: &'a [usize], depth: usize, tower: &str) -> Result<Self> {
        if let Some(beyond) = wanted.iter().find(|place| **place >= depth) {
            let reason = format!("there is no block {beyond}: the {tower} tower has {depth}, counted from 0");
            return Err(Error::config("blocks", reason));
        }
        Ok(BlockTaps { wanted, states: wanted.iter().map(|_| None).collect() })
    }

    pub(crate) fn see(&mut self, place: usize, xs: &Tensor) {
        for (_, state) in self.wanted.iter().zip(&mut self.states).filter(|(wanted, _)| **wanted == place) {
            *state = Some(xs.shallow_clone());
        }
    }

    pub(crate) fn into_states(self) -> Vec<Tensor> {
        self.states.into_iter().flatten().collect()
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
    fn states_lead_to_the_embeddings() {
        let (images, tokens) = inputs();
        for pool in ["", r#", "pool_type": "avg""#, r#", "pool_type": "avg", "final_ln_after_pool": true"#] {
            let model = model(&format!("{VIT}{pool}}}"), "");
            let image = model.image_states(&images, &[2, 0], &mut Tape::off()).unwrap();
            assert!(close(&image.embedding, &model.encode_image(&images).unwrap()), "{pool}");
            assert_eq!(image.patches.size(), [3, 16, 32]);
            if pool == r#", "pool_type": "avg""# {
                // Here the embedding is nothing but the patches' mean, projected.
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
            let own = text.tokens.select(0, row).select(0, end).unsqueeze(0).matmul(projection);
            assert!(close(&own.squeeze(), &text.embedding.select(0, row)));
            // The end token is the last that counts.
            let counted = (0..8).map(|place| text.counts.int64_value(&[row, place]) == 1);
            assert!(counted.enumerate().all(|(place, counts)| counts == (place as i64 <= end)));
        }
    }

    #[test]
    fn what_cannot_be_given_is_said() {
        let (images, tokens) = inputs();
        let vit = model(
            &format!("{VIT}, \"patch_dropout\": 0.5}}"),
            r#", "pool_type": "last", "no_causal_mask": true"#,
        );
        assert!(vit.image_states(&images, &[], &mut Tape::off()).is_ok());
        let error = vit.image_states(&images, &[3], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("no block 3"), "{error}");
        let error = vit.text_states(&tokens, &[2], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("the text tower has 2"), "{error}");
        // A tower that pools by place reads its padding too.
        let text = vit.text_states(&tokens, &[], &mut Tape::off()).unwrap();
        assert!(text.counts.all().int64_value(&[]) == 1);
        vit.mode().train(1);
        let error = vit.image_states(&images, &[], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("patch_dropout"), "{error}");
        let other = model(r#"{"timm_model_name": "resnet18", "image_size": 32}"#, "");
        let error = other.image_states(&images, &[], &mut Tape::off()).unwrap_err().to_string();
        assert!(error.contains("ViT") && other.visual.depth().is_none(), "{error}");
    }

    #[test]
    fn a_checkpointed_pass_has_the_same_gradients() {
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

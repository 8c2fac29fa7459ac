//! What a model costs: multiply-accumulate operations of one forward pass, from the configuration alone.

use crate::{ClipConfig, VisionConfig};

/// Multiply-accumulates of matrix products, per image and per text (norms, softmax and activations left out, as is usual).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// One image through the image tower.
    pub image: u64,
    /// One text of full context through the text tower.
    pub text: u64,
}

/// Counts the multiply-accumulates of a model.
pub fn macs(config: &ClipConfig) -> Macs {
    let (v, t) = (&config.vision_cfg, &config.text_cfg);
    let patches = v.grid() * v.grid();
    let patch_embedding = patches * v.width * 3 * v.patch_size * v.patch_size;
    let image =
        patch_embedding + v.layers * block(patches + 1, v.width, v.mlp_width()) + v.width * config.embed_dim;
    let text = t.layers * block(t.context_length, t.width, t.mlp_width()) + t.width * config.embed_dim;
    Macs { image: image as u64, text: text as u64 }
}

/// Number of parameters of the image tower and of the text tower; the logit scale is one more.
pub fn parameters(config: &ClipConfig) -> (u64, u64) {
    let (v, t) = (&config.vision_cfg, &config.text_cfg);
    let block = |w: i64, mlp: i64| 4 * w + 4 * w * w + 4 * w + 2 * w * mlp + mlp + w;
    let image = v.width * 3 * v.patch_size * v.patch_size
        + image_tokens(v) * v.width
        + v.width
        + 4 * v.width
        + v.layers * block(v.width, v.mlp_width())
        + v.width * config.embed_dim;
    let text = (t.vocab_size + t.context_length) * t.width
        + t.layers * block(t.width, t.mlp_width())
        + 2 * t.width
        + t.width * config.embed_dim;
    (image as u64, text as u64)
}

/// Number of tokens that the image tower works on.
pub fn image_tokens(config: &VisionConfig) -> i64 {
    config.grid() * config.grid() + 1
}

/// One block: the four attention matrices, the two products with the attention weights, and the MLP.
fn block(tokens: i64, width: i64, mlp_width: i64) -> i64 {
    tokens * (4 * width * width + 2 * width * mlp_width) + 2 * tokens * tokens * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_built_model() {
        for name in ["ViT-B-32", "ViT-T-16", "ViT-nano-32px", "TinyCLIP-ViT-8M-16-Text-3M"] {
            let config = crate::presets::get(name).unwrap();
            let built = crate::Clip::new(&config, tch::Device::Cpu, 0).unwrap();
            let (image, text) = parameters(&config);
            assert_eq!(image + text + 1, built.params().count() as u64, "{name}");
        }
    }

    #[test]
    fn vit_b_16_costs_what_is_published() {
        // 17.6 G multiply-accumulates for ViT-B/16 at 224 px is the figure of the ViT literature.
        let count = macs(&crate::presets::get("ViT-B-16").unwrap());
        assert!((17.4e9..17.7e9).contains(&(count.image as f64)), "{count:?}");
    }
}

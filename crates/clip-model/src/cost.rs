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
    fn vit_b_16_costs_what_is_published() {
        // 17.6 G multiply-accumulates for ViT-B/16 at 224 px is the figure of the ViT literature.
        let count = macs(&crate::presets::get("ViT-B-16").unwrap());
        assert!((17.4e9..17.7e9).contains(&(count.image as f64)), "{count:?}");
    }
}

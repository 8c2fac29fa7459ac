//! Locked towers: freezes parameters from the input up to a chosen depth.

use crate::Clip;
use crate::names::named_enum;

/// One of the two towers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tower {
    /// The image tower.
    Image,
    /// The text tower.
    Text,
}

named_enum!(Tower, "tower", Image = "image", Text = "text");

impl Clip {
    /// Locks (freezes) all parameter groups of a tower except the last `unlocked` ones, like open_clip's
    /// `--lock-image` and `--lock-text`. Returns the names of the locked parameters.
    ///
    /// ```no_run
    /// # let model = clip_model::open("ViT-B-32", tch::Device::Cpu, 0)?.model;
    /// let frozen = model.lock(clip_model::Tower::Image, 0);
    /// # Ok::<(), clip_model::Error>(())
    /// ```
    ///
    /// From input to output, the groups are: the embeddings or the stem; each block and each step between stages; the
    /// projection. A norm or convolution between the blocks and the projection belongs to the last block. A locked
    /// BatchNorm uses its running statistics and does not update them, so the embeddings of a locked tower do not
    /// change. Parameters that are already locked stay locked.
    pub fn lock(&self, tower: Tower, unlocked: usize) -> Vec<String> {
        let names = self.params().iter().map(|p| p.name.as_str());
        let names = names.filter(|name| tower_of(name) == Some(tower));
        let mut groups = names.map(group).collect::<Vec<_>>();
        groups.sort();
        groups.dedup();
        // Layers between the blocks and the projection belong to the last block.
        let last = groups.iter().rev().find(|group| matches!(group, Group::Block(_))).cloned();
        groups.retain(|group| *group != Group::After || last.is_none());
        let locked = &groups[..groups.len().saturating_sub(unlocked)];
        let mut names = Vec::new();
        for parameter in self.params() {
            if tower_of(&parameter.name) != Some(tower) {
                continue;
            }
            let group = match (group(&parameter.name), &last) {
                (Group::After, Some(last)) => last.clone(),
                (group, _) => group,
            };
            if locked.contains(&group) {
                let _ = parameter.tensor.set_requires_grad(false);
                names.push(parameter.name.clone());
            }
        }
        names
    }
}

/// Parameter groups of a tower, in the order of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Stem,
    /// Numbers in the block's name, such as `[2, 0]` for `stages.2.0`.
    Block(Vec<u64>),
    After,
    Projection,
}

/// Returns the tower of a parameter; `None` for the logit scale and bias.
fn tower_of(name: &str) -> Option<Tower> {
    match name {
        "logit_scale" | "logit_bias" => None,
        _ if name.starts_with("visual.") => Some(Tower::Image),
        _ => Some(Tower::Text),
    }
}

fn group(name: &str) -> Group {
    let name = name.strip_prefix("visual.").or_else(|| name.strip_prefix("text.")).unwrap_or(name);
    // EfficientNet's `bn2` follows its last convolution; the `bn2` of CLIP's ResNet is in the stem.
    // A head of the trunk precedes the projection.
    if name.starts_with("trunk.bn2.") || name.starts_with("trunk.head.") {
        return Group::After;
    }
    let name = name.strip_prefix("trunk.").unwrap_or(name);
    match name.split('.').next().unwrap_or(name) {
        "proj" | "head" | "text_projection" | "attnpool" => return Group::Projection,
        "ln_post" | "ln_final" | "norm" | "fc_norm" | "attn_pool" | "final_conv" | "conv_head"
        | "norm_head" => {
            return Group::After;
        }
        _ => {}
    }
    let numbers = block_numbers(name);
    if numbers.is_empty() { Group::Stem } else { Group::Block(numbers) }
}

/// Returns the block numbers in a parameter name: `layer2.1.conv1` gives `[2, 1]`, `transformer.resblocks.3.mlp`
/// gives `[3]`, `layers.1.blocks.0.attn` gives `[1, 0]`.
fn block_numbers(name: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    for part in name.split('.') {
        match part {
            // The transformer inside a MobileViT block is part of that block.
            "transformer" if !numbers.is_empty() => break,
            "transformer" | "resblocks" | "layers" | "blocks" | "stages" => {}
            _ => match part.strip_prefix("layer").unwrap_or(part).parse() {
                Ok(number) => numbers.push(number),
                Err(_) => break,
            },
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ClipConfig, presets};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn groups_unlock_from_the_output() {
        let build = || Clip::new(&presets::get("ViT-nano-32px").unwrap(), Device::Cpu, 0).unwrap();
        let blocks = match build().config().vision_cfg.layers {
            crate::config::Layers::Depth(layers) => layers as usize,
            crate::config::Layers::Stages(_) => unreachable!("a ViT"),
        };
        let trained = |unlocked: usize| {
            let model = build();
            model.lock(Tower::Image, unlocked);
            let free =
                model.params().iter().filter(|p| p.name.starts_with("visual.") && p.tensor.requires_grad());
            free.map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        assert!(trained(0).is_empty());
        assert_eq!(trained(1), ["visual.proj"]);
        let two = trained(2);
        let last = format!("visual.transformer.resblocks.{}.", blocks - 1);
        assert!(two.iter().any(|name| name == "visual.ln_post.weight"));
        assert!(
            two.iter().all(|n| n == "visual.proj" || n.starts_with("visual.ln_post") || n.starts_with(&last))
        );
        assert!(!trained(blocks + 1).contains(&"visual.conv1.weight".to_string()));
        assert!(trained(blocks + 2).contains(&"visual.conv1.weight".to_string()));
        let model = build();
        let locked = model.lock(Tower::Text, 0);
        assert!(
            locked.contains(&"token_embedding.weight".to_string())
                && !locked.contains(&"logit_scale".to_string())
        );
        assert!(model.params().get("visual.proj").unwrap().requires_grad());
    }

    #[test]
    fn locked_statistics_stay_fixed_while_the_rest_trains() {
        for tower in [
            "resnet18",
            "efficientnet_b0",
            "mobilenetv3_small_100",
            "mobilenetv4_conv_small",
            "mobilevit_xxs",
            "repvit_m0_9",
            "fastvit_t8",
            "efficientvit_b0",
        ] {
            let json = format!(
                r#"{{"embed_dim": 16, "vision_cfg": {{"timm_model_name": "{tower}", "image_size": 32}},
                "text_cfg": {{"layers": 1, "width": 16, "heads": 2, "vocab_size": 32}}}}"#
            );
            let model = Clip::new(&ClipConfig::from_json(tower, &json).unwrap(), Device::Cpu, 0).unwrap();
            let images = crate::seeded(5, || Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu)));
            let before = model.params().buffers().map(|b| b.tensor.copy()).collect::<Vec<_>>();
            let moved = |model: &Clip| {
                model.params().buffers().zip(&before).filter(|(now, old)| !now.tensor.equal(old)).count()
            };
            model.lock(Tower::Image, 0);
            let plain = model.encode_image(&images).unwrap();
            model.mode().train(1);
            let training = model.encode_image(&images).unwrap();
            assert_eq!(moved(&model), 0, "{tower}");
            assert!((plain - training).abs().max().double_value(&[]) < 1e-6, "{tower}");
            // With the last groups unlocked, only their statistics change.
            model.params().set_requires_grad(true);
            model.lock(Tower::Image, 2);
            let _ = model.encode_image(&images).unwrap();
            let after = moved(&model);
            assert!(after > 0 && after < before.len(), "{tower}: {after} of {}", before.len());
        }
    }
}

//! Tests of pruning: masks against sums by hand, and pruned models against the gated models they come from.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::config::PrunedBlock;
use crate::gates::{self, Gates, Part, TowerShape};
use crate::{Clip, ClipConfig, PreprocessConfig, Tape, folder};

const VISION: &str = r#""layers": 3, "width": 24, "head_width": 8, "patch_size": 8, "image_size": 32"#;
const TEXT: &str = r#""layers": 3, "width": 32, "heads": 4, "vocab_size": 32, "context_length": 8"#;

fn config(vision: &str, text: &str, more: &str) -> ClipConfig {
    let json = format!(
        r#"{{"embed_dim": 16, {more} "vision_cfg": {{{VISION}{vision}}}, "text_cfg": {{{TEXT}{text}}}}}"#
    );
    ClipConfig::from_json("test", &json).unwrap()
}

/// Creates a model with random values in all parameters, including those that are 0 or 1 at first.
fn model(config: &ClipConfig) -> Clip {
    let model = Clip::new(config, Device::Cpu, 1).unwrap();
    crate::seeded(1, || {
        tch::no_grad(|| {
            for entry in model.params() {
                let noise = entry.tensor.rand_like() * 0.2;
                let _ = entry.tensor.shallow_clone().g_add_(&noise);
            }
        });
    });
    model
}

/// Creates masks with normally distributed scores around `centre`.
fn masks(config: &ClipConfig, centre: f64) -> Masks {
    let masks = Masks::new(config, Device::Cpu).unwrap();
    crate::seeded(7, || {
        tch::no_grad(|| {
            for (_, scores) in masks.named() {
                scores.shallow_clone().copy_(&(scores.randn_like() * 2.0 + centre));
            }
        });
    });
    masks
}

fn outputs(clip: &Clip) -> [Tensor; 2] {
    let (images, tokens) = crate::seeded(9, || {
        let images = Tensor::randn([3, 3, 32, 32], (Kind::Float, Device::Cpu));
        (images, Tensor::randint(31, [3, 8], (Kind::Int64, Device::Cpu)))
    });
    tch::no_grad(|| [clip.encode_image(&images).unwrap(), clip.encode_text(&tokens).unwrap()])
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().to_kind(Kind::Double).double_value(&[])
}

fn block_parameters(clip: &Clip) -> usize {
    let blocks = clip.params().iter().filter(|p| p.name.contains("resblocks"));
    blocks.map(|p| p.tensor.numel()).sum()
}

#[test]
fn gates_of_one_change_nothing() {
    let config = config("", "", "");
    let mut clip = model(&config);
    let plain = outputs(&clip);
    let ones = |shape: TowerShape| gates::ones(&shape, Device::Cpu).unwrap();
    let (image, text) = (TowerShape::image(&config).unwrap(), TowerShape::text(&config).unwrap());
    clip.set_gates(Some(Gates::new(&config, ones(image.clone()), ones(text.clone())).unwrap())).unwrap();
    assert!(outputs(&clip).iter().zip(&plain).all(|(a, b)| a.equal(b)));
    // Every gate has an effect on its own tower only.
    for part in Part::ALL {
        for tower in 0..2 {
            let both = [ones(image.clone()), ones(text.clone())];
            let _ = both[tower][part as usize].get(1).fill_(0.0);
            let [first, second] = both;
            clip.set_gates(Some(Gates::new(&config, first, second).unwrap())).unwrap();
            let (found, kept) = (outputs(&clip), 1 - tower);
            assert!(difference(&found[tower], &plain[tower]) > 1e-4, "{part:?}");
            assert!(found[kept].equal(&plain[kept]), "{part:?}");
        }
    }
    clip.set_gates(None).unwrap();
    assert!(outputs(&clip)[0].equal(&plain[0]));
    // New masks sample such gates.
    let masks = Masks::new(&config, Device::Cpu).unwrap();
    clip.mode().train(1);
    let (gates, _) = masks.sample(clip.mode()).unwrap();
    clip.mode().eval();
    assert_eq!(gates.image.values(Part::Mlp).min().double_value(&[]), 1.0);
    assert_eq!(masks.harden().unwrap().text[0].len(), 32);
}

#[test]
fn expected_sparsity_matches_sums_by_hand() {
    for (vision, text) in [("", ""), (r#", "ls_init_value": 0.5"#, r#", "ls_init_value": 0.5"#)] {
        let config = config(vision, text, "");
        let fresh = Masks::new(&config, Device::Cpu).unwrap();
        assert_eq!(fresh.parameters(), block_parameters(&model(&config)) as f64);
        assert!(fresh.expected_sparsity().double_value(&[]) < 1e-4);
    }
    let config = config("", "", "");
    let masks = masks(&config, 0.0);
    let probability = |tower: &str, part: Part, index: i64| {
        let name = format!("{tower}.{}", part.name());
        let scores = masks.named().into_iter().find(|(other, _)| *other == name).unwrap().1;
        let score = scores.double_value(&[index]);
        1.0 / (1.0 + (-(score + 2.0 / 3.0 * 11f64.ln())).exp())
    };
    let (mut kept, mut all) = (0.0, 0.0);
    for (tower, width, heads) in [("visual", 24, 3), ("text", 32, 4)] {
        let hidden = (0..width).map(|index| probability(tower, Part::Hidden, index)).sum::<f64>();
        for layer in 0..3 {
            let head = |index| probability(tower, Part::Heads, layer * heads + index);
            let inner = |index| probability(tower, Part::Mlp, layer * 4 * width + index);
            let kept_heads = (0..heads).map(head).sum::<f64>();
            let kept_channels = (0..4 * width).map(inner).sum::<f64>();
            // in_proj has 3 · 8 rows with biases, out_proj has 8 columns and a bias, and the norm has two vectors.
            let attention = kept_heads * (24.0 * hidden + 24.0 + 8.0 * hidden) + hidden + 2.0 * hidden;
            let mlp = kept_channels * (hidden + 1.0 + hidden) + hidden + 2.0 * hidden;
            kept += probability(tower, Part::Attention, layer) * attention
                + probability(tower, Part::WholeMlp, layer) * mlp;
            all += (12 * width * width + 13 * width) as f64;
        }
    }
    assert_eq!(masks.parameters(), all);
    let found = masks.expected_sparsity().double_value(&[]);
    assert!((found - (1.0 - kept / all)).abs() < 1e-6, "{found}");
}

#[test]
fn score_gradients_match_finite_differences_and_checkpointing() {
    let config = config("", "", "");
    let mut clip = model(&config);
    let masks = masks(&config, 0.0);
    let (images, tokens) = (
        Tensor::ones([2, 3, 32, 32], (Kind::Float, Device::Cpu)),
        Tensor::from_slice(&[1i64, 2, 30, 4, 5, 6, 7, 8]).view([1, 8]),
    );
    let mut loss = |checkpointed: bool, backward: bool| {
        clip.mode().train(3);
        let (gates, sample) = masks.sample(clip.mode()).unwrap();
        clip.set_gates(Some(gates)).unwrap();
        let mut tape = Tape::new(checkpointed);
        let image = clip.encode_image_taped(&images, &mut tape).unwrap();
        let text = clip.encode_text_taped(&tokens, &mut tape).unwrap();
        let loss = image.tanh().sum(Kind::Double) + text.tanh().sum(Kind::Double);
        if backward {
            masks.named().iter_mut().for_each(|(_, scores)| scores.zero_grad());
            loss.backward();
            tape.backward(clip.mode()).unwrap();
            sample.backward(&masks).unwrap();
        }
        clip.mode().eval();
        loss.double_value(&[])
    };
    loss(false, true);
    let plain = masks.named().iter().map(|(_, scores)| scores.grad().copy()).collect::<Vec<_>>();
    loss(true, true);
    for ((name, scores), plain) in masks.named().iter().zip(&plain) {
        let error = difference(&scores.grad(), plain);
        assert!(error <= 1e-4 * plain.abs().max().double_value(&[]), "{name}: {error}");
    }
    // Finite differences at the largest gradient of each vector.
    for ((name, scores), gradient) in masks.named().iter().zip(&plain) {
        let index = gradient.abs().argmax(0, false).int64_value(&[]);
        let mut shifted = |by: f64| {
            tch::no_grad(|| drop(scores.get(index).g_add_scalar_(by)));
            loss(false, false)
        };
        let (above, below) = (shifted(2e-3), shifted(-4e-3));
        shifted(2e-3);
        let (found, expected) = (gradient.double_value(&[index]), (above - below) / 4e-3);
        assert!((found - expected).abs() < 0.03 * expected.abs() + 1e-2, "{name}: {found} is not {expected}");
    }
}

#[test]
fn a_pruned_model_matches_the_gated_one() {
    for (vision, text, more) in [
        ("", "", ""),
        (r#", "no_ln_pre": true, "pool_type": "avg""#, r#", "proj_bias": true"#, r#""custom_text": true,"#),
        (
            r#", "ls_init_value": 0.5, "pool_type": "avg", "final_ln_after_pool": true"#,
            r#", "ls_init_value": 0.5, "no_causal_mask": true"#,
            r#""quick_gelu": true,"#,
        ),
    ] {
        let config = config(vision, text, more);
        let mut clip = model(&config);
        let plain = outputs(&clip);
        let hard = masks(&config, -0.5).harden().unwrap();
        clip.set_gates(Some(hard.gates(&config, Device::Cpu).unwrap())).unwrap();
        let gated = outputs(&clip);
        let pruned = PruningPlan::new(&config, &hard).unwrap().apply(&clip).unwrap();
        for ((found, expected), plain) in outputs(&pruned).iter().zip(&gated).zip(&plain) {
            assert!(difference(found, expected) < 1e-4, "{more}{vision}: {}", difference(found, expected));
            assert!(difference(found, plain) > 1e-2, "nothing was pruned");
        }
        let (after, before) = (block_parameters(&pruned), block_parameters(&clip));
        assert!(after < before * 2 / 3, "{after} of {before}");
        // Prune again, from a model whose blocks already differ.
        let (config, mut clip) = (pruned.config().clone(), pruned);
        let hard = masks(&config, 0.0).harden().unwrap();
        clip.set_gates(Some(hard.gates(&config, Device::Cpu).unwrap())).unwrap();
        let again = PruningPlan::new(&config, &hard).unwrap().apply(&clip).unwrap();
        for (found, expected) in outputs(&again).iter().zip(&outputs(&clip)) {
            assert!(difference(found, expected) < 1e-4, "{}", difference(found, expected));
        }
    }
}

#[test]
fn hard_gates_match_the_expected_sparsity() {
    let config = config("", "", "");
    let masks = masks(&config, 0.0);
    let hard = masks.harden().unwrap();
    for (tower, gates) in [("visual", &hard.image), ("text", &hard.text)] {
        for part in [Part::Hidden, Part::Heads, Part::Mlp] {
            let name = format!("{tower}.{}", part.name());
            let scores = masks.named().into_iter().find(|(other, _)| *other == name).unwrap().1;
            let values = &gates[part as usize];
            let zeros = values.iter().filter(|value| **value == 0.0).count();
            let kept = concrete::keep_probability(&scores).sum(Kind::Double).double_value(&[]);
            let expected = values.len() as f64 - kept;
            assert!((zeros as f64 - expected).abs() <= 0.5 + 1e-4, "{name}: {zeros}, {expected}");
            let scores = Vec::<f32>::try_from(&scores.detach()).unwrap();
            let scores_of = |zero: bool| {
                scores.iter().zip(values).filter(move |(_, v)| (**v == 0.0) == zero).map(|(s, _)| *s)
            };
            assert!(
                scores_of(true).fold(f32::MIN, f32::max) <= scores_of(false).fold(f32::MAX, f32::min),
                "{name}"
            );
        }
    }
    // With extreme scores, the pruned model has exactly the expected number of parameters.
    tch::no_grad(|| {
        for (_, scores) in masks.named() {
            scores.shallow_clone().copy_(&(scores.sign() * 60.0));
        }
    });
    let plan = PruningPlan::new(&config, &masks.harden().unwrap()).unwrap();
    let mut remaining = 0;
    for (blocks, width) in [
        (&plan.config().vision_cfg.blocks, plan.config().vision_cfg.width),
        (&plan.config().text_cfg.blocks, plan.config().text_cfg.width),
    ] {
        for PrunedBlock { heads, mlp_width } in blocks.iter().flatten() {
            remaining += if *heads > 0 { heads * (32 * width + 24) + 3 * width } else { 0 };
            remaining += if *mlp_width > 0 { mlp_width * (2 * width + 1) + 3 * width } else { 0 };
        }
    }
    let clip = model(&config);
    assert_eq!(block_parameters(&plan.apply(&clip).unwrap()) as i64, remaining);
    let expected = masks.expected_parameters().double_value(&[]);
    // The expectation includes the norm of a branch that lost all its heads or channels.
    assert!(
        expected >= remaining as f64 - 1e-3 && expected < remaining as f64 + 200.0,
        "{expected}, {remaining}"
    );
}

#[test]
fn at_least_one_hidden_channel_is_kept() {
    let config = config("", "", "");
    let masks = masks(&config, -60.0);
    let (gates, _) = masks.sample(model(&config).mode()).unwrap();
    assert_eq!(gates.text.values(Part::Hidden).sum(Kind::Double).double_value(&[]), 1.0);
    let hard = masks.harden().unwrap();
    let mut clip = model(&config);
    clip.set_gates(Some(hard.gates(&config, Device::Cpu).unwrap())).unwrap();
    let pruned = PruningPlan::new(&config, &hard).unwrap().apply(&clip).unwrap();
    assert_eq!((pruned.config().vision_cfg.width, block_parameters(&pruned)), (1, 0));
    for (found, expected) in outputs(&pruned).iter().zip(&outputs(&clip)) {
        assert!(difference(found, expected) < 1e-4);
    }
}

#[test]
fn a_pruned_model_is_smaller_on_disk_and_reopens() {
    let config = config("", "", "");
    let clip = model(&config);
    let hard = masks(&config, -1.0).harden().unwrap();
    let pruned = PruningPlan::new(&config, &hard).unwrap().apply(&clip).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let bytes = |name: &str, clip: &Clip| {
        folder::save(parent.path().join(name), clip, &PreprocessConfig::default()).unwrap();
        std::fs::metadata(parent.path().join(name).join(folder::WEIGHTS_FILE)).unwrap().len()
    };
    let (whole, small) = (bytes("whole", &clip), bytes("small", &pruned));
    assert!(small * 2 < whole, "{small} of {whole}");
    let path = parent.path().join("small");
    let opened = folder::open(&path, Device::Cpu, 5).unwrap().model;
    assert!(outputs(&opened).iter().zip(&outputs(&pruned)).all(|(a, b)| a.equal(b)));
    let (large, less) = (crate::cost::cost(&config).unwrap(), crate::cost::cost(pruned.config()).unwrap());
    assert!(less.image.macs * 3 < large.image.macs * 2 && less.text.macs * 3 < large.text.macs * 2);
}

#[test]
fn models_without_gates_are_refused() {
    let mut resnet = config("", "", "");
    resnet.vision_cfg =
        serde_json::from_str(r#"{"layers": [1, 1, 1, 1], "width": 8, "patch_size": null, "image_size": 64}"#)
            .unwrap();
    let error = |config: &ClipConfig| Masks::new(config, Device::Cpu).unwrap_err().to_string();
    assert!(error(&resnet).contains("ViT"));
    let bare = r#", "proj_type": "none""#;
    let json = format!(r#"{{"embed_dim": 32, "vision_cfg": {{{VISION}}}, "text_cfg": {{{TEXT}{bare}}}}}"#);
    assert!(error(&ClipConfig::from_json("test", &json).unwrap()).contains("projection"));
    let other = config(r#", "mlp_ratio": 2.0"#, "", "");
    let gates = masks(&other, 1.0).harden().unwrap().gates(&other, Device::Cpu).unwrap();
    let mut clip = model(&config("", "", ""));
    assert!(clip.set_gates(Some(gates)).unwrap_err().to_string().contains("another shape"));
    let hard = masks(&other, 1.0).harden().unwrap();
    assert!(PruningPlan::new(clip.config(), &hard).unwrap_err().to_string().contains("mlp"));
}

#[test]
fn a_branch_without_heads_or_channels_is_removed() {
    let config = config("", "", "");
    let masks = masks(&config, 60.0);
    tch::no_grad(|| {
        for (name, scores) in masks.named() {
            // The middle block of three.
            let each = scores.numel() as i64 / 3;
            if name.ends_with(".heads") || name.ends_with(".mlp") {
                let _ = scores.narrow(0, each, each).fill_(-60.0);
            }
        }
    });
    let hard = masks.harden().unwrap();
    assert_eq!(hard.image[Part::Attention as usize].iter().filter(|value| **value == 0.0).count(), 1);
    let mut clip = model(&config);
    clip.set_gates(Some(hard.gates(&config, Device::Cpu).unwrap())).unwrap();
    let pruned = PruningPlan::new(&config, &hard).unwrap().apply(&clip).unwrap();
    let removed = PrunedBlock { heads: 0, mlp_width: 0 };
    assert_eq!(pruned.config().text_cfg.blocks.as_ref().unwrap()[1], removed);
    for (found, expected) in outputs(&pruned).iter().zip(&outputs(&clip)) {
        assert!(difference(found, expected) < 1e-4);
    }
}

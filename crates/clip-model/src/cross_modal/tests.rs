//! Tests of the cross-modal head: its start, regions, training and refusals.

use super::*;
use crate::ClipConfig;
use crate::tape::Tape;
use tch::Device;

fn clip(vision: &str) -> Clip {
    let json = format!(
        r#"{{"embed_dim": 24, "vision_cfg": {vision},
            "text_cfg": {{"layers": 1, "width": 16, "heads": 2, "vocab_size": 32, "context_length": 8}}}}"#
    );
    let clip = Clip::new(&ClipConfig::from_json("test", &json).unwrap(), Device::Cpu, 4).unwrap();
    clip.params().set_requires_grad(false);
    clip
}

const VIT: &str = r#"{"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}"#;

fn inputs() -> (Tensor, Tensor) {
    crate::seeded(5, || {
        let images = Tensor::randn([6, 3, 32, 32], (Kind::Float, Device::Cpu));
        (images, Tensor::randint(30, [6, 8], (Kind::Int64, Device::Cpu)))
    })
}

fn enrich(head: &CrossModal, clip: &Clip, images: &Tensor, tokens: &Tensor) -> (Tensor, Tensor) {
    let image = head.forward(clip, images, &[], &[]).unwrap();
    let text = clip.text_states(tokens, &[], &mut Tape::off()).unwrap();
    let EnrichedEmbeddings { image, text } = head.enrich(&image, &text).unwrap();
    (image, text)
}

/// Randomises the output projections, so that every part affects the result.
fn randomize_outputs(head: &CrossModal) {
    crate::seeded(8, || {
        tch::no_grad(|| {
            for parameter in head.params().iter().filter(|p| p.name.contains("output.weight")) {
                let _ = parameter.tensor.shallow_clone().normal_(0.0, 0.3);
            }
        });
    });
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn loss(head: &CrossModal, (image, text): &(Tensor, Tensor)) -> Tensor {
    let logits = image.matmul(&text.tr()) * head.logit_scale.exp();
    let labels = Tensor::arange(image.size()[0], (Kind::Int64, Device::Cpu));
    logits.cross_entropy_for_logits(&labels) + logits.tr().cross_entropy_for_logits(&labels)
}

#[test]
fn a_new_head_does_not_change_the_embeddings() {
    let (clip, (images, tokens)) = (clip(VIT), inputs());
    let head = CrossModal::new(&CrossModalConfig { layers: 2, ..Default::default() }, &clip, 1).unwrap();
    let (image, text) = enrich(&head, &clip, &images, &tokens);
    assert!(distance(&image, &unit(&clip.encode_image(&images).unwrap())) < 1e-6);
    assert!(distance(&text, &unit(&clip.encode_text(&tokens).unwrap())) < 1e-6);
    assert_eq!(head.logit_scale.double_value(&[]), clip.logit_scale.double_value(&[]));
    randomize_outputs(&head);
    assert!(distance(&image, &enrich(&head, &clip, &images, &tokens).0) > 1e-2);
}

#[test]
fn pairs_attend_to_each_other_and_ignore_padding() {
    let (clip, (images, tokens)) = (clip(VIT), inputs());
    let head = CrossModal::new(&CrossModalConfig::default(), &clip, 1).unwrap();
    randomize_outputs(&head);
    // 31 is the largest id and therefore the end token.
    let ended = tokens.copy();
    let _ = ended.select(1, 4).fill_(31);
    let padded = ended.copy();
    let _ = padded.narrow(1, 5, 3).fill_(0);
    let (plain, other) = (enrich(&head, &clip, &images, &ended), enrich(&head, &clip, &images, &padded));
    assert!(distance(&plain.0, &other.0) < 1e-5 && distance(&plain.1, &other.1) < 1e-5);
    let cut = enrich(&head, &clip, &images, &ended.narrow(1, 0, 5));
    assert!(distance(&plain.0, &cut.0) < 1e-5 && distance(&plain.1, &cut.1) < 1e-5);
    // Another caption changes only its own image, and another image changes only its own caption.
    let _ = ended.get(0).narrow(0, 0, 4).fill_(7);
    let captioned = enrich(&head, &clip, &images, &ended);
    assert!(distance(&plain.0.get(0), &captioned.0.get(0)) > 1e-4);
    assert!(distance(&plain.0.narrow(0, 1, 5), &captioned.0.narrow(0, 1, 5)) < 1e-6);
    let changed = images.copy();
    let _ = changed.get(0).fill_(0.5);
    let changed = enrich(&head, &clip, &changed, &ended);
    assert!(distance(&captioned.1.get(0), &changed.1.get(0)) > 1e-4);
    assert!(distance(&captioned.1.narrow(0, 1, 5), &changed.1.narrow(0, 1, 5)) < 1e-6);
}

#[test]
fn only_the_head_learns_and_its_loss_falls() {
    let (clip, (images, tokens)) = (clip(VIT), inputs());
    let head = CrossModal::new(&CrossModalConfig::default(), &clip, 1).unwrap();
    let mut values = Vec::new();
    for _ in 0..20 {
        let value = loss(&head, &enrich(&head, &clip, &images, &tokens));
        head.params().iter().for_each(|p| p.tensor.shallow_clone().zero_grad());
        value.backward();
        values.push(value.double_value(&[]));
        tch::no_grad(|| {
            for parameter in head.params() {
                let step = parameter.tensor.grad() * -0.05;
                let _ = parameter.tensor.shallow_clone().g_add_(&step);
            }
        });
    }
    assert!(values[19] < values[0] - 0.1, "{values:?}");
    assert!(clip.params().iter().all(|p| !p.tensor.grad().defined()), "the CLIP is frozen");
    // After the first step the outputs are not zero, so gradients reach every part.
    for parameter in head.params() {
        let gradient = parameter.tensor.grad();
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{} does not learn", parameter.name);
    }
}

#[test]
fn a_saved_head_opens_beside_its_clip() {
    let (clip, (images, tokens)) = (clip(VIT), inputs());
    let folder = tempfile::tempdir().unwrap();
    assert!(CrossModal::open(folder.path(), &clip).unwrap().is_none());
    let config = CrossModalConfig { layers: 2, heads: 3, mlp_ratio: 2.0, crops: 0, boxes: 0 };
    let head = CrossModal::new(&config, &clip, 1).unwrap();
    randomize_outputs(&head);
    head.save(folder.path()).unwrap();
    let again = CrossModal::open(folder.path(), &clip).unwrap().unwrap();
    assert_eq!(again.config(), &config);
    let (a, b) = (enrich(&head, &clip, &images, &tokens), enrich(&again, &clip, &images, &tokens));
    assert!(a.0.equal(&b.0) && a.1.equal(&b.1));
    std::fs::remove_file(folder.path().join(WEIGHTS_FILE)).unwrap();
    let error = CrossModal::open(folder.path(), &clip).unwrap_err().to_string();
    assert!(error.contains(WEIGHTS_FILE), "{error}");
}

#[test]
fn invalid_heads_are_refused() {
    let other = clip(r#"{"timm_model_name": "resnet18", "image_size": 32}"#);
    let error = CrossModal::new(&CrossModalConfig::default(), &other, 1).unwrap_err().to_string();
    assert!(error.contains("ViT") && error.contains("crops = 2"), "{error}");
    let vit = clip(VIT);
    for (config, part) in [
        (CrossModalConfig { heads: 5, ..Default::default() }, "heads"),
        (CrossModalConfig { heads: 0, ..Default::default() }, "heads"),
        (CrossModalConfig { layers: 0, ..Default::default() }, "layers"),
        (CrossModalConfig { crops: 9, ..Default::default() }, "crops"),
        (CrossModalConfig { boxes: 65, ..Default::default() }, "boxes"),
        (CrossModalConfig { crops: 2, boxes: 2, ..Default::default() }, "crops or boxes"),
        (CrossModalConfig { mlp_ratio: f64::NAN, ..Default::default() }, "mlp_ratio"),
    ] {
        let error = CrossModal::new(&config, &vit, 1).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let text = vit.text_states(&inputs().1.narrow(0, 0, 2), &[], &mut Tape::off()).unwrap();
    let head = CrossModal::new(&CrossModalConfig::default(), &vit, 1).unwrap();
    assert!(head.enrich(&head.forward(&vit, &inputs().0, &[], &[]).unwrap(), &text).is_err());
}

#[test]
fn crops_are_regions_of_any_tower() {
    let images = inputs().0;
    let other = clip(r#"{"timm_model_name": "resnet18", "image_size": 32}"#);
    let config = CrossModalConfig { crops: 2, ..Default::default() };
    for clip in [&other, &clip(VIT)] {
        let head = CrossModal::new(&config, clip, 1).unwrap();
        let image = head.forward(clip, &images, &[], &[]).unwrap();
        assert_eq!(image.regions.size(), [6, 4, 24]);
        assert!(distance(&image.states.embedding, &clip.encode_image(&images).unwrap()) < 1e-6);
        // The third region is the lower left quarter, enlarged twice.
        let quarter =
            images.narrow(2, 16, 16).narrow(3, 0, 16).upsample_bilinear2d([32, 32], false, None, None);
        let quarter = clip.encode_image(&quarter).unwrap();
        assert!(distance(&image.regions.select(1, 2), &quarter) < 1e-5);
        assert!(distance(&image.regions.select(1, 1), &quarter) > 1e-3);
        randomize_outputs(&head);
        let (image, _) = enrich(&head, clip, &images, &inputs().1);
        assert!(distance(&image, &unit(&clip.encode_image(&images).unwrap())) > 1e-2);
    }
    // Block outputs need a ViT, and crops need at least one pixel.
    let head = CrossModal::new(&config, &other, 1).unwrap();
    assert!(head.forward(&other, &images, &[], &[0]).unwrap_err().to_string().contains("ViT"));
    let tiny = clip(r#"{"layers": 1, "width": 32, "head_width": 16, "patch_size": 2, "image_size": 4}"#);
    let head = CrossModal::new(&CrossModalConfig { crops: 5, ..config }, &tiny, 1).unwrap();
    let error =
        head.forward(&tiny, &images.narrow(2, 0, 4).narrow(3, 0, 4), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("4 px"), "{error}");
}

#[test]
fn boxes_are_regions_of_any_tower() {
    let (images, tokens) = inputs();
    // The whole image; its lower right quarter and two others, one above the limit; an empty list for the third
    // image; no list from the fifth image on.
    let quarter = [0.5, 0.5, 1.0, 1.0];
    let boxes =
        [vec![[0.0, 0.0, 1.0, 1.0]], vec![quarter, [0.0, 0.0, 0.5, 1.0], quarter], vec![], vec![quarter]];
    let config = CrossModalConfig { boxes: 2, ..Default::default() };
    for clip in [&clip(r#"{"timm_model_name": "resnet18", "image_size": 32}"#), &clip(VIT)] {
        let head = CrossModal::new(&config, clip, 1).unwrap();
        let image = head.forward(clip, &images, &boxes, &[]).unwrap();
        assert_eq!(image.regions.size(), [6, 2, 24]);
        let mask = Vec::<bool>::try_from(image.mask.as_ref().unwrap().flatten(0, 1)).unwrap();
        assert_eq!(mask, [true, false, true, true, true, false, true, false, true, false, true, false]);
        let plain = clip.encode_image(&images).unwrap();
        for row in [0, 2, 4, 5] {
            assert!(distance(&image.regions.get(row).get(0), &plain.get(row)) < 1e-5, "{row}");
        }
        // A box equals the enlarged tile, except at its edges, which also mix in the pixels outside.
        let smooth = Tensor::arange(32, (Kind::Float, Device::Cpu)).view([1, 1, 1, 32]) / 32.0;
        let smooth = smooth.expand([6, 3, 32, 32], false).contiguous();
        let tile =
            smooth.narrow(2, 16, 16).narrow(3, 16, 16).upsample_bilinear2d([32, 32], false, None, None);
        let smooth_regions = head.forward(clip, &smooth, &boxes, &[]).unwrap().regions;
        let expected = clip.encode_image(&tile).unwrap().get(0);
        let apart = distance(&clip.encode_image(&smooth).unwrap().get(0), &expected);
        assert!(distance(&smooth_regions.get(1).get(0), &expected) < 0.1 * apart, "{apart}");
        assert!(distance(&image.regions.get(1).get(1), &image.regions.get(1).get(0)) > 1e-3);
        // Masked regions have no effect.
        randomize_outputs(&head);
        let text = clip.text_states(&tokens, &[], &mut Tape::off()).unwrap();
        let enriched = head.enrich(&image, &text).unwrap();
        let mut other = head.forward(clip, &images, &boxes, &[]).unwrap();
        let _ = other.regions.get(0).get(1).fill_(3.0);
        let again = head.enrich(&other, &text).unwrap();
        assert!(distance(&enriched.image, &again.image) < 1e-6);
        assert!(distance(&enriched.text, &again.text) < 1e-6);
        let _ = other.regions.get(1).get(1).fill_(3.0);
        let again = head.enrich(&other, &text).unwrap();
        assert!(distance(&enriched.image.get(1), &again.image.get(1)) > 1e-3);
        other.mask = None;
        let unmasked = head.enrich(&other, &text).unwrap();
        assert!(distance(&enriched.image.get(0), &unmasked.image.get(0)) > 1e-3);
    }
}

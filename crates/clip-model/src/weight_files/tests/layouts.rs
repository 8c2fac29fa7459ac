//! Tests that every layout converts to open_clip's names, and that shapes determine the configuration.

use std::collections::HashMap;

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::write::{PickleWriter, archive, legacy};
use super::{assert_equal, read};
use crate::config::{Layers, PrunedBlock};
use crate::params::ParamStore;
use crate::vision::ImageTower;
use crate::weight_files::layout::{plan_renames, to_hugging_face, with_text_prefix};
use crate::weight_files::{Layout, infer_config, infer_pruned_config};
use crate::{Clip, ClipConfig, presets};

fn small(vision: i64, text: i64, layers: [i64; 2], embed: i64) -> ClipConfig {
    let json = format!(
        r#"{{"embed_dim": {embed}, "vision_cfg": {{"image_size": 32, "layers": {}, "width": {vision}, "head_width": 8, "patch_size": 16}},
        "text_cfg": {{"context_length": 6, "vocab_size": 20, "width": {text}, "heads": 2, "layers": {}}}}}"#,
        layers[0], layers[1]
    );
    ClipConfig::from_json("small", &json).unwrap()
}

fn state_of(config: &ClipConfig) -> Vec<(String, Tensor)> {
    let model = Clip::new(config, Device::Cpu, 7).unwrap();
    model.params().state().map(|p| (p.name.clone(), p.tensor.detach().copy())).collect()
}

fn renamed(state: &[(String, Tensor)], rename: impl Fn(&str) -> String) -> Vec<(String, Tensor)> {
    state.iter().map(|(name, tensor)| (rename(name), tensor.shallow_clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_layout_converts_to_open_clips_names(
        vision in 1i64..4, text in 1i64..4, layers in [1i64..3, 1i64..3], embed in 1i64..9, wrapper in 0usize..4
    ) {
        let config = small(vision * 16, text * 8, layers, embed);
        let state = state_of(&config);
        let wrapper = ["", "module.", "_orig_mod.module.", "module.module."][wrapper];

        let plain = renamed(&state, |name| format!("{wrapper}{name}"));
        let found = read(&archive(PickleWriter::new().state(&plain).stop(), &plain));
        assert_equal(&found.weights, &state);
        prop_assert_eq!(found.layout, Layout::OpenClip);

        let tiny = renamed(&state, |name| match name {
            "logit_scale" => format!("_logit_scale.{wrapper}logit_scale"),
            name if name.starts_with("visual.") => format!("_image_encoder.{wrapper}{name}"),
            name => format!("_text_encoder.{wrapper}{name}"),
        });
        let found = read(&legacy(&tiny));
        assert_equal(&found.weights, &state);
        prop_assert_eq!(found.layout, Layout::TinyClip);

        let weights = state.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect::<HashMap<_, _>>();
        let theirs = to_hugging_face(&weights, &config).unwrap();
        prop_assert!(theirs.contains_key("vision_model.pre_layrnorm.weight"));
        prop_assert_eq!(theirs["text_projection.weight"].size(), [embed, text * 8]);
        let mut theirs = theirs.into_iter().collect::<Vec<_>>();
        theirs.push(("text_model.embeddings.position_ids".into(), Tensor::arange(6, (Kind::Int64, Device::Cpu))));
        let theirs = renamed(&theirs, |name| format!("{wrapper}{name}"));
        let found = read(&archive(PickleWriter::new().state(&theirs).stop(), &theirs));
        assert_equal(&found.weights, &state);
        prop_assert_eq!(found.layout, Layout::HuggingFaceClip);
        prop_assert_eq!(found.dropped.len(), 1);

        let under = with_text_prefix(weights, true);
        prop_assert!(under.contains_key("text.text_projection") && under.contains_key("visual.proj"));
        assert_equal(&with_text_prefix(under, false), &state);
    }
}

#[test]
fn siglip_converts_to_timms_and_open_clips_names() {
    let f = |shape: &[i64]| crate::seeded(3, || Tensor::randn(shape, (Kind::Float, Device::Cpu)));
    let mut theirs = vec![
        ("logit_scale".to_string(), f(&[1])),
        ("logit_bias".to_string(), f(&[1])),
        ("vision_model.embeddings.position_embedding.weight".to_string(), f(&[4, 8])),
        ("vision_model.head.probe".to_string(), f(&[1, 1, 8])),
        ("vision_model.head.attention.in_proj_weight".to_string(), f(&[24, 8])),
        ("vision_model.head.layernorm.weight".to_string(), f(&[8])),
        ("text_model.head.weight".to_string(), f(&[8, 8])),
        ("text_model.head.bias".to_string(), f(&[8])),
        ("text_model.final_layer_norm.weight".to_string(), f(&[8])),
    ];
    for tower in ["vision", "text"] {
        for part in ["q", "k", "v"] {
            theirs.push((format!("{tower}_model.encoder.layers.0.self_attn.{part}_proj.bias"), f(&[8])));
        }
        theirs.push((format!("{tower}_model.encoder.layers.0.mlp.fc1.weight"), f(&[32, 8])));
    }
    let theirs_by_name = theirs.iter().map(|(n, t)| (n.as_str(), t)).collect::<HashMap<_, _>>();
    let found = read(&archive(PickleWriter::new().state(&theirs).stop(), &theirs));
    assert_eq!(found.layout, Layout::HuggingFaceSiglip);
    let get = |name: &str| found.weights[name].shallow_clone();
    assert!(get("logit_bias").size().is_empty() && get("logit_scale").size().is_empty());
    assert_eq!(get("visual.trunk.pos_embed").size(), [1, 4, 8]);
    let pool = theirs_by_name["vision_model.head.attention.in_proj_weight"];
    assert!(get("visual.trunk.attn_pool.q.weight").equal(&pool.narrow(0, 0, 8)));
    assert!(get("visual.trunk.attn_pool.kv.weight").equal(&pool.narrow(0, 8, 16)));
    let parts = ["q", "k", "v"].map(|part| {
        theirs_by_name[format!("vision_model.encoder.layers.0.self_attn.{part}_proj.bias").as_str()].copy()
    });
    assert!(get("visual.trunk.blocks.0.attn.qkv.bias").equal(&Tensor::cat(&parts, 0)));
    for name in [
        "text.transformer.resblocks.0.attn.in_proj_bias",
        "text.transformer.resblocks.0.mlp.c_fc.weight",
        "visual.trunk.blocks.0.mlp.fc1.weight",
        "visual.trunk.attn_pool.latent",
        "visual.trunk.attn_pool.norm.weight",
        "text.text_projection.weight",
        "text.text_projection.bias",
        "text.ln_final.weight",
    ] {
        assert!(found.weights.contains_key(name), "{name} of {:?}", found.weights.keys());
    }
    // Logit scale and bias, seven tensors of the image tower and five of the text tower.
    assert_eq!(found.weights.len(), 14);
}

#[test]
fn wrappers_are_removed_at_any_depth_and_named() {
    for (wrapped, plain, removed) in [
        ("visual._orig_mod.conv1.weight", "visual.conv1.weight", "_orig_mod."),
        (
            "_orig_mod.visual.transformer.resblocks.0._orig_mod.ln_1.bias",
            "visual.transformer.resblocks.0.ln_1.bias",
            "_orig_mod.",
        ),
        ("transformer.module.resblocks.0.ln_1.bias", "transformer.resblocks.0.ln_1.bias", "module."),
        ("visual._fsdp_wrapped_module.proj", "visual.proj", "_fsdp_wrapped_module."),
        ("model.visual.proj", "visual.proj", "model."),
        ("clip.token_embedding.weight", "token_embedding.weight", "clip."),
        ("model.clip.logit_scale", "logit_scale", "model.clip."),
        ("net._orig_mod.text.ln_final.bias", "text.ln_final.bias", "net."),
        ("model.student.module.visual.proj", "visual.proj", "student."),
        ("_forward_module.model.visual.proj", "visual.proj", "model."),
    ] {
        let plan = plan_renames([wrapped].into_iter(), false).unwrap();
        let [(_, target)] = &plan.kept[..] else { panic!("{wrapped}: {plan:?}") };
        assert_eq!(target.names(), [plain], "{wrapped}");
        assert!(plan.notes[0].contains(&format!("`{removed}`")), "{wrapped}: {:?}", plan.notes);
    }
    // Parts of other names stay, and so does an attribute before anything but a tower.
    for name in [
        "visual.trunk.stages.2.blocks.1.context_module.main.qkv.conv.weight",
        "model.diffusion.weight",
        "clip.unknown.weight",
    ] {
        let plan = plan_renames([name].into_iter(), false).unwrap();
        assert_eq!(plan.kept[0].1.names(), [name]);
        assert!(plan.notes.is_empty());
    }
    let plan = plan_renames(["model.teacher.visual.proj", "model.visual.proj"].into_iter(), false).unwrap();
    assert_eq!(plan.dropped, ["model.teacher.visual.proj"]);
}

#[test]
fn losses_teachers_and_buffers_are_dropped_and_listed() {
    let names = [
        "module.visual.trunk.conv1.weight",
        "logit_scale",
        "visual_proj.weight",
        "module.loss.text_proj.bias",
        "visual_fusion_proj.weight",
        "text_fusion_proj.weight",
        "cross_logit_scale",
        "fusion_logit_scale",
        "t_model.visual.proj",
        "module.teacher.visual.proj",
        "input_resolution",
        "l0_module.heads",
        "unheard_of.weight",
    ];
    let plan = plan_renames(names.into_iter(), false).unwrap();
    let kept = plan.kept.iter().flat_map(|(_, target)| target.names()).collect::<Vec<_>>();
    assert_eq!(kept, ["visual.trunk.conv1.weight", "logit_scale", "unheard_of.weight"]);
    assert_eq!(plan.dropped.len(), 10, "{:?}", plan.dropped);
}

#[test]
fn duplicate_names_are_an_error() {
    let one = || Tensor::from_slice(&[1f32]);
    let state = vec![("visual.x".to_string(), one()), ("module.visual.x".to_string(), one())];
    let message = super::refusal(&archive(PickleWriter::new().state(&state).stop(), &state));
    assert!(message.contains("two of its tensors are named `visual.x`"), "{message}");
    let state = vec![
        ("vision_model.encoder.layers.0.self_attn.q_proj.bias".to_string(), one()),
        ("vision_model.encoder.layers.0.self_attn.k_proj.bias".to_string(), one()),
    ];
    let message = super::refusal(&archive(PickleWriter::new().state(&state).stop(), &state));
    assert!(message.contains("query, key or value is missing"), "{message}");
}

/// Returns tensors with the shapes of a model, without its memory.
fn shapes_of(config: &ClipConfig) -> HashMap<String, Tensor> {
    let store = ParamStore::counting();
    let root = store.root();
    let vision = &config.vision_cfg;
    ImageTower::new(&root.child("visual"), vision, config.embed_dim, config.vision_activation()).unwrap();
    Clip::text_tower(&root, config).unwrap();
    let mut shapes = store
        .into_params()
        .state()
        .map(|p| (p.name.clone(), p.tensor.shallow_clone()))
        .collect::<HashMap<_, _>>();
    shapes.insert("logit_scale".into(), Tensor::from(0f32));
    if config.init_logit_bias.is_some() {
        shapes.insert("logit_bias".into(), Tensor::from(0f32));
    }
    shapes
}

#[test]
fn shapes_determine_presets_or_the_error_asks_for_one() {
    for name in presets::names() {
        let config = presets::get(name).unwrap();
        let inferred = infer_config(&shapes_of(&config));
        let timm = config.vision_cfg.timm_model_name.as_deref();
        if timm.is_some_and(|tower| !tower.contains("siglip")) {
            // Whole families share these parameter names, so the preset has to be named.
            assert!(inferred.unwrap_err().to_string().contains("preset"), "{name}");
            continue;
        }
        let mut inferred = inferred.unwrap();
        // Settings that shapes do not determine.
        inferred.quick_gelu = config.quick_gelu;
        inferred.vision_cfg.head_width = config.vision_cfg.head_width;
        inferred.text_cfg.heads = config.text_cfg.heads;
        inferred.vision_cfg.patch_dropout = config.vision_cfg.patch_dropout;
        inferred.text_cfg.hf_tokenizer_name = config.text_cfg.hf_tokenizer_name.clone();
        inferred.text_cfg.tokenizer_kwargs = config.text_cfg.tokenizer_kwargs.clone();
        // Patches of 14 px do not fill 384 px; the shape determines only the grid.
        if name == "ViT-SO400M-14-SigLIP-384" {
            assert_eq!(inferred.vision_cfg.image_size, 378);
            inferred.vision_cfg.image_size = config.vision_cfg.image_size;
            inferred.vision_cfg.timm_model_name = config.vision_cfg.timm_model_name.clone();
        }
        // Published ratios are rounded.
        for (inferred, published) in [
            (&mut inferred.vision_cfg.mlp_ratio, config.vision_cfg.mlp_ratio),
            (&mut inferred.text_cfg.mlp_ratio, config.text_cfg.mlp_ratio),
        ] {
            assert!((*inferred - published).abs() < 1e-4, "{name}: {inferred} instead of {published}");
            *inferred = published;
        }
        assert_eq!(inferred.vision_cfg, config.vision_cfg, "{name}");
        assert_eq!(inferred.text_cfg, config.text_cfg, "{name}");
        assert_eq!(inferred.embed_dim, config.embed_dim, "{name}");
    }
}

#[test]
fn shapes_determine_resnets_and_siglip() {
    let resnet = r#"{"embed_dim": 1024, "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": null},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}"#;
    let siglip = r#"{"embed_dim": 768, "init_logit_bias": -10, "custom_text": true,
        "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": false, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": 64, "vocab_size": 32000, "width": 768, "heads": 12, "layers": 12, "no_causal_mask": true,
        "proj_bias": true, "pool_type": "last", "norm_kwargs": {"eps": 1e-06}}}"#;
    for json in [resnet, siglip] {
        let config = ClipConfig::from_json("test", json).unwrap();
        assert_eq!(infer_config(&shapes_of(&config)).unwrap(), config);
    }
    let timm = r#"{"embed_dim": 512, "vision_cfg": {"timm_model_name": "resnet18", "timm_pool": "avg"}, "text_cfg": {}}"#;
    let shapes = shapes_of(&ClipConfig::from_json("test", timm).unwrap());
    assert!(infer_config(&shapes).unwrap_err().to_string().contains("preset"));
    assert!(infer_config(&HashMap::new()).unwrap_err().to_string().contains("token_embedding"));
}

#[test]
fn shapes_determine_pruned_blocks() {
    let whole = presets::get("ViT-B-16").unwrap();
    let mut pruned = whole.clone();
    (pruned.vision_cfg.width, pruned.text_cfg.width, pruned.embed_dim) = (512, 320, 512);
    let block = |heads, mlp_width| PrunedBlock { heads, mlp_width };
    pruned.vision_cfg.blocks = Some((0..12).map(|i| block(i % 5, 37 * ((i + 1) % 4))).collect());
    pruned.text_cfg.blocks = Some((0..12).map(|i| block(i % 3, 11 * (i % 7))).collect());
    pruned.text_cfg.head_width = Some(64);
    let shapes = shapes_of(&pruned);
    assert_eq!(infer_pruned_config(&whole, &shapes).unwrap(), pruned);
    // Trailing blocks without tensors are unknown without the configuration before pruning.
    let inferred = infer_config(&shapes).unwrap();
    assert_eq!(
        inferred.vision_cfg.blocks.as_ref().unwrap()[..11],
        pruned.vision_cfg.blocks.as_ref().unwrap()[..11]
    );
    assert!(matches!(inferred.vision_cfg.layers, Layers::Depth(11 | 12)));

    let other = presets::get("ViT-B-32").unwrap();
    assert_eq!(infer_pruned_config(&other, &shapes_of(&other)).unwrap(), other);
    let error = infer_pruned_config(&other, &shapes_of(&presets::get("ViT-L-14").unwrap())).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn tensors_that_hugging_face_cannot_represent_are_refused() {
    let config = small(16, 8, [1, 1], 4);
    let mut weights = state_of(&config).into_iter().collect::<HashMap<_, _>>();
    weights.insert("visual.trunk.x".into(), Tensor::from(0f32));
    let error = to_hugging_face(&weights, &config).unwrap_err();
    assert!(error.to_string().contains("visual.trunk.x"), "{error}");
}

#[test]
fn names_of_wrappers_and_frameworks_are_removed_at_any_place_and_reported() {
    let config = small(16, 8, [1, 1], 4);
    let state = state_of(&config);
    let compiled = |name: &str| match name.strip_prefix("visual.") {
        Some(rest) => format!("visual._orig_mod.{rest}"),
        None => name.to_string(),
    };
    let checkpointed = |name: &str| name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module.");
    type Rename<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(&str, Rename<'_>, &str); 6] = [
        ("compiled", &compiled, "`_orig_mod.`"),
        ("checkpointed", &checkpointed, "`_checkpoint_wrapped_module.`"),
        ("lightning", &|name| format!("model.{name}"), "`model.`"),
        ("lightning", &|name| format!("clip.{}", compiled(name)), "`clip.`"),
        ("parallel", &|name| format!("module.my_net.module.{name}"), "`my_net.`"),
        ("student", &|name| format!("model.student.{name}"), "`student.`"),
    ];
    for (case, rename, part) in cases {
        let mut theirs = renamed(&state, rename);
        let is_framework = part == "`model.`";
        if is_framework {
            theirs.push(("accuracy.total".into(), Tensor::zeros([1], (Kind::Float, Device::Cpu))));
        }
        let found = read(&archive(PickleWriter::new().state(&theirs).stop(), &theirs));
        assert_equal(&found.weights, &state);
        assert_eq!(found.layout, Layout::OpenClip, "{case}");
        assert!(found.notes.iter().any(|note| note.contains(part)), "{case}: {:?}", found.notes);
        assert_eq!(found.dropped.len(), usize::from(is_framework), "{case}: {:?}", found.dropped);
    }
    let weights = state.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect::<HashMap<_, _>>();
    let theirs = to_hugging_face(&weights, &config).unwrap().into_iter().collect::<Vec<_>>();
    let theirs = renamed(&theirs, |name| format!("model.{name}"));
    let found = read(&archive(PickleWriter::new().state(&theirs).stop(), &theirs));
    assert_equal(&found.weights, &state);
    assert_eq!(found.layout, Layout::HuggingFaceClip);
}

#[test]
fn files_of_one_tower_open_and_encode_with_it_alone() {
    use crate::{Error, Tower, folder, weights};
    let config = small(16, 64, [1, 1], 8);
    let state = state_of(&config);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, keep: &dyn Fn(&str) -> Option<String>| {
        let path = folder.path().join(name);
        let kept = state.iter().filter_map(|(name, tensor)| Some((keep(name)?, tensor))).collect::<Vec<_>>();
        weights::write_safetensors(&path, kept.iter().map(|(name, tensor)| (name.as_str(), *tensor)))
            .unwrap();
        path
    };
    let is_image = |name: &str| name.starts_with("visual.");
    let whole = Clip::new(&config, Device::Cpu, 7).unwrap();
    let images = crate::seeded(5, || Tensor::randn([1, 3, 32, 32], (Kind::Float, Device::Cpu)));
    let tokens = Tensor::from_slice(&[1i64, 5, 19, 0, 0, 0]).unsqueeze(0);
    for path in [
        write("image.safetensors", &|name| is_image(name).then(|| name.to_string())),
        write("bare.safetensors", &|name| name.strip_prefix("visual.").map(String::from)),
    ] {
        let opened = folder::open(&path, Device::Cpu, 0).unwrap();
        assert!(opened.notes.iter().any(|note| note.contains("only the image tower")), "{:?}", opened.notes);
        assert_eq!(opened.model.only_tower(), Some(Tower::Image));
        assert!(matches!(opened.model.encode_text(&tokens), Err(Error::OneTower { .. })));
        // Heads of 64 channels are assumed, and the tower has heads of 8: only the shapes agree.
        assert_eq!(opened.model.encode_image(&images).unwrap().size(), [1, 8]);
        let saved = folder::save(folder.path().join("out"), &opened.model, &opened.preprocess);
        assert!(matches!(saved, Err(Error::OneTower { tower: Tower::Image, .. })));
    }
    let path = write("text.safetensors", &|name| (!is_image(name)).then(|| name.to_string()));
    let opened = folder::open_file(&config, &path, Device::Cpu, &Default::default()).unwrap();
    assert_eq!(opened.model.only_tower(), Some(Tower::Text));
    assert!(matches!(opened.model.encode_image(&images), Err(Error::OneTower { .. })));
    assert!(opened.model.encode_text(&tokens).unwrap().equal(&whole.encode_text(&tokens).unwrap()));
    let inferred = folder::open(&path, Device::Cpu, 0).unwrap();
    assert_eq!((inferred.model.only_tower(), inferred.model.config().embed_dim), (Some(Tower::Text), 8));
    let damaged = write("damaged.safetensors", &|name| {
        (name != "ln_final.weight" && !is_image(name)).then(|| name.into())
    });
    assert!(matches!(folder::open(&damaged, Device::Cpu, 0), Err(Error::Mismatch { .. })));
}

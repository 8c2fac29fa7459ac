//! Towers: named weights and inputs in, published embeddings out (1e-4 of the largest value).

use clip_distill_tests::fill;
use clip_distill_tests::golden::{assert_close, files, tensors};
use clip_model::{Clip, ClipConfig, weights};
use tch::{Device, Kind};

#[test]
fn towers_agree_with_the_reference() {
    let (mut compared, mut other) = (0, Vec::new());
    for path in files("models", "json") {
        let name = path.display().to_string();
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let config = &golden["config"];
        // Towers other than the plain ViT come with their own configuration fields.
        let is_vit =
            config["vision_cfg"].get("patch_size").is_some() && config["vision_cfg"]["layers"].is_i64();
        if !is_vit
            || config["text_cfg"].get("hf_tokenizer_name").is_some()
            || config.get("init_logit_bias").is_some()
        {
            other.push(name);
            continue;
        }
        let config = ClipConfig::from_json(&name, &config.to_string()).unwrap();
        let model = Clip::new(&config, Device::Cpu, 0).unwrap();
        let expected_dict = golden["state_dict"].as_array().unwrap();
        assert_eq!(
            model.params().count() as u64,
            golden["parameters"].as_u64().unwrap(),
            "{name}: parameters"
        );
        let mut ours = model.params().iter().map(|p| (p.name.clone(), p.tensor.size())).collect::<Vec<_>>();
        let mut theirs = expected_dict
            .iter()
            .map(|row| {
                (
                    row[0].as_str().unwrap().to_string(),
                    serde_json::from_value::<Vec<i64>>(row[1].clone()).unwrap(),
                )
            })
            .collect::<Vec<_>>();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{name}: state dict");
        let named = ours.iter().map(|(name, shape)| (name.clone(), fill::parameter(name, shape))).collect();
        weights::load(model.params(), &named, &name).unwrap();

        let reference = tensors(&path.with_extension("safetensors"));
        let shape = serde_json::from_value::<Vec<i64>>(golden["image_input"]["shape"].clone()).unwrap();
        let scale = golden["image_input"]["scale"].as_f64().unwrap();
        let images = fill::unit(golden["image_input"]["name"].as_str().unwrap(), &shape) * scale;
        tch::no_grad(|| {
            let image = model.encode_image(&images).unwrap();
            let tokens = reference["tokens"].to_kind(Kind::Int64);
            let text = model.encode_text(&tokens).unwrap();
            assert_close(&image, &reference["image_features"], 1e-4, &format!("{name}: image features"));
            assert_close(&text, &reference["text_features"], 1e-4, &format!("{name}: text features"));
            let pairs = |x| kd_losses::embeddings::normalize(x);
            let logits = (pairs(&image) * model.logit_scale.exp()).matmul(&pairs(&text).tr());
            assert_close(&logits, &reference["logits_per_image"], 1e-4, &format!("{name}: logits"));
            // Cut to the longest text, the same embeddings come out.
            let longest = tokens.argmax(1, false).max().int64_value(&[]) + 1;
            let cut = model.encode_text(&tokens.narrow(1, 0, longest)).unwrap();
            assert_close(
                &cut,
                &reference["text_features"],
                1e-4,
                &format!("{name}: text features of cut tokens"),
            );
        });
        compared += 1;
    }
    println!("models: {compared} compared; towers of other kinds: {other:?}");
    assert!(compared > 0, "no golden model of a known kind");
}

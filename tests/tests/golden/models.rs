//! Towers: named weights and inputs in, published embeddings out (1e-4 of the largest value).

use clip_distill_tests::fill;
use clip_distill_tests::golden::{assert_close, files, tensors};
use clip_model::{Clip, ClipConfig, weights};
use tch::{Device, Kind};

#[test]
fn towers_agree_with_the_reference() {
    let mut compared = 0;
    for path in files("models", "json") {
        let name = path.display().to_string();
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let config = &golden["config"];
        let config = ClipConfig::from_json(&name, &config.to_string()).unwrap();
        let model = Clip::new(&config, Device::Cpu, 0).unwrap();
        let expected_dict = golden["state_dict"].as_array().unwrap();
        assert_eq!(
            model.params().count() as u64,
            golden["parameters"].as_u64().unwrap(),
            "{name}: parameters"
        );
        let mut ours = model.params().state().map(|p| (p.name.clone(), p.tensor.size())).collect::<Vec<_>>();
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
            let logits = match &model.logit_bias {
                Some(bias) => logits + bias,
                None => logits,
            };
            assert_close(&logits, &reference["logits_per_image"], 1e-4, &format!("{name}: logits"));
            if model.config().text_cfg.can_trim() {
                // Cut to the longest text, the same embeddings come out.
                let longest = tokens.argmax(1, false).max().int64_value(&[]) + 1;
                let cut = model.encode_text(&tokens.narrow(1, 0, longest)).unwrap();
                let what = format!("{name}: text features of cut tokens");
                assert_close(&cut, &reference["text_features"], 1e-4, &what);
            }
        });
        compared += 1;
    }
    println!("models: {compared} compared");
    assert!(compared > 0, "no golden model");
}

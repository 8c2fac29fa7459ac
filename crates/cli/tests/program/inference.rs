//! Tests of `evaluate`, `classify`, `embed` and `tokenize` on one model.

use std::fs;
use std::process::Stdio;

use crate::common::{Place, clip_distill, done, failed, program, text};
use serde_json::Value;

#[test]
fn evaluate_reads_class_folders_and_tars() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let report: Value =
        serde_json::from_str(&done(&["evaluate", &model, "--data", &pictures, "--json"])).unwrap();
    assert_eq!(report["sets"][0]["samples"], 4);
    assert_eq!(report["sets"][0]["per_class"][0]["class"], "blue");
    fs::write(place.path("pictures/classes.csv"), "folder,name\nred,a red thing\nblue,a blue thing\n")
        .unwrap();
    let named = done(&["evaluate", &model, "--data", &pictures, "--json", "--prompts", "cifar"]);
    assert!(named.contains("a blue thing"), "{named}");

    fs::create_dir(place.path("tars")).unwrap();
    let mut tar = tar::Builder::new(fs::File::create(place.path("tars/a.tar")).unwrap());
    for number in 0..2 {
        let picture = place.path(&format!("pictures/red/{number}.png"));
        tar.append_path_with_name(picture, format!("{number}.png")).unwrap();
        let caption = format!("picture {number}");
        let mut header = tar::Header::new_gnu();
        header.set_size(caption.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, format!("{number}.txt"), caption.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap();
    let table = done(&["evaluate", &model, "--data", &place.name("tars")]);
    assert!(table.contains("image recall@10"), "{table}");
}

#[test]
fn a_model_with_a_logit_bias_scores_each_label_independently() {
    let place = Place::new();
    let json = r#"{"embed_dim": 8, "init_logit_bias": -20.0, "vision_cfg": {"image_size": 16, "layers": 1, "width": 8,
        "patch_size": 8, "head_width": 8}, "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1,
        "layers": 1}}"#;
    let config = clip_model::ClipConfig::from_json("biased", json).unwrap();
    let model = clip_model::Clip::new(&config, tch::Device::Cpu, 1).unwrap();
    clip_model::folder::save(place.path("biased"), &model, &clip_model::PreprocessConfig::default()).unwrap();
    let (model, image) = (place.name("biased"), format!("{}/red/0.png", place.pictures()));
    let found: Value =
        serde_json::from_str(&done(&["classify", &model, &image, "--labels", "red,blue", "--json"])).unwrap();
    assert_eq!(found["function"], "sigmoid");
    // No cosine compensates for the bias: with a scale of 14.3, each probability is below sigmoid(-5.7).
    for label in found["labels"].as_array().unwrap() {
        let probability = label["probability"].as_f64().unwrap();
        assert!(probability > 0.0 && probability < 0.0034, "{found}");
    }
    assert!(
        done(&["classify", &model, &image, "--labels", "red,blue"]).contains("each label alone (sigmoid)")
    );
    let one = clip_distill(&["classify", &model, &image, "--labels", "red"]);
    assert!(one.status.success() && !text(&one.stderr).contains("100 %"), "{}", text(&one.stderr));
    let plain = done(&["classify", &place.model(), &image, "--labels", "red,blue"]);
    assert!(plain.contains("among these labels (softmax)"), "{plain}");
}

#[test]
fn classify_prints_probabilities_that_sum_to_one() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let image = format!("{pictures}/red/0.png");
    let line = done(&["classify", &model, &image, "--labels", "red, blue,green", "--json"]);
    let found: Value = serde_json::from_str(&line).unwrap();
    let labels = found["labels"].as_array().unwrap();
    assert_eq!(labels.len(), 3);
    let sum: f64 = labels.iter().map(|label| label["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9);
    assert!(done(&["classify", &model, &image, "--labels", "a,b"]).contains(" %  "));
    assert!(failed(&["classify", &model, &place.name("none.png"), "--labels", "a,b"]).contains("none.png"));
    let broken = place.path("broken.png");
    fs::write(&broken, b"not a picture").unwrap();
    assert!(
        failed(&["classify", &model, &broken.display().to_string(), "--labels", "a,b"])
            .contains("broken.png")
    );
    assert!(failed(&["classify", &model, &image, "--labels", "a,,b"]).contains("empty label"));
}

#[test]
fn embed_writes_embeddings_and_names() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let out = place.name("images.safetensors");
    done(&["embed", &model, "--images", &pictures, "--out", &out]);
    let bytes = fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("embeddings").unwrap().shape(), [4, 8]);
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let names = metadata.metadata().as_ref().unwrap()["names"].clone();
    assert_eq!(serde_json::from_str::<Vec<String>>(&names).unwrap().len(), 4);
    fs::write(place.path("texts.txt"), "one\ntwo\n").unwrap();
    done(&["embed", &model, "--texts", &place.name("texts.txt"), "--out", &out, "--force"]);
    let bytes = fs::read(&out).unwrap();
    assert_eq!(
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor("embeddings").unwrap().shape(),
        [2, 8]
    );
    fs::write(place.path("texts.txt"), "").unwrap();
    assert!(
        failed(&["embed", &model, "--texts", &place.name("texts.txt"), "--out", &out, "--force"])
            .contains("nothing to embed")
    );
}

#[test]
fn tokenize_prints_ids_per_line_of_standard_input() {
    let run = |args: &[&str], input: &[u8]| {
        use std::io::Write;
        let mut child = program()
            .arg("tokenize")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        text(&child.wait_with_output().unwrap().stdout)
    };
    assert_eq!(run(&[], b"a cat\n\na cat"), "49406 320 2368 49407\n49406 49407\n49406 320 2368 49407\n");
    assert_eq!(run(&["--context", "3"], b"a cat sat\n"), "49406 320 49407\n");
    assert_eq!(run(&["--json"], b"a cat\n"), "{\"text\":\"a cat\",\"ids\":[49406,320,2368,49407]}\n");
}

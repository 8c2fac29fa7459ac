//! `clip-distill bench --rounds`, the program's side of the comparison with Python's open_clip.

use std::io::Write;
use std::process::Stdio;

use data_pipeline::image::{AugmentParams, augment_into, decode, eval_into};
use data_pipeline::{AugmentConfig, ClipTokenizer, Preprocess, Tokenizer};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::common::{Place, failed, program, text};

/// Runs a case with two rounds. Returns its results and the answer to each round.
fn run(place: &Place, case: &Value) -> (Vec<f32>, Vec<Value>) {
    std::fs::write(place.path("case.json"), case.to_string()).unwrap();
    let mut command = program();
    command.args(["bench", "--rounds", &place.name("case.json"), &place.name("results")]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"round\nround\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut answers =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(answers.remove(0), json!({ "ready": true }));
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| answer["seconds"].as_f64().unwrap() > 0.0));
    (file_ext::f32_from_le_bytes(&std::fs::read(place.path("results")).unwrap()).collect(), answers)
}

#[test]
fn captions_are_tokenised_in_rounds() {
    let place = Place::new();
    std::fs::write(place.path("captions.txt"), "A brown dog.\ntwo cats, asleep\n").unwrap();
    let case = json!({ "kind": "tokens", "threads": 1, "file": place.path("captions.txt"), "context": 8 });
    let (ids, answers) = run(&place, &case);
    let mut expected = [[0i64; 8]; 2];
    for (row, caption) in expected.iter_mut().zip(["A brown dog.", "two cats, asleep"]) {
        ClipTokenizer::new().encode_into(caption, row);
    }
    assert_eq!(ids, expected.as_flattened().iter().map(|id| *id as f32).collect::<Vec<_>>());
    assert_eq!(answers[1]["items"], 2);
    std::fs::remove_file(place.path("captions.txt")).unwrap();
    assert!(
        failed(&["bench", "--rounds", &place.name("case.json"), &place.name("out")]).contains("captions.txt")
    );
}

#[test]
fn photos_are_transformed_in_rounds_and_compared_with_given_crops() {
    let place = Place::new();
    std::fs::create_dir(place.path("photos")).unwrap();
    let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([6 * x as u8, 8 * y as u8, 90]));
    picture.save(place.path("photos/0.jpg")).unwrap();
    let crop = [3, 4, 20, 25];
    std::fs::write(place.path("photos/crops.json"), json!([crop]).to_string()).unwrap();
    let image = decode(&std::fs::read(place.path("photos/0.jpg")).unwrap()).unwrap();
    let preprocess = Preprocess::new(16);
    let mut expected = [vec![0f32; 3 * 16 * 16], vec![0f32; 3 * 16 * 16]];
    eval_into(&image, &preprocess, &mut expected[0]);
    let mut params = AugmentParams::draw(&AugmentConfig::default(), 0, 40, 30);
    params.crop = crop;
    augment_into(&image, &params, &preprocess, &mut expected[1]);
    for (training, expected) in [false, true].into_iter().zip(expected) {
        let folder = place.path("photos");
        let case =
            json!({ "kind": "images", "threads": 1, "folder": folder, "size": 16, "training": training });
        let (pixels, answers) = run(&place, &case);
        assert!(pixels == expected, "{training}");
        assert_eq!(answers[0]["items"], 1);
    }
}

#[test]
fn losses_with_a_live_and_a_stored_teacher_are_equal() {
    let place = Place::new();
    let model = place.model();
    let images =
        (Tensor::arange(6 * 3 * 16 * 16, (Kind::Float, Device::Cpu)) * 0.37).sin().view([6, 3, 16, 16]);
    let tokens = Tensor::zeros([6, 12], (Kind::Int64, Device::Cpu));
    for row in 0..6 {
        let ids = Tensor::from_slice(&[49406, 320 + 7 * row, 1000 + row * row, 49407]);
        tokens.select(0, row).narrow(0, 0, 4).copy_(&ids);
    }
    let file = place.path("batches.safetensors");
    Tensor::write_safetensors(&[("images", images), ("tokens", tokens)], &file).unwrap();
    let losses = |teacher: Option<&str>, stored: bool, lr: f64| {
        let case = json!({
            "kind": "step", "threads": 1, "student": model, "teacher": teacher, "stored": stored, "batches": file, "batch": 3,
            "precision": "fp32", "lr": lr, "check_steps": 4, "round_steps": 2,
        });
        let (losses, answers) = run(&place, &case);
        assert_eq!((losses.len(), &answers[1]["items"]), (4, &json!(6)));
        assert!(losses.iter().all(|loss| loss.is_finite()));
        losses
    };
    let live = losses(Some(&model), false, 1e-3);
    let stored = losses(Some(&model), true, 1e-3);
    assert!(
        live.iter().zip(&stored).all(|(live, stored)| (live - stored).abs() < 1e-4 * live),
        "{live:?}, {stored:?}"
    );
    // The two batches alternate: with a learning rate of 0, the third step repeats the first.
    let (constant, plain) = (losses(None, false, 0.0), losses(None, false, 1e-3));
    assert!(constant[0] == constant[2] && constant[0] != constant[1], "{constant:?}");
    assert!(plain[0] == constant[0] && plain[2] != plain[0], "{plain:?}");
    assert!(live[0] > plain[0], "{live:?}, {plain:?}");
}

//! The evaluation transform against the reference's crops, with the tolerances that each image names.

use std::path::Path;

use clip_distill_tests::golden::folder;
use data_pipeline::image::{Preprocess, decode, eval_pixels};

fn compare(root: &Path) -> usize {
    let list = std::fs::read_to_string(root.join("images.json")).unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let bytes = std::fs::read(root.join("crops.safetensors")).unwrap();
    let crops = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (mut compared, mut failures) = (0, Vec::new());
    // A crop is named by its picture and size: `photo.jpg@224`.
    let picture = |crop: &str| crop.rsplit_once('@').map_or("", |(file, _)| file).to_string();
    let listed = list.iter().map(|row| row["file"].as_str().unwrap()).collect::<Vec<_>>();
    let strangers = crops.names().into_iter().filter(|name| !listed.contains(&picture(name).as_str()));
    let strangers = strangers.collect::<Vec<_>>();
    assert!(
        strangers.is_empty(),
        "crops without a row in {}: {strangers:?}",
        root.join("images.json").display()
    );
    for row in &list {
        let file = row["file"].as_str().unwrap();
        let image = decode(&std::fs::read(root.join("images").join(file)).unwrap()).unwrap();
        let own = crops.names().into_iter().filter(|name| picture(name) == file).collect::<Vec<_>>();
        assert!(!own.is_empty(), "{file} has no crop in {}", root.join("crops.safetensors").display());
        for name in own {
            let crop = crops.tensor(name).unwrap();
            let preprocess = Preprocess::new(crop.shape()[0]);
            let found = eval_pixels(&image, &preprocess).pixels;
            assert_eq!(found.len(), crop.data().len());
            let differences = found.iter().zip(crop.data()).map(|(a, b)| a.abs_diff(*b));
            let largest = differences.clone().max().unwrap();
            let mean = differences.map(f64::from).sum::<f64>() / found.len() as f64;
            if row["compare"].as_bool().unwrap() {
                println!("{name}: max {largest}, mean {mean:.4}");
                compared += 1;
                if f64::from(largest) > row["max_abs"].as_f64().unwrap()
                    || mean > row["mean_abs"].as_f64().unwrap()
                {
                    failures.push(format!("{name}: max {largest}, mean {mean:.4}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    compared
}

#[test]
fn crops_agree_with_the_reference() {
    let compared = compare(&folder().join("preprocess"));
    println!("preprocess: {compared} crops compared");
    assert!(compared > 0);
}

#[test]
fn crops_of_photos_agree_with_the_reference() {
    // Photos cannot be part of the project, so this compares them where the golden folder has them.
    let photos = folder().join("preprocess-photos");
    if photos.is_dir() {
        let compared = compare(&photos);
        println!("preprocess-photos: {compared} crops compared");
        assert!(compared > 0);
    }
}

//! Preprocessing: the evaluation transform's crops are identical to the reference's.

use clip_distill_tests::golden::{Coverage, Golden, folders};
use data_pipeline::image::{Preprocess, decode, eval_pixels};

/// Images whose crops are compared; each at [`SIZES`].
const EXPECTED: [&str; 21] = [
    "preprocess/rgb-640x480.png",
    "preprocess/gray-333x500.png",
    "preprocess/rgba-301x299.png",
    "preprocess/tiny-5x7.png",
    "preprocess/wide-1000x20.png",
    "preprocess/tall-31x900.png",
    "preprocess/same-224x224.png",
    "preprocess/up-100x100.png",
    "preprocess/cmyk-300x200.jpg",
    "preprocess/gray-400x300.jpg",
    "preprocess/progressive-512x384-420.jpg",
    "preprocess/baseline-500x333-444.jpg",
    "preprocess/exif-rotated-480x320.jpg",
    "preprocess/lossy-300x260.webp",
    "preprocess/lossless-300x260.webp",
    "preprocess-photo-like/landscape-500x375.jpg",
    "preprocess-photo-like/portrait-333x500.jpg",
    "preprocess-photo-like/large-1024x683.jpg",
    "preprocess-photo-like/sharp-400x400.jpg",
    "preprocess-photo-like/thumbnail-120x90.jpg",
    "preprocess-photo-like/odd-251x179.jpg",
];

/// Images that are decoded but not compared: PIL resizes their palette indices or 16-bit values, this project resizes
/// RGB.
const NOT_COMPARED: [&str; 2] = ["preprocess/palette-257x400.png", "preprocess/sixteen-bit-gray-240x320.png"];

/// Side of the crops of each image.
const SIZES: [usize; 2] = [224, 32];

/// Compares the crops of one folder, and returns those that are too far from the reference's.
fn compare(folder: &Golden, coverage: &mut Coverage) -> Vec<String> {
    let root = &folder.path;
    let list = std::fs::read_to_string(root.join("images.json")).unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let bytes = std::fs::read(root.join("crops.safetensors")).unwrap();
    let crops = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut failures = Vec::new();
    // A crop is named by its picture and size: `photo.jpg@224`.
    let picture = |crop: &str| crop.rsplit_once('@').map_or("", |(file, _)| file).to_string();
    let listed = list.iter().map(|row| row["file"].as_str().unwrap()).collect::<Vec<_>>();
    let unlisted = crops.names().into_iter().filter(|name| !listed.contains(&picture(name).as_str()));
    let unlisted = unlisted.collect::<Vec<_>>();
    assert!(
        unlisted.is_empty(),
        "crops without a row in {}: {unlisted:?}",
        root.join("images.json").display()
    );
    let mut compared = 0;
    for row in &list {
        let file = row["file"].as_str().unwrap();
        let image = decode(&std::fs::read(root.join("images").join(file)).unwrap()).unwrap();
        let names = crops.names().into_iter().filter(|name| picture(name) == file).collect::<Vec<_>>();
        assert!(!names.is_empty(), "{file} has no crop in {}", root.join("crops.safetensors").display());
        for name in names {
            let crop = crops.tensor(name).unwrap();
            let preprocess = Preprocess::new(crop.shape()[0]);
            let found = eval_pixels(&image, &preprocess).pixels;
            assert_eq!(found.len(), crop.data().len());
            if !row["compare"].as_bool().unwrap() {
                let known = NOT_COMPARED.contains(&format!("{}/{file}", folder.name).as_str());
                assert!(known || !folder.own, "{file} is not compared");
                continue;
            }
            let differences = found.iter().zip(crop.data()).map(|(a, b)| a.abs_diff(*b));
            let largest = differences.clone().max().unwrap();
            let mean = differences.map(f64::from).sum::<f64>() / found.len() as f64;
            println!("{name}: max {largest}, mean {mean:.4}");
            // The tolerances in the files are for other JPEG and WebP decoders; this project's crops are identical.
            if largest > 0 {
                failures.push(format!("{name}: max {largest}, mean {mean:.4}"));
            }
            coverage.add(folder, format!("{}/{name}", folder.name));
            compared += 1;
        }
    }
    assert!(compared > 0, "{} has no image to compare", root.display());
    failures
}

#[test]
fn crops_agree_with_the_reference() {
    let mut coverage = Coverage::new("preprocess");
    let folders = folders("preprocess");
    let failures = folders.iter().flat_map(|folder| compare(folder, &mut coverage)).collect::<Vec<_>>();
    assert!(failures.is_empty(), "{failures:#?}");
    coverage.assert_exactly(EXPECTED.iter().flat_map(|image| SIZES.map(|size| format!("{image}@{size}"))));
}

//! Image preprocessing in `preprocessor_config.json`.

use serde_json::{Map, Value};

use crate::PreprocessConfig;
use crate::config::{Check, invalid, unsupported};

/// Converts `preprocessor_config.json` to the image preprocessing.
pub(super) fn preprocess(
    json: &Map<String, Value>,
    image_size: i64,
    siglip: bool,
) -> Check<PreprocessConfig> {
    let flag = |key: &str, default| json.get(key).and_then(Value::as_bool).unwrap_or(default);
    for key in ["do_resize", "do_rescale", "do_normalize"] {
        if !flag(key, true) {
            return unsupported(format!("{key} = false is not supported"));
        }
    }
    let factor = json.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0);
    if (factor * 255.0 - 1.0).abs() > 1e-6 {
        return unsupported(format!("rescale_factor = {factor} is not 1/255"));
    }
    let interpolation = match json.get("resample").and_then(Value::as_i64) {
        Some(2) => "bilinear",
        Some(3) | None => "bicubic",
        Some(other) => {
            return unsupported(format!("resample = {other}; use 2 (bilinear) or 3 (bicubic)"));
        }
    };
    let squash = is_squashed(json, image_size, siglip, flag("do_center_crop", !siglip))?;
    let (mean, std) = if siglip {
        ([0.5; 3], [0.5; 3])
    } else {
        let default = PreprocessConfig::default();
        (default.mean, default.std)
    };
    Ok(PreprocessConfig::default()
        .with_normalization(channels(json, "image_mean", mean)?, channels(json, "image_std", std)?)
        .with_interpolation(interpolation)
        .with_resize_mode(if squash { "squash" } else { "shortest" })
        .with_do_convert_rgb(Some(flag("do_convert_rgb", true)))
        .with_size(Some(image_size)))
}

/// Returns one number per channel.
fn channels(json: &Map<String, Value>, key: &str, default: [f32; 3]) -> Check<[f32; 3]> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => serde_json::from_value(value.clone())
            .or_else(|_| invalid(format!("{key} = {value} is not three numbers"))),
    }
}

/// Whether images are squashed to a square instead of cropped. Both ways must give the model's image size.
fn is_squashed(json: &Map<String, Value>, image_size: i64, siglip: bool, crops: bool) -> Check<bool> {
    let (size, squash) = match json.get("size") {
        None | Some(Value::Null) => (image_size, siglip),
        Some(size) => {
            match (size.as_i64(), side(size, "shortest_edge"), side(size, "height"), side(size, "width")) {
                (Some(side), ..) | (None, Some(side), ..) => (side, false),
                (.., Some(height), Some(width)) if height == width => (height, true),
                _ => return unsupported(format!("size = {size} is not a square")),
            }
        }
    };
    let crop = match json.get("crop_size") {
        None | Some(Value::Null) => size,
        Some(crop) => match (crop.as_i64(), side(crop, "height"), side(crop, "width")) {
            (Some(side), ..) => side,
            (_, Some(height), Some(width)) if height == width => height,
            _ => return unsupported(format!("crop_size = {crop} is not a square")),
        },
    };
    if crops && crop != size {
        return unsupported(format!(
            "resizing to {size} and cropping {crop} is not supported; they have to be equal"
        ));
    }
    if size != image_size {
        return invalid(format!("size {size} is not the model's image size {image_size}"));
    }
    if !squash && !crops {
        return unsupported("resizing the shorter side without a crop does not give a square");
    }
    Ok(squash)
}

fn side(size: &Value, key: &str) -> Option<i64> {
    size.get(key)?.as_i64()
}

//! Presets: model configurations that ship with the crate, each a JSON file in open_clip's format.

use std::path::Path;

use crate::{ClipConfig, Error, Result};

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Name and JSON of each preset.
        const PRESETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../configs/", $name, ".json")))),*];
    };
}

presets![
    "RN50",
    "RN50-quickgelu",
    "RN101",
    "RN101-quickgelu",
    "RN50x4",
    "RN50x4-quickgelu",
    "RN50x16",
    "RN50x16-quickgelu",
    "RN50x64",
    "RN50x64-quickgelu",
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-L-14",
    "ViT-L-14-336",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336-quickgelu",
    "ViT-H-14",
    "ViT-H-14-quickgelu",
    "ViT-g-14",
    "ViT-bigG-14",
    "ViT-bigG-14-quickgelu",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP-256",
    "ViT-B-16-SigLIP-384",
    "ViT-B-16-SigLIP-512",
    "ViT-L-16-SigLIP-256",
    "ViT-L-16-SigLIP-384",
    "ViT-SO400M-14-SigLIP",
    "ViT-SO400M-14-SigLIP-384",
    "ViT-S-16",
    "ViT-S-32",
    "ViT-T-16",
    "ResNet-18",
    "ResNet-18-64px",
    "MobileNetV3-Small-100",
    "EfficientNet-B0",
    "MobileViT-S",
    "MobileViT-XS",
    "MobileViT-XXS",
    "Swin-T",
    "MobileNetV3-Small-100-Text-3M",
    "EfficientNet-B0-Text-3M",
    "MobileViT-XXS-Text-3M",
    "MobileViT-XS-Text-3M",
    "MobileViT-S-Text-11M",
    "MobileNetV4-Conv-S-Text-3M",
    "MobileNetV4-Conv-M-Text-11M",
    "MobileNetV4-Hybrid-M-Text-11M",
    "ConvNeXt-Atto-Text-3M",
    "ConvNeXt-Pico-Text-11M",
    "ConvNeXt-Nano-Text-11M",
    "ConvNeXt-T-Text-11M",
    "RepViT-M0.9-Text-3M",
    "RepViT-M1.0-Text-11M",
    "RepViT-M1.1-Text-11M",
    "FastViT-T8-Text-3M",
    "FastViT-MCi0-Text-11M",
    "FastViT-MCi1-Text-11M",
    "FastViT-MCi2-Text-11M",
    "EfficientViT-B0-Text-3M",
    "EfficientViT-B1-Text-11M",
    "TinyCLIP-ResNet-30M-Text-29M",
    "TinyCLIP-ResNet-19M-Text-19M",
    "TinyCLIP-ViT-8M-16-Text-3M",
    "TinyCLIP-ViT-39M-16-Text-19M",
    "TinyCLIP-ViT-40M-32-Text-19M",
    "TinyCLIP-ViT-61M-32-Text-29M",
    "ViT-pico-32px",
    "ViT-nano-32px",
    "ViT-micro-shallow-32px",
    "ViT-micro-32px",
    "ViT-small-32px",
    "ViT-mini-32px",
];

/// Maximum number of similar presets that a message names.
const MOST_ALIKE: usize = 8;

/// Iterates over the names of all presets.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// Returns the configuration of a preset; the name is not case-sensitive.
///
/// ```no_run
/// let config = clip_model::presets::get("ViT-B-32")?;
/// assert_eq!(config.embed_dim, 512);
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownModel`] if no preset has this name; [`Error::NoSuchPath`] for a path.
pub fn get(name: &str) -> Result<ClipConfig> {
    match PRESETS.iter().find(|(preset, _)| preset.eq_ignore_ascii_case(name)) {
        Some((preset, json)) => ClipConfig::from_json(preset, json),
        None if is_path(name) => Err(Error::NoSuchPath { name: name.into(), hint: hub_hint(name) }),
        None => Err(Error::UnknownModel { name: name.into(), presets: alike(name), hint: hub_hint(name) }),
    }
}

/// Returns a hint to write `hf-hub:` before a name of the form `owner/name`; empty for other names.
fn hub_hint(name: &str) -> String {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match name.split_once('/') {
        Some((owner, model)) if is_part(owner) && is_part(model) => {
            format!("; for a model of the Hugging Face hub, write hf-hub:{name}")
        }
        _ => String::new(),
    }
}

/// Whether a name is meant as the path of a folder or file, not as a preset.
pub fn is_path(name: &str) -> bool {
    let endings = ["safetensors", "pt", "pth", "bin", "ckpt", "json", "zip"];
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_lowercase());
    name.contains(['/', '\\'])
        || name.starts_with(['.', '~'])
        || ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Lists the presets that share the longest prefix with an unknown name, for a message.
fn alike(name: &str) -> String {
    let common = |preset: &str| {
        preset.chars().zip(name.chars()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
    };
    let most = names().map(common).max().unwrap_or(0);
    let near = names().filter(|preset| common(preset) == most).collect::<Vec<_>>();
    let more = if near.len() > MOST_ALIKE { ", ..." } else { "" };
    format!(" ({}{more})", near[..near.len().min(MOST_ALIKE)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names contain the parameters of a tower in millions, without token embeddings.
    #[test]
    fn names_match_their_parameter_counts() {
        let mut compared = 0;
        for name in names().filter(|name| name.contains("-Text-")) {
            let config = get(name).unwrap();
            let cost = crate::cost::cost(&config).unwrap();
            let embeddings = (config.text_cfg.vocab_size * config.text_cfg.width) as u64;
            let text = cost.text.parameters - embeddings;
            let (image_name, text_name) = name.rsplit_once("-Text-").unwrap();
            // Only TinyCLIP's names count the image tower.
            let image = if name.starts_with("TinyCLIP-") { image_name } else { "" };
            for (part, found) in [(image, cost.image.parameters), (text_name, text)] {
                let millions = part.split('-').find_map(|part| part.strip_suffix('M')?.parse::<f64>().ok());
                let Some(millions) = millions else { continue };
                let found = found as f64 / 1e6;
                // Rounded to whole millions, and not always with the projections.
                assert!((found - millions).abs() < 0.5 + 0.05 * millions, "{name}: {found}");
                compared += 1;
            }
        }
        assert_eq!(compared, 33);
    }

    #[test]
    fn mobile_presets_have_a_small_text_tower() {
        for name in names().filter(|name| name.ends_with("-Text-3M") || name.ends_with("-Text-11M")) {
            let text = get(name).unwrap().text_cfg;
            let expected = if name.ends_with("-3M") { (4, 256) } else { (6, 384) };
            if !name.starts_with("TinyCLIP-") {
                assert_eq!((text.layers, text.width), expected, "{name}");
            }
        }
    }

    #[test]
    fn every_preset_can_be_built() {
        for name in names() {
            get(name).unwrap();
            assert_eq!(get(&name.to_lowercase()).unwrap(), get(name).unwrap());
        }
        let message = |name: &str| get(name).unwrap_err().to_string();
        assert!(message("ViT-Z-99").contains("(ViT-B-16, ") && message("ViT-Z-99").contains(", ...)"));
        assert!(message("vit-nano").contains("(ViT-nano-32px)"));
        assert!(
            message("openai/clip-vit-base-patch32").contains("write hf-hub:openai/clip-vit-base-patch32")
        );
        assert!(!message("../model").contains("hf-hub") && !message("a/b/c").contains("hf-hub"));
        assert!(!message("runs/mine/model").contains("RN50") && !message("").contains("SigLIP"));
        for path in ["runs/mine/model", "../model", "C:\\models\\mine", "weights.safetensors", "~"] {
            assert!(message(path).starts_with(&format!("no folder or file `{path}`")), "{}", message(path));
        }
    }
}

//! Presets: model configurations that ship with the crate, each a JSON file in open_clip's format.

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
/// [`Error::UnknownModel`] if no preset has this name.
pub fn get(name: &str) -> Result<ClipConfig> {
    match PRESETS.iter().find(|(preset, _)| preset.eq_ignore_ascii_case(name)) {
        Some((preset, json)) => ClipConfig::from_json(preset, json),
        None => Err(Error::UnknownModel { name: name.into(), presets: alike(name) }),
    }
}

/// Lists the presets that share the longest prefix with an unknown name, for a message.
fn alike(name: &str) -> String {
    // A path is not meant as a preset.
    if name.contains(['/', '\\']) {
        return String::new();
    }
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

    /// The names of TinyCLIP's models contain the parameters of both towers in millions, without token embeddings.
    #[test]
    fn tinyclip_names_match_their_parameter_counts() {
        let mut compared = 0;
        for name in names().filter(|name| name.starts_with("TinyCLIP-")) {
            let config = get(name).unwrap();
            let cost = crate::cost::cost(&config).unwrap();
            let embeddings = (config.text_cfg.vocab_size * config.text_cfg.width) as u64;
            let found = [cost.image.parameters, cost.text.parameters - embeddings];
            let published = name.split('-').filter_map(|part| part.strip_suffix('M')?.parse::<f64>().ok());
            for (millions, found) in published.zip(found) {
                let found = found as f64 / 1e6;
                // Rounded to whole millions, and not always with the projections.
                assert!((found - millions).abs() < 0.5 + 0.05 * millions, "{name}: {found}");
                compared += 1;
            }
        }
        assert_eq!(compared, 12);
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
        assert!(!message("runs/mine/model").contains("RN50") && !message("").contains("SigLIP"));
    }
}

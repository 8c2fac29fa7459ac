//! Towers: embeddings of named weights and inputs, compared with those of the published implementations.

use clip_model::{Clip, ClipConfig, Precision, weights};
use serde_json::Value;
use tch::{Device, Kind};

use crate::tensors::{deviation, read};
use crate::{Error, Result, fill};

/// A model with reference embeddings.
pub(crate) struct Reference {
    /// Its name.
    pub(crate) name: &'static str,
    /// Configuration and description of the inputs, as JSON.
    description: &'static str,
    /// Token ids and embeddings, as safetensors.
    values: &'static [u8],
}

macro_rules! reference {
    ($name:literal) => {
        Reference {
            name: $name,
            description: include_str!(concat!("../../../tests/golden/models/", $name, ".json")),
            values: include_bytes!(concat!("../../../tests/golden/models/", $name, ".safetensors")),
        }
    };
}

/// One small model per family of towers. The golden tests compare the large ones.
pub(crate) const REFERENCES: [Reference; 7] = [
    reference!("tiny/vit-32px"),
    reference!("tinyclip/vit-8m-16-text-3m"),
    reference!("clip-kd/vit-t-16"),
    reference!("clip-kd/resnet18"),
    reference!("clip-kd/mobilenetv3-small-100"),
    reference!("clip-kd/efficientnet-b0"),
    reference!("clip-kd/mobilevit-s"),
];

impl Reference {
    /// Returns the larger deviation of the image and text embeddings.
    ///
    /// # Errors
    /// [`Error::Model`] if the model cannot be built or run.
    pub(crate) fn deviation(&self, device: Device, precision: Precision) -> Result<f64> {
        let wrong = |reason: &str| Error::reference(self.name, reason);
        let golden = serde_json::from_str::<Value>(self.description).map_err(|e| wrong(&e.to_string()))?;
        let config = ClipConfig::from_json(self.name, &golden["config"].to_string())?;
        let model = Clip::new(&config, device, 0)?;
        let state =
            model.params().state().map(|p| (p.name.clone(), fill::parameter(&p.name, &p.tensor.size())));
        weights::load(model.params(), &state.collect(), self.name)?;
        model.mode().set_precision(precision);

        let values = read(self.name, self.values)?;
        let value = |key: &str| values.get(key).ok_or_else(|| wrong(&format!("it lacks `{key}`")));
        let input = &golden["image_input"];
        let name = input["name"].as_str().ok_or_else(|| wrong("it lacks `image_input.name`"))?;
        let scale = input["scale"].as_f64().ok_or_else(|| wrong("it lacks `image_input.scale`"))?;
        let shape =
            serde_json::from_value::<Vec<i64>>(input["shape"].clone()).map_err(|e| wrong(&e.to_string()))?;
        let images = (fill::unit(name, &shape) * scale).f_to_device(device)?;
        let tokens = value("tokens")?.f_to_kind(Kind::Int64)?.f_to_device(device)?;
        tch::no_grad(|| {
            let image = deviation("image", &model.encode_image(&images)?, value("image_features")?)?;
            let text = deviation("text", &model.encode_text(&tokens)?, value("text_features")?)?;
            Ok(image.max(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_input_is_detected() {
        let reference = &REFERENCES[0];
        let deviation = reference.deviation(Device::Cpu, Precision::Float32).unwrap();
        assert!(deviation < 1e-4, "{deviation}");
        let scaled = reference.description.replace("\"scale\": 2.0", "\"scale\": 2.5");
        assert_ne!(scaled, reference.description);
        let wrong = Reference { description: scaled.leak(), ..*reference };
        let deviation = wrong.deviation(Device::Cpu, Precision::Float32).unwrap();
        assert!(deviation > 1e-3, "{deviation}");
    }
}

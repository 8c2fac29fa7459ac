//! Numeric precision of a run.

use clip_model::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

/// The precision setting of a recipe. Weights, losses and evaluation always use float32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionConfig {
    /// Float32 throughout.
    #[default]
    Fp32,
    /// Matrix products and convolutions of bfloat16 operands.
    Bf16,
    /// bf16 if the device has instructions for it (twice as fast), else fp32.
    Auto,
}

impl PrecisionConfig {
    /// Returns the precision of a run on this device.
    pub fn on(self, device: Device) -> Precision {
        let fastest = Precision::fastest(device);
        match self {
            Self::Fp32 => Precision::Float32,
            Self::Auto => fastest,
            Self::Bf16 => {
                if fastest != Precision::BFloat16 {
                    data_pipeline::log_warn!(
                        "this processor has no instructions for bf16, so bf16 takes many times as long as fp32: \
                         set train.precision = \"auto\""
                    );
                }
                Precision::BFloat16
            }
        }
    }
}

pub(super) fn is_fp32(precision: &PrecisionConfig) -> bool {
    *precision == PrecisionConfig::Fp32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_names_map_to_precisions() {
        assert_eq!(PrecisionConfig::Fp32.on(Device::Cpu), Precision::Float32);
        assert_eq!(PrecisionConfig::Bf16.on(Device::Cpu), Precision::BFloat16);
        // A GPU has the instructions, regardless of this machine's processor.
        assert_eq!(PrecisionConfig::Auto.on(Device::Cuda(0)), Precision::BFloat16);
        assert_eq!(PrecisionConfig::Auto.on(Device::Cpu), Precision::fastest(Device::Cpu));
    }
}

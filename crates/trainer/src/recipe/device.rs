//! The device setting of recipes and commands.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A device setting: `auto`, `cpu`, `cuda` or `cuda:N`. [`crate::model::device::resolve`] returns the corresponding
/// device of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String")]
pub enum DeviceSetting {
    /// The first GPU, or the CPU if none is visible.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl fmt::Display for DeviceSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSetting::Auto => f.write_str("auto"),
            DeviceSetting::Cpu => f.write_str("cpu"),
            DeviceSetting::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceSetting {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(DeviceSetting::Auto),
            "cpu" => Ok(DeviceSetting::Cpu),
            "cuda" => Ok(DeviceSetting::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok().map(DeviceSetting::Cuda))
                .ok_or_else(|| format!("`{name}` is not a device: use auto, cpu, cuda or cuda:N")),
        }
    }
}

impl From<DeviceSetting> for String {
    fn from(device: DeviceSetting) -> String {
        device.to_string()
    }
}

impl TryFrom<String> for DeviceSetting {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["auto", "cpu", "cuda:0", "cuda:12"] {
            assert_eq!(name.parse::<DeviceSetting>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceSetting::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(
                name.parse::<DeviceSetting>().unwrap_err().contains("auto, cpu, cuda or cuda:N"),
                "{name}"
            );
        }
    }
}

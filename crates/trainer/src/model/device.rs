//! Devices of this machine.

use tch::Device;

use crate::recipe::DeviceSetting;
use crate::{Error, Result};

/// Returns the device of this machine for a setting. Loads the CUDA half of libtorch if needed.
///
/// If the setting is [`DeviceSetting::Auto`] and the machine has an NVIDIA driver but libtorch sees no GPU, a warning
/// names the cause.
///
/// # Errors
/// [`Error::NoDevice`] with the cause and the remedy for a device that is not visible.
pub fn resolve(setting: DeviceSetting) -> Result<Device> {
    if setting == DeviceSetting::Cpu {
        return Ok(Device::Cpu);
    }
    torch_ext::cuda::load();
    let count = tch::Cuda::device_count().max(0) as usize;
    match setting {
        DeviceSetting::Cuda(index) if index >= count => {
            let visible = || format!("{count} CUDA devices are visible");
            let cause = torch_ext::cuda::explain(count).unwrap_or_else(visible);
            Err(Error::NoDevice { name: setting.to_string(), cause })
        }
        DeviceSetting::Cuda(index) => Ok(Device::Cuda(index)),
        _ if count > 0 => Ok(Device::Cuda(0)),
        _ => {
            if torch_ext::cuda::driver_version().is_some() {
                warn_once(&torch_ext::cuda::explain(count).unwrap_or_default());
            }
            Ok(Device::Cpu)
        }
    }
}

/// Returns the name of a device, such as `cpu` or `cuda:0 (NVIDIA H200)`. The product name is missing if the driver does
/// not report it.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => match torch_ext::cuda::product_name() {
            Some(product) => format!("cuda:{index} ({product})"),
            None => format!("cuda:{index}"),
        },
        _ => "cpu".into(),
    }
}

/// Logs why the GPU is not used, once per process.
fn warn_once(cause: &str) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| data_pipeline::log_warn!("the GPU is not used: {cause}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_selects_a_gpu_if_one_is_visible() {
        assert_eq!(resolve(DeviceSetting::Cpu).unwrap(), Device::Cpu);
        let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
        let auto = resolve(DeviceSetting::Auto).unwrap();
        assert_eq!(auto, if count > 0 { Device::Cuda(0) } else { Device::Cpu });
        match resolve(DeviceSetting::Cuda(count)) {
            Err(Error::NoDevice { name, cause }) => {
                assert_eq!(name, format!("cuda:{count}"));
                assert!(!cause.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn devices_are_described() {
        assert_eq!(describe(Device::Cpu), "cpu");
        assert!(describe(Device::Cuda(1)).starts_with("cuda:1"));
    }
}

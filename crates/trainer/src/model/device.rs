//! Devices by name.

use tch::Device;

use crate::recipe::device_named;
use crate::{Error, Result};

/// Returns the device named `cpu`, `cuda` or `cuda:N`. Loads the CUDA half of libtorch if needed.
///
/// # Errors
/// [`Error::Recipe`] for any other name; [`Error::NoDevice`] with the cause and the remedy for a device that is not
/// visible.
pub fn device(name: &str) -> Result<Device> {
    let Device::Cuda(index) = device_named(name)? else { return Ok(Device::Cpu) };
    torch_ext::cuda::load();
    let count = tch::Cuda::device_count().max(0) as usize;
    if index < count {
        return Ok(Device::Cuda(index));
    }
    let cause =
        torch_ext::cuda::explain(count).unwrap_or_else(|| format!("{count} CUDA devices are visible"));
    Err(Error::NoDevice { name: name.into(), cause })
}

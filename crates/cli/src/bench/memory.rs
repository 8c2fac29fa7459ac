//! Peak memory of this process.

use std::process::Command;

use tch::Device;

/// Returns the peak of this process's resident memory in bytes.
pub(crate) fn peak_resident() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Returns the used memory of a GPU in bytes, from `nvidia-smi`. Includes other processes.
pub(crate) fn used_on(device: Device) -> Option<u64> {
    let Device::Cuda(index) = device else { return None };
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let id = physical_id(visible.as_deref(), index)?;
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id", &id])
        .output()
        .ok()?;
    let mebibytes = String::from_utf8(output.stdout).ok()?.trim().parse::<u64>().ok()?;
    Some(mebibytes << 20)
}

/// Returns the number or UUID under which `nvidia-smi` knows the CUDA device with this index.
fn physical_id(visible: Option<&str>, index: usize) -> Option<String> {
    match visible {
        Some(list) if !list.is_empty() => list.split(',').nth(index).map(|id| id.trim().to_string()),
        _ => Some(index.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_parsed() {
        assert_eq!(parse_peak("VmPeak:\t 99 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 7 kB\n"), Some(2 << 20));
        assert_eq!(parse_peak("VmRSS:\t 7 kB\n"), None);
        assert!(cfg!(not(target_os = "linux")) || peak_resident().unwrap() > 1 << 20);
    }

    #[test]
    fn visible_devices_are_renumbered() {
        assert_eq!(physical_id(None, 1).as_deref(), Some("1"));
        assert_eq!(physical_id(Some("3, 5"), 1).as_deref(), Some("5"));
        assert_eq!(physical_id(Some("3"), 1), None);
        assert_eq!(used_on(Device::Cpu), None);
    }
}

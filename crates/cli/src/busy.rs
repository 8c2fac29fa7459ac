//! Measures the load of other programs.

use std::time::Duration;

/// Processor time of all cores since boot, in ticks.
struct Ticks {
    idle: u64,
    total: u64,
}

/// Returns the mean number of cores in use during `time`, while this program sleeps. Returns `None` on systems other
/// than Linux.
pub(crate) fn cores_in_use(time: Duration) -> Option<f64> {
    let before = now()?;
    std::thread::sleep(time);
    let cores = std::thread::available_parallelism().ok()?.get();
    Some(busy_fraction(&before, &now()?)? * cores as f64)
}

fn now() -> Option<Ticks> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Parses the line `cpu user nice system idle iowait irq softirq steal …`. A core that waits for a disk counts as
/// idle.
fn parse(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // The numbers after the eighth (guest time) are included in the first two.
    let ticks = line.split_whitespace().take(8).map(|word| word.parse::<u64>().ok());
    let ticks = ticks.collect::<Option<Vec<_>>>()?;
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some(Ticks { idle, total: ticks.iter().sum() })
}

/// Returns the fraction of busy time between two readings, 0..=1.
fn busy_fraction(before: &Ticks, after: &Ticks) -> Option<f64> {
    let total = after.total.checked_sub(before.total).filter(|total| *total > 0)?;
    let idle = after.idle.saturating_sub(before.idle).min(total);
    Some((total - idle) as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_cores_and_waits_for_disks_do_not_count_as_busy() {
        let ticks = |text| parse(text).unwrap();
        let before = ticks("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3 4\n");
        let after = ticks("cpu  150 0 70 820 60 0 0 0 7 7\n");
        assert_eq!(busy_fraction(&before, &after), Some(0.7));
        assert_eq!(busy_fraction(&before, &before), None);
        assert!(parse("cpu  a b c d\n").is_none() && parse("").is_none());
    }
}

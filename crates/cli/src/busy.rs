//! Measures how busy the machine is with other programs.

use std::time::Duration;

/// Processor time of all cores since the machine started, in ticks.
struct Ticks {
    idle: u64,
    all: u64,
}

/// Cores in use during `time`, while this program sleeps; `None` on systems other than Linux.
pub(crate) fn cores_in_use(time: Duration) -> Option<f64> {
    let before = now()?;
    std::thread::sleep(time);
    let cores = std::thread::available_parallelism().ok()?.get();
    Some(share(&before, &now()?)? * cores as f64)
}

fn now() -> Option<Ticks> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Parses the line `cpu user nice system idle iowait irq softirq steal …`. A core that waits for a disk counts as free.
fn parse(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // The numbers after the eighth (guest time) are already part of the first two.
    let ticks = line.split_whitespace().take(8).map(|word| word.parse::<u64>().ok());
    let ticks = ticks.collect::<Option<Vec<_>>>()?;
    let idle = ticks.get(3)? + ticks.get(4).copied().unwrap_or(0);
    Some(Ticks { idle, all: ticks.iter().sum() })
}

/// Fraction of the time between two readings in which cores worked, 0..=1.
fn share(before: &Ticks, after: &Ticks) -> Option<f64> {
    let all = after.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let idle = after.idle.saturating_sub(before.idle).min(all);
    Some((all - idle) as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_what_is_neither_idle_nor_waiting_for_a_disk() {
        let ticks = |text| parse(text).unwrap();
        let before = ticks("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3 4\n");
        let after = ticks("cpu  150 0 70 820 60 0 0 0 7 7\n");
        assert_eq!(share(&before, &after), Some(0.7));
        assert_eq!(share(&before, &before), None);
        assert!(parse("cpu  a b c d\n").is_none() && parse("").is_none());
    }
}

//! The program, its commit, the machine and the date, for the heads of reports.

/// Name, version and commit of the program.
pub(crate) const VERSION: &str =
    concat!("clip-distill ", env!("CARGO_PKG_VERSION"), " ", env!("CLIP_DISTILL_COMMIT"));

/// Returns the program's version, the machine class and the date.
pub(crate) fn today() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cpu = cpu.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{VERSION}; {cpu}, {cores} cores; {}", time::OffsetDateTime::now_utc().date())
}

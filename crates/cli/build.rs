//! Names the commit that the program was built from, for `--version`, `run.json` and reports.

use std::path::Path;
use std::process::Command;

fn main() {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = output.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    let commit = commit.map_or_else(|| "unknown".to_string(), |text| text.trim().to_string());
    // Cargo reads these lines from standard output.
    println!("cargo::rustc-env=CLIP_DISTILL_COMMIT={commit}");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = if commit == "unknown" { version } else { format!("{version} ({commit})") };
    println!("cargo::rustc-env=CLIP_DISTILL_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo would run this script in every build if it named a file that does not exist.
    for file in
        ["../../.git/HEAD", "../../.git/logs/HEAD"].into_iter().filter(|file| Path::new(file).exists())
    {
        println!("cargo::rerun-if-changed={file}");
    }
}

//! `cargo xtask doctor`: what is there, what is missing, what to do.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, output, root, run as run_program, say};

pub(crate) fn run() -> Result<()> {
    let compiler = ["c++", "g++", "clang++"].into_iter().find_map(|name| output(name, &["--version"]));
    let pip = ["python3", "python"].into_iter().find_map(|name| output(name, &["-m", "pip", "--version"]));
    let link = root().join(".libtorch");
    let libtorch = setup::check_version(&link);
    let first_line = |text: &String| text.lines().next().unwrap_or_default().to_string();
    let missing = |remedy: &str| format!("MISSING: {remedy}");
    let facts = [
        ("rust", output("rustc", &["--version"]).unwrap_or_else(|| missing("install rustup"))),
        ("C++ compiler", compiler.as_ref().map_or_else(|| missing("install g++ or clang"), first_line)),
        (
            "python3 with pip",
            pip.as_ref().map_or_else(|| missing("install python3-pip, or set LIBTORCH"), first_line),
        ),
        (
            "libtorch",
            match &libtorch {
                Ok(()) => {
                    link.canonicalize().map_or_else(|e| e.to_string(), |path| path.display().to_string())
                }
                Err(e) => missing(&format!("run `cargo xtask setup` ({e})")),
            },
        ),
        ("cache", setup::cache().map_or_else(|e| e.to_string(), |path| path.display().to_string())),
    ];
    for (name, fact) in &facts {
        say(&format!("{name:<20} {fact}"));
    }
    if facts.iter().any(|(_, fact)| fact.starts_with("MISSING")) {
        bail!("something is missing");
    }
    run_program(&mut cargo(&["run", "--quiet", "--package", "clip-distill", "--", "doctor"]))
}

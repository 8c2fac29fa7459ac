//! `cargo xtask download`: data sets by their manifests.

use std::path::Path;

use anyhow::{Context, Result, bail};
use data_pipeline::download::{Progress, fetch};
use data_pipeline::manifest::Manifest;
use indicatif::{ProgressBar, ProgressStyle};

use crate::shell::{root, say};

pub(crate) fn run(name: Option<&str>, to: &Path) -> Result<()> {
    let folder = root().join("datasets");
    let Some(name) = name else {
        for manifest in manifests(&folder)? {
            say(&format!("{:<16} {} ({})", manifest.name, manifest.title, manifest.license));
        }
        return Ok(());
    };
    let path = folder.join(format!("{name}.toml"));
    if !path.is_file() {
        let known =
            manifests(&folder)?.into_iter().map(|manifest| manifest.name).collect::<Vec<_>>().join(", ");
        bail!("unknown data set `{name}`; available: {known}");
    }
    let manifest = Manifest::read(&path)?;
    say(&format!("{}: {}", manifest.title, manifest.license));
    let place = to.join(&manifest.name);
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
    )?);
    fetch(&manifest, &place, &mut |Progress { file, done, total, .. }| {
        bar.set_message(file.to_string());
        bar.set_length(total.unwrap_or(done));
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    say(&format!("downloaded {} to {}", manifest.title, place.display()));
    Ok(())
}

/// Reads all manifests of a folder, sorted by file name.
pub(crate) fn manifests(folder: &Path) -> Result<Vec<Manifest>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    paths.iter().map(|path| Ok(Manifest::read(path)?)).collect()
}

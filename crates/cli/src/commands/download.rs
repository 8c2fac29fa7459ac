//! `clip-distill download`: downloads of published data sets that a built-in manifest or a manifest file describes.

use std::path::Path;

use anyhow::bail;
use data_pipeline::download::fetch;
use data_pipeline::manifest::Manifest;
use trainer::progress::Downloads;

use crate::args::Download;
use crate::exit::Code;
use crate::output;

/// Built-in manifests: file name and content.
const MANIFESTS: [(&str, &str); 7] = [
    ("cifar10.toml", include_str!("../../../../datasets/cifar10.toml")),
    ("cifar100.toml", include_str!("../../../../datasets/cifar100.toml")),
    ("coco.toml", include_str!("../../../../datasets/coco.toml")),
    ("flickr30k.toml", include_str!("../../../../datasets/flickr30k.toml")),
    ("flickr8k.toml", include_str!("../../../../datasets/flickr8k.toml")),
    ("imagenet-1k.toml", include_str!("../../../../datasets/imagenet-1k.toml")),
    ("tiny-imagenet.toml", include_str!("../../../../datasets/tiny-imagenet.toml")),
];

pub(crate) fn run(args: Download) -> anyhow::Result<Code> {
    let Some(data) = &args.data else {
        let lines = built_in()?
            .into_iter()
            .map(|Manifest { name, title, license, .. }| format!("{name:<16} {title} ({license})\n"));
        output::text(lines.collect::<String>())?;
        return Ok(Code::Done);
    };
    let manifest = find(data)?;
    output::note(format!("{}: {}", manifest.title, manifest.license));
    let place = args.to.join(&manifest.name);
    let mut downloads = Downloads::new(true);
    fetch(&manifest, &place, &mut |at| downloads.update(at))?;
    drop(downloads);
    output::note(format!("downloaded {} to {}", manifest.title, place.display()));
    Ok(Code::Done)
}

/// Parses the built-in manifests.
fn built_in() -> anyhow::Result<Vec<Manifest>> {
    MANIFESTS.iter().map(|(file, text)| Ok(Manifest::parse(text, file)?)).collect()
}

/// Returns the name of a built-in manifest as `download` expects it, for a name of any case, with or without hyphens.
pub(crate) fn known(data: &str) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let mut known = built_in().ok()?.into_iter().map(|manifest| manifest.name);
    known.find(|name| plain(name) == plain(data))
}

/// Returns a built-in manifest by its name, or reads a file.
fn find(data: &str) -> anyhow::Result<Manifest> {
    if Path::new(data).extension().is_some_and(|ending| ending == "toml") {
        return Ok(Manifest::read(data)?);
    }
    let mut known = built_in()?;
    match known.iter().position(|manifest| manifest.name == data) {
        Some(place) => Ok(known.swap_remove(place)),
        None => {
            let names = known.into_iter().map(|manifest| manifest.name).collect::<Vec<_>>().join(", ");
            bail!("unknown data set `{data}`: choose one of {names}, or pass a manifest (a .toml file)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_of_the_folder_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets");
        let mut files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".toml"))
            .collect::<Vec<_>>();
        files.sort();
        assert_eq!(files, MANIFESTS.map(|(file, _)| file));
        for (manifest, (file, _)) in built_in().unwrap().iter().zip(MANIFESTS) {
            assert_eq!(format!("{}.toml", manifest.name), file);
            assert_eq!(&find(&manifest.name).unwrap(), manifest);
        }
        assert!(find("mnist").unwrap_err().to_string().contains("cifar100, coco"));
    }
}

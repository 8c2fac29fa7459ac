//! Rounds of decoding and transforming JPEG images, on one core.

use std::path::PathBuf;

use anyhow::Context;
use data_pipeline::image::{AugmentParams, augment_into, decode, eval_into};
use data_pipeline::{AugmentConfig, Preprocess};
use serde::Deserialize;

use super::Work;

/// Number of images whose pixels are compared.
const COMPARED: usize = 8;

/// Photos to decode and transform.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    /// Folder of JPEG files, with a crop for each in `crops.json`.
    folder: PathBuf,
    /// Side of the result in pixels.
    size: usize,
    /// The training transform, with random crops, instead of the evaluation transform.
    training: bool,
}

pub(super) struct Images {
    files: Vec<Vec<u8>>,
    /// Crops for the comparison: x, y, width, height.
    crops: Vec<[usize; 4]>,
    preprocess: Preprocess,
    training: bool,
    /// Number of augmented images, which is the seed of the next crop.
    seen: u64,
}

impl Images {
    pub(super) fn open(case: &Case) -> anyhow::Result<Self> {
        let unreadable = || format!("cannot read `{}`", case.folder.display());
        let entries = std::fs::read_dir(&case.folder).with_context(unreadable)?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "jpg"));
        paths.sort();
        let files = paths.iter().map(std::fs::read).collect::<Result<_, _>>().with_context(unreadable)?;
        let crops = std::fs::read(case.folder.join("crops.json")).with_context(unreadable)?;
        Ok(Images {
            files,
            crops: serde_json::from_slice(&crops).with_context(unreadable)?,
            preprocess: Preprocess::new(case.size),
            training: case.training,
            seen: 0,
        })
    }

    /// Decodes an image and transforms it to channel planes, with a given crop or a random one.
    fn transform(&self, file: &[u8], crop: Option<[usize; 4]>, seed: u64) -> anyhow::Result<Vec<f32>> {
        let image = decode(file)?;
        let mut out = vec![0f32; 3 * self.preprocess.size * self.preprocess.size];
        if !self.training {
            eval_into(&image, &self.preprocess, &mut out);
            return Ok(out);
        }
        let mut params = AugmentParams::draw(&AugmentConfig::default(), seed, image.width(), image.height());
        params.crop = crop.unwrap_or(params.crop);
        augment_into(&image, &params, &self.preprocess, &mut out);
        Ok(out)
    }
}

impl Work for Images {
    fn check(&mut self) -> anyhow::Result<Vec<f32>> {
        let images = self.files.iter().zip(&self.crops).take(COMPARED);
        let images = images.map(|(file, crop)| self.transform(file, Some(*crop), 0));
        Ok(images.collect::<anyhow::Result<Vec<_>>>()?.concat())
    }

    fn round(&mut self) -> anyhow::Result<usize> {
        for file in &self.files {
            std::hint::black_box(self.transform(file, None, self.seen)?);
            self.seen += 1;
        }
        Ok(self.files.len())
    }
}

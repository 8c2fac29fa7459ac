//! Data made on the fly for the tests of sources and loader.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use data_pipeline::image::{Interpolation, Preprocess, ResizeMode};
use data_pipeline::loader::{CaptionChoice, LoaderConfig, View};
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::tokenizer::Tokenizer;

/// Bytes as ids: enough to see which text came.
pub struct Bytes;

impl Tokenizer for Bytes {
    fn encode_into(&self, text: &str, row: &mut [i64]) {
        row.fill(0);
        for (id, byte) in row.iter_mut().zip(text.bytes()) {
            *id = i64::from(byte);
        }
    }

    fn vocab_size(&self) -> usize {
        256
    }
}

/// A PNG of one colour.
pub fn png(color: [u8; 3], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb(color));
    picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

/// A tar file of named contents.
pub fn tar(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap().sync_all().unwrap();
}

/// One view of 4 px and 16 tokens; shuffled, batches of 4, one epoch.
pub fn config() -> LoaderConfig {
    let image = Preprocess {
        size: 4,
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: Interpolation::Bicubic,
        resize_mode: ResizeMode::Shortest,
    };
    LoaderConfig {
        batch_size: 4,
        seed: 1,
        shuffle: true,
        drop_last: false,
        workers: 2,
        prefetch: 2,
        augment: None,
        views: vec![View { name: "student".into(), image, tokenizer: Arc::new(Bytes), context_length: 16 }],
        policy: ErrorPolicy::Fail,
        caption: CaptionChoice::Random,
        epochs: 1,
    }
}

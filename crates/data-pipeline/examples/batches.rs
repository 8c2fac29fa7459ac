//! Reads batches of the embedded emoji for two models at once and prints what is in them.
//!
//! Run with `cargo run -p data-pipeline --example batches`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use data_pipeline::image::{AugmentConfig, Interpolation, OPENAI_MEAN, OPENAI_STD, Preprocess, ResizeMode};
use data_pipeline::loader::{CaptionChoice, InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{EmojiConfig, SourceConfig};
use data_pipeline::tokenizer::ClipTokenizer;

fn view(name: &str, size: usize) -> InputSpec {
    let (mean, std) = (OPENAI_MEAN, OPENAI_STD);
    let image = Preprocess {
        size,
        mean,
        std,
        interpolation: Interpolation::Bicubic,
        resize_mode: ResizeMode::Shortest,
    };
    InputSpec { name: name.into(), image, tokenizer: Arc::new(ClipTokenizer::new()), context_length: 16 }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = SourceConfig::Emoji(EmojiConfig::default()).open(Path::new("."))?;
    let config = LoaderConfig {
        batch_size: 4,
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers: 0,
        prefetch: 2,
        augment: Some(AugmentConfig::default()),
        views: vec![view("student", 32), view("teacher", 64)],
        policy: ErrorPolicy::default(),
        caption: CaptionChoice::Random,
        variants: None,
        epochs: 1,
    };
    let mut loader = Loader::new(Mixture::single(source)?, config, Position::default())?;
    let mut out = std::io::stdout();
    for _ in 0..2 {
        let Some(batch) = loader.next_batch()? else { break };
        for view in &batch.views {
            writeln!(out, "{}: images {:?}, tokens {:?}", view.name, view.images.dim(), view.tokens.dim())?;
        }
        batch.captions.iter().try_for_each(|caption| writeln!(out, "  {caption}"))?;
    }
    Ok(())
}

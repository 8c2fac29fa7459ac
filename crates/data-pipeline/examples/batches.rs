//! Reads batches of the embedded emoji for two models and prints their shapes and captions.
//!
//! Run with `cargo run -p data-pipeline --example batches`.

use data_pipeline::sources::EmojiConfig;
use data_pipeline::{
    AugmentConfig, InputSpec, Loader, LoaderConfig, Mixture, Position, Preprocess, SourceConfig,
};
use std::io::Write;

fn view(name: &str, size: usize) -> InputSpec {
    InputSpec::new(name, Preprocess::new(size)).with_context_length(16)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = SourceConfig::Emoji(EmojiConfig::default()).open(".")?;
    let config = LoaderConfig::default()
        .with_batch_size(4)
        .with_augment(Some(AugmentConfig::default()))
        .with_views(vec![view("student", 32), view("teacher", 64)]);
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

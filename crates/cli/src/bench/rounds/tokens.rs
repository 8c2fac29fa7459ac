//! Rounds of tokenising captions, on one core.

use std::path::PathBuf;

use anyhow::Context;
use data_pipeline::{ClipTokenizer, Tokenizer};
use serde::Deserialize;

use super::Work;

/// Captions to tokenise.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    /// Text file with one caption per line.
    file: PathBuf,
    /// Ids per caption.
    context: usize,
}

pub(super) struct Tokens {
    captions: Vec<String>,
    context: usize,
    tokenizer: ClipTokenizer,
}

impl Tokens {
    pub(super) fn open(case: &Case) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(&case.file)
            .with_context(|| format!("cannot read `{}`", case.file.display()))?;
        let captions = text.lines().map(str::to_string).collect();
        Ok(Tokens { captions, context: case.context, tokenizer: ClipTokenizer::new() })
    }

    /// Returns the ids of all captions, `[captions * context]`.
    fn ids(&self) -> Vec<i64> {
        let mut ids = vec![0; self.captions.len() * self.context];
        for (row, caption) in ids.chunks_exact_mut(self.context).zip(&self.captions) {
            self.tokenizer.encode_into(caption, row);
        }
        ids
    }
}

impl Work for Tokens {
    fn check(&mut self) -> anyhow::Result<Vec<f32>> {
        // Ids below 2^24 are exact as f32.
        Ok(self.ids().into_iter().map(|id| id as f32).collect())
    }

    fn round(&mut self) -> anyhow::Result<usize> {
        std::hint::black_box(self.ids());
        Ok(self.captions.len())
    }
}

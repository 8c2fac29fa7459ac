//! `clip-distill embed`: embeddings of images or texts as a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use clip_model::Tower;
use data_pipeline::evaluation::EvalBatches;
use data_pipeline::sources::{Images, Source};
use ndarray::{Array2, Axis};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use trainer::eval::encoder::ModelEncoder;
use trainer::progress::Pace;
use zeroshot_eval::Encoder;

use crate::args::Embed;
use crate::data::open_tower;
use crate::exit::Code;
use crate::{destination, output};

/// Number of images or texts per batch.
const BATCH: usize = 256;

pub(crate) fn run(args: Embed) -> anyhow::Result<Code> {
    destination::file(&args.out, args.force)?;
    let inputs = args.texts.iter().chain(&args.images).map(PathBuf::as_path).chain([Path::new(&args.model)]);
    destination::not_an_input(&args.out, inputs)?;
    let tower = if args.images.is_some() { Tower::Image } else { Tower::Text };
    let loaded = open_tower(&args.model, args.arch.as_deref(), args.tokenizer.as_deref(), Some(tower))?;
    let encoder = ModelEncoder::from(&loaded);
    let mut embeddings = Array2::<f32>::zeros((0, loaded.model.config().embed_dim as usize));
    let mut names = Vec::new();
    let encode_error = |error: zeroshot_eval::EncodeError| anyhow::Error::from_boxed(error);
    if let Some(folder) = &args.images {
        let source: Arc<dyn Source> = Arc::new(Images::open(folder)?);
        let mut pace = Pace::new("embed", "images", Some(source.len() as u64));
        for batch in EvalBatches::new(source, loaded.processor.preprocess().clone(), BATCH)? {
            let batch = batch?;
            embeddings
                .append(Axis(0), encoder.encode_images(batch.images.view()).map_err(encode_error)?.view())?;
            pace.add(batch.keys.len() as u64);
            names.extend(batch.keys);
        }
    } else if let Some(file) = &args.texts {
        names = data_pipeline::text::read(file)?.lines().map(str::to_string).collect();
        let mut pace = Pace::new("embed", "texts", Some(names.len() as u64));
        for batch in names.chunks(BATCH) {
            embeddings.append(Axis(0), encoder.encode_texts(batch).map_err(encode_error)?.view())?;
            pace.add(batch.len() as u64);
        }
    }
    if names.is_empty() {
        let input = args.texts.as_ref().or(args.images.as_ref()).map(|path| path.display().to_string());
        bail!("`{}` is empty: there is nothing to embed", input.unwrap_or_default());
    }
    let bytes = file_ext::f32_to_le_bytes(&embeddings);
    let view = TensorView::new(Dtype::F32, vec![embeddings.nrows(), embeddings.ncols()], &bytes)?;
    let metadata = HashMap::from([("names".to_string(), serde_json::to_string(&names)?)]);
    let file = safetensors::serialize([("embeddings", view)], Some(metadata))?;
    file_ext::write_atomic(&args.out, &file)?;
    output::note(format!(
        "wrote {} embeddings of dimension {} to {}",
        embeddings.nrows(),
        embeddings.ncols(),
        args.out.display()
    ));
    Ok(Code::Done)
}

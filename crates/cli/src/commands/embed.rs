//! `clip-distill embed`: embeddings of images or texts as a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clip_model::Tower;
use ndarray::{Array2, Axis};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use trainer::eval::encoder::ModelEncoder;
use trainer::progress::Pace;
use zeroshot_eval::Encoder;

use crate::args::Embed;
use crate::data::open_tower;
use crate::exit::Code;
use crate::{destination, images, output};

/// Number of images or texts per batch.
const BATCH: usize = 256;

pub(crate) fn run(args: Embed) -> anyhow::Result<Code> {
    destination::file(&args.out, args.force)?;
    let all_images = [&args.images[..], &args.more_images].concat();
    let inputs = args.texts.iter().chain(&all_images).map(PathBuf::as_path).chain([Path::new(&args.model)]);
    destination::not_an_input(&args.out, inputs)?;
    let tower = if all_images.is_empty() { Tower::Text } else { Tower::Image };
    let (arch, tokenizer) = (args.arch.as_deref(), args.tokenizer.as_deref());
    let loaded = open_tower(&args.model, arch, tokenizer, args.device.resolve()?, Some(tower))?;
    let encoder = ModelEncoder::from(&loaded);
    let mut embeddings = Array2::<f32>::zeros((0, loaded.model.config().embed_dim as usize));
    let mut names = Vec::new();
    let encode_error = |error: zeroshot_eval::EncodeError| anyhow::Error::from_boxed(error);
    if let Some(file) = &args.texts {
        names = data_pipeline::text::read(file)?.lines().map(str::to_string).collect();
        let mut pace = Pace::new("embed", "texts", Some(names.len() as u64));
        for batch in names.chunks(BATCH) {
            embeddings.append(Axis(0), encoder.encode_texts(batch).map_err(encode_error)?.view())?;
            pace.add(batch.len() as u64);
        }
    } else {
        let mut pace = None;
        let preprocess = loaded.processor.preprocess();
        let (policy, orientation) = (args.damage.policy(), &args.orientation);
        images::in_batches(&all_images, preprocess, BATCH, policy, orientation, |batch, total| {
            let pace = pace.get_or_insert_with(|| Pace::new("embed", "images", Some(total as u64)));
            embeddings
                .append(Axis(0), encoder.encode_images(batch.images.view()).map_err(encode_error)?.view())?;
            pace.add(batch.keys.len() as u64);
            names.extend(batch.keys);
            Ok(())
        })?;
    }
    if names.is_empty() {
        let input = args.texts.as_ref().or(all_images.first()).map(|path| path.display().to_string());
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

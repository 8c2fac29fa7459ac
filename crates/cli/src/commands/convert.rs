//! `clip-distill convert`.

use std::path::Path;

use anyhow::Context;
use clip_model::weights::{write_atomic, write_safetensors};
use clip_model::{cost, folder};
use trainer::card::{Card, Library};
use trainer::views::Reader;

use crate::args::{Convert, Format};
use crate::data::open_weights;
use crate::exit::Code;
use crate::{destination, output};

pub(crate) fn run(args: Convert) -> anyhow::Result<Code> {
    match args.to {
        Format::Safetensors => destination::file(&args.out, args.force)?,
        format => destination::model_folder(&args.out, format, args.force)?,
    }
    let (opened, place) = open_weights(&args.model, args.arch.as_deref())?;
    let (model, preprocess) = (&opened.model, &opened.preprocess);
    let library = match args.to {
        Format::OpenClip => {
            folder::save(&args.out, model, preprocess)?;
            Library::OpenClip
        }
        Format::HuggingFace => {
            folder::save_hugging_face(&args.out, model, preprocess)?;
            Library::Transformers
        }
        Format::Safetensors => {
            write_safetensors(&args.out, model.params().state().map(|p| (p.name.as_str(), &p.tensor)))?;
            output::note(format!("wrote {}", args.out.display()));
            return Ok(Code::Done);
        }
    };
    Reader::of_model(&place, model.config(), preprocess, None)?.save_tokenizer(&args.out)?;
    let name =
        args.out.file_name().map_or_else(|| args.model.clone(), |name| name.to_string_lossy().into_owned());
    let card = Card {
        name,
        library,
        license: args.license,
        config: model.config().clone(),
        cost: cost::cost(model.config())?,
        // A run's model folder lies beside what is known of the run.
        run: Path::new(&args.model).parent().map(trainer::card::RunFacts::read).transpose()?.flatten(),
    };
    let file = args.out.join("README.md");
    write_atomic(&file, card.markdown().as_bytes())
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    output::note(format!("wrote {}", args.out.display()));
    Ok(Code::Done)
}

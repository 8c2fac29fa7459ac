//! `clip-distill convert`: model formats.

use std::path::Path;

use anyhow::Context;
use clip_model::weights::write_atomic;
use clip_model::{cost, folder};
use trainer::model::processor::Processor;
use trainer::run::card::{Card, Library};

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
    // Read the tokenizer first, so that a missing one does not leave an incomplete folder.
    let reader = Processor::of_model(&place, model.config(), preprocess, args.tokenizer.as_deref());
    if args.to == Format::Safetensors {
        // Weights and configuration are complete without a tokenizer; the configuration names it.
        let tokenizer = reader.as_ref().ok().and_then(Processor::foreign_tokenizer);
        folder::save_file(&args.out, model, preprocess, tokenizer)?;
        if let Some(name) = tokenizer {
            output::note(format!(
                "the weight file does not contain the tokenizer: pass {name} with --tokenizer when you use it"
            ));
        }
        output::note(format!("wrote {}", args.out.display()));
        return Ok(Code::Done);
    }
    let reader = reader?;
    let library = if args.to == Format::OpenClip {
        folder::save_with(&args.out, model, preprocess, reader.foreign_tokenizer())?;
        reader.save_tokenizer(&args.out)?;
        Library::OpenClip
    } else {
        folder::save_hugging_face_with(&args.out, model, preprocess, reader.special_tokens())?;
        reader.save_for_transformers(&args.out)?;
        Library::Transformers
    };
    let name =
        args.out.file_name().map_or_else(|| args.model.clone(), |name| name.to_string_lossy().into_owned());
    let card = Card {
        name,
        library,
        license: args.license,
        config: model.config().clone(),
        cost: cost::cost(model.config())?,
        own_tokenizer: reader.foreign_tokenizer().is_some(),
        // The parent of a run's model folder is the run's folder, which describes the training.
        run: Path::new(&args.model).parent().map(trainer::run::card::RunFacts::read).transpose()?.flatten(),
    };
    let file = args.out.join("README.md");
    write_atomic(&file, card.markdown().as_bytes())
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    output::note(format!("wrote {}", args.out.display()));
    Ok(Code::Done)
}

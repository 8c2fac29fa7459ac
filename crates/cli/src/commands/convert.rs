//! `clip-distill convert`: model formats.

use std::path::Path;

use anyhow::Context;
use clip_model::folder::OpenedModel;
use clip_model::{cost, folder};
use file_ext::write_atomic;
use trainer::model::loaded::{LoadOptions, open_weights};
use trainer::model::locate::{Need, locate};
use trainer::model::processor::Processor;
use trainer::run::card::{Card, Library};

use crate::args::{Convert, Format};
use crate::data::open_model;
use crate::exit::Code;
use crate::staged::Staged;
use crate::{destination, output};

pub(crate) fn run(args: Convert) -> anyhow::Result<Code> {
    match args.to {
        Format::Safetensors => destination::file(&args.out, args.force)?,
        format => destination::model_folder(&args.out, format, args.force)?,
    }
    if args.to == Format::Safetensors {
        // Weights and configuration are complete without a tokenizer; the configuration names it.
        let (opened, processor) = open_without_tokenizer(&args)?;
        let tokenizer = processor.as_ref().and_then(Processor::foreign_tokenizer);
        folder::save_file(&args.out, &opened.model, &opened.preprocess, tokenizer)?;
        if let Some(name) = tokenizer {
            output::note(format!(
                "the weight file does not contain the tokenizer: pass {name} with --tokenizer when you use the file"
            ));
        }
        output::note(format!("wrote {}", args.out.display()));
        return Ok(Code::Done);
    }
    let loaded = open_model(&args.model, args.arch.as_deref(), args.tokenizer.as_deref(), tch::Device::Cpu)?;
    let (model, preprocess, processor) = (&loaded.model, &loaded.preprocess, &loaded.processor);
    let unwritten = || format!("cannot write the model to `{}`, where nothing changed", args.out.display());
    let staged = Staged::new(&args.out)?;
    let library = if args.to == Format::OpenClip {
        folder::save_with(staged.folder(), model, preprocess, processor.foreign_tokenizer())
            .with_context(unwritten)?;
        processor.save_tokenizer(staged.folder()).with_context(unwritten)?;
        Library::OpenClip
    } else {
        folder::save_hugging_face_with(staged.folder(), model, preprocess, processor.special_tokens())
            .with_context(unwritten)?;
        processor.save_for_transformers(staged.folder()).with_context(unwritten)?;
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
        own_tokenizer: processor.foreign_tokenizer().is_some(),
        // The parent of a run's model folder is the run's folder, which describes the training.
        run: Path::new(&args.model).parent().map(trainer::run::card::RunFacts::read).transpose()?.flatten(),
    };
    write_atomic(staged.folder().join("README.md"), card.markdown().as_bytes()).with_context(unwritten)?;
    staged.publish()?;
    output::note(format!("wrote {}", args.out.display()));
    Ok(Code::Done)
}

/// Opens a model whose tokenizer may be missing.
fn open_without_tokenizer(args: &Convert) -> anyhow::Result<(OpenedModel, Option<Processor>)> {
    let options = LoadOptions::default().with_arch(args.arch.as_deref()).with_progress(true);
    let origin = locate(&args.model, Need::Weights, true)?;
    let opened = open_weights(&origin, &options)?;
    if !opened.has_weights {
        return Err(trainer::Error::NoWeights { name: args.model.clone() }.into());
    }
    for note in &opened.notes {
        output::note(format!("{}: {note}", args.model));
    }
    let tokenizer = args.tokenizer.as_deref();
    let processor = Processor::of_model(&origin, opened.model.config(), &opened.preprocess, tokenizer);
    Ok((opened, processor.ok()))
}

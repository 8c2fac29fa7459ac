//! From what was typed to sources, models and prompts.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clip_model::folder::{self, ConfigOverrides, OpenedModel};
use clip_model::{Clip, presets};
use data_pipeline::manifest::Manifest;
use data_pipeline::sources::{FolderConfig, SourceConfig, Split, WebDatasetConfig};
use tch::Device;
use trainer::model::locate::{Need, locate};
use trainer::model::processor::Processor;
use trainer::recipe::{Classes, EvalSet, EvalTask, Templates};

use crate::args::{Evaluate, Task};
use crate::output;

/// A model with weights, as [`open_weights`] has it, and how it reads.
pub(crate) fn open_model(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
) -> anyhow::Result<(Clip, Processor)> {
    let (opened, place) = open_weights(name, arch)?;
    let reader = Processor::of_model(&place, opened.model.config(), &opened.preprocess, tokenizer)?;
    opened.model.params().set_requires_grad(false);
    Ok((opened.model, reader))
}

/// Weights with what belongs to them, and where they lie; `arch` is the preset of a bare file whose shapes do
/// not tell it. What was decided on the way is said.
pub(crate) fn open_weights(name: &str, arch: Option<&str>) -> anyhow::Result<(OpenedModel, String)> {
    let located = locate(name, Need::Weights, true)?;
    let path = Path::new(&*located);
    let opened = match arch {
        Some(arch) if path.is_file() => {
            folder::open_file(&presets::get(arch)?, path, Device::Cpu, &ConfigOverrides::default())?
        }
        Some(_) => bail!("--arch is for a bare weight file, and `{name}` is none"),
        None => folder::open(&located, Device::Cpu, 0)?,
    };
    if !opened.has_weights {
        bail!("`{name}` has no weights: name a model folder, such as runs/NAME/model, or a checkpoint");
    }
    for note in &opened.notes {
        output::note(format!("{name}: {note}"));
    }
    Ok((opened, located.into_owned()))
}

/// Prompt templates by name, or from a file with one per line.
pub(crate) fn templates(name: &str) -> anyhow::Result<Vec<String>> {
    let path = Path::new(name);
    if !path.is_file() {
        return Ok(zeroshot_eval::prompts::templates(name)?);
    }
    let text = data_pipeline::text::read(path)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

/// The data set that was named, and where its paths start.
pub(crate) fn eval_set(args: &Evaluate, data: &str) -> anyhow::Result<(EvalSet, PathBuf)> {
    let path = Path::new(data);
    let name = path.file_stem().map_or_else(|| data.to_string(), |stem| stem.to_string_lossy().into_owned());
    let wanted = args.task.map(|task| match task {
        Task::Classification => EvalTask::Classification,
        Task::Retrieval => EvalTask::Retrieval,
    });
    let mut class_names = args.class_names.clone().map(Classes::File);
    let (source, root, task, prompts) = if path.extension().is_some_and(|end| end == "toml") {
        let manifest = Manifest::read(path)?;
        let root = args.root.clone().unwrap_or_else(|| Path::new("data").join(&manifest.name));
        let eval = manifest.eval.as_ref();
        let eval = eval.with_context(|| format!("`{}` has no [eval] section", path.display()))?;
        let task = if eval.task == "retrieval" { EvalTask::Retrieval } else { EvalTask::Classification };
        if let (None, Some(list)) = (&class_names, &eval.classes) {
            class_names = Some(Classes::Listed(zeroshot_eval::prompts::classes(list)?));
        }
        (manifest.source(&eval.split)?, root, task, eval.prompts.clone())
    } else if let Some(shards) = shards(path, data)? {
        let source = SourceConfig::WebDataset(WebDatasetConfig { shards, caption: None, boxes: None });
        (source, PathBuf::new(), EvalTask::Retrieval, None)
    } else if data == "emoji" {
        let held_out = data_pipeline::sources::EmojiConfig { split: Split::Test };
        (SourceConfig::Emoji(held_out), PathBuf::new(), EvalTask::Retrieval, None)
    } else {
        let classes = args.classes.clone().or_else(|| class_table(path));
        let source = SourceConfig::Folder(FolderConfig::new(path, classes));
        (source, PathBuf::new(), EvalTask::Classification, None)
    };
    // A list that was typed is the caller's, wherever the data lies.
    if let Some(Classes::File(file)) = &mut class_names {
        *file = std::path::absolute(&file).with_context(|| format!("cannot find `{}`", file.display()))?;
    }
    let prompts = args.prompts.clone().or(prompts).unwrap_or_else(|| "plain".into());
    let templates = Templates::Listed(templates(&prompts)?);
    let set = EvalSet { name, task: wanted.unwrap_or(task), templates, class_names, train: None, source };
    Ok((set, root))
}

/// The tars that were named: one, a pattern, or all of a folder.
fn shards(path: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let is_tar = |path: &Path| path.extension().is_some_and(|end| end == "tar");
    if name.contains('{') || is_tar(path) {
        return Ok(Some(name.into()));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    let mut tars = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read `{name}`"))? {
        let path = entry?.path();
        if is_tar(&path) {
            tars.push(path.display().to_string());
        }
    }
    tars.sort();
    Ok((!tars.is_empty()).then(|| tars.join("::")))
}

/// A `classes.csv` in the folder, or beside it where the folder is one split.
fn class_table(folder: &Path) -> Option<PathBuf> {
    let places = [folder.join("classes.csv"), folder.join("../classes.csv")];
    places.into_iter().find(|path| path.is_file()).map(|path| path.canonicalize().unwrap_or(path))
}

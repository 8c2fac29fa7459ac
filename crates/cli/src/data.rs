//! From what was typed to sources, models and prompts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clip_model::folder::{self, Adjust, Opened};
use clip_model::{Clip, presets};
use data_pipeline::manifest::Manifest;
use data_pipeline::sources::{FolderConfig, Source, SourceConfig, Split, WebDatasetConfig};
use tch::Device;
use trainer::models::{Need, locate};
use trainer::recipe::EvalTask;
use trainer::views::Reader;

use crate::args::{Evaluate, Task};
use crate::output;

/// A model with weights, as [`open_weights`] has it, and how it reads.
pub(crate) fn open_model(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
) -> anyhow::Result<(Clip, Reader)> {
    let (opened, place) = open_weights(name, arch)?;
    let reader = Reader::of_model(&place, opened.model.config(), &opened.preprocess, tokenizer)?;
    opened.model.params().set_requires_grad(false);
    Ok((opened.model, reader))
}

/// Weights with what belongs to them, and where they lie; `arch` is the preset of a bare file whose shapes do
/// not tell it. What was decided on the way is said.
pub(crate) fn open_weights(name: &str, arch: Option<&str>) -> anyhow::Result<(Opened, String)> {
    let located = locate(name, Need::Weights, true)?;
    let path = Path::new(&*located);
    let opened = match arch {
        Some(arch) if path.is_file() => {
            folder::open_file(&presets::get(arch)?, path, Device::Cpu, &Adjust::default())?
        }
        Some(_) => bail!("--arch is for a bare weight file, and `{name}` is none"),
        None => folder::open(&located, Device::Cpu, 0)?,
    };
    if !opened.has_weights {
        bail!(
            "`{name}` is a preset without weights: name a model folder, such as runs/NAME/model, or a checkpoint"
        );
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
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

/// What `evaluate` is to measure.
pub(crate) struct EvalInput {
    pub name: String,
    pub source: Arc<dyn Source>,
    pub task: EvalTask,
    pub templates: Vec<String>,
    /// Names in place of those of the source.
    pub class_names: Option<Vec<String>>,
}

/// Finds out what kind of data was named.
pub(crate) fn eval_input(args: &Evaluate) -> anyhow::Result<EvalInput> {
    let path = Path::new(&args.data);
    let name = path.file_stem().map_or_else(|| args.data.clone(), |stem| stem.to_string_lossy().into_owned());
    let wanted = args.task.map(|task| match task {
        Task::Classification => EvalTask::Classification,
        Task::Retrieval => EvalTask::Retrieval,
    });
    let mut class_list = None;
    let (config, root, task, prompts) = if path.extension().is_some_and(|end| end == "toml") {
        let manifest = Manifest::read(path)?;
        let root = args.root.clone().unwrap_or_else(|| Path::new("data").join(&manifest.name));
        let eval = manifest.eval.as_ref();
        let eval = eval.with_context(|| format!("`{}` has no [eval] section", path.display()))?;
        let task = if eval.task == "retrieval" { EvalTask::Retrieval } else { EvalTask::Classification };
        class_list.clone_from(&eval.classes);
        (manifest.source(&eval.split)?, root, task, eval.prompts.clone())
    } else if let Some(shards) = shards(path, &args.data)? {
        (
            SourceConfig::WebDataset(WebDatasetConfig { shards, caption: None }),
            PathBuf::new(),
            EvalTask::Retrieval,
            None,
        )
    } else if args.data == "emoji" {
        let held_out = data_pipeline::sources::EmojiConfig { split: Split::Test };
        (SourceConfig::Emoji(held_out), PathBuf::new(), EvalTask::Retrieval, None)
    } else {
        let classes = args.classes.clone().or_else(|| class_table(path));
        (
            SourceConfig::Folder(FolderConfig::new(path, classes)),
            PathBuf::new(),
            EvalTask::Classification,
            None,
        )
    };
    let prompts = args.prompts.clone().or(prompts).unwrap_or_else(|| "plain".into());
    Ok(EvalInput {
        name,
        source: config.open(&root)?,
        task: wanted.unwrap_or(task),
        templates: templates(&prompts)?,
        class_names: class_list.map(|list| zeroshot_eval::prompts::classes(&list)).transpose()?,
    })
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

//! Opens the models, data sets and prompt templates that arguments name.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clip_model::Tower;
use data_pipeline::manifest::Manifest;
use data_pipeline::sources::{FolderConfig, SourceConfig, Split, WebDatasetConfig};
use trainer::model::loaded::{LoadOptions, LoadedModel};
use trainer::recipe::{Classes, EvalSet, EvalTask, Templates};

use crate::args::{Evaluate, Task};
use crate::output;

/// Opens a trained model, and prints its notes, such as the settings that were inferred.
pub(crate) fn open_model(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
) -> anyhow::Result<LoadedModel> {
    open_tower(name, arch, tokenizer, None)
}

/// Opens a trained model of which only one tower is used; `None` for both.
pub(crate) fn open_tower(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
    tower: Option<Tower>,
) -> anyhow::Result<LoadedModel> {
    let options = LoadOptions::default().with_arch(arch).with_tokenizer(tokenizer).with_progress(true);
    let loaded = LoadedModel::open_trained(name, &options.with_tower(tower))?;
    loaded.model.params().set_requires_grad(false);
    for note in &loaded.notes {
        output::note(format!("{name}: {note}"));
    }
    Ok(loaded)
}

/// Returns the prompt templates of a name, or of a file with one per line.
pub(crate) fn templates(name: &str) -> anyhow::Result<Vec<String>> {
    let path = Path::new(name);
    if !path.is_file() {
        return zeroshot_eval::prompts::templates(name)
            .with_context(|| format!("`{name}` is not a file of prompt templates"));
    }
    let text = data_pipeline::text::read(path)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

/// Returns the data set of `--data`, and the folder to which its paths are relative.
pub(crate) fn eval_set(args: &Evaluate, data: &str) -> anyhow::Result<(EvalSet, PathBuf)> {
    let path = Path::new(data);
    let name = path.file_stem().map_or_else(|| data.to_string(), |stem| stem.to_string_lossy().into_owned());
    let task_option = args.task.map(|task| match task {
        Task::Classification => EvalTask::Classification,
        Task::Retrieval => EvalTask::Retrieval,
    });
    let mut class_names = args.class_names.clone().map(Classes::File);
    let (source, root, task, prompts) = if path.extension().is_some_and(|end| end == "toml") {
        let manifest = Manifest::read(path)?;
        let root = args.root.clone().unwrap_or_else(|| Path::new("data").join(&manifest.name));
        let eval = manifest.eval.as_ref();
        let eval = eval.with_context(|| {
            format!(
                "the manifest `{}` has no [eval] section, so it states no evaluation split: add one, or pass the \
                 folder of the images to --data",
                path.display()
            )
        })?;
        let task = if eval.task == "retrieval" { EvalTask::Retrieval } else { EvalTask::Classification };
        if let (None, Some(list)) = (&class_names, &eval.classes) {
            class_names = Some(Classes::Listed(zeroshot_eval::prompts::classes(list)?));
        }
        (manifest.source(&eval.split)?, root, task, eval.prompts.clone())
    } else if let Some(shards) = shards(path, data)? {
        let source = SourceConfig::WebDataset(WebDatasetConfig::new(shards));
        (source, PathBuf::new(), EvalTask::Retrieval, None)
    } else if data == "emoji" {
        let held_out = data_pipeline::sources::EmojiConfig::default().with_split(Split::Test);
        (SourceConfig::Emoji(held_out), PathBuf::new(), EvalTask::Retrieval, None)
    } else {
        let classes = args.classes.clone().or_else(|| class_table(path));
        let mut config = FolderConfig::new(path);
        config.classes = classes;
        let source = SourceConfig::Folder(config);
        (source, PathBuf::new(), EvalTask::Classification, None)
    };
    // The path of --class-names is relative to the current folder, not to the data.
    if let Some(Classes::File(file)) = &mut class_names {
        *file = std::path::absolute(&file)
            .with_context(|| format!("cannot find the current folder for `{}`", file.display()))?;
    }
    let prompts = args.prompts.prompts.clone().or(prompts).unwrap_or_else(|| "plain".into());
    let templates = Templates::Listed(templates(&prompts)?);
    let set =
        EvalSet { name, task: task_option.unwrap_or(task), templates, class_names, train: None, source };
    Ok((set, root))
}

/// Returns the WebDataset shards of a tar file, a pattern or a folder of tars; `None` for anything else.
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

/// Finds the `classes.csv` in a folder or, if the folder is one split of a data set, in its parent.
fn class_table(folder: &Path) -> Option<PathBuf> {
    let candidates = [folder.join("classes.csv"), folder.join("../classes.csv")];
    candidates.into_iter().find(|path| path.is_file()).map(|path| path.canonicalize().unwrap_or(path))
}

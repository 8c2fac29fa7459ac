//! Opens the models, data sets and prompt templates that arguments name.

use std::path::{Path, PathBuf};

use anyhow::Context;
use data_pipeline::manifest::Manifest;
use data_pipeline::sources::{
    CifarConfig, CsvConfig, FilesConfig, FolderConfig, Parquet, ParquetConfig, Paths, RecordsConfig,
    SourceConfig, Split, WebDatasetConfig,
};
use tch::Device;
use trainer::model::loaded::{LoadOptions, LoadedModel};
use trainer::recipe::{Classes, EvalSet, EvalTask, Templates};

use crate::args::{Evaluate, Task};
use crate::output;

/// Opens a trained model, and prints its notes, such as the settings that were inferred.
pub(crate) fn open_model(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
    device: Device,
) -> anyhow::Result<LoadedModel> {
    let options = LoadOptions::default()
        .with_arch(arch)
        .with_tokenizer(tokenizer)
        .with_progress(true)
        .with_device(device);
    let loaded = LoadedModel::open_trained(name, &options)?;
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
    } else if data == "emoji" {
        let held_out = data_pipeline::sources::EmojiConfig::default().with_split(Split::Test);
        (SourceConfig::Emoji(held_out), PathBuf::new(), EvalTask::Retrieval, None)
    } else {
        let (source, task) = source(args, path, data)?;
        (source, PathBuf::new(), task, None)
    };
    // The path of --class-names is relative to the current folder, not to the data.
    if let Some(Classes::File(file)) = &mut class_names {
        *file = std::path::absolute(&file)
            .with_context(|| format!("cannot find the current folder for `{}`", file.display()))?;
    }
    let prompts = args.prompts.prompts.clone().or(prompts).unwrap_or_else(|| "plain".into());
    let templates = Templates::Listed(templates(&prompts)?);
    let task = task_option.unwrap_or(task);
    let set = EvalSet { name, task, templates, class_names, train: None, exif_orientation: false, source };
    Ok((set, root))
}

/// Infers the source and the task of `--data` from a file name or from the files in a folder.
fn source(args: &Evaluate, path: &Path, name: &str) -> anyhow::Result<(SourceConfig, EvalTask)> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let task = |has_only_classes: bool| {
        if has_only_classes { EvalTask::Classification } else { EvalTask::Retrieval }
    };
    // Paths of images start at --root, or at the folder of their file.
    let root = args.root.as_ref().map(std::path::absolute).transpose()?;
    let holds = |ending: &str| holds(path, ending);
    Ok(match ending.as_str() {
        "csv" | "tsv" => {
            let mut config = CsvConfig::new(path).with_group_by_image(true);
            config.root = root.map(Paths::from);
            (SourceConfig::Csv(config), EvalTask::Retrieval)
        }
        "json" | "jsonl" | "ndjson" => {
            let mut config = RecordsConfig::new(path).with_group_by_image(true);
            config.root = root.map(Paths::from);
            (SourceConfig::Json(config), EvalTask::Retrieval)
        }
        _ if cifar(path).is_some() => {
            let config = CifarConfig::new(path).with_split(Split::Test);
            let source = if cifar(path) == Some(100) {
                SourceConfig::Cifar100(config)
            } else {
                SourceConfig::Cifar10(config)
            };
            (source, EvalTask::Classification)
        }
        ending if ending == "parquet" || (!holds("tar") && (holds("parquet") || holds_in_data(path))) => {
            let mut config = ParquetConfig::new(name);
            config.classes = args.class_names.as_ref().map(std::path::absolute).transpose()?;
            let has_only_classes = Parquet::open(&config, ".")?.has_only_classes();
            (SourceConfig::Parquet(config), task(has_only_classes))
        }
        ending
            if ending == "tar"
                || path.is_file()
                || name.contains(['{', '*'])
                || is_remote(name)
                || holds("tar") =>
        {
            let mut config = WebDatasetConfig::new(name);
            config.classes = args.class_names.as_ref().map(std::path::absolute).transpose()?;
            let has_only_classes = config.has_only_classes(".")?;
            (SourceConfig::WebDataset(config), task(has_only_classes))
        }
        _ if !matches!(args.task, Some(Task::Classification))
            && FilesConfig::new(path).has_captions(".")? =>
        {
            (SourceConfig::Files(FilesConfig::new(path)), EvalTask::Retrieval)
        }
        _ => {
            let mut config = FolderConfig::new(path);
            config.classes = args.classes.clone().or_else(|| class_table(path));
            (SourceConfig::Folder(config), EvalTask::Classification)
        }
    })
}

/// Whether a name is a remote address, which the source refuses.
fn is_remote(name: &str) -> bool {
    name.contains("://") || name.starts_with("pipe:")
}

/// Whether a folder holds files with an extension.
fn holds(folder: &Path, ending: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|found| found == ending))
}

/// Whether a folder is a data set of the Hugging Face hub, with Parquet files in `data`.
fn holds_in_data(folder: &Path) -> bool {
    holds(&folder.join("data"), "parquet")
}

/// Returns the number of classes of a CIFAR archive or of its folder, by name.
fn cifar(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let is_archive = name.ends_with(".tar.gz") || name.ends_with(".tgz");
    let is_folder = ["batches-bin", "batches-py", "binary", "python"].iter().any(|end| name.ends_with(end));
    match name {
        _ if !(is_archive && path.is_file() || is_folder && path.is_dir()) => None,
        name if name.starts_with("cifar-100") => Some(100),
        name if name.starts_with("cifar-10") => Some(10),
        _ => None,
    }
}

/// Finds the `classes.csv` in a folder or, if the folder is one split of a data set, in its parent.
fn class_table(folder: &Path) -> Option<PathBuf> {
    let candidates = [folder.join("classes.csv"), folder.join("../classes.csv")];
    candidates.into_iter().find(|path| path.is_file()).map(|path| path.canonicalize().unwrap_or(path))
}

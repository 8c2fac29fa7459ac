//! Opens the models, data sets and prompt templates that arguments name.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use data_pipeline::manifest::Manifest;
use data_pipeline::sources::{
    ClipBenchmark, ClipBenchmarkConfig, EmojiConfig, FolderConfig, SourceConfig, Split, WebDatasetConfig,
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

/// Returns the prompt templates of a name, or of a file.
pub(crate) fn templates(name: &str) -> anyhow::Result<Templates> {
    let path = Path::new(name);
    if path.is_file() {
        return Ok(data_pipeline::names::read_prompts(path)?.into());
    }
    let templates = Templates::Named(name.into());
    templates.check().with_context(|| format!("`{name}` is not a file of prompt templates"))?;
    Ok(templates)
}

/// The data set of `--data`, before its options.
struct Data {
    source: SourceConfig,
    root: PathBuf,
    task: EvalTask,
    prompts: Option<String>,
    class_names: Option<Classes>,
}

impl Data {
    fn new(source: SourceConfig, task: EvalTask) -> Self {
        Data { source, root: PathBuf::new(), task, prompts: None, class_names: None }
    }

    /// Opens a data set of CLIP_benchmark to find out its task.
    fn clip_benchmark(path: &str, split: Option<&str>) -> anyhow::Result<Self> {
        let config = ClipBenchmarkConfig::new(path);
        let config = match split {
            Some(split) => config.with_split(split),
            None => config,
        };
        let source = SourceConfig::ClipBenchmark(config);
        let open = source.open("")?;
        let task = if open.class_count().is_some() { EvalTask::Classification } else { EvalTask::Retrieval };
        let prompts = open.templates().is_none().then(|| "plain".to_string());
        Ok(Data { prompts, ..Data::new(source, task) })
    }

    fn manifest(path: &Path, root: Option<&Path>) -> anyhow::Result<Self> {
        let manifest = Manifest::read(path)?;
        let root = root.map_or_else(|| Path::new("data").join(&manifest.name), Path::to_path_buf);
        let eval = manifest.eval.as_ref();
        let eval = eval.with_context(|| {
            format!(
                "the manifest `{}` has no [eval] section, so it states no evaluation split: add one, or pass the \
                 folder of the images to --data",
                path.display()
            )
        })?;
        let task = if eval.task == "retrieval" { EvalTask::Retrieval } else { EvalTask::Classification };
        let list = eval.classes.as_ref().map(|list| zeroshot_eval::prompts::classes(list)).transpose()?;
        let (class_names, prompts) = (list.map(Classes::Listed), eval.prompts.clone());
        Ok(Data { source: manifest.source(&eval.split)?, root, task, prompts, class_names })
    }
}

/// Returns the data set of `--data`, and the folder to which its paths are relative. Refuses options that do not apply.
pub(crate) fn eval_set(args: &Evaluate, data: &str) -> anyhow::Result<(EvalSet, PathBuf)> {
    let path = Path::new(data);
    let name = path.file_stem().map_or_else(|| data.to_string(), |stem| stem.to_string_lossy().into_owned());
    let is_hub = data.starts_with("hf-hub:") || data.starts_with("hf:");
    let is_manifest = !is_hub && path.extension().is_some_and(|end| end == "toml");
    let split = args.split.as_deref();
    let found = if is_hub || ClipBenchmark::is_here(path) {
        Data::clip_benchmark(data, split)?
    } else if is_manifest {
        Data::manifest(path, args.root.as_deref())?
    } else if let Some(shards) = shards(path, data)? {
        match ClipBenchmark::has_labels(&shards)? {
            true => Data::clip_benchmark(&shards, None)?,
            false => Data::new(SourceConfig::WebDataset(WebDatasetConfig::new(shards)), EvalTask::Retrieval),
        }
    } else if data == "emoji" {
        let held_out = EmojiConfig::default().with_split(Split::Test);
        Data::new(SourceConfig::Emoji(held_out), EvalTask::Retrieval)
    } else {
        let mut config = FolderConfig::new(path);
        config.classes = args.classes.clone().or_else(|| class_table(path));
        Data::new(SourceConfig::Folder(config), EvalTask::Classification)
    };
    let task = args.task.map_or(found.task, |task| match task {
        Task::Classification => EvalTask::Classification,
        Task::Retrieval => EvalTask::Retrieval,
    });
    let prompts = args.prompts.prompts.as_deref().or(found.prompts.as_deref());
    let prompts = prompts.map(templates).transpose()?;
    let is_retrieval = task == EvalTask::Retrieval;
    let has_split = is_hub || ClipBenchmark::is_here(path);
    for (option, is_given, applies, to) in [
        ("--root", args.root.is_some(), is_manifest, "manifests and suites"),
        ("--split", args.split.is_some(), has_split, "data sets of CLIP_benchmark"),
        (
            "--classes",
            args.classes.is_some(),
            matches!(found.source, SourceConfig::Folder(_)) && !is_manifest,
            "class folders",
        ),
        ("--class-names", args.class_names.is_some(), !is_retrieval, "classification"),
        ("--prompts", args.prompts.prompts.is_some(), !is_retrieval, "classification"),
        ("--per-class", args.per_class, !is_retrieval, "classification"),
    ] {
        if is_given && !applies {
            bail!("{option} applies only to {to}, not to `{data}`: leave it out");
        }
    }
    let class_names = match &args.class_names {
        // The path is relative to the current folder, not to the data.
        Some(file) => Some(Classes::File(
            std::path::absolute(file)
                .with_context(|| format!("cannot find the current folder for `{}`", file.display()))?,
        )),
        None => found.class_names,
    };
    let mut set = EvalSet::new(name, task, found.source);
    set.class_names = class_names;
    if let Some(prompts) = prompts {
        set.templates = prompts;
    }
    Ok((set, found.root))
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

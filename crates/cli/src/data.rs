//! Opens the models, data sets and prompt templates that arguments name.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clip_model::Tower;
use data_pipeline::manifest::Manifest;
use data_pipeline::notice;
use data_pipeline::sources::{
    CifarConfig, ClipBenchmark, ClipBenchmarkConfig, CsvConfig, EmojiConfig, FilesConfig, FolderConfig,
    Parquet, ParquetConfig, Paths, RecordsConfig, SourceConfig, Split, WebDatasetConfig, other_file,
};
use tch::Device;
use trainer::model::loaded::{LoadOptions, LoadedModel};
use trainer::recipe::{Classes, EvalSet, EvalTask, Templates};

use crate::args::{Evaluate, Task};
use crate::commands::download;
use crate::output;

/// Opens a trained model, and prints its notes, such as the settings that were inferred.
pub(crate) fn open_model(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
    device: Device,
) -> anyhow::Result<LoadedModel> {
    open_tower(name, arch, tokenizer, device, None)
}

/// Opens a trained model of which only one tower is used; `None` for both.
pub(crate) fn open_tower(
    name: &str,
    arch: Option<&str>,
    tokenizer: Option<&Path>,
    device: Device,
    tower: Option<Tower>,
) -> anyhow::Result<LoadedModel> {
    let options = LoadOptions::default()
        .with_arch(arch)
        .with_tokenizer(tokenizer)
        .with_progress(true)
        .with_device(device)
        .with_tower(tower);
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
    templates
        .check()
        .with_context(|| format!("`{name}` is neither a file nor a built-in list of prompt templates"))?;
    Ok(templates)
}

/// The data set of `--data`, before the options of the command apply.
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
        Ok(Data::new(source, task))
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
    } else if let Some(known) = download::known(data).filter(|_| !path.exists()) {
        let folder = Path::new("data").join(&known);
        bail!(
            "no file or folder `{data}`: to get the data set {known}, run `clip-distill download {known}`, then pass its \
             manifest with `--data datasets/{known}.toml`, or its folder, such as `--data {}`",
            folder.display()
        )
    } else if data == "emoji" {
        let held_out = EmojiConfig::default().with_split(Split::Test);
        Data::new(SourceConfig::Emoji(held_out), EvalTask::Retrieval)
    } else {
        data_source(args, path, data)?
    };
    let task = args.task.map_or(found.task, |task| match task {
        Task::Classification => EvalTask::Classification,
        Task::Retrieval => EvalTask::Retrieval,
    });
    let prompts = args.prompts.prompts.as_deref().or(found.prompts.as_deref());
    let prompts = prompts.map(templates).transpose()?;
    let is_retrieval = task == EvalTask::Retrieval;
    let is_table = matches!(found.source, SourceConfig::Csv(_) | SourceConfig::Json(_));
    let has_split = is_hub || ClipBenchmark::is_here(path);
    for (option, is_given, applies, to) in [
        ("--root", args.root.is_some(), is_manifest || is_table, "manifests, suites and tables"),
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
    set.exif_orientation = args.orientation.exif_orientation;
    if let Some(prompts) = prompts {
        set.templates = prompts;
    }
    Ok((set, found.root))
}

/// Infers the source and the task of `--data` from a file name or from the files in a folder.
fn data_source(args: &Evaluate, path: &Path, name: &str) -> anyhow::Result<Data> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    // Image paths are relative to --root, or to the folder of their file.
    let root = args.root.as_ref().map(std::path::absolute).transpose()?.map(Paths::from);
    let holds = |ending: &str| holds(path, ending);
    Ok(match ending.as_str() {
        "csv" | "tsv" => {
            let mut config = CsvConfig::new(path).with_group_by_image(true);
            config.root = root;
            Data::new(SourceConfig::Csv(config), EvalTask::Retrieval)
        }
        "json" | "jsonl" | "ndjson" => {
            let mut config = RecordsConfig::new(path).with_group_by_image(true);
            config.root = root;
            Data::new(SourceConfig::Json(config), EvalTask::Retrieval)
        }
        _ if cifar(path).is_some() => {
            let config = CifarConfig::new(path).with_split(Split::Test);
            let source = match cifar(path) {
                Some(100) => SourceConfig::Cifar100(config),
                _ => SourceConfig::Cifar10(config),
            };
            Data::new(source, EvalTask::Classification)
        }
        ending if ending == "parquet" || (!holds("tar") && (holds("parquet") || holds_in_data(path))) => {
            let mut config = ParquetConfig::new(name);
            config.classes = args.class_names.as_ref().map(std::path::absolute).transpose()?;
            let task = match Parquet::open(&config, ".") {
                Ok(parquet) if parquet.has_only_classes() => EvalTask::Classification,
                Ok(_) => EvalTask::Retrieval,
                // The layout `files` of img2dataset: the images lie beside a table with their URLs and captions.
                Err(data_pipeline::Error::Format { reason, .. })
                    if path.is_dir() && FilesConfig::new(path).has_captions(".")? =>
                {
                    notice::info_once(&format!(
                        "`{name}`: read the images with the captions beside them, not the Parquet files ({reason})"
                    ));
                    return Ok(Data::new(SourceConfig::Files(FilesConfig::new(path)), EvalTask::Retrieval));
                }
                Err(error) => return Err(error.into()),
            };
            Data::new(SourceConfig::Parquet(config), task)
        }
        ending if ending != "tar" && path.is_file() && other_file(path).is_some() => {
            bail!(
                "`{name}` is {}, not a data set: --data accepts a table (.csv, .tsv) or list (.json, .jsonl) of image paths and \
                 captions, .tar and .parquet files or patterns, a folder, an archive of CIFAR, a manifest (.toml), and \
                 `hf-hub:datasets/OWNER/NAME`",
                other_file(path).unwrap_or_default()
            )
        }
        ending
            if ending == "tar"
                || path.is_file()
                || name.contains(['{', '*'])
                || is_remote(name)
                || holds("tar") =>
        {
            let config = WebDatasetConfig::new(name);
            match config.has_only_classes(".")? {
                true => Data::clip_benchmark(name, None)?,
                false => Data::new(SourceConfig::WebDataset(config), EvalTask::Retrieval),
            }
        }
        _ if !matches!(args.task, Some(Task::Classification))
            && FilesConfig::new(path).has_captions(".")? =>
        {
            Data::new(SourceConfig::Files(FilesConfig::new(path)), EvalTask::Retrieval)
        }
        _ => {
            let mut config = FolderConfig::new(path);
            config.classes = args.classes.clone().or_else(|| class_table(path));
            Data::new(SourceConfig::Folder(config), EvalTask::Classification)
        }
    })
}

/// Whether a name is a remote address. The source refuses it with an explanation.
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

//! Creates a store of teacher embeddings: the reinforced data of MobileCLIP.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use data_pipeline::policy::SkipCounts;
use data_pipeline::store::{
    Manifest, ShardEmbeddings, Store, StoreKind, StoreWriter, StoredSource, StoredTeacher, VariantPass,
    Variants,
};
use ndarray::{Array2, Axis};
use tch::Device;

use crate::model::device;
use crate::model::locate::RunModels;
use crate::model::processor::{image_tensor, rows};
use crate::progress::Counter;
use crate::recipe::Recipe;
use crate::recipe::sources::{SourcePool, TrainingData};
use crate::teacher::model::{BATCH, OpenedTeacher, TeacherModel};
use crate::{Error, Result};

/// Default number of augmented variants per image.
const VARIANTS: u64 = 2;

/// Options for creating a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions<'a> {
    /// The store's folder.
    pub folder: &'a Path,
    /// The number format.
    pub kind: StoreKind,
    /// A flag that stops after the current shard; a signal handler sets it.
    pub stop: Option<&'a AtomicBool>,
    /// Whether to draw a progress bar (on a terminal only).
    pub progress: bool,
    /// Whether to store embeddings of the prompts of the recipe's class list. A run with the model itself does not need
    /// them.
    pub class_list: bool,
}

impl Default for StoreOptions<'_> {
    fn default() -> Self {
        StoreOptions {
            folder: Path::new("store"),
            kind: StoreKind::F16,
            stop: None,
            progress: false,
            class_list: true,
        }
    }
}

/// The result of [`reinforce`].
#[derive(Clone, Debug, PartialEq)]
pub struct StoreSummary {
    /// Number of written shards, and of all shards.
    pub shards: (u64, u64),
    /// Number of image embeddings per teacher, over all variants of all images.
    pub rows: u64,
    /// The skipped samples.
    pub damaged: SkipCounts,
}

/// Returns the fixed augmentations of a recipe, if any.
pub(crate) fn variants(recipe: &Recipe) -> Option<Variants> {
    (recipe.data.variants > 0)
        .then_some(Variants { count: recipe.data.variants as u64, seed: recipe.data.variants_seed })
}

/// Creates or resumes the store of a recipe's teachers and data; see [`StoreOptions`].
///
/// # Errors
/// [`Error::Data`] if the folder contains another store, or if the data cannot be read; the errors of opening the
/// teachers.
pub fn reinforce(recipe: &Recipe, runs: &RunModels, options: &StoreOptions<'_>) -> Result<StoreSummary> {
    let device = device::resolve(recipe.train.device)?;
    if recipe.train.threads > 0 {
        tch::set_num_threads(recipe.train.threads);
    }
    let data = TrainingData::open(recipe, &mut SourcePool::default())?.complete()?;
    let models = recipe.teachers.iter().map(|config| TeacherModel::new(config, runs, device));
    make(recipe, &models.collect::<Vec<_>>(), &data, device, options)
}

pub(crate) fn make(
    recipe: &Recipe,
    models: &[TeacherModel],
    data: &TrainingData,
    device: Device,
    options: &StoreOptions<'_>,
) -> Result<StoreSummary> {
    let teachers = models.iter().map(|model| Ok((model.config.name(), model.open()?)));
    let teachers = teachers.collect::<Result<Vec<_>>>()?;
    if teachers.is_empty() {
        return Err(Error::recipe(
            &recipe.name,
            "it has no teacher whose embeddings could be stored: add [teacher]",
        ));
    }
    let mut writer = StoreWriter::open(options.folder, manifest(recipe, &teachers, data, options)?)?;
    let manifest = writer.manifest().clone();
    let views = teachers.iter().map(|(_, opened)| opened.processor.preprocess().clone()).collect();
    let (sources, augment) = (data.sources().to_vec(), manifest.augment.clone());
    let mut pass = VariantPass::new(sources, manifest.variants, augment, views, recipe.data.damaged)?;
    let count = writer.missing_samples() * manifest.variants.count;
    let mut bar = Counter::new("reinforce", "image embeddings", count, options.progress);
    while let Some(number) = writer.next() {
        if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            break;
        }
        match shard(&mut pass, &writer, number, &teachers, device, &mut bar, options.stop)? {
            Some(shard) => writer.write(&shard)?,
            None => break,
        }
    }
    bar.finish();
    pass.finish()?;
    let shards = manifest.shards();
    Ok(StoreSummary {
        shards: (writer.written(), shards),
        rows: manifest.samples() * manifest.variants.count,
        damaged: pass.counts().clone(),
    })
}

fn manifest(
    recipe: &Recipe,
    teachers: &[(String, &OpenedTeacher)],
    data: &TrainingData,
    options: &StoreOptions<'_>,
) -> Result<Manifest> {
    let stored = teachers.iter().map(|(name, opened)| describe_teacher(name, opened));
    let teachers = stored.collect::<Result<_>>()?;
    let variants = variants(recipe).unwrap_or(Variants { count: VARIANTS, seed: recipe.data.variants_seed });
    let classes = if options.class_list { recipe.class_list()? } else { None };
    let extra_texts = classes.map(|classes| classes.prompts());
    Ok(Manifest::new(variants, recipe.data.augment.clone(), describe(data)?, teachers)
        .with_kind(options.kind)
        .with_extra_texts(extra_texts.unwrap_or_default()))
}

fn describe_teacher(name: &str, opened: &OpenedTeacher) -> Result<StoredTeacher> {
    let OpenedTeacher { teacher, processor } = opened;
    teacher.needs_no_pairs("store of it")?;
    Ok(StoredTeacher {
        name: name.into(),
        identity: teacher.identity()?,
        width: teacher.model().config().embed_dim as usize,
        scale: teacher.scale().double_value(&[]),
        image: processor.preprocess().clone(),
        tokenizer: processor.tokenizer_name().into(),
        context_length: processor.context_length(),
    })
}

fn describe(data: &TrainingData) -> Result<Vec<StoredSource>> {
    let sources = data.sources().iter().zip(data.fingerprints()?);
    let stored = sources.map(|(source, fingerprint)| StoredSource {
        samples: source.len() as u64,
        fingerprint: fingerprint.clone(),
    });
    Ok(stored.collect())
}

/// Computes the embeddings of one shard, or returns `None` if stopped.
fn shard(
    pass: &mut VariantPass,
    writer: &StoreWriter,
    number: u64,
    teachers: &[(String, &OpenedTeacher)],
    device: Device,
    bar: &mut Counter,
    stop: Option<&AtomicBool>,
) -> Result<Option<ShardEmbeddings>> {
    let (samples, variants) = (writer.manifest().shard(number), writer.manifest().variants.count);
    let variant_rows = (samples.start * variants..samples.end * variants).collect::<Vec<_>>();
    let mut images = teachers.iter().map(|_| Vec::new()).collect::<Vec<Vec<Array2<f32>>>>();
    let mut captions = Vec::new();
    for chunk in variant_rows.chunks(BATCH) {
        // Stop within the shard, because completing it could take minutes. It is computed again on resume.
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        let batch = pass.batch(chunk)?;
        for ((_, opened), (parts, pixels)) in teachers.iter().zip(images.iter_mut().zip(&batch.images)) {
            let mut embedded = rows(&opened.teacher.embed_images(&image_tensor(pixels.view(), device)?)?)?;
            for (row, _) in batch.damaged.iter().enumerate().filter(|(_, damaged)| **damaged) {
                embedded.row_mut(row).fill(0.0);
            }
            parts.push(embedded);
        }
        captions.extend(batch.captions.into_iter().flatten());
        bar.add(chunk.len() as u64);
    }
    let extra = if number == 0 { writer.manifest().extra_texts.as_slice() } else { &[] };
    let captions = writer.unknown(extra.iter().chain(&captions).map(String::as_str));
    let texts = teachers.iter().map(|(_, opened)| {
        let parts = captions.chunks(BATCH).map(|texts| rows(&opened.embed_texts(texts)?));
        joined(&parts.collect::<Result<Vec<_>>>()?, opened.teacher.model().config().embed_dim as usize)
    });
    let texts = texts.collect::<Result<_>>()?;
    let images = images.iter().map(|parts| joined(parts, 0)).collect::<Result<_>>()?;
    Ok(Some(ShardEmbeddings { images, captions, texts }))
}

fn joined(parts: &[Array2<f32>], width: usize) -> Result<Array2<f32>> {
    if parts.is_empty() {
        return Ok(Array2::zeros((0, width)));
    }
    let views = parts.iter().map(|part| part.view()).collect::<Vec<_>>();
    ndarray::concatenate(Axis(0), &views).map_err(|e| Error::recipe("embeddings", e.to_string()))
}

/// Checks that a store matches a recipe's data and augmentation, and its teacher model, if the recipe names one.
pub(crate) fn check(
    store: &Store,
    recipe: &Recipe,
    models: &[TeacherModel],
    data: &TrainingData,
) -> Result<()> {
    let manifest = store.manifest();
    let fail = |reason: String| Err(Error::StoreMismatch { reason });
    for model in models.iter().filter(|model| model.config.model.is_some()) {
        let described = describe_teacher(&model.config.name(), model.open()?)?;
        let same = |other: &&StoredTeacher| {
            StoredTeacher { name: described.name.clone(), ..(*other).clone() } == described
        };
        if manifest.teachers.iter().find(same).is_none() {
            let stored = manifest.teachers.iter().map(|teacher| teacher.name.as_str()).collect::<Vec<_>>();
            let stored = stored.join(", ");
            return fail(format!(
                "it contains embeddings of another teacher ({stored}) or with different preprocessing than `{}`: choose another store",
                described.name
            ));
        }
    }
    check_settings(manifest, recipe)?;
    let sources = describe(data)?;
    if manifest.sources != sources {
        return fail(format!(
            "it contains embeddings of other data ({}) than the recipe's ({}): use the same data, or write another store",
            show_sources(&manifest.sources),
            show_sources(&sources)
        ));
    }
    Ok(())
}

/// Describes samples and fingerprints of sources for messages.
fn show_sources(sources: &[StoredSource]) -> String {
    let one = |source: &StoredSource| format!("{} samples, {}", source.samples, source.fingerprint);
    sources.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Checks a store against a recipe as far as possible without opening models or data.
///
/// # Errors
/// [`Error::StoreMismatch`] naming the setting that differs.
pub(crate) fn check_settings(manifest: &Manifest, recipe: &Recipe) -> Result<()> {
    let fail = |reason: String| Err(Error::StoreMismatch { reason });
    let named = recipe.teachers.iter().filter(|config| config.model.is_some()).count();
    if named > 0 && named != manifest.teachers.len() {
        let count = manifest.teachers.len();
        return fail(format!(
            "it contains {count} teachers, but the recipe names {named}: remove them from the recipe to use all stored teachers"
        ));
    }
    let (Variants { count, seed }, data) = (manifest.variants, &recipe.data);
    let (wanted, named) = (data.variants as u64, data.variants > 0 || data.variants_seed > 0);
    if named && ((wanted > 0 && wanted != count) || data.variants_seed != seed) {
        return fail(format!(
            "it has {count} variants of seed {seed}, but the recipe has data.variants = {} and data.variants_seed = {}: remove both settings, or write another store",
            data.variants, data.variants_seed
        ));
    }
    if manifest.augment != recipe.data.augment {
        let text = serde_json::to_string(&manifest.augment).unwrap_or_default();
        return fail(format!(
            "it contains embeddings for data.augment = {text}: use the same setting, or write another store"
        ));
    }
    Ok(())
}

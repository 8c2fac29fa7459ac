//! Opens models by name, each with its processor: the counterpart of `create_model_and_transforms` and `get_tokenizer`
//! in Python's open_clip.

use std::path::{Path, PathBuf};

use clip_model::folder::{self, ConfigOverrides, OpenedModel};
use clip_model::{Clip, ClipConfig, CrossModal, PreprocessConfig, Tower, presets};
use tch::Device;

use crate::model::locate::{Need, locate};
use crate::model::processor::Processor;
use crate::{Error, Result};

/// Options for opening a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Architecture preset of a bare weight file; default: inferred from the tensor shapes.
    pub arch: Option<String>,
    /// A `tokenizer.json`; default: the one in the model's folder, or CLIP's tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// Changes to the model's own configuration.
    pub adjust: ConfigOverrides,
    /// The device of the weights.
    pub device: Device,
    /// Seed of the initial weights of a preset or a configuration file, which have none.
    pub seed: u64,
    /// Whether to draw a bar for downloads (on a terminal only).
    pub progress: bool,
    /// The tower that is used; default: both. A weight file may then hold this tower only, and images need no tokenizer.
    pub tower: Option<Tower>,
}

impl Default for LoadOptions {
    /// A model on the CPU, unchanged, without a progress bar.
    fn default() -> Self {
        LoadOptions {
            arch: None,
            tokenizer: None,
            adjust: ConfigOverrides::default(),
            device: Device::Cpu,
            seed: 0,
            progress: false,
            tower: None,
        }
    }
}

impl LoadOptions {
    /// Sets the architecture preset of a bare weight file.
    #[must_use]
    pub fn with_arch(mut self, arch: Option<impl Into<String>>) -> Self {
        self.arch = arch.map(Into::into);
        self
    }

    /// Sets the tokenizer.
    #[must_use]
    pub fn with_tokenizer(mut self, tokenizer: Option<impl Into<PathBuf>>) -> Self {
        self.tokenizer = tokenizer.map(Into::into);
        self
    }

    /// Sets the changes to the model's own configuration.
    #[must_use]
    pub fn with_adjust(mut self, adjust: ConfigOverrides) -> Self {
        self.adjust = adjust;
        self
    }

    /// Sets the device.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Sets the seed of the initial weights.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the tower that is used.
    #[must_use]
    pub fn with_tower(mut self, tower: impl Into<Option<Tower>>) -> Self {
        self.tower = tower.into();
        self
    }

    /// Sets whether to draw a bar for downloads.
    #[must_use]
    pub fn with_progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }
}

/// A model with its processor: towers, image preprocessing and tokenizer.
///
/// ```no_run
/// use trainer::model::loaded::{LoadOptions, LoadedModel};
///
/// let loaded = LoadedModel::open("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", &LoadOptions::default())?;
/// let tokens = loaded.processor.tokens(&["a cat".into()], tch::Device::Cpu)?;
/// let embeddings = loaded.model.encode_text(&tokens)?;
/// # Ok::<(), trainer::Error>(())
/// ```
#[derive(Debug)]
pub struct LoadedModel {
    /// The preset, folder or file from which it was opened.
    pub origin: String,
    /// Both towers and the logit scale.
    pub model: Clip,
    /// Image transform and tokenizer.
    pub processor: Processor,
    /// The image preprocessing from the model's configuration.
    pub preprocess: PreprocessConfig,
    /// The cross-modal head in the model's folder, if any (DCLIP's teacher).
    pub head: Option<CrossModal>,
    /// Whether the model has weights. A preset or a configuration file has none.
    pub has_weights: bool,
    /// Decisions while opening: the layout, dropped tensors, assumptions.
    pub notes: Vec<String>,
}

impl LoadedModel {
    /// Opens the model with this name: a preset, a configuration file, a model folder, a weight file,
    /// `hf-hub:owner/name`, or open_clip's `ARCHITECTURE:TAG`.
    ///
    /// # Errors
    /// The errors of [`locate`], [`open_weights`] and [`Processor::of_model`].
    pub fn open(name: &str, options: &LoadOptions) -> Result<Self> {
        let origin = locate(name, Need::Weights, options.progress)?.into_owned();
        let opened = open_weights(&origin, options)?;
        if options.tower == Some(Tower::Image) && options.tokenizer.is_none() {
            let processor = Processor::for_images(&origin, opened.model.config(), &opened.preprocess)?;
            return Self::of_parts(origin, opened, processor);
        }
        Self::with_processor(origin, opened, options.tokenizer.as_deref())
    }

    /// Opens a model that must have weights.
    ///
    /// # Errors
    /// The errors of [`LoadedModel::open`]; [`Error::NoWeights`] for a preset or a configuration file.
    pub fn open_trained(name: &str, options: &LoadOptions) -> Result<Self> {
        let loaded = Self::open(name, options)?;
        match loaded.has_weights {
            true => Ok(loaded),
            false => Err(Error::NoWeights { name: name.into() }),
        }
    }

    /// Adds the processor, and the cross-modal head if there is one, to an opened model.
    ///
    /// # Errors
    /// The errors of [`Processor::of_model`]; [`Error::Model`] if the head does not fit the model.
    pub(crate) fn with_processor(
        origin: String,
        opened: OpenedModel,
        tokenizer: Option<&Path>,
    ) -> Result<Self> {
        let processor = Processor::of_model(&origin, opened.model.config(), &opened.preprocess, tokenizer)?;
        Self::of_parts(origin, opened, processor)
    }

    fn of_parts(origin: String, opened: OpenedModel, processor: Processor) -> Result<Self> {
        let OpenedModel { model, preprocess, has_weights, notes, .. } = opened;
        let head = CrossModal::open(Path::new(&origin), &model)?;
        Ok(LoadedModel { origin, model, processor, preprocess, head, has_weights, notes })
    }
}

/// Opens a model without its processor. `origin` is a preset, a folder or a file; see [`locate`].
///
/// # Errors
/// [`Error::NotAWeightFile`] if an architecture is given for anything else; [`Error::Model`] if the model cannot
/// be opened, or its weights hold one tower only and [`LoadOptions::tower`] does not name it.
pub fn open_weights(origin: &str, options: &LoadOptions) -> Result<OpenedModel> {
    let path = Path::new(origin);
    let opened = match &options.arch {
        Some(arch) if path.is_file() => {
            folder::open_file(&presets::get(arch)?, path, options.device, &options.adjust)?
        }
        Some(arch) if path.exists() || presets::get(origin).is_ok() => {
            return Err(Error::NotAWeightFile { arch: arch.clone(), name: origin.into() });
        }
        // A path that does not exist is an error of its own.
        _ => folder::open_with(origin, options.device, options.seed, &options.adjust)?,
    };
    match opened.model.only_tower() {
        Some(tower) if options.tower != Some(tower) => {
            Err(clip_model::Error::OneTower { origin: Some(origin.into()), tower }.into())
        }
        _ => Ok(opened),
    }
}

/// Returns the configuration of a model without reading a folder's weights.
///
/// # Errors
/// [`Error::Model`] if it is neither a folder, a checkpoint nor a preset; the errors of [`locate`].
pub fn config(name: &str) -> Result<ClipConfig> {
    Ok(folder::config(&*locate(name, Need::Config, false)?)?)
}

//! Prepares the input of the towers: a model's preprocessing and tokenizer, and batches as tensors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clip_model::config::{TextConfig, TextPool};
use clip_model::folder::{SpecialTokens, config_folder};
use clip_model::{ClipConfig, PreprocessConfig};
use data_pipeline::image::{Interpolation, Preprocess, ResizeMode};
use data_pipeline::loader::{InputSpec, ViewBatch};
use data_pipeline::tokenizer::{
    ClipTokenizer, END_OF_TEXT, JsonTokenizer, PADDING_FILES, START_OF_TEXT, TextCleaning, Tokenizer,
    TokenizerFile, foreign_settings, hugging_face_files,
};
use ndarray::{ArrayView2, ArrayView4};
use tch::{Device, Tensor};

use crate::step::batch::ViewTensors;
use crate::{Error, Result};

/// Name of the tokenizer in a model folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Files of tokenizers that are not supported.
const OTHER_TOKENIZERS: [&str; 4] =
    ["spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt"];

/// Largest vocabulary of a text tower that reads CLIP's tokenizer: some models pad its 49408 ids.
const MAX_CLIP_VOCABULARY: i64 = 50_432;

/// Prefix of the name of a tokenizer that is identified by its content; the checksum follows.
const BY_CONTENT: &str = "tokenizer.json with SHA-256 ";

/// The preprocessing and tokenizer of one model.
#[derive(Clone)]
pub struct Processor {
    preprocess: Preprocess,
    tokenizer: Arc<dyn Tokenizer>,
    /// Identity of the tokenizer, for comparisons. Copies of a file have the same identity.
    tokenizer_name: String,
    /// Cleaning of texts, from the settings beside the tokenizer's file.
    cleaning: TextCleaning,
    /// Reason why texts cannot be tokenized, in a processor for images.
    no_tokenizer: Option<String>,
    /// The file of a tokenizer other than CLIP's.
    tokenizer_file: Option<PathBuf>,
    context_length: usize,
    trim: TextTrim,
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processor")
            .field("preprocess", &self.preprocess)
            .field("tokenizer", &self.tokenizer_name)
            .field("context_length", &self.context_length)
            .finish_non_exhaustive()
    }
}

/// Where texts may be trimmed, so that the cost of a batch depends on its longest text.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TextTrim {
    /// No trimming: the tower attends to the padding, or pools from the end.
    Nowhere,
    /// After the largest id of a text, where the tower pools.
    AfterLargest,
    /// After the first of these ids, where the tower pools.
    After(i64),
}

impl TextTrim {
    fn new(config: &TextConfig) -> Self {
        match (config.can_trim(), config.pool_type) {
            (false, _) => TextTrim::Nowhere,
            (true, TextPool::Eos) => TextTrim::After(config.eos_id.unwrap_or(0)),
            (true, _) => TextTrim::AfterLargest,
        }
    }

    /// Returns the number of tokens of a text to keep.
    fn length(self, ids: &[i64]) -> usize {
        let end = match self {
            TextTrim::Nowhere => return ids.len(),
            TextTrim::AfterLargest => ids.iter().max().and_then(|max| ids.iter().position(|id| id == max)),
            TextTrim::After(end) => ids.iter().position(|id| *id == end),
        };
        end.map_or(1, |index| index + 1)
    }
}

impl Processor {
    /// Returns the processor of the model at `origin`. The tokenizer is the named one, else the `tokenizer.json` of the
    /// model's folder, else CLIP's. A folder's copy of CLIP's tokenizer counts as CLIP's, including its text cleaning.
    /// A weight file that uses the configuration of its folder also uses the folder's tokenizer.
    ///
    /// # Errors
    /// The errors of [`Processor::new`].
    pub fn of_model(
        origin: &str,
        config: &ClipConfig,
        preprocess: &PreprocessConfig,
        tokenizer: Option<&Path>,
    ) -> Result<Self> {
        let path = Path::new(origin);
        let folder = if path.is_file() { config_folder(path) } else { Some(path) };
        let in_folder = folder.map(|folder| folder.join(TOKENIZER_FILE)).unwrap_or_default();
        if tokenizer.is_some() || !in_folder.is_file() || JsonTokenizer::open(&in_folder)?.is_clips() {
            return Self::new(config, preprocess, tokenizer).map_err(|error| match (error, folder) {
                (Error::Tokenizer { reason }, Some(folder)) if tokenizer.is_none() && folder.is_dir() => {
                    Error::Tokenizer { reason: format!("`{}`: {reason}{}", folder.display(), unread(folder)) }
                }
                (error, _) => error,
            });
        }
        Self::new(config, preprocess, Some(&in_folder))
    }

    /// Returns the processor of a model that encodes images only: its tokenizer may be missing.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the preprocessing is not supported.
    pub fn for_images(origin: &str, config: &ClipConfig, preprocess: &PreprocessConfig) -> Result<Self> {
        let error = match Self::of_model(origin, config, preprocess, None) {
            Err(error @ (Error::Tokenizer { .. } | Error::Data(_) | Error::Io { .. })) => error,
            other => return other,
        };
        Ok(Processor {
            preprocess: convert(config, preprocess)?,
            tokenizer: Arc::new(ClipTokenizer::new()),
            tokenizer_name: "none".into(),
            cleaning: TextCleaning::None,
            no_tokenizer: Some(error.to_string()),
            tokenizer_file: None,
            context_length: config.text_cfg.context_length as usize,
            trim: TextTrim::new(&config.text_cfg),
        })
    }

    /// Returns the processor of a model with this configuration, with CLIP's tokenizer unless a `tokenizer.json` is
    /// named.
    ///
    /// # Errors
    /// [`Error::Io`] if the tokenizer file cannot be read, [`Error::Data`] if it is not a valid tokenizer,
    /// [`Error::Tokenizer`] if it is missing or does not fit the text tower; [`Error::Recipe`] if the preprocessing is
    /// not supported.
    pub fn new(
        config: &ClipConfig,
        preprocess: &PreprocessConfig,
        tokenizer_path: Option<&Path>,
    ) -> Result<Self> {
        let clean = config.text_cfg.tokenizer_kwargs.as_ref().and_then(|options| options.get("clean"));
        let canonical = clean.and_then(|clean| clean.as_str()) == Some("canonicalize");
        let mut cleaning = TextCleaning::None;
        let (name, file, tokenizer): (_, _, Arc<dyn Tokenizer>) = match tokenizer_path {
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
                let name = format!("{BY_CONTENT}{}", file_ext::sha256_hex(&bytes));
                let expected = config.text_cfg.hf_tokenizer_name.as_ref();
                if let Some(expected) =
                    expected.filter(|expected| expected.starts_with(BY_CONTENT) && **expected != name)
                {
                    let reason = format!("the model reads {expected}, but `{}` is {name}", path.display());
                    return Err(Error::Tokenizer { reason });
                }
                let tokenizer = JsonTokenizer::open(path)?.canonical(canonical);
                cleaning = tokenizer.cleaning();
                (name, Some(path.into()), Arc::new(tokenizer))
            }
            None => match &config.text_cfg.hf_tokenizer_name {
                // The tower would accept the ids of CLIP's tokenizer, but interpret them as other words.
                Some(other) => {
                    let reason = format!(
                        "the model reads the tokenizer `{other}`, but its folder has no {TOKENIZER_FILE}: add the file, or name one"
                    );
                    return Err(Error::Tokenizer { reason });
                }
                None => ("CLIP's".into(), None, Arc::new(ClipTokenizer::new())),
            },
        };
        let (ids, vocabulary) = (tokenizer.vocab_size(), config.text_cfg.vocab_size);
        if file.is_none() && !(ids as i64..=MAX_CLIP_VOCABULARY).contains(&vocabulary) {
            let reason = format!(
                "the file {TOKENIZER_FILE} is missing, and CLIP's tokenizer ({ids} ids) does not fit the text tower \
                 ({vocabulary} ids): add the file to the model folder, or set `tokenizer` (--tokenizer)"
            );
            return Err(Error::Tokenizer { reason });
        }
        if ids as i64 > vocabulary {
            let shown = tokenizer_path.map_or(name, |path| path.display().to_string());
            let reason = format!("the tokenizer `{shown}` has {ids} ids, the text tower only {vocabulary}");
            return Err(Error::Tokenizer { reason });
        }
        Ok(Processor {
            preprocess: convert(config, preprocess)?,
            tokenizer,
            tokenizer_name: name,
            cleaning,
            no_tokenizer: None,
            tokenizer_file: file,
            context_length: config.text_cfg.context_length as usize,
            trim: TextTrim::new(&config.text_cfg),
        })
    }

    /// Returns the model's image preprocessing.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Returns the name of the tokenizer.
    pub fn tokenizer_name(&self) -> &str {
        &self.tokenizer_name
    }

    /// Returns the context length: the maximum number of tokens per text.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Returns the loader's input specification for this model.
    pub fn view(&self, name: &str) -> InputSpec {
        InputSpec::new(name, self.preprocess.clone())
            .with_tokenizer(Arc::clone(&self.tokenizer))
            .with_context_length(self.context_length)
    }

    /// Whether another model can read the same tensors.
    pub fn reads_the_same(&self, other: &Processor) -> bool {
        self.preprocess == other.preprocess && self.reads_the_same_texts(other)
    }

    /// Whether another model converts texts to the same token ids.
    pub fn reads_the_same_texts(&self, other: &Processor) -> bool {
        self.tokenizer_name == other.tokenizer_name
            && self.cleaning == other.cleaning
            && self.context_length == other.context_length
            && self.trim == other.trim
    }

    /// Tokenizes texts to ids `[texts, length]`, trimmed to the longest text if the tower allows it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a processor of images without a tokenizer, [`Error::Torch`] if memory runs out.
    pub fn tokens(&self, texts: &[String], device: Device) -> Result<Tensor> {
        if let Some(reason) = &self.no_tokenizer {
            return Err(Error::Tokenizer { reason: reason.clone() });
        }
        let mut ids = vec![0i64; texts.len() * self.context_length];
        for (row, text) in ids.chunks_exact_mut(self.context_length).zip(texts) {
            self.tokenizer.encode_into(text, row);
        }
        self.token_tensor(&ids, device)
    }

    /// Moves a view of a batch to the device. The view must belong to this processor.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn tensors(&self, view: &ViewBatch, device: Device) -> Result<ViewTensors> {
        let tokens = match view.tokens.as_slice() {
            Some(ids) => self.token_tensor(ids, device)?,
            None => self.token_tensor(&view.tokens.iter().copied().collect::<Vec<_>>(), device)?,
        };
        let images = image_tensor(view.images.view(), device)?;
        Ok(ViewTensors { images, tokens, annotations: view.annotations.clone() })
    }

    /// Converts ids of `context_length` each to a tensor `[texts, length]`, trimmed to the longest text if the tower
    /// allows it.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn token_tensor(&self, ids: &[i64], device: Device) -> Result<Tensor> {
        let context = self.context_length;
        let length = ids.chunks_exact(context).map(|row| self.trim.length(row)).max().unwrap_or(context);
        let trimmed =
            ids.chunks_exact(context).flat_map(|row| row[..length].iter().copied()).collect::<Vec<_>>();
        Ok(Tensor::f_from_slice(&trimmed)?.f_view([-1, length as i64])?.f_to_device(device)?)
    }

    /// Writes a tokenizer other than CLIP's into a model folder, where [`Processor::of_model`] finds it. If it comes
    /// without settings, adds settings with which Python's transformers reads it unchanged.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or written, [`Error::Data`] if the file is no longer a valid tokenizer.
    pub fn save_tokenizer(&self, folder: &Path) -> Result<()> {
        let Some(file) = &self.tokenizer_file else { return Ok(()) };
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        file_ext::write_atomic(folder.join(TOKENIZER_FILE), &bytes)?;
        for name in PADDING_FILES {
            let settings_file = file.with_file_name(name);
            if settings_file.is_file() {
                let bytes = std::fs::read(&settings_file).map_err(|e| Error::io(&settings_file, e))?;
                file_ext::write_atomic(folder.join(name), &bytes)?;
            }
        }
        let settings = PADDING_FILES[0];
        if !file.with_file_name(settings).is_file() {
            let pad = JsonTokenizer::open(file)?.pad_token();
            let bytes = foreign_settings(self.context_length, pad.as_deref());
            file_ext::write_atomic(folder.join(settings), &bytes)?;
        }
        Ok(())
    }

    /// Writes the files from which Python's transformers loads the model's tokenizer, including CLIP's.
    ///
    /// # Errors
    /// The errors of [`Processor::save_tokenizer`].
    pub fn save_for_transformers(&self, folder: &Path) -> Result<()> {
        if self.tokenizer_file.is_some() {
            return self.save_tokenizer(folder);
        }
        for TokenizerFile { name, bytes, .. } in hugging_face_files(self.context_length) {
            file_ext::write_atomic(folder.join(name), &bytes)?;
        }
        Ok(())
    }

    /// The special token ids of CLIP's tokenizer as [`Processor::save_for_transformers`] writes it; `None` for another
    /// tokenizer.
    pub fn special_tokens(&self) -> Option<SpecialTokens> {
        let clips = SpecialTokens { start: START_OF_TEXT, end: END_OF_TEXT, pad: END_OF_TEXT };
        self.tokenizer_file.is_none().then_some(clips)
    }

    /// The name of the tokenizer in a configuration; `None` for CLIP's.
    pub fn foreign_tokenizer(&self) -> Option<&str> {
        self.tokenizer_file.as_ref().map(|_| self.tokenizer_name.as_str())
    }
}

/// Explains a tokenizer file in a folder that is not supported, for a message.
fn unread(folder: &Path) -> String {
    match OTHER_TOKENIZERS.iter().find(|file| folder.join(file).is_file()) {
        Some(file) => format!(
            "; its {file} is not read: in Python, `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` can write \
             {TOKENIZER_FILE}"
        ),
        None => String::new(),
    }
}

fn convert(config: &ClipConfig, preprocess: &PreprocessConfig) -> Result<Preprocess> {
    let fail = |reason: String| Err(Error::recipe("preprocess_cfg", reason));
    let size = config.vision_cfg.image_size;
    if let Some(wanted) = &preprocess.size {
        let same = wanted.as_i64() == Some(size)
            || wanted
                .as_array()
                .is_some_and(|sides| !sides.is_empty() && sides.iter().all(|s| s.as_i64() == Some(size)));
        if !same {
            return fail(format!("size is {wanted}, but the image tower reads {size} px"));
        }
    }
    if preprocess.mode.as_deref().is_some_and(|mode| mode != "RGB") {
        return fail(format!("mode {:?} is not RGB", preprocess.mode));
    }
    if preprocess.std.iter().any(|std| !(std.is_finite() && *std > 0.0)) {
        return fail(format!("std {:?} cannot divide", preprocess.std));
    }
    let interpolation = match preprocess.interpolation.as_str() {
        "bicubic" => Interpolation::Bicubic,
        "bilinear" => Interpolation::Bilinear,
        other => return fail(format!("interpolation `{other}` is neither bicubic nor bilinear")),
    };
    let resize_mode = match preprocess.resize_mode.as_str() {
        "shortest" => ResizeMode::Shortest,
        "longest" => ResizeMode::Longest,
        "squash" => ResizeMode::Squash,
        other => return fail(format!("resize_mode `{other}` is not shortest, longest or squash")),
    };
    Ok(Preprocess::new(size as usize)
        .with_normalization(preprocess.mean, preprocess.std)
        .with_interpolation(interpolation)
        .with_resize_mode(resize_mode)
        .with_convert_rgb(preprocess.do_convert_rgb == Some(true)))
}

/// Converts images to a float32 tensor.
pub(crate) fn image_tensor(images: ArrayView4<'_, f32>, device: Device) -> Result<Tensor> {
    let (batch, channels, height, width) = images.dim();
    let shape = [batch, channels, height, width].map(|n| n as i64);
    let tensor = match images.as_slice() {
        Some(values) => Tensor::f_from_slice(values)?,
        None => Tensor::f_from_slice(&images.iter().copied().collect::<Vec<_>>())?,
    };
    Ok(tensor.f_view(shape)?.f_to_device(device)?)
}

/// Converts a float tensor `[rows, width]` to an array.
pub(crate) fn rows(tensor: &Tensor) -> Result<ndarray::Array2<f32>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(tch::Kind::Float)?.f_contiguous()?;
    let (height, width) = tensor.size2()?;
    let mut values = vec![0f32; (height * width) as usize];
    let count = values.len();
    tensor.f_copy_data(&mut values, count)?;
    let view = ArrayView2::from_shape((height as usize, width as usize), &values);
    view.map(|view| view.to_owned()).map_err(|e| Error::recipe("embeddings", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clip_model::{Clip, presets};

    #[test]
    fn trimmed_texts_have_the_same_embeddings() {
        let config = presets::get("ViT-nano-32px").unwrap();
        let processor = Processor::new(&config, &PreprocessConfig::default(), None).unwrap();
        let texts = ["a cat".to_string(), "a dog and a cat on a mat".to_string()];
        let trimmed = processor.tokens(&texts, Device::Cpu).unwrap();
        assert_eq!(trimmed.size(), [2, 9 + 1]);
        let mut full = vec![0i64; 2 * 32];
        for (row, text) in full.chunks_exact_mut(32).zip(&texts) {
            ClipTokenizer::new().encode_into(text, row);
        }
        let full = Tensor::from_slice(&full).view([2, 32]);
        let model = Clip::new(&config, Device::Cpu, 3).unwrap();
        let difference = model.encode_text(&trimmed).unwrap() - model.encode_text(&full).unwrap();
        assert!(difference.abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn texts_are_trimmed_only_if_the_tower_allows_it() {
        let ids = [5, 9, 7, 3, 0, 0];
        assert_eq!(TextTrim::AfterLargest.length(&ids), 2);
        assert_eq!(TextTrim::After(3).length(&ids), 4);
        assert_eq!(TextTrim::Nowhere.length(&ids), 6);
        let mut config = presets::get("ViT-nano-32px").unwrap();
        assert!(matches!(TextTrim::new(&config.text_cfg), TextTrim::AfterLargest));
        config.text_cfg.no_causal_mask = true;
        assert!(matches!(TextTrim::new(&config.text_cfg), TextTrim::Nowhere));
    }

    #[test]
    fn copies_of_a_tokenizer_have_the_same_identity() {
        let config = presets::get("ViT-nano-32px").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let processor = |name: &str, word: &str| {
            let json = format!(
                r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
                "post_processor":null,"decoder":null,"model":{{"type":"WordLevel","vocab":{{"{word}":0}},"unk_token":"{word}"}}}}"#
            );
            let path = folder.path().join(name);
            std::fs::write(&path, json).unwrap();
            Processor::new(&config, &PreprocessConfig::default(), Some(&path)).unwrap()
        };
        let one = processor("a.json", "cat");
        assert!(one.reads_the_same(&processor("b.json", "cat")));
        assert!(!one.reads_the_same(&processor("c.json", "dog")));
        assert!(!one.reads_the_same(&Processor::new(&config, &PreprocessConfig::default(), None).unwrap()));
        assert!(!one.tokenizer_name().contains("a.json"), "the identity must not depend on the path");
    }

    #[test]
    fn images_need_no_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let (origin, preprocess) = (folder.path().display().to_string(), PreprocessConfig::default());
        for vocabulary in [32_000, 256_000] {
            let mut config = presets::get("ViT-nano-32px").unwrap();
            config.text_cfg.vocab_size = vocabulary;
            let error = Processor::of_model(&origin, &config, &preprocess, None).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json is missing") && error.contains(&origin), "{error}");
            let processor = Processor::for_images(&origin, &config, &preprocess).unwrap();
            assert_eq!(processor.preprocess().size, 32);
            let error = processor.tokens(&["a cat".into()], Device::Cpu).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json is missing"), "{error}");
        }
        std::fs::write(folder.path().join("spiece.model"), "").unwrap();
        let mut config = presets::get("ViT-nano-32px").unwrap();
        config.text_cfg.vocab_size = 32_000;
        let error = Processor::of_model(&origin, &config, &preprocess, None).unwrap_err().to_string();
        assert!(error.contains("spiece.model is not read"), "{error}");
        let with_one = presets::get("ViT-nano-32px").unwrap();
        assert!(
            Processor::for_images(&origin, &with_one, &preprocess)
                .unwrap()
                .tokens(&["a".into()], Device::Cpu)
                .is_ok()
        );
    }

    #[test]
    fn unsupported_preprocessing_is_an_error() {
        let config = presets::get("ViT-nano-32px").unwrap();
        let plain = PreprocessConfig::default();
        for (convert, expected) in [(None, false), (Some(false), false), (Some(true), true)] {
            let preprocess = plain.clone().with_do_convert_rgb(convert);
            let processor = Processor::new(&config, &preprocess, None).unwrap();
            assert_eq!(processor.preprocess().convert_rgb, expected);
        }
        let error = |preprocess: PreprocessConfig| match Processor::new(&config, &preprocess, None) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("no error"),
        };
        let size = Some(serde_json::json!(224));
        assert!(error(PreprocessConfig { size, ..plain.clone() }).contains("32 px"));
        assert!(
            error(PreprocessConfig { interpolation: "nearest".into(), ..plain.clone() }).contains("nearest")
        );
        assert!(error(PreprocessConfig { resize_mode: "fill".into(), ..plain.clone() }).contains("fill"));
        assert!(error(PreprocessConfig { std: [0.0; 3], ..plain.clone() }).contains("divide"));
        assert!(error(PreprocessConfig { mode: Some("L".into()), ..plain }).contains("RGB"));
    }
}

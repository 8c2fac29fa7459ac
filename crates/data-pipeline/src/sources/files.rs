//! Image files with their captions beside them: img2dataset's `files` output, and folders of images with `.txt` files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::annotations::AnnotationKeys;
use crate::error::FileFormat;
use crate::sample::RawSample;
use crate::sources::Source;
use crate::sources::captions::SampleReader;
use crate::sources::file_kind::{FileKind, file_kind, is_image};
use crate::sources::group::{Group, Members, split_key};
use crate::sources::paths::{remote_scheme, resolve};
use crate::sources::skipped::SkippedItems;
use crate::sources::walk::{Unread, Walk};
use crate::{Error, Result, notice};

/// Settings of [`ImageFiles`].
///
/// ```
/// use data_pipeline::sources::FilesConfig;
/// let config = FilesConfig::new("cc3m").with_caption("caption");
/// assert_eq!(config.caption.as_deref(), Some("caption"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FilesConfig {
    /// Folder of the images with their `.txt` or `.json` files, including subfolders.
    pub root: PathBuf,
    /// Source of the captions, as in a WebDataset: `"txt"`, another extension such as `".caption"`, or a key of the
    /// `.json` file. Default: `captions` in the `.json` file if present, else the `.txt` file, else `caption` in the
    /// `.json` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Key of the `.json` file with object boxes: a list of `[x, y, width, height]` in pixels of the stored image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<String>,
}

impl FilesConfig {
    /// Creates settings for a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FilesConfig { root: root.into(), caption: None, boxes: None }
    }

    /// Sets the source of the captions.
    #[must_use]
    pub fn with_caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = Some(caption.into());
        self
    }

    /// Sets the key of the object boxes.
    #[must_use]
    pub fn with_boxes(mut self, key: impl Into<String>) -> Self {
        self.boxes = Some(key.into());
        self
    }

    /// Whether the first folder with images holds a caption file with the name of an image.
    ///
    /// ```no_run
    /// let has_captions = data_pipeline::sources::FilesConfig::new("photos").has_captions(".")?;
    /// # Ok::<(), data_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read.
    pub fn has_captions(&self, base: impl AsRef<Path>) -> Result<bool> {
        let text = SampleReader::text_extension(self.caption.as_deref());
        let mut found = None;
        Walk::default().files(&resolve(base.as_ref(), &self.root), &mut |files: &[PathBuf]| {
            let has = |ending: &str| {
                files
                    .iter()
                    .any(|path| is_image(&path.to_string_lossy()) && path.with_extension(ending).is_file())
            };
            if files.iter().any(|path| is_image(&path.to_string_lossy())) {
                found = Some(has(&text) || has("json"));
            }
            found.is_none()
        })?;
        Ok(found.unwrap_or(false))
    }
}

/// Image files, each with captions from files of the same name.
pub struct ImageFiles {
    name: String,
    reader: SampleReader,
    /// All files of the samples.
    paths: Vec<PathBuf>,
    samples: Vec<Members<usize>>,
}

impl ImageFiles {
    /// Lists the files. They are read with their samples.
    ///
    /// An image without a caption is a damaged sample. Warnings count texts without an image and images in other
    /// formats.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read, [`Error::Remote`] for a remote address.
    pub fn open(config: &FilesConfig, base: impl AsRef<Path>) -> Result<Self> {
        let shown = config.root.to_string_lossy();
        if let Some(scheme) = remote_scheme(&shown) {
            return Err(Error::Remote { address: shown.to_string(), scheme: scheme.into() });
        }
        let root = resolve(base.as_ref(), &config.root);
        if root.is_file() {
            let reason = "it is a file: set `root` to the folder of the images".to_string();
            return Err(Error::Format { path: root, format: FileFormat::ImageFolder, reason });
        }
        let text = SampleReader::text_extension(config.caption.as_deref());
        let (mut paths, mut samples) = (Vec::new(), Vec::new());
        let (mut lonely, mut unread) = (SkippedItems::default(), Unread::default());
        Walk::default().files(&root, &mut |files: &[PathBuf]| {
            let mut groups = BTreeMap::<String, Group<usize>>::new();
            for path in files {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
                let is_text = ending == text || ending == "json";
                if !is_text && !add_other(path, &name, &mut unread) {
                    continue;
                }
                let Some((key, _)) = split_key(&name) else { continue };
                let group = groups.entry(key.to_string()).or_insert_with(|| Group::new(key, &text));
                group.add(&name, paths.len());
                paths.push(path.clone());
            }
            let folder = files.first().and_then(|path| path.parent()).unwrap_or(&root);
            let shown = |name: &str| folder.join(name).display().to_string();
            let mut found = Vec::new();
            groups.into_values().for_each(|group| group.finish(shown, &mut found, &mut unread.others));
            for sample in found {
                let place = sample.txt.or(sample.json);
                match (sample.image, place) {
                    (None, Some(place)) => {
                        let path: &PathBuf = &paths[place];
                        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
                        lonely.add(format!(".{ending}"), || path.display().to_string());
                    }
                    (None, None) => {}
                    _ => samples.push(sample),
                }
            }
            true
        })?;
        let name = root.display().to_string();
        unread.log(&name);
        if !lonely.is_empty() && !samples.is_empty() {
            notice::warn_once(&format!(
                "`{name}`: left out texts without an image of the same name: {lonely}"
            ));
        }
        let reader = SampleReader::new(
            &name,
            config.caption.as_deref(),
            AnnotationKeys { boxes: config.boxes.clone() },
        );
        Ok(ImageFiles { name, reader, paths, samples })
    }
}

/// Returns whether a file is an image with a known extension. Counts any other file.
fn add_other(path: &Path, name: &str, unread: &mut Unread) -> bool {
    let kind = if is_image(name) { FileKind::Image } else { file_kind(path) };
    let shown = || path.display().to_string();
    match kind {
        // An image without a known extension has no caption file that could be matched by name.
        FileKind::Image if is_image(name) => return true,
        FileKind::Image => unread.pictures.add("without a known extension", shown),
        FileKind::OtherImage(ending) => unread.pictures.add(ending, shown),
        FileKind::Other(ending) => unread.others.add(ending, shown),
    }
    false
}

impl Source for ImageFiles {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let members = &self.samples[index];
        let place = members.image.or(members.txt).or(members.json).unwrap_or_default();
        let key = self.paths[place].display().to_string();
        self.reader.sample(&key, members, |place| std::fs::read(&self.paths[place]))
    }
}

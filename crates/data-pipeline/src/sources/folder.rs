//! Folders of images per class (torchvision's ImageFolder), with class names as captions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::sample::{RawImage, RawSample};
use crate::sources::file_kind::{FileKind, file_kind};
use crate::sources::paths::resolve;
use crate::sources::walk::{Unread, Walk, sorted};
use crate::sources::{Source, check_templates, csv, default_templates};
use crate::{DamageKind, Error, Result, notice, text};

/// Maximum number of groups of same-named classes that a warning lists.
const NAMED: usize = 5;

/// Settings of [`Folder`].
///
/// ```
/// use data_pipeline::sources::{FolderConfig, FolderSubset};
/// let tuning = FolderConfig::new("flowers/train").with_every(10, FolderSubset::Every);
/// assert_eq!(tuning.every, Some(10));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FolderConfig {
    /// Folder with one subfolder of images per class.
    pub root: PathBuf,
    /// Names of the classes: a table with the columns `folder` and `name`, or a `.txt` file with lines
    /// `folder<TAB>name, other names`. Default: the names of the folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// File for images outside of class folders, with lines `image<TAB>class folder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Caption templates, with `{}` for the class name.
    #[serde(default = "super::default_templates")]
    pub templates: Vec<String>,
    /// The n of `subset`; required with `"rest"` and `"every"`, and not allowed with `"all"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<usize>,
    /// Images to read, which splits one folder into a training set (`"rest"`) and a test set (`"every"`).
    #[serde(default)]
    pub subset: FolderSubset,
    /// Classes to leave out, by folder or name; each must exist.
    #[cfg_attr(feature = "schema", schemars(extend("default" = [])))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_classes: Vec<String>,
}

impl FolderConfig {
    /// Creates settings for all images of all classes, with the caption `a photo of a {}.`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FolderConfig {
            root: root.into(),
            classes: None,
            labels: None,
            templates: default_templates(),
            every: None,
            subset: FolderSubset::All,
            exclude_classes: Vec::new(),
        }
    }

    /// Sets the file of class names.
    #[must_use]
    pub fn with_classes(mut self, path: impl Into<PathBuf>) -> Self {
        self.classes = Some(path.into());
        self
    }

    /// Sets the file that assigns images to classes.
    #[must_use]
    pub fn with_labels(mut self, path: impl Into<PathBuf>) -> Self {
        self.labels = Some(path.into());
        self
    }

    /// Sets the caption templates.
    #[must_use]
    pub fn with_templates(mut self, templates: Vec<String>) -> Self {
        self.templates = templates;
        self
    }

    /// Selects every `n`-th image of each class, or the rest.
    #[must_use]
    pub fn with_every(mut self, n: usize, subset: FolderSubset) -> Self {
        (self.every, self.subset) = (Some(n), subset);
        self
    }

    /// Sets the classes to leave out.
    #[must_use]
    pub fn with_exclude_classes(mut self, classes: Vec<String>) -> Self {
        self.exclude_classes = classes;
        self
    }
}

/// The images of a class that a [`FolderConfig`] selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FolderSubset {
    /// All images.
    #[default]
    All,
    /// All images that `"every"` does not select.
    Rest,
    /// Every n-th image of each class, from the first one by name.
    Every,
}

/// Images with classes.
pub struct Folder {
    name: String,
    images: Vec<Image>,
    class_names: Vec<String>,
    templates: Vec<String>,
}

/// An image with its class.
struct Image {
    path: PathBuf,
    class: usize,
}

/// A class folder with its images.
struct ClassFolder {
    folder: String,
    images: Vec<PathBuf>,
}

impl Folder {
    /// Lists the images of all class folders, both sorted by name. Images are read with their samples.
    ///
    /// Classes may share a name, like two of ImageNet's classes. A warning lists them.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read, [`Error::Setting`] for an invalid setting.
    pub fn open(config: &FolderConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        check_templates(&config.templates)?;
        if config.every == Some(0) || config.every.is_none() != (config.subset == FolderSubset::All) {
            let reason =
                "`every = n` (n of at least 1) and `subset = \"every\"` or `\"rest\"` need each other";
            return Err(Error::setting("every", reason));
        }
        let root = resolve(base, &config.root);
        let names = config.classes.as_ref().map(|path| read_names(&resolve(base, path))).transpose()?;
        let mut folder = Folder {
            name: root.display().to_string(),
            images: vec![],
            class_names: vec![],
            templates: config.templates.clone(),
        };
        let classes = match &config.labels {
            Some(path) => labelled(&root, &resolve(base, path))?,
            None => class_folders(&root)?,
        };
        let place = config.classes.as_ref().unwrap_or(&config.root).display().to_string();
        let mut folders_of = BTreeMap::<String, Vec<String>>::new();
        let mut left_out = vec![false; config.exclude_classes.len()];
        for ClassFolder { folder: id, images } in classes {
            let name = match &names {
                None => id.replace('_', " "),
                Some(names) => names.get(&id).cloned().ok_or_else(|| {
                    let root = root.display();
                    Error::setting(
                        "classes",
                        format!("the class table has no row for the folder `{id}` of `{root}`"),
                    )
                })?,
            };
            let listed = config.exclude_classes.iter().position(|out| *out == id || *out == name);
            if let Some(place) = listed {
                left_out[place] = true;
                continue;
            }
            // A wrong class list gives wrong metrics without a warning.
            if name.trim().is_empty() {
                return Err(Error::setting(
                    "classes",
                    format!(
                        "the folder `{id}` has an empty class name (`{place}`): give it a name, or exclude it with exclude_classes"
                    ),
                ));
            }
            folders_of.entry(name_key(&name)).or_default().push(format!("`{id}` ({name})"));
            let class = folder.class_names.len();
            folder.class_names.push(name);
            let chosen =
                images.into_iter().enumerate().filter(|(index, _)| match (config.subset, config.every) {
                    (FolderSubset::Every, Some(n)) => index % n == 0,
                    (FolderSubset::Rest, Some(n)) => index % n != 0,
                    _ => true,
                });
            folder.images.extend(chosen.map(|(_, path)| Image { path, class }));
        }
        let equal =
            folders_of.values().filter(|folders| folders.len() > 1).map(|folders| folders.join(" = "));
        let equal = equal.collect::<Vec<_>>();
        if !equal.is_empty() {
            let more = if equal.len() > NAMED { ", ..." } else { "" };
            let named = equal[..equal.len().min(NAMED)].join(", ");
            notice::warn_once(&format!(
                "`{place}`: classes with equal names, which a model cannot tell apart: {named}{more}; in an evaluation the first one wins"
            ));
        }
        // A misspelled class would remain in the training data.
        if let Some(place) = left_out.iter().position(|found| !found) {
            return Err(Error::setting(
                "exclude_classes",
                format!(
                    "exclude_classes lists `{}`, which is not a class of `{}` or is listed twice",
                    config.exclude_classes[place],
                    root.display()
                ),
            ));
        }
        Ok(folder)
    }
}

impl Source for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let Image { path, class } = &self.images[index];
        let key = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| Error::Sample {
            key: key.clone(),
            kind: DamageKind::Unreadable,
            reason: e.to_string(),
        })?;
        let captions = self.templates.iter().map(|t| t.replace("{}", &self.class_names[*class]));
        Ok(RawSample::new(key, RawImage::Encoded(bytes)).with_captions(captions).with_label(*class))
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.class_names)
    }
}

/// Normalizes a class name so that equal results mean equal tokens: CLIP's tokenizer ignores case and extra spaces.
fn name_key(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Lists class folders with all images below them, both sorted. A folder without an image is not a class.
fn class_folders(root: &Path) -> Result<Vec<ClassFolder>> {
    // A link from a class folder to the root would add the images of all classes.
    let mut walk = Walk::default();
    walk.enter(root)?;
    let (mut classes, mut unread) = (Vec::new(), Unread::default());
    for path in sorted(root)? {
        if !path.is_dir() {
            match if path.is_file() { file_kind(&path) } else { FileKind::Other(String::new()) } {
                FileKind::Image => unread.outside.add("images", || path.display().to_string()),
                FileKind::OtherImage(ending) => unread.pictures.add(ending, || path.display().to_string()),
                // This is the class table or a readme.
                FileKind::Other(_) => {}
            }
            continue;
        }
        // Two classes may share images through symlinks, so each class starts a new walk.
        let images = walk.clone().images(&path, &mut unread)?;
        if images.is_empty() {
            notice::warn_once(&format!("`{}` contains no image and is not used as a class", path.display()));
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_str().ok_or_else(|| {
            // The name becomes a caption.
            let shown = path.display();
            Error::setting("root", format!("the name of the folder `{shown}` is not UTF-8: rename it"))
        })?;
        classes.push(ClassFolder { folder: name.to_string(), images });
    }
    unread.log(&root.display().to_string());
    Ok(classes)
}

/// Reads a list of images and classes, and groups the images by class; the classes are sorted.
fn labelled(root: &Path, list: &Path) -> Result<Vec<ClassFolder>> {
    let text = text::read(list)?;
    let mut classes = BTreeMap::<String, Vec<PathBuf>>::new();
    for (number, line) in text.lines().enumerate() {
        let mut fields = line.split('\t');
        match (fields.next(), fields.next()) {
            (Some(image), Some(class)) if !image.is_empty() && !class.is_empty() => {
                classes.entry(class.to_string()).or_default().push(root.join(image));
            }
            _ => {
                let reason = format!("line {} is not an image and its class, separated by a tab", number + 1);
                return Err(Error::Format { path: list.into(), format: FileFormat::LabelList, reason });
            }
        }
    }
    Ok(classes.into_iter().map(|(folder, images)| ClassFolder { folder, images }).collect())
}

fn read_names(path: &Path) -> Result<HashMap<String, String>> {
    let format = |reason: String| Error::Format { path: path.into(), format: FileFormat::ClassTable, reason };
    let text = text::read(path)?;
    if path.extension().is_some_and(|ending| ending == "txt") {
        let mut found = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row = line.split_once('\t').ok_or_else(|| {
                format(format!("line {} is not a folder and its names separated by a tab", number + 1))
            })?;
            let name = row.1.split(',').next().unwrap_or_default().trim();
            add(&mut found, row.0, name).map_err(format)?;
        }
        return Ok(found);
    }
    csv::check_quotes(&text, b',').map_err(format)?;
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| format(e.to_string()))?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|field| field == name)
            .ok_or_else(|| format(format!("it has no column `{name}`")))
    };
    let (folder, name) = (column("folder")?, column("name")?);
    let mut names = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| format(e.to_string()))?;
        let field = |index: usize| record.get(index).unwrap_or_default();
        add(&mut names, field(folder), field(name)).map_err(format)?;
    }
    Ok(names)
}

/// Adds a row of a class table.
fn add(names: &mut HashMap<String, String>, folder: &str, name: &str) -> Result<(), String> {
    match names.insert(folder.to_string(), name.to_string()).filter(|other| other != name) {
        Some(other) => Err(format!("the folder `{folder}` has two names, `{other}` and `{name}`")),
        None => Ok(()),
    }
}

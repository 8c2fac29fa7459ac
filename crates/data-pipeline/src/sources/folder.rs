//! ImageFolder: one folder of images per class, class names as captions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sample::{RawImage, RawSample};
use crate::sources::paths::{read_to_end, resolve};
use crate::sources::walk::{Walk, sorted};
use crate::sources::{Source, csv, default_templates};
use crate::{Error, Result};

/// Settings of [`Folder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder of class folders.
    pub root: PathBuf,
    /// A table with the columns `folder` and `name` that gives class folders readable names, or a
    /// text file of lines `folder<TAB>name, other names`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// Where images are not in class folders: lines of image name and class folder, separated by tabs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Captions, with `{}` for the class name.
    #[serde(default = "super::default_templates")]
    pub templates: Vec<String>,
    /// A share of each class for tuning: every n-th image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<usize>,
    /// Which side of `every`.
    #[serde(default)]
    pub subset: Subset,
    /// Classes to leave out, by folder or name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_classes: Vec<String>,
}

impl FolderConfig {
    /// All images of all classes, with the plainest caption.
    pub fn new(root: impl Into<PathBuf>, classes: Option<PathBuf>) -> Self {
        FolderConfig {
            root: root.into(),
            classes,
            labels: None,
            templates: default_templates(),
            every: None,
            subset: Subset::All,
            exclude_classes: Vec::new(),
        }
    }
}

/// Which images of a class count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subset {
    /// All of them.
    #[default]
    All,
    /// All but every n-th.
    Rest,
    /// Every n-th only.
    Every,
}

/// Images with classes.
pub struct Folder {
    name: String,
    images: Vec<(PathBuf, usize)>,
    class_names: Vec<String>,
    templates: Vec<String>,
}

impl Folder {
    /// Lists the images of all class folders, both sorted by name; images are read later.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read, [`Error::Config`] where a setting cannot work.
    pub fn open(config: &FolderConfig, base: &Path) -> Result<Self> {
        if config.templates.is_empty() || config.templates.iter().any(|t| !t.contains("{}")) {
            return Err(Error::Config("every caption template needs `{}` where the class name goes".into()));
        }
        if config.every == Some(0) || config.every.is_none() != (config.subset == Subset::All) {
            let reason =
                "`every = n` (n of at least 1) and `subset = \"every\"` or `\"rest\"` need each other";
            return Err(Error::Config(reason.into()));
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
        let mut folder_of = HashMap::<String, String>::new();
        let mut left_out = vec![false; config.exclude_classes.len()];
        for (id, images) in classes {
            let name = match &names {
                None => id.replace('_', " "),
                Some(names) => names.get(&id).cloned().ok_or_else(|| {
                    Error::Config(format!(
                        "the class table has no row for the folder `{id}` of `{}`",
                        root.display()
                    ))
                })?,
            };
            let listed = config.exclude_classes.iter().position(|out| *out == id || *out == name);
            if let Some(place) = listed {
                left_out[place] = true;
                continue;
            }
            // Wrong class lists give wrong figures without a sign of it.
            let wrong = match folder_of.get(&name) {
                _ if name.trim().is_empty() => format!("the folder `{id}` has an empty class name"),
                Some(first) => format!("the folders `{first}` and `{id}` have the same class name `{name}`"),
                None => String::new(),
            };
            if !wrong.is_empty() {
                let place = config.classes.as_ref().unwrap_or(&config.root).display();
                return Err(Error::Config(format!(
                    "{wrong} (`{place}`): give each class a name of its own, or leave one out by exclude_classes"
                )));
            }
            folder_of.insert(name.clone(), id);
            let class = folder.class_names.len();
            folder.class_names.push(name);
            let chosen =
                images.into_iter().enumerate().filter(|(index, _)| match (config.subset, config.every) {
                    (Subset::Every, Some(n)) => index % n == 0,
                    (Subset::Rest, Some(n)) => index % n != 0,
                    _ => true,
                });
            folder.images.extend(chosen.map(|(_, path)| (path, class)));
        }
        // A class that is thought to be left out and is not would be seen in training.
        if let Some(place) = left_out.iter().position(|found| !found) {
            return Err(Error::Config(format!(
                "exclude_classes has `{}`, which is no class of `{}`, or is there twice",
                config.exclude_classes[place],
                root.display()
            )));
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
        let (path, class) = &self.images[index];
        let key = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| Error::Sample {
            key: key.clone(),
            kind: "unreadable",
            reason: e.to_string(),
        })?;
        let captions = self.templates.iter().map(|t| t.replace("{}", &self.class_names[*class])).collect();
        Ok(RawSample {
            key,
            image: RawImage::Encoded(bytes),
            captions,
            label: Some(*class),
            boxes: Vec::new(),
        })
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.class_names)
    }
}

/// Class folders with all images below them, both sorted; a folder without any image is no class.
fn class_folders(root: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    // A class folder that leads back to the root would hold all classes.
    let mut walk = Walk::default();
    walk.enter(root)?;
    let mut classes = Vec::new();
    for directory in sorted(root)?.into_iter().filter(|path| path.is_dir()) {
        // Two classes may share images through symlinks, so each has a walk of its own.
        let images = walk.clone().images(&directory)?;
        if images.is_empty() {
            tracing::warn!("`{}` holds no image and is no class", directory.display());
            continue;
        }
        classes.push((directory.file_name().unwrap_or_default().to_string_lossy().into_owned(), images));
    }
    Ok(classes)
}

/// Images by the classes that a list gives them; the classes are sorted.
fn labelled(root: &Path, list: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let bytes = read_to_end(list)?;
    let mut classes = BTreeMap::<String, Vec<PathBuf>>::new();
    for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let mut fields = line.split('\t');
        match (fields.next(), fields.next()) {
            (Some(image), Some(class)) if !image.is_empty() && !class.is_empty() => {
                classes.entry(class.to_string()).or_default().push(root.join(image));
            }
            _ => {
                let reason = format!("line {} is not an image and its class, separated by a tab", number + 1);
                return Err(Error::Format { path: list.into(), kind: "list of labels", reason });
            }
        }
    }
    Ok(classes.into_iter().collect())
}

fn read_names(path: &Path) -> Result<HashMap<String, String>> {
    let format = |reason: String| Error::Format { path: path.into(), kind: "class table", reason };
    let bytes = read_to_end(path)?;
    if path.extension().is_some_and(|ending| ending == "txt") {
        let text = String::from_utf8_lossy(&bytes);
        let row = |line: &str| {
            let (folder, names) = line.split_once('\t')?;
            Some((folder.to_string(), names.split(',').next().unwrap_or_default().trim().to_string()))
        };
        return Ok(text.lines().filter_map(row).collect());
    }
    csv::check_quotes(&bytes, b',').map_err(format)?;
    let mut reader = ::csv::Reader::from_reader(&bytes[..]);
    let header = reader.headers().map_err(|e| format(e.to_string()))?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|field| field == name)
            .ok_or_else(|| format(format!("there is no column `{name}`")))
    };
    let (folder, name) = (column("folder")?, column("name")?);
    let mut names = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| format(e.to_string()))?;
        let field = |index: usize| record.get(index).unwrap_or_default().to_string();
        let (folder, name) = (field(folder), field(name));
        if let Some(other) = names.insert(folder.clone(), name.clone()).filter(|other| *other != name) {
            return Err(format(format!("the folder `{folder}` has two names, `{other}` and `{name}`")));
        }
    }
    Ok(names)
}

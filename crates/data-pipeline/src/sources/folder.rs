//! ImageFolder: one folder of images per class, class names as captions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sample::{RawImage, RawSample};
use crate::sources::paths::resolve;
use crate::sources::pictures::{Kind, kind};
use crate::sources::walk::{Unread, Walk, sorted};
use crate::sources::{Source, csv, default_templates};
use crate::{Error, Result, notice, text};

/// Maximum number of groups of same-named classes that a warning lists.
const NAMED: usize = 5;

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
    /// Classes may share a name, as two of ImageNet's do. A warning lists them.
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
        let place = config.classes.as_ref().unwrap_or(&config.root).display().to_string();
        let mut folders_of = BTreeMap::<String, Vec<String>>::new();
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
            if name.trim().is_empty() {
                return Err(Error::Config(format!(
                    "the folder `{id}` has an empty class name (`{place}`): give it a name, or exclude it with exclude_classes"
                )));
            }
            folders_of.entry(name_key(&name)).or_default().push(format!("`{id}` ({name})"));
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

/// The form in which two names are equal for CLIP's tokenizer, which ignores case and spaces.
fn name_key(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Class folders with all images below them, both sorted; a folder without any image is no class.
fn class_folders(root: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    // A class folder that leads back to the root would hold all classes.
    let mut walk = Walk::default();
    walk.enter(root)?;
    let (mut classes, mut unread) = (Vec::new(), Unread::default());
    for path in sorted(root)? {
        if !path.is_dir() {
            match if path.is_file() { kind(&path) } else { Kind::Other(String::new()) } {
                Kind::Image => unread.outside.add("images", || path.display().to_string()),
                Kind::OtherImage(ending) => unread.pictures.add(ending, || path.display().to_string()),
                // This is the class table or a readme.
                Kind::Other(_) => {}
            }
            continue;
        }
        // Two classes may share images through symlinks, so each has a walk of its own.
        let images = walk.clone().images(&path, &mut unread)?;
        if images.is_empty() {
            notice::warn_once(&format!("`{}` contains no image and is not used as a class", path.display()));
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_str().ok_or_else(|| {
            // The folder's name is the name of a class, and would become a caption.
            Error::Config(format!("the name of the folder `{}` is not UTF-8: rename it", path.display()))
        })?;
        classes.push((name.to_string(), images));
    }
    unread.say(&root.display().to_string());
    Ok(classes)
}

/// Images by the classes that a list gives them; the classes are sorted.
fn labelled(root: &Path, list: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
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
                return Err(Error::Format { path: list.into(), kind: "list of labels", reason });
            }
        }
    }
    Ok(classes.into_iter().collect())
}

fn read_names(path: &Path) -> Result<HashMap<String, String>> {
    let format = |reason: String| Error::Format { path: path.into(), kind: "class table", reason };
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
            .ok_or_else(|| format(format!("there is no column `{name}`")))
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

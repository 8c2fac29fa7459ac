//! Captions, classes and annotations of the files of a sample: `.txt`, `.json` and `.cls`.

use crate::annotations::{AnnotationKeys, Annotations};
use crate::sample::{RawImage, RawSample};
use crate::sources::caption_problems::CaptionProblems;
use crate::sources::classes::{self, Classes};
use crate::sources::group::Members;
use crate::sources::{IN_FILE, json};
use crate::{DamageKind, Error, Result, text};

/// The reason why a sample is damaged.
pub(super) struct Problem {
    pub(super) kind: DamageKind,
    pub(super) reason: String,
}

impl Problem {
    pub(super) fn new(kind: DamageKind, reason: impl Into<String>) -> Self {
        Problem { kind, reason: reason.into() }
    }

    /// Returns the error of the sample `key`.
    pub(super) fn of_sample(self, key: &str) -> Error {
        Error::Sample { key: key.into(), kind: self.kind, reason: self.reason }
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Problem::new(DamageKind::Unreadable, error.to_string())
    }
}

impl From<json::Broken> for Problem {
    fn from(broken: json::Broken) -> Self {
        match broken {
            json::Broken::Encoding(problem) => Problem::new(DamageKind::NotUtf8, format!(".json: {problem}")),
            json::Broken::Syntax(reason) => Problem::new(DamageKind::NoCaption, format!(".json: {reason}")),
        }
    }
}

/// Reads the captions, annotations and class of a sample from its files.
pub(super) struct SampleReader {
    /// `txt`, an extension after a dot, or a key of the `.json` file.
    caption: Option<String>,
    annotations: AnnotationKeys,
    pub(super) classes: Option<Classes>,
    problems: CaptionProblems,
}

impl SampleReader {
    pub(super) fn new(source: &str, caption: Option<&str>, annotations: AnnotationKeys) -> Self {
        let problems = CaptionProblems::new(source);
        SampleReader { caption: caption.map(str::to_string), annotations, classes: None, problems }
    }

    /// Returns the extension of caption files for a `caption` setting.
    pub(super) fn text_extension(caption: Option<&str>) -> String {
        caption.and_then(|caption| caption.strip_prefix('.')).unwrap_or("txt").to_ascii_lowercase()
    }

    /// Reads a sample with the name `key`. `read` returns the content of one of its files.
    pub(super) fn sample<P: Copy>(
        &self,
        key: &str,
        members: &Members<P>,
        read: impl Fn(P) -> std::io::Result<Vec<u8>>,
    ) -> Result<RawSample> {
        self.parts(key, members, read).map_err(|problem| problem.of_sample(key))
    }

    fn parts<P: Copy>(
        &self,
        key: &str,
        members: &Members<P>,
        read: impl Fn(P) -> std::io::Result<Vec<u8>>,
    ) -> Result<RawSample, Problem> {
        let no_image = || Problem::new(DamageKind::NoImage, "the sample has no image file");
        let image = members.image.ok_or_else(no_image)?;
        let label = self.label(members, &read)?;
        let captions = match (self.captions(key, members, &read), label, &self.classes) {
            (Err(problem), Some(label), Some(classes)) if problem.kind == DamageKind::NoCaption => {
                classes.captions(label)
            }
            (captions, ..) => captions?,
        };
        let annotations = self.annotations(members, &read)?;
        let image = RawImage::Encoded(read(image)?);
        let mut sample = RawSample::new(key, image).with_captions(captions).with_annotations(annotations);
        sample.label = label;
        Ok(sample)
    }

    /// Returns the class of a sample, if it has one and the class names are known.
    fn label<P: Copy>(
        &self,
        members: &Members<P>,
        read: impl Fn(P) -> std::io::Result<Vec<u8>>,
    ) -> Result<Option<usize>, Problem> {
        let (Some(place), Some(classes)) = (members.cls, &self.classes) else { return Ok(None) };
        let class = classes::parse(&read(place)?).map_err(|e| Problem::new(DamageKind::Label, e))?;
        classes.label(class).map(Some)
    }

    fn annotations<P: Copy>(
        &self,
        members: &Members<P>,
        read: impl Fn(P) -> std::io::Result<Vec<u8>>,
    ) -> Result<Annotations, Problem> {
        let json = members.json.filter(|_| !self.annotations.is_empty());
        let Some(place) = json else { return Ok(Annotations::default()) };
        let value = json::parse(&read(place)?)
            .map_err(|broken| Problem { kind: DamageKind::Annotations, ..broken.into() })?;
        self.annotations.read(&value).map_err(|reason| Problem::new(DamageKind::Annotations, reason))
    }

    /// Returns the captions of a sample. `name` identifies the sample in warnings.
    fn captions<P: Copy>(
        &self,
        name: &str,
        members: &Members<P>,
        read: impl Fn(P) -> std::io::Result<Vec<u8>>,
    ) -> Result<Vec<String>, Problem> {
        let ending = format!(".{}", Self::text_extension(self.caption.as_deref()));
        let wants_text =
            self.caption.as_deref().is_some_and(|caption| caption == "txt" || caption.starts_with('.'));
        // The key of the `.json` file, if one is set.
        let wanted = self.caption.as_deref().filter(|_| !wants_text);
        let json = match members.json.filter(|_| !wants_text) {
            Some(place) => Some(json::parse(&read(place)?).map_err(Problem::from)),
            None => None,
        };
        let under = |key: &str| {
            let Some(Ok(value)) = &json else { return None };
            let (mut texts, mut others) = json::texts(value, key);
            let all = texts.len();
            texts.retain(|text| !is_blank(text));
            others += (all - texts.len()) as u64;
            // A sample without any text counts as damaged instead.
            if others > 0 && !texts.is_empty() {
                self.problems.entries(others, key, name);
            }
            Some(texts).filter(|texts| !texts.is_empty())
        };
        if let Some(texts) = under(wanted.unwrap_or("captions")) {
            return Ok(texts);
        }
        if let (Some(place), None) = (members.txt, wanted) {
            if let Some(Err(problem)) = &json {
                self.problems.broken_json(&problem.reason, name);
            }
            let bytes = read(place)?;
            let caption = text::decode(&bytes)
                .map_err(|e| Problem::new(DamageKind::NotUtf8, format!("{ending}: {e}")))?;
            if !is_blank(caption) {
                return Ok(vec![caption.trim_end_matches(['\r', '\n']).to_string()]);
            }
        }
        if let Some(texts) = under("caption").filter(|_| wanted.is_none()) {
            return Ok(texts);
        }
        let reason = match (wanted, json) {
            (None, _) if members.txt.is_some() => format!("the {ending} file is empty"),
            (None, _) if wants_text => format!("the sample has no {ending} file"),
            (_, Some(Err(problem))) => return Err(problem),
            (None, None) if members.cls.is_some() => {
                "the sample has a class (.cls) and no caption: set the file of class names with `classes = \"FILE\"` in a recipe or suite file".into()
            }
            (None, None) => "the sample has neither a .txt file nor a .json file".into(),
            (Some(key), None) => format!("the sample has no .json file with `{key}`"),
            (wanted, Some(Ok(value))) => {
                let what = wanted.map_or_else(
                    || "the sample has no .txt file, and no text under `captions` or `caption`".into(),
                    |key| format!("the sample has no text under `{key}`"),
                );
                let keys = json::describe(&value);
                let tried = wanted.map_or(vec!["captions", "caption"], |key| vec![key]);
                let other = tried.iter().find_map(|key| json::other_value(&value, key));
                let what = other.unwrap_or(what);
                format!("{what}; {keys}: set the key of the captions with `caption = \"KEY\"` {IN_FILE}")
            }
        };
        Err(Problem::new(DamageKind::NoCaption, reason))
    }
}

/// Whether a caption is empty or white space.
pub(super) fn is_blank(caption: &str) -> bool {
    caption.trim().is_empty()
}

//! The model card of an exported folder: the model, its training and its scores.

use std::path::Path;

use clip_model::ClipConfig;
use clip_model::cost::Cost;

use crate::Result;
use crate::recipe::{Recipe, Student, TeacherConfig};
use crate::run::layout::Results;
use crate::run::status;

/// The library that loads the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Python's open_clip.
    OpenClip,
    /// Python's transformers.
    Transformers,
}

/// The training of a model: its recipe and results.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    /// Its recipe, resolved.
    pub recipe: Recipe,
    /// Its results, if it is finished.
    pub results: Option<Results>,
}

impl RunFacts {
    /// Reads the recipe and the results of a run folder. Returns `None` if the folder does not contain a run.
    ///
    /// # Errors
    /// [`crate::Error::Io`] or [`crate::Error::DamagedFile`] if the files exist but cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let Some(recipe) = status::recipe_of(folder)? else { return Ok(None) };
        Ok(Some(RunFacts { recipe, results: status::results_of(folder)? }))
    }
}

/// Code that loads the folder in open_clip.
const OPEN_CLIP: &str = r#"```python
import open_clip, torch
from PIL import Image

folder = "local-dir:THIS_FOLDER"
model, _, preprocess = open_clip.create_model_and_transforms(folder)
tokenizer = open_clip.get_tokenizer(folder)
model.eval()
labels = ["a cat", "a dog"]
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open("picture.jpg")).unsqueeze(0))
    text = model.encode_text(tokenizer([f"a photo of {label}." for label in labels]))
    image, text = (torch.nn.functional.normalize(rows, dim=-1) for rows in (image, text))
    print((model.logit_scale.exp() * image @ text.T).softmax(dim=-1))
```
"#;
/// Code that loads the folder in transformers.
const TRANSFORMERS: &str = r#"```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="THIS_FOLDER")
classify("picture.jpg", candidate_labels=["a cat", "a dog"], hypothesis_template="a photo of {}.")
```

or, for embeddings and logits:

```python
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("THIS_FOLDER"), CLIPProcessor.from_pretrained("THIS_FOLDER")
texts = ["a photo of a cat.", "a photo of a dog."]
inputs = processor(text=texts, images=Image.open("picture.jpg"), return_tensors="pt", padding=True, truncation=True)
print(model(**inputs).logits_per_image.softmax(dim=-1))
```
"#;

/// The content of a model card.
#[derive(Clone, Debug)]
pub struct Card {
    /// Title.
    pub name: String,
    /// The library that loads the folder.
    pub library: Library,
    /// Licence of the weights (an SPDX name). It depends on the data's licences, so it has no default.
    pub license: Option<String>,
    /// The model.
    pub config: ClipConfig,
    /// Its cost.
    pub cost: Cost,
    /// Whether the folder contains a tokenizer other than CLIP's.
    pub own_tokenizer: bool,
    /// Its training, if known.
    pub run: Option<RunFacts>,
}

impl Card {
    /// Returns Markdown with the YAML header that model hubs read.
    pub fn markdown(&self) -> String {
        let (library, load) = match self.library {
            Library::OpenClip => ("open_clip", OPEN_CLIP),
            Library::Transformers => ("transformers", TRANSFORMERS),
        };
        let tokenizer = match (self.own_tokenizer, self.library) {
            (true, _) => "Texts are tokenized with `tokenizer.json`.",
            (false, Library::OpenClip) => "Texts are tokenized with CLIP's tokenizer.",
            (false, Library::Transformers) => {
                "Texts are tokenized with CLIP's tokenizer. Unlike open_clip, transformers does not clean the texts of CLIP models: \
                 curly quotes, HTML entities and wrongly decoded letters remain. \
                 The pipeline fails on longer texts; a processor truncates them with `truncation=True`."
            }
        };
        let license = self.license.as_deref().unwrap_or("other");
        let mut text = format!(
            "---\nlicense: {license}\nlibrary_name: {library}\npipeline_tag: zero-shot-image-classification\ntags:\n- clip\n- knowledge-distillation\n---\n\n# {}\n\n",
            self.name
        );
        if self.license.is_none() {
            text.push_str("The licence of these weights was not stated at export. It depends on the licences of the training data and of the teacher.\n\n");
        }
        let (image, tower) = (self.cost.image, self.cost.text);
        text.push_str(&format!(
            "| tower | parameters | multiply-accumulates |\n|---|---:|---:|\n| image, {size} px | {:.2} M | {:.3} G |\n| text, {context} tokens | {:.2} M | {:.3} G |\n\nEmbedding dimension: {embed}.\n\n## Load\n\n{load}\nA text has at most {context} tokens. {tokenizer}\n\n",
            image.parameters as f64 / 1e6,
            image.macs as f64 / 1e9,
            tower.parameters as f64 / 1e6,
            tower.macs as f64 / 1e9,
            size = self.config.vision_cfg.image_size,
            context = self.config.text_cfg.context_length,
            embed = self.config.embed_dim,
        ));
        match &self.run {
            Some(facts) => text.push_str(&training(facts)),
            None => {
                text.push_str("## Training\n\nUnknown: the weights were not exported from a run folder.\n")
            }
        }
        text
    }
}

/// Returns the recipe without machine-specific values: only the last component of absolute paths is kept.
fn public_recipe(recipe: &Recipe) -> Recipe {
    let mut public = recipe.clone();
    (public.data.root, public.eval.cache) = (".".into(), None);
    let shortened = toml::Table::try_from(&public).map(|table| {
        let mut value = toml::Value::Table(table);
        shorten(&mut value);
        value
    });
    shortened.ok().and_then(|value| value.try_into().ok()).unwrap_or(public)
}

fn shorten(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => {
            let name = Path::new(&*text).file_name().filter(|_| Path::new(&*text).is_absolute());
            if let Some(name) = name.map(|name| name.to_string_lossy().into_owned()) {
                *text = name;
            }
        }
        toml::Value::Array(values) => values.iter_mut().for_each(shorten),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| shorten(value)),
        _ => {}
    }
}

fn student(config: &Student) -> String {
    let model = &config.model;
    let text = match &config.inherit {
        Some(larger) if config.inherit_tokens => {
            format!("{model}, initialised with the token embeddings of {larger}")
        }
        Some(larger) => format!("{model}, initialised with a part of the weights of {larger}"),
        None => model.to_string(),
    };
    match &config.image_weights {
        Some(weights) => format!("{text}; image tower initialised with {weights}"),
        None => text,
    }
}

fn training(facts: &RunFacts) -> String {
    let recipe = &public_recipe(&facts.recipe);
    let teachers = recipe.teachers.iter().map(TeacherConfig::name).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "## Training\n\n- student: {}\n- teacher: {}\n- losses: {}\n- seed: {}\n",
        student(&recipe.student),
        if teachers.is_empty() { "none" } else { &teachers },
        recipe.losses_text(),
        recipe.seed
    );
    for source in &recipe.data.train {
        let mut table = toml::Table::try_from(source).unwrap_or_default();
        let kind =
            table.remove("source").and_then(|kind| kind.as_str().map(str::to_string)).unwrap_or_default();
        let what = ["shards", "path", "root", "split"].iter().find_map(|key| table.get(*key)?.as_str());
        text.push_str(&format!("- data: {kind} {}\n", what.unwrap_or_default()));
    }
    text.push_str(&format!("\n```toml\n{}```\n", recipe.to_toml().unwrap_or_default()));
    if let Some(results) = facts.results.as_ref().filter(|results| !results.student.sets.is_empty()) {
        text.push_str(&format!("\n## Zero-shot scores (percent)\n\n{}", results.student.table()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clip_model::{cost, presets};

    #[test]
    fn a_card_describes_the_model_and_its_training_without_local_paths() {
        let config = presets::get("ViT-nano-32px").unwrap();
        let recipe = crate::recipe::parse(
            "name = 'r'\nseed = 4\nstudent.model = 'ViT-nano-32px'\nteacher.model = '/somewhere/models/teacher-b'\ndata.root = '/somewhere/data'\n\
             losses = { task = 1.0, crd = 2.0 }\ndata.train = [{ source = 'webdataset', shards = 'x/{0..9}.tar' }, { source = 'csv', path = '/somewhere/else.csv' }]\n\
             eval = { fidelity = true, cache = '/somewhere/cache', teacher.model = '/somewhere/c' }\n\
             train = { batch_size = 8, steps = 2 }",
            &[],
            "test",
        )
        .unwrap();
        let facts = RunFacts { recipe: recipe.runs[0].clone(), results: None };
        let mut card = Card {
            name: "mine".into(),
            library: Library::Transformers,
            license: None,
            cost: cost::cost(&config).unwrap(),
            own_tokenizer: false,
            config,
            run: Some(facts),
        };
        let text = card.markdown();
        for part in [
            "# mine",
            "license: other",
            "CLIPProcessor.from_pretrained",
            "pipeline(\"zero-shot-image-classification\", model=",
            "at most 32 tokens",
            "teacher: teacher-b",
            "2 × crd",
            "x/{0..9}.tar",
            "seed: 4",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("/somewhere"), "{text}");
        assert!(text.contains("does not clean"), "{text}");
        (card.license, card.run) = (Some("mit".into()), None);
        (card.library, card.own_tokenizer) = (Library::OpenClip, true);
        let text = card.markdown();
        for part in
            ["create_model_and_transforms(folder)", "get_tokenizer(folder)", "local-dir:", "`tokenizer.json`"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("license: mit") && text.contains("Unknown:") && !text.contains("not stated"));
    }
}

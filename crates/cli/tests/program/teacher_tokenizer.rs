//! Models whose folder contains a tokenizer: a teacher uses its own tokenizer, not the student's ids, and a student's
//! tokenizer is saved with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::program;

use clip_model::{Clip, ClipConfig, PreprocessConfig, folder};
use serde_json::Value;
use tch::Device;

const WIDTH: usize = 8;
/// One text exceeds the teacher's context, and one has words outside its vocabulary.
const TEXTS: [&str; 8] = [
    "a cat",
    "a dog",
    "cat dog",
    "dog",
    "a a cat",
    "a cat dog a cat dog a cat dog a cat dog",
    "unheard of",
    "dog cat a",
];
/// A word tokenizer. Unlike in CLIP's tokenizer, the end token is not the largest id, and the padding is not 0.
const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,
    "padding":{"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":null,"pad_id":7,"pad_type_id":0,"pad_token":"[PAD]"},
    "added_tokens":[{"id":4,"content":"[END]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[END]","type_id":0}}],
        "pair":[],"special_tokens":{"[END]":{"id":"[END]","ids":[4],"tokens":["[END]"]}}},
    "decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"cat":2,"dog":5},"unk_token":"[UNK]"}}"#;

fn done(args: &[&str]) {
    let output = program().args(args).stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Place(tempfile::TempDir);

impl Place {
    /// Writes eight captions of one picture, as a table and as lines. The picture has one color, so all crops are equal.
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("pictures")).unwrap();
        let picture = image::RgbImage::from_pixel(20, 20, image::Rgb([200, 90, 30]));
        picture.save(place.path("pictures/0.png")).unwrap();
        let rows = TEXTS.map(|text| format!("pictures/0.png,{text}\n"));
        fs::write(place.path("pairs.csv"), format!("filepath,title\n{}", rows.concat())).unwrap();
        fs::write(place.path("texts.txt"), TEXTS.join("\n")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a model folder. Its text tower has an embedding for every id of CLIP's tokenizer, so that ids of the wrong
    /// tokenizer give wrong embeddings instead of an error.
    fn model(&self, name: &str, context: usize, text: &str, seed: u64) -> String {
        let json = format!(
            r#"{{"embed_dim": {WIDTH}, "vision_cfg": {{"image_size": 16, "layers": 1, "width": 8, "patch_size": 8, "head_width": 8}},
            "text_cfg": {{"context_length": {context}, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1{text}}}}}"#
        );
        let model = Clip::new(&ClipConfig::from_json(name, &json).unwrap(), Device::Cpu, seed).unwrap();
        folder::save(self.path(name), &model, &PreprocessConfig::default()).unwrap();
        self.name(name)
    }

    /// Returns the embeddings that `embed` writes, normalised.
    fn embedded(&self, model: &str, more: &[&str]) -> Vec<[f64; WIDTH]> {
        let out = self.name("rows.safetensors");
        done(&[&["embed", model, "--out", &out, "--force"], more].concat());
        let bytes = fs::read(&out).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let rows = file.tensor("embeddings").unwrap();
        let values =
            rows.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        let values = values.collect::<Vec<_>>();
        let unit = |row: &[f64]| {
            let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            std::array::from_fn(|i| row[i] / length)
        };
        values.chunks_exact(WIDTH).map(unit).collect()
    }

    fn texts(&self, model: &str, more: &[&str]) -> Vec<[f64; WIDTH]> {
        self.embedded(model, &[&["--texts", &self.name("texts.txt")], more].concat())
    }

    fn picture(&self, model: &str) -> Vec<[f64; WIDTH]> {
        self.embedded(model, &["--images", &self.name("pictures")])
    }
}

/// Mean squared difference.
fn distance(left: &[[f64; WIDTH]], right: &[[f64; WIDTH]]) -> f64 {
    assert_eq!(left.len(), right.len());
    let squares = left.iter().flatten().zip(right.iter().flatten()).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f64>() / (left.len() * WIDTH) as f64
}

fn first_loss(run: &Path) -> f64 {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    line["terms"]["fd"]["raw"].as_f64().unwrap()
}

#[test]
fn a_teacher_uses_the_tokenizer_of_its_folder() {
    let place = Place::new();
    let student = place.model("student", 12, "", 1);
    for (number, text) in [
        // CLIP's tower with another end token, and one without a causal mask, like SigLIP's.
        r#", "pool_type": "eos", "eos_id": 4"#,
        r#", "pool_type": "last", "no_causal_mask": true"#,
    ]
    .into_iter()
    .enumerate()
    {
        let teacher = place.model(&format!("teacher-{number}"), 10, text, 2);
        let by_clips = place.texts(&teacher, &[]);
        let tokenizer = Path::new(&teacher).join("tokenizer.json");
        fs::write(&tokenizer, TOKENIZER).unwrap();
        let own = place.texts(&teacher, &[]);

        let recipe = place.path("recipe.toml");
        let out = place.path(&format!("out-{number}"));
        let toml = format!(
            "name = 'r'\nstudent.model = '{student}'\nteacher.model = '{teacher}'\nlosses.fd = 1.0\n\
             train = {{ batch_size = 8, steps = 1, threads = 1 }}\nmetrics.every_steps = 1\n\
             data.root = '{}'\ndata.train = [{{ source = 'csv', path = 'pairs.csv' }}]\n",
            place.name("")
        );
        fs::write(&recipe, toml).unwrap();
        done(&["train", &recipe.display().to_string(), "--out", &out.display().to_string()]);

        // Compute the loss of the first step from the embeddings that `embed` writes.
        let image = distance(&place.picture(&student), &place.picture(&teacher));
        let students = place.texts(&student, &[]);
        let expected = image + distance(&students, &own);
        let found = first_loss(&out);
        assert!((found - expected).abs() < 1e-5 * expected, "{found} instead of {expected}");
        let mistaken = image + distance(&students, &by_clips);
        assert!((found - mistaken).abs() > 1e-2 * expected, "{found} is also {mistaken}");

        // `--tokenizer` and a tokenizer in the folder are equivalent.
        fs::rename(&tokenizer, place.path("elsewhere.json")).unwrap();
        assert_eq!(place.texts(&teacher, &["--tokenizer", &place.name("elsewhere.json")]), own);
        assert_eq!(place.texts(&teacher, &[]), by_clips);
    }
}

#[test]
fn a_students_tokenizer_is_saved_with_the_model_and_its_conversions() {
    let place = Place::new();
    let student = place.model("student", 10, r#", "pool_type": "eos", "eos_id": 4"#, 2);
    fs::write(Path::new(&student).join("tokenizer.json"), TOKENIZER).unwrap();
    let recipe = place.path("recipe.toml");
    let toml = format!(
        "name = 'r'\nstudent.model = '{student}'\nlosses.task = 1.0\ntrain = {{ batch_size = 8, steps = 1, threads = 1 }}\n\
         data.root = '{}'\ndata.train = [{{ source = 'csv', path = 'pairs.csv' }}]\n",
        place.name("")
    );
    fs::write(&recipe, toml).unwrap();
    let out = place.name("out");
    done(&["train", &recipe.display().to_string(), "--out", &out]);
    let trained = place.name("out/model");
    let copy = |folder: &str| fs::read_to_string(Path::new(folder).join("tokenizer.json")).unwrap();
    assert_eq!(copy(&trained), TOKENIZER);
    let converted = place.name("converted");
    done(&["convert", &trained, "--to", "open-clip", &converted]);
    assert_eq!(copy(&converted), TOKENIZER);
    assert_eq!(place.texts(&converted, &[]), place.texts(&trained, &[]));
    // Python's open_clip reads the folder's tokenizer if the configuration names one; transformers uses its settings
    // file.
    let json = |file: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(place.path(file)).unwrap()).unwrap()
    };
    for folder in ["out/model", "converted"] {
        let config = json(&format!("{folder}/open_clip_config.json"));
        let named = config["model_cfg"]["text_cfg"]["hf_tokenizer_name"].as_str().unwrap();
        assert!(named.starts_with("tokenizer.json with SHA-256"), "{named}");
        let settings = json(&format!("{folder}/tokenizer_config.json"));
        assert_eq!(settings["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!(settings["model_max_length"], 10);
    }
    done(&["convert", &trained, "--to", "huggingface", &place.name("face")]);
    assert_eq!(copy(&place.name("face")), TOKENIZER);
    assert!(!place.path("face/merges.txt").exists());
    assert_eq!(place.texts(&place.name("face"), &[]), place.texts(&trained, &[]));

    // A weight file cannot contain the tokenizer, and another tokenizer is refused.
    let bare = place.name("bare.safetensors");
    done(&["convert", &trained, "--to", "safetensors", &bare]);
    let own = place.name("out/model/tokenizer.json");
    assert_eq!(place.texts(&bare, &["--tokenizer", &own]), place.texts(&trained, &[]));
    fs::write(place.path("other.json"), TOKENIZER.replace("dog", "cow")).unwrap();
    for more in [vec![], vec!["--tokenizer".to_string(), place.name("other.json")]] {
        let mut command = program();
        command.args(["embed", &bare, "--texts", &place.name("texts.txt"), "--out", &place.name("no")]);
        let output = command.args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("the model reads"), "{said}");
    }
    // A folder of a model with CLIP's tokenizer does not contain one.
    let plain = place.model("plain", 12, "", 1);
    done(&["convert", &plain, "--to", "open-clip", &place.name("plain-copy")]);
    assert!(!place.path("plain-copy/tokenizer.json").exists());
}

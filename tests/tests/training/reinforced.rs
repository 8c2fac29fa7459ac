//! Training from stored embeddings: as with the teacher itself, and only from the right store.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use data_pipeline::store::{Store, StoreKind};
use trainer::recipe::parse;
use trainer::reinforce::{Making, reinforce};
use trainer::run::{Options, run};
use trainer::{Recipe, Result};

use super::no_models;

const LOSSES: &str = "losses = { task = 1.0, crd = 1.0, fd = 100.0, icl = 1.0, anchors = { weight = 1.0, count = 30 }, \
                      hinton = { weight = 1.0, classes = ['cat', 'dog'] } }";

struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny::model(folder.path(), "student", &tiny::config(16, 8), 1);
        tiny::model(folder.path(), "teacher", &tiny::config(24, 16), 2);
        tiny::model(folder.path(), "stranger", &tiny::config(24, 16), 3);
        Bed { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run on a small share of the emoji with 2 variants of each; `teacher` are the keys of its table.
    fn recipe(&self, teacher: &str, more: &str) -> Recipe {
        let text = tiny::recipe(&self.path("student"), 20)
            .replace("losses.task = 1.0", LOSSES)
            .replace("{ source = \"emoji\" }", "{ source = \"emoji\", share = 0.03 }");
        let text = format!("{text}\n[teacher]\n{teacher}\n{more}");
        parse(&text, &[], "test").unwrap().runs.remove(0)
    }

    fn live(&self) -> Recipe {
        let mut recipe = self.recipe(&format!("model = '{}'", self.path("teacher").display()), "");
        recipe.data.variants = 2;
        recipe
    }

    fn stored(&self, store: &str) -> Recipe {
        self.recipe(&format!("store = '{}'", self.path(store).display()), "")
    }

    fn make(&self, store: &str, kind: StoreKind) {
        let folder = self.path(store);
        let making = Making { folder: &folder, kind, ..Making::default() };
        let made = reinforce(&self.live(), &no_models, &making).unwrap();
        assert_eq!(made.shards.0, made.shards.1);
    }

    fn losses(&self, recipe: &Recipe, name: &str) -> Result<Vec<f64>> {
        let stop = AtomicBool::new(false);
        let options =
            Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
        let out = self.path(name);
        run(recipe, &out, &no_models, &options)?;
        let lines = trainer::metrics::read_steps(&out)?;
        Ok(lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect())
    }
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, f64::max)
}

#[test]
fn stored_embeddings_train_as_the_teacher_does() {
    let bed = Bed::new();
    let live = bed.losses(&bed.live(), "live").unwrap();
    assert_eq!(live.len(), 20);
    for (kind, tolerance) in [(StoreKind::F16, 1e-4), (StoreKind::Bf16, 1e-3), (StoreKind::Int8, 3e-3)] {
        let name = format!("{kind:?}");
        bed.make(&name, kind);
        let stored = bed.losses(&bed.stored(&name), &format!("from {name}")).unwrap();
        let difference = worst(&live, &stored);
        assert!(difference < tolerance, "{kind:?}: {difference}");
    }
    // Another augmentation of the same images is another run.
    let mut other = bed.live();
    other.data.variants_seed = 1;
    assert!(worst(&live, &bed.losses(&other, "other").unwrap()) > 1e-3);
}

#[test]
fn a_store_that_is_named_with_its_teacher_is_made_and_checked() {
    let bed = Bed::new();
    let both = |teacher: &str| {
        let (model, store) = (bed.path(teacher), bed.path("store"));
        let mut recipe =
            bed.recipe(&format!("model = '{}'\nstore = '{}'", model.display(), store.display()), "");
        recipe.train.steps = Some(2);
        recipe.data.variants = 2;
        recipe
    };
    bed.losses(&both("teacher"), "made").unwrap();
    assert!(Store::is_finished(&bed.path("store")));
    bed.losses(&both("teacher"), "again").unwrap();
    let error = bed.losses(&both("stranger"), "stranger").unwrap_err().to_string();
    assert!(error.contains("another teacher"), "{error}");
}

#[test]
fn a_store_of_something_else_is_refused() {
    let bed = Bed::new();
    bed.make("store", StoreKind::F16);
    let changed = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = bed.stored("store");
        change(&mut recipe);
        bed.losses(&recipe, "refused").unwrap_err().to_string()
    };
    let error = changed(&|recipe| recipe.data.augment.flip = 0.25);
    assert!(error.contains("data.augment"), "{error}");
    let error = changed(&|recipe| recipe.data.train[0].share = 0.02);
    assert!(error.contains("other data"), "{error}");
    let error = changed(&|recipe| recipe.data.variants = 3);
    assert!(error.contains("variants"), "{error}");
    let error = changed(&|recipe| recipe.teachers[0].store = Some("nothing".into()));
    assert!(error.contains("reinforce"), "{error}");
    flip_a_byte(&bed.path("store/shard-00000.safetensors"));
    let error = changed(&|_| {});
    assert!(error.contains("damaged"), "{error}");
}

fn flip_a_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

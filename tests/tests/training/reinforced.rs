//! Training from stored embeddings: as with the teacher itself, and only from the right store.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clip_distill_tests::tiny;
use data_pipeline::store::{Store, StoreKind};
use trainer::recipe::{Classes, parse};
use trainer::run::{Options, run};
use trainer::teacher::store::{StoreOptions, reinforce};
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
        let options = StoreOptions { folder: &folder, kind, ..StoreOptions::default() };
        let created = reinforce(&self.live(), &no_models(), &options).unwrap();
        assert_eq!(created.shards.0, created.shards.1);
    }

    fn losses(&self, recipe: &Recipe, name: &str) -> Result<Vec<f64>> {
        let stop = AtomicBool::new(false);
        let options =
            Options { stop: &stop, stop_after: None, resume: true, progress: false, version: "test" };
        let out = self.path(name);
        run(recipe, &out, &no_models(), &options)?;
        Ok(tiny::losses(&out))
    }
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, f64::max)
}

#[test]
fn a_run_from_stored_embeddings_equals_a_run_from_the_teacher() {
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
    // The sum of terms falls to half in its 20 steps, so that both learn.
    println!("live: {live:.3?}");
    assert!(live[19] < 0.5 * live[0], "{live:?}");
    // Another augmentation of the same images is another run.
    let mut other = bed.live();
    other.data.variants_seed = 1;
    assert!(worst(&live, &bed.losses(&other, "other").unwrap()) > 1e-3);
}

#[test]
fn a_store_named_with_its_teacher_is_created_and_checked() {
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
    assert!(Store::is_finished(bed.path("store")));
    bed.losses(&both("teacher"), "again").unwrap();
    // Prompts that the store does not hold come from the model that is named with it.
    let mut live = bed.live();
    live.train.steps = Some(2);
    let with_other_classes = |recipe: &mut Recipe| {
        let config = recipe.losses.get_mut(&kd_losses::Loss::Hinton).unwrap();
        config.classes = Some(Classes::Listed(vec!["bird".into(), "fish".into(), "car".into()]));
    };
    let mut stored = both("teacher");
    with_other_classes(&mut live);
    with_other_classes(&mut stored);
    // A run that finds an unfinished store resumes it, whatever its class list.
    std::fs::remove_file(bed.path("store").join("shard-00000.safetensors")).unwrap();
    let (live, from_both) =
        (bed.losses(&live, "live").unwrap(), bed.losses(&stored, "other classes").unwrap());
    assert!(worst(&live, &from_both) < 1e-4);
    stored.teachers[0].model = None;
    let error = bed.losses(&stored, "store alone").unwrap_err().to_string();
    assert!(error.contains("has no embedding of the text"), "{error}");
    let error = bed.losses(&both("stranger"), "stranger").unwrap_err().to_string();
    assert!(error.contains("another teacher"), "{error}");
    // The same weights under another activation are another teacher.
    let mut config = tiny::config(24, 16);
    config.quick_gelu = true;
    tiny::model(bed.folder.path(), "quick", &config, 2);
    let error = bed.losses(&both("quick"), "quick").unwrap_err().to_string();
    assert!(error.contains("another teacher"), "{error}");
}

#[test]
fn students_are_compared_with_the_teacher_behind_a_store() {
    let bed = Bed::new();
    bed.make("store", StoreKind::F16);
    let (teacher, cache) = (bed.path("teacher"), bed.path("cache"));
    let more = format!(
        "[eval]\nfidelity = true\nteacher.model = '{}'\ncache = '{}'\n\
         [[eval.sets]]\nname = 'groups'\nsource = 'emoji'\nsplit = 'test'\ntrain = {{ source = 'emoji', split = 'test' }}\n\
         [[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\nsource = 'emoji'\nsplit = 'test'\n",
        teacher.display(),
        cache.display()
    );
    let mut recipe = bed.recipe(&format!("store = '{}'", bed.path("store").display()), &more);
    recipe.train.steps = Some(2);
    let again: Recipe = toml::from_str(&recipe.to_toml().unwrap()).unwrap();
    assert_eq!(again, recipe);
    let results = |name: &str| {
        bed.losses(&recipe, name).unwrap();
        let text = std::fs::read_to_string(bed.path(name).join("report.json")).unwrap();
        serde_json::from_str::<trainer::run::Results>(&text).unwrap()
    };
    let first = results("first");
    let [groups, held_out] = &first.details[..] else { panic!("{:?}", first.details) };
    assert!(groups.fidelity.as_ref().unwrap().top1_agreement.is_some());
    // Its test images are its training images here: the nearest one is the image itself.
    let own = groups.knn.as_ref().unwrap().top1;
    assert!(own > groups.classification.as_ref().unwrap().top1, "{own}");
    let cka = held_out.fidelity.as_ref().unwrap().cka_texts.unwrap();
    assert!(cka > 0.0 && cka < 1.0 && first.teacher.is_some(), "{cka}");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);
    // The second run takes the teacher's embeddings from the cache, with equal results.
    assert_eq!(results("second").details, first.details);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);
    // A finished run that is to be compared with another teacher is compared again, and not by kept rows.
    let mut other = recipe.clone();
    other.eval.teacher.as_mut().unwrap().model = Some(bed.path("stranger").as_path().into());
    bed.losses(&other, "second").unwrap();
    let text = std::fs::read_to_string(bed.path("second").join("report.json")).unwrap();
    let again: trainer::run::Results = serde_json::from_str(&text).unwrap();
    assert_ne!(again.details[0].fidelity, first.details[0].fidelity);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 4);
    // A file of class names that was edited in place is also encoded again.
    let names = bed.path("names.txt");
    let mut listed = recipe.clone();
    listed.eval.sets.truncate(1);
    listed.eval.sets[0].class_names = Some(trainer::recipe::Classes::File(names.clone()));
    for (number, first) in ["first", "other"].into_iter().enumerate() {
        let classes = (0..9).map(|place| format!("{first} {place}\n")).collect::<String>();
        std::fs::write(&names, classes).unwrap();
        bed.losses(&listed, &format!("named {number}")).unwrap();
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 5 + number);
    }
}

#[test]
fn a_store_of_other_data_or_settings_is_refused() {
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

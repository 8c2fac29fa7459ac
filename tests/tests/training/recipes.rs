//! The shipped recipes parse, and those on embedded data have a plan.

use std::path::{Path, PathBuf};

use clip_model::presets;
use trainer::recipe::load;
use trainer::run::plan::Plan;

fn recipes() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "toml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/recipes"), &mut found);
    found.sort();
    found
}

#[test]
fn every_shipped_recipe_parses() {
    let recipes = recipes();
    assert!(recipes.len() >= 2);
    for path in recipes {
        let job = load(&path, &[]).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy();
        assert_eq!(job.name, stem, "a recipe is called like its file");
    }
}

#[test]
fn the_quickstart_has_a_plan() {
    let path = recipes().into_iter().find(|path| path.ends_with("quickstart.toml")).unwrap();
    let job = load(&path, &[]).unwrap();
    for recipe in &job.runs {
        let plan = Plan::new(recipe, &job).unwrap();
        assert!(plan.steps > 0 && plan.flops > 0.0);
        assert!(plan.to_string().contains("MACs"));
    }
    let students = job.runs.iter().filter(|recipe| recipe.name != "teacher").collect::<Vec<_>>();
    // With and without distillation, everything else is the same.
    assert_eq!(students.len(), 2);
    assert_eq!(students[0].train, students[1].train);
    assert_eq!(students[0].seed, students[1].seed);
    assert_eq!(students[0].student, students[1].student);
}

#[test]
fn published_settings_have_a_plan_without_data_or_teacher() {
    let published = recipes().into_iter().filter(|path| {
        let family = path.parent().and_then(Path::file_name).unwrap();
        family != "recipes" && family != "methods"
    });
    let mut students = std::collections::BTreeSet::new();
    for path in published {
        let job = load(&path, &[]).unwrap();
        for recipe in &job.runs {
            let plan = Plan::new(recipe, &job).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let is_baseline = path.ends_with("clip-rd/none.toml");
            assert!(plan.samples > 200_000_000, "{}", path.display());
            assert_eq!(plan.teachers.is_empty(), is_baseline, "{}", path.display());
            assert!(plan.to_string().contains("(missing: "), "{}", path.display());
            students.insert(recipe.student.model.to_string());
        }
    }
    // Every tower that a student can have; larger ones are teachers.
    let small = presets::names().filter(|name| {
        let own = !name.ends_with("quickgelu") && !name.ends_with("px") && !name.contains("SigLIP");
        let large = ["RN101", "RN50x", "ViT-L", "ViT-H", "ViT-g", "ViT-bigG"];
        // The project's own presets with a small text tower follow no publication.
        let small_text = name.contains("-Text-") && !name.starts_with("TinyCLIP");
        own && !small_text && !large.iter().any(|prefix| name.starts_with(prefix))
    });
    for name in small {
        assert!(students.contains(name), "{name} has no recipe");
    }
}

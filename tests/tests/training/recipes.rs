//! The recipes that ship: all are read, and those on embedded data are planned.

use std::path::{Path, PathBuf};

use trainer::plan::Plan;
use trainer::recipe::load;

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/recipes");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect()
}

#[test]
fn every_recipe_is_read() {
    let recipes = recipes();
    assert!(recipes.len() >= 2);
    for path in recipes {
        let job = load(&path, &[]).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy();
        assert_eq!(job.name, stem, "a recipe is called like its file");
    }
}

#[test]
fn the_quickstart_is_planned() {
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

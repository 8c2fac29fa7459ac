//! `cargo xtask train`: setup, build and all runs of a recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::program;
use crate::shell::{root, say};

/// The default recipe.
const QUICKSTART: &str = "configs/recipes/quickstart.toml";
/// Options of `clip-distill train` that take a value.
const VALUED: [&str; 3] = ["--set", OUT, "--stop-after"];
/// The option of [`VALUED`] whose value is a path.
const OUT: &str = "--out";

pub(crate) fn run(args: Vec<String>) -> Result<()> {
    let caller = caller()?;
    let args = from_root(args, &caller, &VALUED, QUICKSTART);
    say_where(&caller);
    program::become_program("train", &args, &root())
}

/// Returns the current folder.
pub(crate) fn caller() -> Result<PathBuf> {
    std::env::current_dir().context("the current folder no longer exists: change to another one")
}

/// Prints that paths are relative to the root, if the caller is in another folder.
pub(crate) fn say_where(caller: &Path) {
    if caller != root() {
        say(&format!("paths in recipes, in --set and in the results are relative to {}", root().display()));
    }
}

/// Converts arguments typed in the folder `caller` for a program that runs in the root: the file comes first, and it
/// and the value of --out are absolute. `valued` are the options that take a value; `default` is the default file.
pub(crate) fn from_root(args: Vec<String>, caller: &Path, valued: &[&str], default: &str) -> Vec<String> {
    let absolute = |path: &str| caller.join(path).display().to_string();
    let (recipe, rest) = split(args, valued);
    let mut args = vec![recipe.map_or_else(|| default.into(), |recipe| absolute(&recipe))];
    let mut option = None::<String>;
    for word in rest {
        let inline = word.strip_prefix(OUT).and_then(|rest| rest.strip_prefix('='));
        let word = match (&option, inline) {
            (Some(option), _) if option == OUT => absolute(&word),
            (None, Some(path)) => format!("{OUT}={}", absolute(path)),
            _ => word,
        };
        option = (option.is_none() && valued.contains(&&*word)).then(|| word.clone());
        args.push(word);
    }
    args
}

/// Splits arguments into the first positional one, the recipe, and all others in their order.
fn split(args: Vec<String>, valued: &[&str]) -> (Option<String>, Vec<String>) {
    let (mut recipe, mut rest) = (None, Vec::new());
    let mut is_value = false;
    for word in args {
        if recipe.is_none() && !is_value && !word.starts_with('-') {
            recipe = Some(word);
            continue;
        }
        is_value = !is_value && valued.contains(&&*word);
        rest.push(word);
    }
    (recipe, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    #[track_caller]
    fn check_split(line: &str, recipe: Option<&str>, rest: &str) {
        assert_eq!(split(words(line), &VALUED), (recipe.map(str::to_string), words(rest)));
    }

    #[test]
    fn the_recipe_is_the_first_positional_argument() {
        check_split("", None, "");
        check_split("a.toml", Some("a.toml"), "");
        check_split("a.toml --dry-run", Some("a.toml"), "--dry-run");
        check_split("--dry-run a.toml", Some("a.toml"), "--dry-run");
        check_split("--set k=v a.toml", Some("a.toml"), "--set k=v");
        check_split("--set k=v --set k2=v2 a.toml", Some("a.toml"), "--set k=v --set k2=v2");
        check_split("--set=k=v --out=o a.toml --json", Some("a.toml"), "--set=k=v --out=o --json");
        check_split("--out o a.toml --set k=v", Some("a.toml"), "--out o --set k=v");
        check_split("--stop-after 3 a.toml", Some("a.toml"), "--stop-after 3");
        check_split("--set k=v --restart", None, "--set k=v --restart");
    }

    #[test]
    fn a_value_that_looks_like_an_option_stays_a_value_and_a_second_recipe_is_passed_on() {
        check_split("--set --out a.toml", Some("a.toml"), "--set --out");
        check_split("a.toml b.toml", Some("a.toml"), "b.toml");
        check_split("--set", None, "--set");
    }

    #[track_caller]
    fn check_from_root(line: &str, expected: &str) {
        assert_eq!(from_root(words(line), Path::new("/here"), &VALUED, QUICKSTART), words(expected));
    }

    #[test]
    fn typed_paths_are_relative_to_the_caller() {
        check_from_root("a.toml --out o", "/here/a.toml --out /here/o");
        check_from_root("--out=o ../a.toml", "/here/../a.toml --out=/here/o");
        check_from_root("/x/a.toml --out /o", "/x/a.toml --out /o");
        check_from_root("--set out=o a.toml", "/here/a.toml --set out=o");
        check_from_root("--set --out=o a.toml", "/here/a.toml --set --out=o");
    }

    #[test]
    fn the_default_recipe_is_relative_to_the_workspace() {
        check_from_root("", QUICKSTART);
        check_from_root("--out o --dry-run", &format!("{QUICKSTART} --out /here/o --dry-run"));
        assert!(root().join(QUICKSTART).is_file());
    }
}

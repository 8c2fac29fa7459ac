//! `cargo xtask train`: from nothing to a report.

use std::path::Path;

use anyhow::{Context, Result};

use crate::shell::{root, say};
use crate::{program, setup};

/// What is trained where no recipe is named.
const QUICKSTART: &str = "configs/recipes/quickstart.toml";
/// Options of `clip-distill train` that take the next word as their value.
const VALUED: [&str; 3] = ["--set", OUT, "--stop-after"];
/// The one whose value is a path.
const OUT: &str = "--out";

pub(crate) fn run(args: Vec<String>) -> Result<()> {
    let libtorch = setup::run(false)?;
    let caller = std::env::current_dir().context("the current folder is gone: change to another one")?;
    let args = from_root(args, &caller, &VALUED, QUICKSTART);
    say("building clip-distill");
    let mut train = std::process::Command::new(program::build()?);
    train.arg("train").args(&args).current_dir(root());
    say_where(&caller);
    // Taking the place of this process, the program gets signals itself.
    let error = std::os::unix::process::CommandExt::exec(program::with_libtorch(&mut train, &libtorch)?);
    Err(error).context("cannot start clip-distill")
}

/// Says that the program runs at the root, where the caller is elsewhere.
pub(crate) fn say_where(caller: &Path) {
    if caller != root() {
        say(&format!("paths inside recipes, of --set and of results are relative to {}", root().display()));
    }
}

/// The words for a program that runs at the root, where they were typed in the folder `caller`.
/// `valued` are the options that take a value, `default` is the file where none is named.
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

/// The recipe, wherever it stands among the options, and everything else in order.
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
    fn the_recipe_is_found_among_options() {
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
    fn a_value_is_no_option_and_a_second_recipe_stays_to_be_refused() {
        check_split("--set --out a.toml", Some("a.toml"), "--set --out");
        check_split("a.toml b.toml", Some("a.toml"), "b.toml");
        check_split("--set", None, "--set");
    }

    #[track_caller]
    fn check_from_root(line: &str, expected: &str) {
        assert_eq!(from_root(words(line), Path::new("/here"), &VALUED, QUICKSTART), words(expected));
    }

    #[test]
    fn typed_paths_are_the_callers() {
        check_from_root("a.toml --out o", "/here/a.toml --out /here/o");
        check_from_root("--out=o ../a.toml", "/here/../a.toml --out=/here/o");
        check_from_root("/x/a.toml --out /o", "/x/a.toml --out /o");
        check_from_root("--set out=o a.toml", "/here/a.toml --set out=o");
        check_from_root("--set --out=o a.toml", "/here/a.toml --set --out=o");
    }

    #[test]
    fn the_quickstart_is_the_workspaces() {
        check_from_root("", QUICKSTART);
        check_from_root("--out o --dry-run", &format!("{QUICKSTART} --out /here/o --dry-run"));
        assert!(root().join(QUICKSTART).is_file());
    }
}

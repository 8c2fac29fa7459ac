//! Each kind of mistake in a recipe or a suite gets a message with the line, the key, what was found and what is expected.

use std::path::Path;

use super::names::closest;
use super::{Places, Step};
use crate::eval::suite::Suite;
use crate::recipe::{load, parse};

const RECIPE: &str = "name = 'm'
[student]
model = 'ViT-nano-32px'
[[data.train]]
source = 'emoji'
[losses]
task = 1.0
[optimizer]
lr = 3e-3
[train]
batch_size = 8
steps = 2
";

/// Words of the parser and of Rust, which no message may contain.
const FOREIGN: [&str; 14] = [
    "invalid type",
    "invalid value",
    "struct ",
    "enum",
    "Keys",
    "Config",
    "variant",
    "untagged",
    "tagged",
    "sequence",
    "floating point",
    "usize",
    "u64",
    "missing field",
];

fn message(text: &str, settings: &[&str]) -> String {
    let settings = settings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let error = parse(text, &settings, "m.toml").unwrap_err().to_string();
    for word in FOREIGN {
        assert!(!error.contains(word), "`{word}` in: {error}");
    }
    error
}

/// Checks the message of the recipe in which `from` is replaced by `to`.
fn check(from: &str, to: &str, expected: &str) {
    let text = RECIPE.replacen(from, to, 1);
    assert_ne!(text, RECIPE, "{from}");
    assert_eq!(message(&text, &[]), format!("`m.toml`: {expected}"), "{to}");
}

#[test]
fn values_of_the_wrong_kind_are_described_in_the_words_of_the_documentation() {
    let whole = "expected a whole number, 0 or more, found";
    for (from, to, expected) in [
        ("name = 'm'", "name = 5", "line 1: name = 5: expected a text in quotes; write \"5\"".to_string()),
        ("batch_size = 8", "batch_size = 1.5", format!("line 11: train.batch_size = 1.5: {whole} a number with a decimal point")),
        ("batch_size = 8", "batch_size = '32'", format!("line 11: train.batch_size = \"32\": {whole} a text; remove the quotes")),
        ("batch_size = 8", "batch_size = -1", format!("line 11: train.batch_size = -1: {whole} a number below 0")),
        ("batch_size = 8", "batch_size = true", format!("line 11: train.batch_size = true: {whole} true or false")),
        ("steps = 2", "steps = 1979-05-27", format!("line 12: train.steps = 1979-05-27: {whole} a date")),
        ("[[data.train]]", "[data.train]", "line 4: data.train: expected a list of tables, found a single table; write [[data.train]]".into()),
        ("lr = 3e-3", "lr = '3e-3'", "line 9: optimizer.lr = \"3e-3\": expected a number, found a text; remove the quotes".into()),
        ("task = 1.0", "task = 'x'", "line 7: losses.task: expected a number or a table, found \"x\"".into()),
        ("[student]\nmodel = ", "student = ", "line 2: student = \"ViT-nano-32px\": expected a table, found a text".into()),
        ("model = 'ViT-nano-32px'", "model = 7", "line 3: student.model = 7: expected a text in quotes, found a whole number; write \"7\"".into()),
        ("source = 'emoji'", "source = 5", "line 5: data.train.source = 5: expected a text in quotes, found a whole number".into()),
        ("steps = 2", "steps = 2\nprecision = 16", "line 13: train.precision = 16: expected one of \"fp32\", \"bf16\", \"auto\", found a whole number".into()),
        ("steps = 2", "steps = 2\n[eval]\nsets = 'x'", "line 14: eval.sets = \"x\": expected a list of tables, found a text".into()),
        ("steps = 2", "steps = 2\n[checkpoint]\nkeep = []", format!("line 14: checkpoint.keep: {whole} a list")),
    ] {
        check(from, to, &expected);
    }
}

#[test]
fn unknown_and_missing_names_come_with_a_suggestion() {
    for (from, to, expected) in [
        ("task = 1.0", "cdr = 1.0", "line 7: losses.cdr: unknown loss; did you mean `crd`?"),
        ("batch_size", "batchsize", "line 11: train.batchsize: unknown key; did you mean `batch_size`?"),
        ("[optimizer]", "[optimiser]", "line 8: optimiser: unknown key; did you mean `optimizer`?"),
        (
            "'emoji'",
            "'emojis'",
            "line 5: data.train.source = \"emojis\": unknown name; did you mean `emoji`?",
        ),
        (
            "source = 'emoji'",
            "source = 'emoji'\nsplitt = 'test'",
            "line 6: data.train.splitt: unknown key; did you mean `split`?",
        ),
        (
            "steps = 2",
            "steps = 2\nprecision = 'bf61'",
            "line 13: train.precision = \"bf61\": unknown name; did you mean `bf16`?",
        ),
        (
            "task = 1.0",
            "task = { weigth = 1.0 }",
            "line 7: losses.task: unknown setting `weigth`; did you mean `weight`?",
        ),
        ("batch_size = 8\n", "", "line 10: `train.batch_size` is missing: add a whole number, 0 or more"),
        ("[losses]\ntask = 1.0\n", "", "`losses` is missing: add a table"),
    ] {
        check(from, to, expected);
    }
    let listed = message(&RECIPE.replace("lr =", "speed ="), &[]);
    assert!(listed.contains("line 9: optimizer.speed: unknown key; expected one of `lr`, "), "{listed}");
    let listed = message(&RECIPE.replace("source =", "kind ="), &[]);
    assert!(
        listed.contains("line 4: `data.train.source` is missing: expected one of `webdataset`, "),
        "{listed}"
    );
}

#[test]
fn settings_that_are_out_of_range_have_a_line_too() {
    for (from, to, expected) in [
        ("lr = 3e-3", "lr = -1.0", "line 9: optimizer.lr = -1 is not a number above 0"),
        (
            "source = 'emoji'",
            "source = 'emoji'\nweight = 0",
            "line 6: data.train.weight = 0 is not above 0 and at most 1000000",
        ),
        (
            "source = 'emoji'",
            "source = 'emoji'\nshare = 1.5",
            "line 6: data.train.share = 1.5 is not above 0 and at most 1",
        ),
        (
            "batch_size = 8",
            "batch_size = 1",
            "line 11: train.batch_size = 1: a contrastive batch needs at least 2 samples",
        ),
        (
            "steps = 2",
            "steps = 2\nepochs = 1.0",
            "line 10: [train] has both `epochs` and `steps`: give one of them",
        ),
        (
            "steps = 2",
            "steps = 2\ndevice = 'tpu'",
            "line 13: train.device: `tpu` is not a device: use auto, cpu, cuda or cuda:N",
        ),
        (
            "name = 'm'",
            "name = '../x'",
            "line 1: name = \"../x\": expected only letters, digits, - _ . +, and no dot at the start",
        ),
        (
            "steps = 2",
            "steps = 2\n[[eval.sets]]\nname = 'a'\nsource = 'emoji'\n[[eval.sets]]\nname = 'a'\nsource = 'emoji'",
            "line 16: eval.sets: two sets are called `a`: rename one",
        ),
    ] {
        check(from, to, expected);
    }
}

#[test]
fn syntax_errors_show_the_line() {
    let error = message(&RECIPE.replace("steps = 2", "steps = "), &[]);
    assert_eq!(error, "`m.toml`: line 12, `steps =`: the value is missing");
    let error = message(&RECIPE.replace("'emoji'", "emoji"), &[]);
    assert_eq!(error, "`m.toml`: line 5, `source = emoji`: a text needs quotes");
    let error = message(&RECIPE.replace("steps = 2", "steps = 99999999999999999999"), &[]);
    assert!(error.contains("line 12, ") && error.contains("the number is too large"), "{error}");
    let error = message("{\"name\": 1}", &[]);
    assert!(error.starts_with("`m.toml`: line 1, `{\"name\": 1}`: this is not TOML: "), "{error}");
    let error = message(&RECIPE.replace("steps = 2", "steps = 2\nsteps = 3"), &[]);
    assert_eq!(error, "`m.toml`: line 13, `steps = 3`: the key is set twice: remove one of them");
}

#[test]
fn the_place_is_the_text_that_sets_the_key() {
    let set = message(RECIPE, &["train.steps=-3"]);
    let whole = "expected a whole number, 0 or more";
    assert_eq!(
        set,
        format!("`m.toml`: `--set train.steps=-3`: train.steps = -3: {whole}, found a number below 0")
    );
    let runs = format!("{RECIPE}[[runs]]\nname = 'a'\n[[runs]]\nname = 'b'\ntrain.steps = -3");
    let found = format!("line 17: train.steps = -3: {whole}, found a number below 0");
    assert_eq!(message(&runs, &[]), format!("`m.toml, run b`: {found}"));
    let stages = format!("{RECIPE}[[stages]]\n[[stages]]\ntrain.steps = -3");
    let found = format!("line 15: train.steps = -3: {whole}, found a number below 0");
    assert_eq!(message(&stages, &[]), format!("`m.toml, run m-2`: {found}"));

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let base = file("base.toml", &RECIPE.replace("steps = 2", "steps = -2"));
    let own = file("own.toml", "extends = 'base.toml'\nname = 'own'");
    let error = load(&own, &[]).unwrap_err().to_string();
    let line = format!("line 12 of `{}`: train.steps = -2: {whole}, found a number below 0", base.display());
    assert_eq!(error, format!("`{}`: {line}", own.display()));
    let own = file("own.toml", "name = 'own'\nextends = 'none.toml'");
    let error = load(&own, &[]).unwrap_err().to_string();
    let head = format!("`{}`: line 2: extends = \"none.toml\": cannot access `", own.display());
    assert!(error.starts_with(&head), "{error}");
    let own = file("own.toml", "extends = 5");
    let error = load(&own, &[]).unwrap_err().to_string();
    assert!(error.ends_with("line 1: extends = 5: expected the path of a recipe in quotes"), "{error}");
}

#[test]
fn a_sweep_in_place_of_a_recipe_names_the_other_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sweep.toml");
    std::fs::write(&path, "name = 's'\nrecipe = 'm.toml'\n[[cells]]\nname = 'a'").unwrap();
    let error = load(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("it is a sweep: run it with `clip-distill sweep "), "{error}");
}

#[test]
fn suites_have_the_same_messages() {
    let folder = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        let path = folder.path().join("suite.toml");
        std::fs::write(&path, text).unwrap();
        let error = Suite::read(&path).unwrap_err().to_string();
        error.rsplit_once("suite.toml`: ").map(|(_, reason)| reason.to_string()).unwrap()
    };
    let set = "[[sets]]\nname = 'a'\nsource = 'folder'\nroot = 'a'\n";
    for (text, expected) in [
        (
            format!("name = 's'\n{set}limit = 'x'"),
            "line 6: sets.limit = \"x\": expected a whole number, 0 or more, found a text",
        ),
        (format!("name = 's'\n{set}rot = 'x'"), "line 6: sets.rot: unknown key; did you mean `root`?"),
        (format!("name = 's'\n{set}{set}"), "line 6: sets: two sets are called `a`: rename one"),
        (
            "name = 's'\n[sets]\nname = 'a'".into(),
            "line 2: sets: expected a list of tables, found a single table; write [[sets]]",
        ),
        (set.to_string(), "`name` is missing: add a text in quotes"),
    ] {
        assert_eq!(read(&text), expected);
    }
}

#[test]
fn suggestions_are_close() {
    let known = ["crd", "fd", "patch-tokens", "batch_size"];
    for (name, expected) in [
        ("cdr", Some("crd")),
        ("patch_tokens", Some("patch-tokens")),
        ("BatchSize", Some("batch_size")),
        ("gradient", None),
    ] {
        assert_eq!(closest(name, known), expected, "{name}");
    }
}

#[test]
fn a_reason_is_located_by_the_first_setting_in_it() {
    let places = Places::of_file("m.toml", "a = 1\n[train]\nsteps = 2\n[[sets]]\n[[sets]]\nname = 'x'");
    for (reason, expected) in [
        ("train.steps = 2 is wrong", "line 3: train.steps = 2 is wrong"),
        ("[train] needs more", "line 2: [train] needs more"),
        ("sets[1]: no", "line 5: sets: no"),
        ("sets[1].name: no", "line 6: sets.name: no"),
        ("nothing is known", "nothing is known"),
        ("the train is late", "the train is late"),
    ] {
        assert_eq!(places.locate(reason), expected);
    }
    let step: [Step; 2] = ["train".into(), "none".into()];
    assert_eq!(places.at(&step, "missing"), "line 2: missing");
    assert!(Path::new("m.toml").is_relative());
}

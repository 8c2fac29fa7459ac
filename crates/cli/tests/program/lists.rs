//! Files that users bring along: class lists, prompt templates, and the layouts of published data sets.

use std::fs;

use crate::common::{Place, clip_distill, done, failed, text};
use serde_json::Value;

/// Runs `evaluate` on the pictures with a list under an option. Returns the first class, and standard error.
fn first_class(place: &Place, option: &str, list: &str) -> (String, String) {
    let (model, pictures) = (place.model(), place.pictures());
    let output = clip_distill(&["evaluate", &model, "--data", &pictures, option, list, "--json"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    (found["sets"][0]["per_class"][0]["class"].as_str().unwrap().to_string(), said)
}

#[test]
fn numbers_and_ids_of_class_lists_are_removed_with_one_notice() {
    let place = Place::new();
    let list = place.name("names.txt");
    for (names, part) in [
        ("n01440764 a sea\nn01443537 a fire\n", "the synset ids"),
        ("n01440764\ta sea\nn01443537\ta fire\n", "the synset ids"),
        ("0 a sea\n1 a fire\n", "the line numbers"),
        ("1: a sea\n2: a fire\n", "the line numbers"),
        ("\"a sea\",\n\"a fire\",\n", "the quotes"),
    ] {
        fs::write(&list, names).unwrap();
        let (found, said) = first_class(&place, "--class-names", &list);
        assert_eq!(found, "a sea", "{names}");
        let notices = said.lines().filter(|line| line.contains("removed")).collect::<Vec<_>>();
        assert_eq!(notices.len(), 1, "{said}");
        let example = names.lines().next().unwrap().replace('\t', "\\t");
        for part in ["names.txt", part, &example, "becomes `a sea`"] {
            assert!(notices[0].contains(part), "{part}: {said}");
        }
    }
    fs::write(&list, "0 degrees\nfire\n").unwrap();
    let (found, said) = first_class(&place, "--class-names", &list);
    assert!(found == "0 degrees" && !said.contains("removed"), "{found}: {said}");
}

#[test]
fn lists_in_python_are_read_or_refused() {
    let place = Place::new();
    let (model, pictures, file) = (place.model(), place.pictures(), place.name("lists.py"));
    fs::write(
        &file,
        "imagenet_classes = [\"a sea\", 'a fire']\n\nimagenet_templates = [\n    lambda c: f'a photo of {c}.',\n]\n",
    )
    .unwrap();
    assert_eq!(first_class(&place, "--class-names", &file).0, "a sea");
    let details =
        |prompts: &str| done(&["evaluate", &model, "--data", &pictures, "--prompts", prompts, "--json"]);
    fs::write(place.path("plain.txt"), "a photo of {}.\n").unwrap();
    assert_eq!(details(&file), details(&place.name("plain.txt")));
    let image = format!("{pictures}/red/0.png");
    assert!(done(&["classify", &model, &image, "--labels-file", &file]).contains("a fire"));
    fs::write(&file, "import os\nnames = os.listdir('val')\n").unwrap();
    for option in ["--class-names", "--prompts"] {
        let error = failed(&["evaluate", &model, "--data", &pictures, option, &file]);
        for part in ["lists.py", "Python source", "line 2"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn errors_of_templates_name_file_and_line() {
    let place = Place::new();
    let (model, pictures, file) = (place.model(), place.pictures(), place.name("mine.txt"));
    let image = format!("{pictures}/red/0.png");
    let commands = [
        ["evaluate", &model, "--data", &pictures, "--prompts", &file],
        ["classify", &model, &image, "--labels=a,b", "--prompts", &file],
    ];
    for (templates, parts) in [
        ("a photo of {}\n\na photo\n", ["line 3", "`a photo`", "write {}"]),
        ("red\nblue\n", ["line 1", "class list", "--class-names"]),
    ] {
        fs::write(&file, templates).unwrap();
        for command in &commands {
            let error = failed(command);
            assert!(error.contains("mine.txt"), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    fs::write(place.path("each.json"), r#"{"red": ["fire"], "green": ["grass"]}"#).unwrap();
    let each = place.name("each.json");
    let error = failed(&["evaluate", &model, "--data", &pictures, "--prompts", &each]);
    assert!(error.contains("each.json") && error.contains("1 of the classes, such as `blue`"), "{error}");
    let error = failed(&["classify", &model, &image, "--labels=red,blue", "--prompts", &each]);
    assert!(error.contains("each.json") && error.contains("`blue`"), "{error}");
}

#[test]
fn images_of_img2dataset_are_read_beside_its_table() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let folder = place.path("data/00000");
    fs::create_dir_all(&folder).unwrap();
    for (number, class) in ["red", "blue"].iter().enumerate() {
        fs::copy(format!("{pictures}/{class}/0.png"), folder.join(format!("00000000{number}.png"))).unwrap();
        fs::write(folder.join(format!("00000000{number}.txt")), class).unwrap();
        let json = format!("{{\"caption\": \"{class}\", \"status\": \"success\"}}");
        fs::write(folder.join(format!("00000000{number}.json")), json).unwrap();
    }
    fs::write(place.path("data/00000.parquet"), "PAR1 without images").unwrap();
    fs::write(place.path("data/00000_stats.json"), "{\"count\": 2}").unwrap();
    let output = clip_distill(&["evaluate", &model, "--data", &place.name("data"), "--json"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["sets"][0]["images"], &found["sets"][0]["texts"]), (&2.into(), &2.into()));
    assert!(said.contains("not the Parquet files"), "{said}");
}

#[test]
fn class_data_has_nothing_to_retrieve() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let error = failed(&["evaluate", &model, "--data", &pictures, "--task", "retrieval"]);
    for part in ["pictures", "classes and no captions", "--task classification"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

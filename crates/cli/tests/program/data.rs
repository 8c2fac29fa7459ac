//! Data as it occurs: class lists with duplicate names, texts that are not UTF-8, images in other formats.

use std::fs;
use std::process::Stdio;

use crate::common::{Place, clip_distill, done, failed, program, text};
use serde_json::Value;

/// Runs `evaluate`. Returns its results as JSON, and standard error.
fn evaluated(args: &[&str]) -> (Value, String) {
    let output = clip_distill(&[&["evaluate"], args, &["--json"]].concat());
    let said = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

#[test]
fn imagenets_class_names_are_evaluated_with_one_warning_about_duplicates() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let names = zeroshot_eval::prompts::classes("imagenet-1k").unwrap();
    let mut table = "folder,name\n".to_string();
    for (number, name) in names.iter().enumerate() {
        let folder = place.path(&format!("val/n{number:08}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(format!("{pictures}/red/0.png"), folder.join("0.png")).unwrap();
        table.push_str(&format!("n{number:08},\"{name}\"\n"));
    }
    fs::write(place.path("table.csv"), table).unwrap();
    fs::write(place.path("names.txt"), names.join("\n")).unwrap();
    let (val, file) = (place.name("val"), place.name("names.txt"));
    let by_table = evaluated(&[&model, "--data", &val, "--classes", &place.name("table.csv")]);
    let by_list = evaluated(&[&model, "--data", &val, "--class-names", &file]);
    for (found, said) in [&by_table, &by_list] {
        assert_eq!(found["sets"][0]["samples"], 1000);
        // All images are equal, so all are predicted as the same class. One image has that class.
        assert_eq!(found["sets"][0]["top1"], 0.001);
        assert_eq!(said.lines().filter(|line| line.contains("equal names")).count(), 1, "{said}");
        assert!(said.contains("missile") && said.contains("sunglasses"), "{said}");
    }
    assert_eq!(by_table.0["sets"][0]["top5"], by_list.0["sets"][0]["top5"]);
}

#[test]
fn the_first_of_two_classes_with_the_same_name_is_predicted() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    fs::create_dir(place.path("pictures/zebra")).unwrap();
    fs::copy(format!("{pictures}/blue/0.png"), place.path("pictures/zebra/0.png")).unwrap();
    let recall = |table: &str| {
        fs::write(place.path("pictures/classes.csv"), format!("folder,name\n{table}")).unwrap();
        let (found, _) = evaluated(&[&model, "--data", &pictures]);
        let classes = found["sets"][0]["per_class"].as_array().unwrap();
        classes.iter().map(|class| class["recall"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    // If all classes have the same name, every image is predicted as the first class.
    assert_eq!(recall("blue,thing\nred,thing\nzebra,thing\n"), [1.0, 0.0, 0.0]);
    // The later of two classes with the same name is never predicted.
    assert_eq!(recall("blue,a sea\nred,a fire\nzebra,a sea\n")[2], 0.0);
}

#[test]
fn duplicate_class_names_are_accepted_in_training_data_but_not_in_losses() {
    let place = Place::new();
    let (recipe, pictures) = (place.recipe(""), place.pictures());
    fs::write(place.path("classes.csv"), "folder,name\nred,crane\nblue,crane\n").unwrap();
    let source =
        format!("data.train=[{{source='folder',root='{pictures}',classes='{}'}}]", place.name("classes.csv"));
    let args =
        ["train", &recipe, "--out", &place.name("out"), "--set", &source, "--set", "train.batch_size=2"];
    let output = clip_distill(&args);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("`blue` (crane) = `red` (crane)"), "{said}");
    let list = "losses.hinton={weight=1.0,classes=['crane','cat','crane']}";
    let error = failed(&["train", &recipe, "--dry-run", "--set", "teacher.model='x'", "--set", list]);
    assert!(error.contains("`crane`") && error.contains("remove"), "{error}");
}

#[test]
fn texts_that_are_not_utf8_are_refused_with_file_and_line() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let (latin, out) = (place.name("latin1.txt"), place.name("out.safetensors"));
    fs::write(&latin, b"tench\ncaf\xE9 {}\n").unwrap();
    for args in [
        vec!["embed", &model, "--texts", &latin, "--out", &out],
        vec!["evaluate", &model, "--data", &pictures, "--class-names", &latin],
        vec!["evaluate", &model, "--data", &pictures, "--prompts", &latin],
        vec!["evaluate", &model, "--data", &pictures, "--classes", &latin],
        vec!["evaluate", &model, "--suite", &latin],
        vec!["train", &latin],
        vec!["sweep", &latin],
    ] {
        let error = failed(&args);
        for part in ["latin1.txt", "line 2", "Latin-1", "iconv"] {
            assert!(error.contains(part), "{part}: {args:?}: {error}");
        }
    }
    assert!(!place.path("out.safetensors").exists());
    // A byte order mark is not part of a text.
    fs::write(place.path("marked.txt"), b"\xEF\xBB\xBFa {} thing\n").unwrap();
    done(&["embed", &model, "--texts", &place.name("marked.txt"), "--out", &out]);
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["names"], "[\"a {} thing\"]");
    fs::write(place.path("plain.txt"), b"a {} thing\n").unwrap();
    let by = |file: &str| evaluated(&[&model, "--data", &pictures, "--prompts", &place.name(file)]).0;
    assert_eq!(by("marked.txt")["details"], by("plain.txt")["details"]);
}

#[test]
fn tokenize_refuses_input_that_is_not_utf8() {
    use std::io::Write;
    let run = |input: &[u8]| {
        let mut child = program()
            .arg("tokenize")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        (text(&output.stdout), text(&output.stderr), output.status.code())
    };
    let (ids, said, code) = run(b"a cat\ncaf\xE9\n");
    assert_eq!((ids.as_str(), code), ("49406 320 2368 49407\n", Some(1)));
    for part in ["standard input", "line 2", "Latin-1"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(run(b"\xEF\xBB\xBFa cat\n").0, "49406 320 2368 49407\n");
}

#[test]
fn images_in_unsupported_formats_are_reported_in_one_line() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let red = format!("{pictures}/red");
    fs::write(format!("{red}/scan.tif"), b"II*\0").unwrap();
    fs::write(format!("{red}/phone.heic"), b"x").unwrap();
    let mut jpeg = Vec::new();
    let picture = image::RgbImage::from_pixel(20, 20, image::Rgb([200, 0, 0]));
    picture.write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
    fs::write(format!("{red}/saved.jfif"), &jpeg).unwrap();
    fs::write(format!("{red}/unnamed"), &jpeg).unwrap();
    let (found, said) = evaluated(&[&model, "--data", &pictures]);
    assert_eq!(found["sets"][0]["samples"], 6);
    let out = place.name("out.safetensors");
    let output = clip_distill(&["embed", &model, "--images", &pictures, "--out", &out]);
    let embedded = text(&output.stderr);
    assert!(embedded.contains("wrote 6 embeddings"), "{embedded}");
    let source = format!("data.train=[{{source='folder',root='{pictures}'}}]");
    let recipe = place.recipe("");
    let run = place.name("out");
    let args = ["train", &recipe, "--out", &run, "--set", &source, "--set", "train.batch_size=2"];
    let trained = text(&clip_distill(&args).stderr);
    for said in [said, embedded, trained] {
        let lines = said.lines().filter(|line| line.contains("left out")).collect::<Vec<_>>();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].contains("1 .heic, 1 .tif") && lines[0].contains("scan.tif"), "{said}");
    }
}

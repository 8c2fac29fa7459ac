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
    fs::write(format!("{red}/scan.avif"), b"x").unwrap();
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
        assert!(lines[0].contains("1 .avif, 1 .heic") && lines[0].contains("scan.avif"), "{said}");
    }
}

/// Writes a tar of named contents.
fn tar(path: &std::path::Path, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap();
}

#[test]
fn data_of_each_kind_is_evaluated_without_settings() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let image = |class: &str, number: u8| fs::read(format!("{pictures}/{class}/{number}.png")).unwrap();
    let (red, blue) = (image("red", 0), image("blue", 0));
    // The two rows of the first image become one image with two captions.
    let rows = [("red", 0, "a red square"), ("blue", 0, "a blue square"), ("red", 0, "a fire")];
    let table = |separator: &str, header: &str| {
        let rows = rows.map(|(class, number, text)| format!("{class}/{number}.png{separator}{text}\n"));
        format!("{header}\n{}", rows.concat())
    };
    fs::write(format!("{pictures}/pairs.csv"), table(",", "filepath,title")).unwrap();
    fs::write(format!("{pictures}/semicolon.csv"), table(";", "image;caption")).unwrap();
    let lines = rows.map(|(class, number, text)| {
        format!("{}\n", serde_json::json!({"file_name": format!("{class}/{number}.png"), "text": text}))
    });
    fs::write(format!("{pictures}/metadata.jsonl"), lines.concat()).unwrap();
    fs::create_dir(place.path("elsewhere")).unwrap();
    fs::write(place.path("elsewhere/pairs.csv"), table("\t", "filepath\ttitle")).unwrap();
    for name in ["pictures/pairs.csv", "pictures/semicolon.csv", "pictures/metadata.jsonl"] {
        let (found, said) = evaluated(&[&model, "--data", &place.name(name)]);
        assert_eq!(
            (&found["sets"][0]["images"], &found["sets"][0]["texts"]),
            (&2.into(), &3.into()),
            "{name}: {said}"
        );
    }
    let moved = place.name("elsewhere/pairs.csv");
    let (found, said) = evaluated(&[&model, "--data", &moved, "--root", &pictures]);
    assert_eq!(found["sets"][0]["images"], 2);
    assert!(said.contains("inferred separator"), "{said}");
    // Images with captions beside them, in subfolders and in a tar.
    fs::create_dir_all(place.path("files/00000")).unwrap();
    for (name, bytes) in [("0.png", &red[..]), ("0.txt", b"red"), ("1.png", &blue), ("1.txt", b"blue")] {
        fs::write(place.path("files/00000").join(name), bytes).unwrap();
    }
    assert_eq!(evaluated(&[&model, "--data", &place.name("files")]).0["sets"][0]["texts"], 2);
    let classes: &[(&str, &[u8])] = &[("0.png", &red), ("0.cls", b"1"), ("1.png", &blue), ("1.cls", b"0")];
    tar(&place.path("classes.tar"), classes);
    fs::write(place.path("names.txt"), "blue\nred\n").unwrap();
    let data = place.name("classes.tar");
    let (found, _) = evaluated(&[&model, "--data", &data, "--class-names", &place.name("names.txt")]);
    assert_eq!(found["sets"][0]["samples"], 2);
    assert_eq!(found["sets"][0]["per_class"][1]["class"], "red");
    assert!(failed(&["evaluate", &model, "--data", &data]).contains("--class-names"));
    // Files that cannot be read name the reason.
    fs::write(place.path("good.tar.gz"), b"\x1F\x8B\x08\0\0\0\0\0").unwrap();
    for (data, words) in [
        (place.name("good.tar.gz"), "gzip: unpack"),
        ("https://host/x.tar".into(), "not supported yet"),
        (place.name("missing-*.tar"), "matches no file"),
    ] {
        let error = failed(&["evaluate", &model, "--data", &data]);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn orientation_is_applied_if_the_recipe_sets_it() {
    let place = Place::new();
    let (recipe, pictures) = (place.recipe(""), place.pictures());
    let train = |extra: &str, out: &str| {
        let source = format!("data.train=[{{source='folder',root='{pictures}'{extra}}}]");
        done(&["train", &recipe, "--out", &place.name(out), "--set", &source, "--set", "train.batch_size=2"]);
        fs::read_to_string(place.path(out).join("recipe.toml")).unwrap()
    };
    assert!(!train("", "plain").contains("exif_orientation"));
    assert!(train(",exif_orientation=true", "turned").contains("exif_orientation = true"));
}

#[test]
fn commands_turn_images_upright_on_request() {
    let place = Place::new();
    let model = place.model();
    // A JPEG whose EXIF block states a rotation by 180 degrees, and its pixels turned upright.
    let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 0]));
    let mut jpeg = Vec::new();
    picture.write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
    let exif = b"\xFF\xE1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0";
    let decoded = data_pipeline::image::decode(&jpeg).unwrap().to_rgb().pixels;
    let decoded = image::RgbImage::from_raw(32, 32, decoded).unwrap();
    for folder in ["turned/a", "upright/a"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    fs::write(place.path("turned/a/0.jpg"), [&jpeg[..2], exif, &jpeg[2..]].concat()).unwrap();
    image::imageops::rotate180(&decoded).save(place.path("upright/a/0.png")).unwrap();

    let embeddings = |folder: &str, option: &[&str]| {
        let out = place.name("out.safetensors");
        let images = place.name(folder);
        done(&[&["embed", &model, "--images", &images, "--out", &out, "--force"], option].concat());
        tch::Tensor::read_safetensors(&out).unwrap().remove(0).1
    };
    let difference = |option: &[&str]| {
        let (turned, upright) = (embeddings("turned", option), embeddings("upright", &[]));
        (turned - upright).abs().max().double_value(&[])
    };
    assert!(difference(&["--exif-orientation"]) < 1e-6);
    assert!(difference(&[]) > 1e-3);

    let probability = |folder: &str, option: &[&str]| {
        let image = place.name(folder);
        let line = done(&[&["classify", &model, &image, "--labels", "red,blue", "--json"], option].concat());
        serde_json::from_str::<Value>(&line).unwrap()["labels"][0]["probability"].as_f64().unwrap()
    };
    let upright = probability("upright/a/0.png", &[]);
    assert!((probability("turned/a/0.jpg", &["--exif-orientation"]) - upright).abs() < 1e-6);
    assert!((probability("turned/a/0.jpg", &[]) - upright).abs() > 1e-6);
}

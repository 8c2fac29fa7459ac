//! Evaluations of several sets and models, data sets of CLIP_benchmark, damaged images, and files of names and prompts.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::{Place, clip_distill, done, failed, text};
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&done(&[args, &["--json"]].concat())).unwrap()
}

fn png(color: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_pixel(16, 16, image::Rgb(color));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A shard of CLIP_benchmark with an image of each class in turn.
fn labelled(first: usize, labels: &[usize]) -> Vec<u8> {
    let sample = |(place, label): (usize, &usize)| {
        let name = format!("s{:07}", first + place);
        let color = [40 * *label as u8, 10 * place as u8, 200];
        [(format!("{name}.png"), png(color)), (format!("{name}.cls"), label.to_string().into_bytes())]
    };
    tar(&labels.iter().enumerate().flat_map(sample).collect::<Vec<_>>())
}

fn captioned() -> Vec<u8> {
    let sample = |place: usize| {
        let captions = format!("picture {place}\nthe picture {place}\n").into_bytes();
        [(format!("s{place:07}.png"), png([60 * place as u8, 0, 9])), (format!("s{place:07}.txt"), captions)]
    };
    tar(&(0..4).flat_map(sample).collect::<Vec<_>>())
}

/// The files of a classification set of six classes in two shards, with unequal numbers of images.
fn pets() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("classnames.txt", b"cat\ndog\ncow\nhen\npig\nbee\n".to_vec()),
        ("zeroshot_classification_templates.txt", b"a photo of a {c}.\na {c}, a pet\n".to_vec()),
        ("test/nshards.txt", b"2\n".to_vec()),
        ("test/0.tar", labelled(0, &[0, 0, 0, 1, 2])),
        ("test/1.tar", labelled(5, &[3, 4, 5])),
        ("train/nshards.txt", b"1\n".to_vec()),
        ("train/0.tar", labelled(0, &[0, 1])),
    ]
}

fn photos() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("dataset_type.txt", b"retrieval".to_vec()),
        ("test/nshards.txt", b"1\n".to_vec()),
        ("test/0.tar", captioned()),
    ]
}

fn write(folder: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Starts a hub with the data sets `o/wds_pets` and `o/wds_photos`. Returns its address and the requested paths.
fn hub() -> (String, Arc<Mutex<Vec<String>>>) {
    const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
    let mut answers = HashMap::new();
    for (name, files) in [("wds_pets", pets()), ("wds_photos", photos())] {
        let siblings = files.iter().enumerate().map(|(place, (file, bytes))| {
            let mut entry = serde_json::json!({ "rfilename": file, "size": bytes.len(), "blobId": format!("{place}{}", &COMMIT[1..]) });
            if file.ends_with(".tar") {
                entry["lfs"] = serde_json::json!({ "sha256": file_ext::sha256_hex(bytes), "size": bytes.len() });
            }
            entry
        });
        let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() });
        answers.insert(
            format!("/api/datasets/o/{name}/revision/main?blobs=true"),
            listing.to_string().into_bytes(),
        );
        for (file, bytes) in files {
            answers.insert(format!("/datasets/o/{name}/resolve/{COMMIT}/{file}"), bytes);
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut path = String::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let Ok(line) = line else { break };
                if let Some(rest) = line.strip_prefix("GET ") {
                    path = rest.split(' ').next().unwrap_or_default().to_string();
                }
                if line.is_empty() {
                    break;
                }
            }
            log.lock().unwrap().push(path.clone());
            let (status, bytes) = answers.get(&path).map_or((404, &[][..]), |bytes| (200, bytes.as_slice()));
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                bytes.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(bytes));
        }
    });
    (url, asked)
}

#[test]
fn a_data_set_of_the_hub_is_fetched_once_and_evaluated_like_its_folder() {
    let place = Place::new();
    let model = place.model();
    let (url, asked) = hub();
    let cache = place.name("cache");
    let run = |data: &str, offline: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_clip-distill"))
            .args(["evaluate", &model, "--data", data, "--json"])
            .envs([
                ("HF_ENDPOINT", url.as_str()),
                ("HF_HUB_CACHE", cache.as_str()),
                ("HF_HUB_OFFLINE", offline),
            ])
            .output()
            .unwrap();
        let said = text(&output.stderr);
        (serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), said)
    };
    let (found, said) = run("hf-hub:datasets/o/wds_pets", "0");
    assert_eq!(found["sets"][0]["samples"], 8, "{said}");
    assert_eq!(found["sets"][0]["per_class"][5]["class"], "bee");
    assert_eq!(found["details"][0]["counts"]["prompts_per_class"], 2);
    let shards = asked.lock().unwrap().iter().filter(|path| path.ends_with(".tar")).count();
    assert_eq!(shards, 2, "the train split is not fetched, and no shard twice");
    asked.lock().unwrap().clear();
    let (offline, said) = run("hf-hub:datasets/o/wds_pets", "1");
    assert_eq!(offline["sets"], found["sets"], "{said}");
    assert!(asked.lock().unwrap().is_empty());
    write(&place.path("pets"), &pets());
    assert_eq!(
        json(&["evaluate", &model, "--data", &place.name("pets")])["sets"][0]["top1"],
        found["sets"][0]["top1"]
    );
    // The data set's type determines that the texts are captions.
    let (photos, said) = run("hf-hub:datasets/o/wds_photos", "0");
    assert_eq!((&photos["sets"][0]["images"], &photos["sets"][0]["texts"]), (&4.into(), &8.into()), "{said}");
    let (_, missing) = run("hf-hub:datasets/o/wds_none", "0");
    assert!(missing.contains("no such data set") && missing.contains("wds_none"), "{missing}");
}

#[test]
fn a_suite_compares_several_models_on_chosen_sets_by_their_main_metrics() {
    let place = Place::new();
    let model = place.model();
    done(&["convert", &model, &place.name("copy"), "--to", "open-clip"]);
    write(&place.path("wds_vtab-pets"), &pets());
    write(&place.path("wds_photos"), &photos());
    let suite = place.name("suite.toml");
    fs::write(
        &suite,
        format!(
            "name = 'suite'\nroot = '{}'\n[[sets]]\nname = 'Pets'\nsource = 'clip-benchmark'\npath = 'wds_vtab-pets'\nmetric = 'mean per-class recall'\n\
             [[sets]]\nname = 'Photos'\ntask = 'retrieval'\nsource = 'clip-benchmark'\npath = 'wds_photos'\nmetric = 'image recall@5'\n\
             [[sets]]\nname = 'Missing'\nsource = 'clip-benchmark'\npath = 'nowhere'\n",
            place.path("").display()
        ),
    )
    .unwrap();
    let copy = place.name("copy");
    let chosen = ["--suite", &suite, "--sets", "vtab/pets,photos"];
    let table = done(&[&["evaluate", &model, &copy, "--teacher", &model][..], &chosen].concat());
    let row = |start: &str| {
        let line =
            table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"));
        line.split('|')
            .skip(3)
            .map(|cell| cell.trim().to_string())
            .filter(|cell| !cell.is_empty())
            .collect::<Vec<_>>()
    };
    // The teacher and both models, which are equal.
    let recall = row("| Pets     | mean per-class recall");
    assert_eq!(recall.len(), 3, "{table}");
    assert!(recall.iter().all(|value| *value == recall[0]));
    let images = row("| Photos   | image recall@5");
    let mean = (recall[0].parse::<f64>().unwrap() + images[0].parse::<f64>().unwrap()) / 2.0;
    assert!((row("| all      | mean ")[0].parse::<f64>().unwrap() - mean).abs() < 0.1001, "{table}");
    assert_eq!(row("| all      | retained of the teacher"), ["100.0", "100.0", "100.0"]);
    assert!(
        table.contains("8 images, 6 classes, 2 prompts per class") && table.contains("4 images, 8 texts"),
        "{table}"
    );
    let all = json(&[&["evaluate", &model, &copy][..], &chosen].concat());
    assert_eq!((all[0]["model"].as_str(), all[1]["model"].as_str()), (Some(&*model), Some(&*copy)));
    assert_eq!(all[1]["sets"][0]["metric"], "mean per-class recall");
    // A missing set is found before any evaluation, and a wrong name lists the others.
    let error = failed(&["evaluate", &model, "--suite", &suite]);
    assert!(error.contains("nowhere"), "{error}");
    let error = failed(&["evaluate", &model, "--suite", &suite, "--sets", "pets,cifar"]);
    assert!(error.contains("`cifar`") && error.contains("Pets, Photos, Missing"), "{error}");
    assert!(failed(&["evaluate", &model, &model, "--suite", &suite]).contains("given twice"));
}

#[test]
fn tars_with_classes_are_a_classification_set() {
    let place = Place::new();
    let model = place.model();
    let shard = place.name("pairs.tar");
    fs::write(&shard, labelled(0, &[0, 1, 1, 0])).unwrap();
    let error = failed(&["evaluate", &model, "--data", &shard]);
    assert!(error.contains("2 classes") && error.contains("--class-names"), "{error}");
    fs::write(place.path("names.json"), r#"["cat", "dog"]"#).unwrap();
    let names = place.name("names.json");
    let found = json(&["evaluate", &model, "--data", &shard, "--class-names", &names]);
    assert_eq!(
        (&found["sets"][0]["task"], &found["sets"][0]["samples"]),
        (&"classification".into(), &4.into())
    );
    fs::write(place.path("classnames.txt"), "cat\ndog\n").unwrap();
    let beside = json(&["evaluate", &model, "--data", &shard]);
    assert_eq!(beside["sets"], found["sets"]);
}

#[test]
fn options_that_do_not_apply_to_the_data_are_refused() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    fs::write(place.path("names.txt"), "a\nb\n").unwrap();
    let (names, pictures) = (place.name("names.txt"), pictures.as_str());
    let names = names.as_str();
    for (data, option, value) in [
        ("emoji", "--classes", names),
        ("emoji", "--class-names", names),
        ("emoji", "--prompts", "plain"),
        ("emoji", "--root", pictures),
        ("emoji", "--split", "test"),
        (pictures, "--root", pictures),
        (pictures, "--split", "test"),
        ("../../datasets/cifar10.toml", "--classes", names),
    ] {
        let error = failed(&["evaluate", &model, "--data", data, option, value]);
        assert!(error.contains(option) && error.contains("applies only"), "{data} {option}: {error}");
    }
    for option in [["--root", "x"], ["--arch", "ViT-B-16"], ["--max-damaged", "0.1"]] {
        let output = clip_distill(&[&["evaluate", "--embeddings", "x"][..], &option].concat());
        assert_eq!(output.status.code(), Some(2), "{option:?}");
    }
}

#[test]
fn one_damaged_image_does_not_stop_an_evaluation_and_all_are_named() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    fs::write(place.path("pictures/red/torn.png"), &png([1, 2, 3])[..30]).unwrap();
    fs::write(place.path("pictures/blue/page.jpg"), b"<html>").unwrap();
    let out = place.name("out.safetensors");
    let image = |name: &str| place.name(&format!("pictures/{name}"));
    let (torn, page, red) = (image("red/torn.png"), image("blue/page.jpg"), image("red/0.png"));
    let runs: [Vec<&str>; 4] = [
        vec!["evaluate", &model, "--data", &pictures],
        vec!["embed", &model, "--images", &pictures, "--out", &out],
        vec!["classify", &model, &pictures, "--labels", "a,b"],
        vec!["classify", &model, &torn, &red, &page, "--labels", "a,b"],
    ];
    for args in &runs {
        let output = clip_distill(args);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(
            said.contains("torn.png") && said.contains("page.jpg") && said.contains("left out 2 damaged"),
            "{said}"
        );
    }
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&fs::read(&out).unwrap()).unwrap();
    let names = &metadata.metadata().as_ref().unwrap()["names"];
    assert!(!names.contains("torn.png") && serde_json::from_str::<Vec<String>>(names).unwrap().len() == 4);
    let table = done(&runs[0]);
    assert!(table.contains("4 images, 2 classes, 1 prompt per class; left out 2 damaged images"), "{table}");
    // The policy is a setting, and its error names all damaged images.
    fs::remove_file(&out).unwrap();
    for args in &runs {
        let error = failed(&[&args[..], &["--max-damaged", "0"]].concat());
        assert!(error.contains("torn.png") && error.contains("page.jpg"), "{error}");
    }
    assert!(!Path::new(&out).exists());
    let error = failed(&["classify", &model, &torn, &page, "--labels", "a,b"]);
    assert!(error.contains("no image can be decoded") && error.contains("page.jpg"), "{error}");
}

#[test]
fn classify_takes_folders_patterns_and_files_of_labels() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let lines = |args: &[&str]| {
        let output = done(&[&["classify", &model], args, &["--json"]].concat());
        output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    fs::write(place.path("labels.txt"), "cat\n\n a dog, asleep \n").unwrap();
    let labels = place.name("labels.txt");
    let folder = lines(&[&pictures, "--labels-file", &labels]);
    assert_eq!(folder.len(), 4);
    assert!(folder[0]["image"].as_str().unwrap().ends_with("blue/0.png"));
    let found = folder[0]["labels"].as_array().unwrap().iter().map(|label| label["label"].as_str().unwrap());
    let mut found = found.collect::<Vec<_>>();
    found.sort_unstable();
    assert_eq!(found, ["a dog, asleep", "cat"]);
    assert_eq!(lines(&[&pictures, "--labels", "\"a dog, asleep\",cat"]), folder);
    assert_eq!(lines(&[&pictures, "--labels", "cat", "--labels", "\"a dog, asleep\""]), folder);
    let pattern = format!("{pictures}/*/0.png");
    assert_eq!(lines(&[&pattern, "--labels-file", &labels]).len(), 2);
    // A batch gives the same answers as single images.
    let single = lines(&[folder[3]["image"].as_str().unwrap(), "--labels-file", &labels]);
    let probability = |line: &Value| line["labels"][0]["probability"].as_f64().unwrap();
    assert!((probability(&single[0]) - probability(&folder[3])).abs() < 1e-5);
    let error = failed(&["classify", &model, &pictures, "--labels", &labels]);
    assert!(error.contains("--labels-file"), "{error}");
    let one = clip_distill(&["classify", &model, &pictures, "--labels", "cat"]);
    assert!(one.status.success() && text(&one.stderr).contains("always 100 %"), "{}", text(&one.stderr));
    let error = failed(&["classify", &model, &format!("{pictures}/*.gif"), "--labels", "a,b"]);
    assert!(error.contains("*.gif"), "{error}");

    let out = place.name("out.safetensors");
    let embedded = |args: &[&str]| {
        done(&[&["embed", &model], args, &["--out", &out, "--force"]].concat());
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&fs::read(&out).unwrap()).unwrap();
        serde_json::from_str::<Vec<String>>(&metadata.metadata().as_ref().unwrap()["names"]).unwrap()
    };
    let [first, second] = ["red/0.png", "red/1.png"].map(|name| format!("{pictures}/{name}"));
    assert_eq!(embedded(&["--images", &first]), std::slice::from_ref(&first));
    assert_eq!(embedded(&["--images", &format!("{pictures}/red/*.png")]), [first.clone(), second.clone()]);
    // The shell expands a pattern without quotes.
    assert_eq!(embedded(&["--images", &first, &second]), [first.clone(), second.clone()]);
    assert_eq!(embedded(&["--images", &second, "--images", &first]), [second, first]);
}

#[test]
fn prompts_and_class_lists_in_json_are_read() {
    let place = Place::new();
    let (model, pictures) = (place.model(), place.pictures());
    let file = |name: &str, content: &str| {
        fs::write(place.path(name), content).unwrap();
        place.name(name)
    };
    let plain = file("plain.txt", "a {} thing\nthe {}\n");
    let json_list = file("list.json", r#"["a {} thing", "the {c}"]"#);
    let each = file("each.json", r#"{"blue": ["a blue thing", "the {}"], "red": ["a {} thing", "the red"]}"#);
    let by = |prompts: &str| {
        json(&["evaluate", &model, "--data", &pictures, "--prompts", prompts])["details"].clone()
    };
    assert_eq!(by(&json_list), by(&plain));
    let own = by(&each);
    assert_eq!(own[0]["classification"], by(&plain)[0]["classification"]);
    let names = file("names.json", r#"["sea", "fire"]"#);
    let named = json(&["evaluate", &model, "--data", &pictures, "--class-names", &names]);
    assert_eq!(named["sets"][0]["per_class"][0]["class"], "sea");
    let error = failed(&["evaluate", &model, "--data", &pictures, "--prompts", &names]);
    assert!(error.contains("{}") && error.contains("sea"), "{error}");
    let error = failed(&["evaluate", &model, "--data", &pictures, "--class-names", &each]);
    assert!(error.contains("each.json") && error.contains("`blue`, `red`"), "{error}");
    let lacking = file("lacking.json", r#"{"blue": ["a blue thing"], "green": ["x"]}"#);
    assert!(failed(&["evaluate", &model, "--data", &pictures, "--prompts", &lacking]).contains("`red`"));
}

//! Models and data sets of a local hub: downloads, cached requests and refusals.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use data_pipeline::Error;
use data_pipeline::download::{Progress, Token};
use data_pipeline::error::HubProblem;
use data_pipeline::hub::{DatasetName, Hub, ModelName, Need};

const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
const SECOND: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";
const BLOB: &str = "1111111111111111111111111111111111111111";

/// Status and bytes of the answer for each path.
type Answers = HashMap<String, (u16, Vec<u8>)>;
/// Requested paths with the sent tokens.
type Asked = Vec<(String, Option<String>)>;

/// A hub with one model that sends at most `most` bytes per connection.
struct Server {
    url: String,
    asked: Arc<Mutex<Asked>>,
    answers: Arc<Mutex<Answers>>,
}

impl Server {
    fn start(answers: Answers, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let (own_asked, own_answers) = (Arc::clone(&asked), Arc::clone(&answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &own_answers, &own_asked, most);
            }
        });
        Server { url, asked, answers }
    }

    /// Returns and clears the requested paths.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().drain(..).map(|(path, _)| path).collect()
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub::new(cache).with_endpoint(&self.url)
    }
}

fn answer(
    mut stream: TcpStream,
    answers: &Mutex<Answers>,
    asked: &Mutex<Asked>,
    most: usize,
) -> std::io::Result<()> {
    let (mut start, mut path, mut token) = (0, String::new(), None);
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        let lower = line.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        } else if lower.starts_with("authorization: ") {
            token = Some(line["authorization: ".len()..].to_string());
        } else if let Some(rest) = line.strip_prefix("GET ") {
            path = rest.split(' ').next().unwrap_or_default().to_string();
        }
    }
    asked.lock().unwrap().push((path.clone(), token));
    let (status, bytes) = answers.lock().unwrap().get(&path).cloned().unwrap_or((404, Vec::new()));
    let rest = bytes.get(start..).unwrap_or_default();
    let status = if status == 200 && start > 0 { 206 } else { status };
    write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len())?;
    // Listings are never truncated.
    stream.write_all(&rest[..if path.starts_with("/api/") { rest.len() } else { rest.len().min(most) }])
}

fn content(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i + seed) * i / 7) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    file_ext::sha256_hex(bytes)
}

/// A model `o/m` with these files. Files above 100 bytes have a checksum.
fn model(commit: &str, files: &[(&str, Vec<u8>)]) -> Answers {
    let mut answers = Answers::new();
    let mut siblings = Vec::new();
    for (place, (name, bytes)) in files.iter().enumerate() {
        let mut file = serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": format!("{place}{}", &BLOB[1..]) });
        if bytes.len() > 100 {
            file["lfs"] =
                serde_json::json!({ "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 1 });
        }
        siblings.push(file);
        answers.insert(format!("/o/m/resolve/{commit}/{name}"), (200, bytes.clone()));
    }
    let listing = serde_json::json!({ "id": "o/m", "sha": commit, "siblings": siblings }).to_string();
    for revision in ["main", commit, "refs%2Fpr%2F1"] {
        let path = format!("/api/models/o/m/revision/{revision}?blobs=true");
        answers.insert(path, (200, listing.clone().into_bytes()));
    }
    answers
}

/// A data set `o/wds_pets` with these files. Tar files have a checksum.
fn dataset(commit: &str, files: &[(&str, Vec<u8>)]) -> Answers {
    let mut answers = Answers::new();
    let mut siblings = Vec::new();
    for (place, (name, bytes)) in files.iter().enumerate() {
        let mut file = serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": format!("{place}{}", &BLOB[1..]) });
        if name.ends_with(".tar") {
            file["lfs"] = serde_json::json!({ "sha256": sha256(bytes), "size": bytes.len() });
        }
        siblings.push(file);
        answers.insert(format!("/datasets/o/wds_pets/resolve/{commit}/{name}"), (200, bytes.clone()));
    }
    let listing = serde_json::json!({ "id": "o/wds_pets", "sha": commit, "siblings": siblings }).to_string();
    for revision in ["main", commit] {
        let path = format!("/api/datasets/o/wds_pets/revision/{revision}?blobs=true");
        answers.insert(path, (200, listing.clone().into_bytes()));
    }
    answers
}

/// The files of a data set with two shards, and files that are not needed.
fn pets() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", content(1, 5000)),
        ("classnames.txt", b"cat\ndog\n".to_vec()),
        ("test/nshards.txt", b"2\n".to_vec()),
        ("test/0.tar", content(2, 30_000)),
        ("test/1.tar", content(3, 250_000)),
        ("train/0.tar", content(4, 9000)),
    ]
}

fn is_test_file(file: &str) -> bool {
    file == "classnames.txt" || file.starts_with("test/")
}

fn has_both_shards(folder: &Path) -> Result<(), String> {
    let missing = ["0.tar", "1.tar"].into_iter().find(|file| !folder.join("test").join(file).is_file());
    missing.map_or(Ok(()), |file| Err(format!("it lacks `test/{file}`")))
}

fn fetch_pets(hub: &Hub, revision: &str) -> Result<std::path::PathBuf, Error> {
    let name = format!("hf-hub:datasets/o/wds_pets{revision}").parse::<DatasetName>().unwrap();
    hub.fetch_dataset(&name, &is_test_file, &has_both_shards, &mut |_| {})
}

/// A typical published model, with files that are not needed.
fn published() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("README.md", content(1, 5000)),
        ("config.json", b"{\"model_type\": \"clip\"}".to_vec()),
        ("preprocessor_config.json", b"{}".to_vec()),
        ("tokenizer.json", content(2, 3000)),
        ("flax_model.msgpack", content(3, 9000)),
        ("pytorch_model.bin", content(4, 9000)),
        ("model.safetensors", content(5, 250_000)),
        ("onnx/model.onnx", content(6, 9000)),
    ]
}

fn name(text: &str) -> ModelName {
    ModelName::parse(text).unwrap().unwrap()
}

fn fetch(hub: &Hub, model: &str, need: Need) -> Result<std::path::PathBuf, Error> {
    hub.fetch(&name(model), need, &mut |_| {})
}

fn files(folder: &Path) -> Vec<String> {
    let mut names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}

#[test]
fn model_is_downloaded_once_over_broken_connections() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(model(COMMIT, &published()), 100_000);
    let hub = server.hub(place.path());
    let mut seen = Vec::new();
    let folder = hub
        .fetch(&name("hf-hub:o/m"), Need::Weights, &mut |Progress { file, done, total, .. }| {
            seen.push((file.to_string(), done, total));
        })
        .unwrap();
    let root = place.path().join("models--o--m");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(
        files(&folder),
        ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]
    );
    // The layout of Python's library: links to blobs that are named by hashes.
    let weights = content(5, 250_000);
    let link = fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights)));
    assert!(fs::read(folder.join("model.safetensors")).unwrap() == weights);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(files(&root.join("blobs")).len(), 4, "nothing half done is left");
    let asked = server.asked();
    let of_weights = asked.iter().filter(|path| path.ends_with("/model.safetensors")).count();
    assert_eq!((of_weights, asked.len()), (3, 7), "three parts, none of them twice: {asked:?}");
    assert_eq!(seen.last().unwrap(), &("o/m/model.safetensors".to_string(), 250_000, Some(250_000)));

    // The branch may have moved, so the second call requests the listing only.
    assert_eq!(fetch(&hub, "hf:o/m", Need::Weights).unwrap(), folder);
    assert_eq!(server.asked().len(), 1);
    // A commit does not move, and offline mode forbids requests.
    let offline = hub.clone().with_offline(true);
    assert_eq!(fetch(&hub, &format!("hf:o/m@{COMMIT}"), Need::Weights).unwrap(), folder);
    assert_eq!(fetch(&offline, "hf:o/m", Need::Weights).unwrap(), folder);
    assert!(server.asked().is_empty());
    // The hub is down.
    let down = hub.clone().with_endpoint("http://127.0.0.1:1");
    assert_eq!(fetch(&down, "hf:o/m", Need::Weights).unwrap(), folder);
    let error = fetch(&down, "hf:o/other", Need::Weights).unwrap_err();
    assert!(matches!(error, Error::Download { .. }) && error.to_string().contains("127.0.0.1:1"), "{error}");
    server.answers.lock().unwrap().values_mut().for_each(|answer| answer.0 = 503);
    assert_eq!(fetch(&hub, "hf:o/m", Need::Weights).unwrap(), folder);
    let error = fetch(&offline, "hf:o/other", Need::Weights).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn moved_branch_downloads_changed_files() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(model(COMMIT, &published()), usize::MAX);
    let hub = server.hub(place.path());
    let old = fetch(&hub, "hf:o/m", Need::Weights).unwrap();
    let mut changed = published();
    changed[3].1 = content(9, 4000);
    *server.answers.lock().unwrap() = model(SECOND, &changed);
    server.asked();
    let new = fetch(&hub, "hf:o/m", Need::Weights).unwrap();
    assert_ne!(new, old);
    assert_eq!(server.asked().len(), 2, "the listing and the tokenizer");
    assert!(fs::read(new.join("tokenizer.json")).unwrap() == content(9, 4000));
    assert!(fs::read(old.join("tokenizer.json")).unwrap() == content(2, 3000));
    let offline = hub.clone().with_offline(true);
    assert_eq!(fetch(&offline, &format!("hf:o/m@{COMMIT}"), Need::Weights).unwrap(), old);
    assert_eq!(fetch(&offline, "hf:o/m", Need::Weights).unwrap(), new);
    // A revision with a slash has a file in a subfolder.
    assert_eq!(fetch(&hub, "hf:o/m@refs/pr/1", Need::Weights).unwrap(), new);
    assert_eq!(fetch(&offline, "hf:o/m@refs/pr/1", Need::Weights).unwrap(), new);
}

#[test]
fn configuration_is_downloaded_without_weights() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(model(COMMIT, &published()), usize::MAX);
    let hub = server.hub(place.path());
    let folder = fetch(&hub, "hf:o/m", Need::Config).unwrap();
    assert_eq!(files(&folder), ["config.json", "preprocessor_config.json"]);
    let offline = hub.clone().with_offline(true);
    assert_eq!(fetch(&offline, "hf:o/m", Need::Config).unwrap(), folder);
    assert!(fetch(&offline, "hf:o/m", Need::Weights).is_err(), "a configuration alone counts as a model");
    // A model without a configuration needs its weights.
    let bare = published().split_off(5);
    let server = Server::start(model(SECOND, &bare), usize::MAX);
    let file = fetch(&server.hub(place.path()), "hf:o/m", Need::Config).unwrap();
    assert!(file.ends_with(format!("{SECOND}/model.safetensors")), "{}", file.display());
}

#[test]
fn one_weight_file_is_downloaded_with_all_its_parts() {
    let place = tempfile::tempdir().unwrap();
    let index = br#"{"weight_map":{"a":"model-1-of-2.safetensors","b":"model-2-of-2.safetensors","c":"model-1-of-2.safetensors"}}"#;
    let config = ("open_clip_config.json", b"{}".to_vec());
    let parts = [
        config.clone(),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-1-of-2.safetensors", content(1, 2000)),
        ("model-2-of-2.safetensors", content(2, 2000)),
        ("pytorch_model.bin", content(3, 2000)),
    ];
    let server = Server::start(model(COMMIT, &parts), usize::MAX);
    let folder = fetch(&server.hub(place.path()), "hf:o/m", Need::Weights).unwrap();
    assert_eq!(
        files(&folder),
        [
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "model.safetensors.index.json",
            "open_clip_config.json"
        ]
    );
    // A missing part makes the copy incomplete.
    let offline = server.hub(place.path()).with_offline(true);
    assert!(fetch(&offline, "hf:o/m", Need::Weights).is_ok());
    fs::remove_file(folder.join("model-2-of-2.safetensors")).unwrap();
    assert!(fetch(&offline, "hf:o/m", Need::Weights).is_err());

    for (first, second) in [
        ("open_clip_model.safetensors", "model.safetensors"),
        ("model.safetensors", "open_clip_pytorch_model.bin"),
        ("open_clip_pytorch_model.bin", "pytorch_model.bin"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let both = [config.clone(), (second, content(1, 2000)), (first, content(2, 2000))];
        let server = Server::start(model(COMMIT, &both), usize::MAX);
        let folder = fetch(&server.hub(place.path()), "hf:o/m", Need::Weights).unwrap();
        assert!(folder.join(first).exists() && !folder.join(second).exists(), "{first} before {second}");
    }
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(model(COMMIT, &[config]), usize::MAX);
    let error = fetch(&server.hub(place.path()), "hf:o/m", Need::Weights).unwrap_err().to_string();
    assert!(error.contains("none of the weight files"), "{error}");
}

#[test]
fn refusals_are_explained_and_not_retried() {
    let place = tempfile::tempdir().unwrap();
    let refuse = |path: &str, status: u16| {
        let server = Server::start(model(COMMIT, &published()), usize::MAX);
        for (own, answer) in server.answers.lock().unwrap().iter_mut() {
            if own.contains(path) {
                *answer = (status, Vec::new());
            }
        }
        server
    };
    for status in [401, 403] {
        // The listing of a gated model is public, its files are not.
        for path in ["/api/", "/model.safetensors"] {
            let server = refuse(path, status);
            let error = fetch(&server.hub(place.path()), "hf:o/m", Need::Weights).unwrap_err();
            assert!(matches!(error, Error::Hub { .. }));
            let error = error.to_string();
            for part in ["hf-hub:o/m", "gated", "HF_TOKEN", &status.to_string(), "/o/m"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            assert_eq!(server.asked().iter().filter(|asked| asked.contains(path)).count(), 1);
        }
    }
    let server = Server::start(model(COMMIT, &published()), usize::MAX);
    for (model, word) in [("hf:o/none", "no such model"), ("hf:o/m@v9", "revision `v9`")] {
        let error = fetch(&server.hub(place.path()), model, Need::Weights).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(server.asked().len(), 1);
    }
    // Each request has the token.
    let hub = server.hub(&place.path().join("other")).with_token(Some(Token::new("secret").unwrap()));
    fetch(&hub, "hf:o/m", Need::Weights).unwrap();
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|(_, token)| token.as_deref() == Some("Bearer secret")), "{asked:?}");
}

#[test]
fn hostile_answers_change_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let cache = outside.path().join("a/b/cache");
    for file in ["../../../../x.json", "/tmp/x.json", "a/../../x", ".."] {
        let mut files = published();
        files.push((file, content(1, 2000)));
        let server = Server::start(model(COMMIT, &files), usize::MAX);
        let error = fetch(&server.hub(&cache), "hf:o/m", Need::Weights).unwrap_err().to_string();
        assert!(error.contains("leaves the repository's folder"), "{file}: {error}");
        assert_eq!(server.asked().len(), 1, "no file is fetched");
    }
    for commit in ["../../../../x", "main", ""] {
        let server = Server::start(model(commit, &published()), usize::MAX);
        let error = fetch(&server.hub(&cache), "hf:o/m", Need::Weights).unwrap_err().to_string();
        assert!(error.contains("hash"), "{commit}: {error}");
    }
    assert!(!cache.exists(), "nothing is written before all is checked");
    for part in ["../x", "/etc/passwd", "..", "sub/x"] {
        let index = format!(r#"{{"weight_map":{{"a":"{part}"}}}}"#);
        let files = [("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index.into_bytes())];
        let server = Server::start(model(COMMIT, &files), usize::MAX);
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&server.hub(cache.path()), "hf:o/m", Need::Weights).unwrap_err().to_string();
        assert!(error.contains("not a file beside it"), "{part}: {error}");
    }
    // A cache that another program wrote.
    let root = outside.path().join("models--o--m");
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::create_dir_all(root.join("secret")).unwrap();
    fs::write(root.join("secret/config.json"), "{}").unwrap();
    fs::create_dir_all(root.join("snapshots")).unwrap();
    fs::write(root.join("refs/main"), "../secret").unwrap();
    let hub = Hub::new(outside.path()).with_offline(true);
    assert!(fetch(&hub, "hf:o/m", Need::Config).is_err());
}

#[test]
fn file_with_a_wrong_checksum_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(model(COMMIT, &published()), usize::MAX);
    let path = format!("/o/m/resolve/{COMMIT}/model.safetensors");
    server.answers.lock().unwrap().get_mut(&path).unwrap().1[1000] ^= 1;
    let hub = server.hub(place.path());
    let error = fetch(&hub, "hf:o/m", Need::Weights).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
    let offline = hub.with_offline(true);
    assert!(fetch(&offline, "hf:o/m", Need::Weights).is_err());
}

#[test]
fn data_set_is_downloaded_once_over_broken_connections_and_read_offline() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(dataset(COMMIT, &pets()), 100_000);
    let hub = server.hub(place.path());
    let folder = fetch_pets(&hub, "").unwrap();
    // The layout of Python's library, with subfolders of links.
    let root = place.path().join("datasets--o--wds_pets");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(files(&folder), ["classnames.txt", "test"]);
    assert_eq!(files(&folder.join("test")), ["0.tar", "1.tar", "nshards.txt"]);
    let shard = content(3, 250_000);
    let link = fs::read_link(folder.join("test/1.tar")).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(sha256(&shard)));
    assert!(fs::read(folder.join("test/1.tar")).unwrap() == shard);
    let asked = server.asked();
    let of_shard = asked.iter().filter(|path| path.ends_with("/test/1.tar")).count();
    assert_eq!((of_shard, asked.len()), (3, 7), "three parts, none of them twice: {asked:?}");

    assert_eq!(fetch_pets(&hub, "").unwrap(), folder);
    assert_eq!(server.asked().len(), 1, "the listing alone");
    let offline = hub.clone().with_offline(true);
    assert_eq!(fetch_pets(&offline, "").unwrap(), folder);
    assert_eq!(fetch_pets(&hub, &format!("@{COMMIT}")).unwrap(), folder);
    assert!(server.asked().is_empty());
    let down = hub.clone().with_endpoint("http://127.0.0.1:1");
    assert_eq!(fetch_pets(&down, "").unwrap(), folder);
    // An incomplete copy is completed, and offline it is an error.
    fs::remove_file(folder.join("test/0.tar")).unwrap();
    let error = fetch_pets(&offline, "").unwrap_err();
    assert!(matches!(error, Error::Hub { problem: HubProblem::Offline, .. }), "{error}");
    assert!(error.to_string().contains("folder with the data set"), "{error}");
    assert_eq!(fetch_pets(&hub, "").unwrap(), folder);
    assert!(folder.join("test/0.tar").is_file());
}

#[test]
fn unavailable_data_sets_are_explained() {
    let place = tempfile::tempdir().unwrap();
    let attempt = |change: &dyn Fn(&mut Answers)| {
        let mut answers = dataset(COMMIT, &pets());
        change(&mut answers);
        let server = Server::start(answers, usize::MAX);
        fetch_pets(&server.hub(place.path()), "").unwrap_err()
    };
    let shard = format!("/datasets/o/wds_pets/resolve/{COMMIT}/test/1.tar");
    let set = |path: &str, status: u16| {
        let path = path.to_string();
        move |answers: &mut Answers| {
            answers
                .iter_mut()
                .filter(|(own, _)| own.contains(&path))
                .for_each(|(_, answer)| *answer = (status, Vec::new()));
        }
    };
    for path in ["/api/", shard.as_str()] {
        let error = attempt(&set(path, 401));
        assert!(matches!(error, Error::Hub { problem: HubProblem::Restricted, .. }), "{error}");
        let error = error.to_string();
        for part in ["hf-hub:datasets/o/wds_pets", "HF_TOKEN", "/datasets/o/wds_pets", "401"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let error = attempt(&set("/api/", 404)).to_string();
    assert!(error.contains("no such data set"), "{error}");
    let error = attempt(&set(&shard, 404));
    assert!(matches!(error, Error::Hub { problem: HubProblem::MissingFile, .. }), "{error}");
    assert!(error.to_string().contains("test/1.tar"), "{error}");
    let error = attempt(&|answers| answers.get_mut(&shard).unwrap().1[1000] ^= 1).to_string();
    assert!(error.contains("SHA-256"), "{error}");
    // The listing itself lacks a shard.
    let server = Server::start(dataset(SECOND, &pets()[..4]), usize::MAX);
    let error = fetch_pets(&server.hub(place.path()), "").unwrap_err();
    assert!(matches!(error, Error::Hub { problem: HubProblem::MissingFile, .. }), "{error}");
    assert!(error.to_string().contains("it lacks `test/1.tar`"), "{error}");
    assert!(
        !place.path().join("datasets--o--wds_pets/refs/main").exists(),
        "an incomplete copy is not the branch"
    );
}

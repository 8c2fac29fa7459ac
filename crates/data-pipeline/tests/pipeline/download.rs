//! Downloads from a local server that breaks connections, changes files and refuses.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_pipeline::Error;
use data_pipeline::download::{Download, Progress, fetch, fetch_file};
use data_pipeline::manifest::{Manifest, RemoteFile};

/// Behaviour of a server.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Sends at most this many bytes per connection.
    Cuts(usize),
    /// Breaks the first connection and does not support ranges.
    CutsWithoutRanges,
    /// Sends half of the file on the first connection, then stalls.
    Stalls,
    /// Answers 404.
    Refuses,
    /// Answers 429 the first time.
    IsBusy,
}

struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(content: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let content = content.clone();
                // Clients may hang up. Each has a thread, because one may be stalled.
                std::thread::spawn(move || answer(stream, &content, manner, number));
            }
        });
        Server { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn answer(mut stream: TcpStream, content: &[u8], manner: Manner, number: usize) -> std::io::Result<()> {
    let mut start = 0;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
    }
    if manner == Manner::Refuses {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    }
    if manner == Manner::IsBusy && number == 0 {
        return stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n");
    }
    if manner == Manner::CutsWithoutRanges {
        start = 0;
    }
    if start >= content.len() {
        return stream.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n");
    }
    let rest = &content[start..];
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len())?;
    let sent = match manner {
        Manner::Cuts(most) => rest.len().min(most),
        Manner::CutsWithoutRanges | Manner::Stalls if number == 0 => rest.len() / 2,
        _ => rest.len(),
    };
    stream.write_all(&rest[..sent])?;
    if manner == Manner::Stalls && number == 0 {
        // Waits until the client hangs up.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * i / 7) as u8).collect()
}

fn remote(url: &str, content: &[u8]) -> RemoteFile {
    RemoteFile::new(url, "file.bin")
        .with_bytes(content.len() as u64)
        .with_sha256(file_ext::sha256_hex(content))
}

#[test]
fn broken_connection_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(250_000);
    let server = Server::start(content.clone(), Manner::Cuts(100_000));
    let mut seen = Vec::new();
    fetch_file(&remote(&server.url, &content), &path, &mut |progress| {
        seen.push((progress.done, progress.total))
    })
    .unwrap();
    assert!(fs::read(&path).unwrap() == content);
    // Three parts, each sent once.
    assert_eq!(server.requests(), 3);
    assert!(seen.is_sorted());
    assert_eq!(*seen.last().unwrap(), (250_000, Some(250_000)));
    assert!(!folder.path().join("file.bin.partial").exists());
}

#[test]
fn stalled_connection_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(100_000);
    let server = Server::start(content.clone(), Manner::Stalls);
    let download = Download::default().with_stall_timeout(Duration::from_millis(300));
    let mut seen = Vec::new();
    download
        .fetch_file(&remote(&server.url, &content), &path, &mut |progress| seen.push(progress.done))
        .unwrap();
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(server.requests(), 2);
    // The bytes before the stall were sent once.
    assert!(seen.is_sorted() && seen.contains(&50_000), "{seen:?}");
}

#[test]
fn second_download_of_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(1000);
    let server = Server::start(content.clone(), Manner::Cuts(usize::MAX));
    let remote = remote(&server.url, &content);
    let lock = fs::File::create(folder.path().join("file.bin.lock")).unwrap();
    lock.lock().unwrap();
    let error = fetch_file(&remote, &path, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("another download") && error.contains("file.bin.lock"), "{error}");
    assert_eq!(server.requests(), 0);
    // A lock file without a holder, such as after a crash, is ignored.
    drop(lock);
    fetch_file(&remote, &path, &mut |_| {}).unwrap();
    assert!(fs::read(&path).unwrap() == content);
    assert!(!folder.path().join("file.bin.lock").exists());
}

#[test]
fn stopped_download_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(50_000);
    fs::write(folder.path().join("file.bin.partial"), &content[..20_000]).unwrap();
    let server = Server::start(content.clone(), Manner::Cuts(usize::MAX));
    let mut first = None;
    fetch_file(&remote(&server.url, &content), &path, &mut |Progress { done, .. }| {
        first.get_or_insert(done);
    })
    .unwrap();
    assert!(first.unwrap() > 20_000);
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn server_without_ranges_sends_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(80_000);
    let server = Server::start(content.clone(), Manner::CutsWithoutRanges);
    fetch_file(&remote(&server.url, &content), &path, &mut |_| {}).unwrap();
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn busy_server_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(1000);
    let server = Server::start(content.clone(), Manner::IsBusy);
    fetch_file(&remote(&server.url, &content), &path, &mut |_| {}).unwrap();
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(server.requests(), 2);
}

#[test]
fn changed_files_and_refusals_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.bin");
    let content = content(1000);
    let mut changed = content.clone();
    changed[500] ^= 1;
    let server = Server::start(changed, Manner::Cuts(usize::MAX));
    let error = fetch_file(&remote(&server.url, &content), &path, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert!(!path.exists() && !folder.path().join("file.bin.partial").exists());

    let server = Server::start(content[..900].to_vec(), Manner::Cuts(usize::MAX));
    let error = fetch_file(&remote(&server.url, &content), &path, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("900 bytes instead of 1000"), "{error}");

    let server = Server::start(content.clone(), Manner::Refuses);
    let error = fetch_file(&remote(&server.url, &content), &path, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(matches!(error, Error::Refused { status: 404, .. }));
    assert_eq!(server.requests(), 1, "a server that says no is not asked again");
}

/// A gzipped tar of `data/a.txt`.
fn packed() -> Vec<u8> {
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append_data(&mut header, "data/a.txt", &b"hello"[..]).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

fn manifest(text: &str) -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    fs::write(&path, text).unwrap();
    Manifest::read(&path).unwrap()
}

const HEAD: &str = "name = 'm'\ntitle = 'M'\nhomepage = 'h'\nlicense = 'l'\nexpect = ['data/a.txt']\n";
const SPLIT: &str = "[splits.all]\nsource = 'folder'\nroot = 'data'\n";

#[test]
fn archives_are_unpacked_once() {
    let server = Server::start(packed(), Manner::Cuts(60));
    let text =
        format!("{HEAD}[[files]]\nurl = '{}'\npath = 'm.tar.gz'\nunpack = 'tar.gz'\n{SPLIT}", server.url);
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(&text);
    fetch(&manifest, folder.path(), &mut |_| {}).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("data/a.txt")).unwrap(), "hello");
    let requests = server.requests();
    assert!(requests > 1);
    fetch(&manifest, folder.path(), &mut |_| {}).unwrap();
    assert_eq!(server.requests(), requests, "an existing file is downloaded again");
}

#[test]
fn files_of_the_user_are_not_replaced() {
    let server = Server::start(packed(), Manner::Cuts(usize::MAX));
    let text =
        format!("{HEAD}[[files]]\nurl = '{}'\npath = 'm.tar.gz'\nunpack = 'tar.gz'\n{SPLIT}", server.url);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let manifest = manifest(&text);
    fs::create_dir(at("data")).unwrap();
    fs::write(at("data/mine.txt"), "mine").unwrap();
    let error = fetch(&manifest, folder.path(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("data` exists already") && error.contains("m.tar.gz.unpacked"), "{error}");
    assert_eq!(fs::read_to_string(at("data/mine.txt")).unwrap(), "mine");
    assert!(!at("data/a.txt").exists() && !at("m.tar.gz.unpacked").exists());
    // A stopped run had already moved a part.
    fs::write(at("m.tar.gz.moving"), "data\n").unwrap();
    fetch(&manifest, folder.path(), &mut |_| {}).unwrap();
    assert_eq!(fs::read_to_string(at("data/a.txt")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(at("data/mine.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(at("m.tar.gz.unpacked")).unwrap(), "data\n");
    assert!(!at("m.tar.gz.moving").exists() && !at("m.tar.gz").exists());
}

#[test]
fn malformed_archive_is_an_error() {
    let server = Server::start(b"this is not an archive".to_vec(), Manner::Cuts(usize::MAX));
    let folder = tempfile::tempdir().unwrap();
    for packing in ["tar.gz", "zip"] {
        let text =
            format!("{HEAD}[[files]]\nurl = '{}'\npath = 'm'\nunpack = '{packing}'\n{SPLIT}", server.url);
        let error = fetch(&manifest(&text), folder.path(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
    }
}

#[test]
fn manual_downloads_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(&format!("manual = 'ask for it'\n{HEAD}{SPLIT}"));
    let error = fetch(&manifest, folder.path(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("ask for it") && error.contains("a.txt"), "{error}");
    assert!(error.contains("by hand") && !error.contains("failed"), "{error}");
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/a.txt"), b"").unwrap();
    fetch(&manifest, folder.path(), &mut |_| {}).unwrap();
}

#[test]
fn shipped_manifests_are_complete_and_paths_stay_inside() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("README.md") {
            continue;
        }
        let manifest = Manifest::read(&path).unwrap();
        assert_eq!(path.file_stem().unwrap().to_string_lossy(), manifest.name);
        assert!(
            manifest.files.iter().all(|file| file.sha256.is_some() || file.md5.is_some()),
            "{}",
            manifest.name
        );
        assert!(manifest.eval.is_some() && !manifest.expect.is_empty());
        names.push(manifest.name);
    }
    for wanted in ["cifar10", "cifar100", "imagenet-1k", "tiny-imagenet", "flickr8k", "flickr30k", "coco"] {
        assert!(names.iter().any(|name| name == wanted), "{wanted}");
    }
    let outside = tempfile::tempdir().unwrap();
    for path in ["../x", "/x", "a/../../x", ""] {
        let file = outside.path().join("m.toml");
        fs::write(&file, format!("{HEAD}[[files]]\nurl = 'u'\npath = '{path}'\n{SPLIT}")).unwrap();
        assert!(Manifest::read(&file).is_err(), "{path}");
    }
}

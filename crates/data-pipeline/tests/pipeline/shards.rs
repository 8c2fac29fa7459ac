//! Broken tar shards: the first damaged byte, the reason, and the loss against the policy.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::{png, tar};
use data_pipeline::evaluation::EvalBatches;
use data_pipeline::image::Preprocess;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sample::RawImage;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::{Error, Result};

fn open(shards: &str, base: &Path) -> Result<Arc<dyn Source>> {
    let config = serde_json::json!({"source": "webdataset", "shards": shards});
    serde_json::from_value::<SourceConfig>(config).unwrap().open(base)
}

/// Ten samples of equal size.
fn write_shard(path: &Path) {
    let picture = png([9; 3], 40, 40);
    let names = (0..10).map(|i| (format!("{i}.png"), format!("{i}.txt"))).collect::<Vec<_>>();
    let files = names
        .iter()
        .flat_map(|(image, text)| [(image.as_str(), &picture[..]), (text.as_str(), &b"a text"[..])]);
    tar(path, &files.collect::<Vec<_>>());
}

/// The ends of the members' contents in a tar.
fn member_ends(bytes: &[u8]) -> Vec<usize> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.raw_file_position() + entry.size()) as usize).collect()
}

fn cut(path: &Path, length: usize) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..length]).unwrap();
}

#[test]
fn truncated_shard_gives_its_complete_samples_and_reports_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    write_shard(&path);
    let whole = std::fs::read(&path).unwrap();
    assert!(open("a.tar", folder.path()).unwrap().corrupt_shards().is_none());
    let mut readable = Vec::new();
    let ends = member_ends(&whole);
    // All lengths below the end-of-archive marker, including those between two members.
    for length in (0..whole.len() - 1024).step_by(128) {
        std::fs::write(&path, &whole[..length]).unwrap();
        // A file that ends between two members can be read completely.
        let is_complete = ends.iter().any(|end| (*end..=end.next_multiple_of(512)).contains(&length));
        match open("a.tar", folder.path()) {
            Ok(source) => {
                assert_eq!(source.corrupt_shards().is_none(), is_complete, "cut to {length} bytes");
                if let Some(damage) = source.corrupt_shards() {
                    assert!(damage.broken[0].offset <= length as u64);
                }
                let good = (0..source.len()).filter_map(|i| source.read(i, 0).ok()).collect::<Vec<_>>();
                readable.push(good.len());
                for sample in good {
                    let RawImage::Encoded(found) = sample.image else {
                        panic!("encoded pictures stay encoded")
                    };
                    assert!(found == png([9; 3], 40, 40));
                }
            }
            Err(error) => assert!(matches!(error, Error::BrokenShards { .. }), "{error}"),
        }
    }
    assert!(readable.is_sorted());
    assert_eq!(*readable.last().unwrap(), 10);
}

#[test]
fn each_kind_of_damage_is_named_with_its_byte() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_shard(&at("good.tar"));
    let good = std::fs::read(at("good.tar")).unwrap();
    let mut header = good.clone();
    header[1024..1100].fill(0xAA);
    let twice = [good.clone(), good.clone()].concat();
    for (bytes, offset, words) in [
        (Vec::new(), 0, "the file is empty"),
        (vec![b'x'; 5000], 0, "it is a text file"),
        (vec![b'x'; 100], 0, "it is a text file"),
        (vec![0xAA; 5000], 0, "it is not a tar"),
        (good[..1030].to_vec(), 1024, "ends inside a header"),
        (good[..600].to_vec(), 0, "ends inside `0.png`"),
        (header, 1024, "the header is broken"),
        (twice, good.len() as u64 - 1024, "follow the tar's end-of-archive marker"),
    ] {
        std::fs::write(at("bad.tar"), &bytes).unwrap();
        let source = open("{good,bad}.tar", folder.path()).unwrap();
        let broken = &source.corrupt_shards().unwrap().broken;
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].offset, offset, "{words}");
        let message = ErrorPolicy::Fail.check_shards(source.as_ref()).unwrap_err().to_string();
        for part in ["bad.tar", &format!("at byte {offset}"), words, "fetch", "max_fraction"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        // The shard alone may have no samples, which is damage too.
        if let Err(error) = open("bad.tar", folder.path()) {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[test]
fn missing_end_mark_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    write_shard(&path);
    let whole = std::fs::read(&path).unwrap();
    // Without the end-of-archive marker, with a part of it, and without the padding of the last member.
    for length in [whole.len() - 1024, whole.len() - 512, whole.len() - 1024 - 504] {
        cut(&path, length);
        let source = open("a.tar", folder.path()).unwrap();
        assert!(source.corrupt_shards().is_none(), "{length}");
        assert_eq!((0..source.len()).filter(|index| source.read(*index, 0).is_ok()).count(), 10, "{length}");
        ErrorPolicy::Fail.check_shards(source.as_ref()).unwrap();
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn advice_names_the_setting_and_a_fraction_that_suffices() {
    let folder = tempfile::tempdir().unwrap();
    write_shard(&folder.path().join("a.tar"));
    write_shard(&folder.path().join("b.tar"));
    let length = std::fs::metadata(folder.path().join("a.tar")).unwrap().len() as usize;
    cut(&folder.path().join("a.tar"), length / 2);
    let source = open("{a,b}.tar", folder.path()).unwrap();
    let message = ErrorPolicy::default().check_shards(source.as_ref()).unwrap_err().to_string();
    let advice = message.split("data.damaged = { skip = { max_fraction = ").nth(1).expect(&message);
    let max_fraction = advice.split(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(max_fraction < 0.3, "{message}");
    ErrorPolicy::Skip { max_fraction }.check_shards(source.as_ref()).unwrap();
}

#[test]
fn loss_is_measured_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..6 {
        write_shard(&folder.path().join(format!("{number}.tar")));
    }
    let length = std::fs::metadata(folder.path().join("0.tar")).unwrap().len() as usize;
    cut(&folder.path().join("0.tar"), length / 50);
    let one = open("{0..5}.tar", folder.path()).unwrap();
    let lost = one.corrupt_shards().unwrap().lost_fraction();
    assert!((lost - 1.0 / 6.0).abs() < 0.01, "{lost}");
    ErrorPolicy::Skip { max_fraction: 0.2 }.check_shards(one.as_ref()).unwrap();
    ErrorPolicy::Skip { max_fraction: 0.1 }.check_shards(one.as_ref()).unwrap_err();
    for number in 1..5 {
        cut(&folder.path().join(format!("{number}.tar")), length / 50);
    }
    let five = open("{0..5}.tar", folder.path()).unwrap();
    let lost = five.corrupt_shards().unwrap().lost_fraction();
    assert!((lost - 5.0 / 6.0).abs() < 0.05, "{lost}");
    let error = ErrorPolicy::default().check_shards(five.as_ref()).unwrap_err();
    assert!(
        error.to_string().contains("5 of 6 shards") && error.to_string().contains("and 2 more"),
        "{error}"
    );
    // Without a complete shard, the original length is unknown. The cut member is lost.
    let ends = member_ends(&std::fs::read(folder.path().join("5.tar")).unwrap());
    cut(&folder.path().join("5.tar"), ends[18] - 1);
    let last = open("5.tar", folder.path()).unwrap();
    let corrupt = last.corrupt_shards().unwrap();
    assert!((1..=1024).contains(&corrupt.lost_bytes), "{corrupt:?}");
    assert_eq!(corrupt.total_bytes as usize, ends[18]);
    assert_eq!(last.len(), 9);
}

#[test]
fn evaluation_refuses_broken_shards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    write_shard(&path);
    let preprocess = Preprocess::new(4).with_normalization([0.5; 3], [0.5; 3]);
    let batches = |source| EvalBatches::new(source, preprocess.clone(), 4);
    assert_eq!(batches(open("a.tar", folder.path()).unwrap()).unwrap().count(), 3);
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    cut(&path, length / 2);
    let error = batches(open("a.tar", folder.path()).unwrap()).err().unwrap();
    assert!(matches!(error, Error::BrokenShards { .. }), "{error}");
}

#[test]
fn extensions_of_members_ignore_case() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([1, 2, 3], 4, 4);
    tar(
        &folder.path().join("a.tar"),
        &[
            ("0.PNG", &picture),
            ("0.TXT", b"loud"),
            ("1.Png", &picture),
            ("1.JSON", br#"{"captions": ["json"]}"#),
        ],
    );
    let source = open("a.tar", folder.path()).unwrap();
    let captions = (0..source.len()).map(|i| source.read(i, 0).unwrap().captions).collect::<Vec<_>>();
    assert_eq!(captions, [["loud"], ["json"]]);
}

#[test]
fn more_shards_than_open_files_can_be_read() {
    const NAME: &str = "more_shards_than_a_process_may_open";
    const LOWERED: &str = "DATA_PIPELINE_FEW_OPEN_FILES";
    if std::env::var_os(LOWERED).is_none() {
        // The limit applies to a whole process, so this test runs itself in a process with a low limit.
        let command = format!("ulimit -n 64 && exec \"$0\" --exact {NAME}");
        let program = std::env::current_exe().unwrap();
        let output =
            Command::new("sh").args(["-c", &command]).arg(program).env(LOWERED, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for number in 100..200 {
        let picture = png([number as u8; 3], 2, 2);
        tar(&folder.path().join(format!("{number}.tar")), &[("a.png", &picture), ("a.txt", b"text")]);
    }
    let source = open("{100..199}.tar", folder.path()).unwrap();
    assert_eq!((0..source.len()).filter(|i| source.read(*i, 0).is_ok()).count(), 100);
}

#[test]
fn volume_label_of_gnu_tar_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    write_shard(&path);
    let plain = open("a.tar", folder.path()).unwrap();
    // GNU tar writes neither a magic number nor a size.
    let mut label = tar::Header::new_old();
    label.as_mut_bytes()[..5].copy_from_slice(b"LABEL");
    label.set_entry_type(tar::EntryType::new(b'V'));
    label.set_cksum();
    let labelled = [label.as_bytes(), &std::fs::read(&path).unwrap()[..]].concat();
    std::fs::write(folder.path().join("b.tar"), &labelled).unwrap();
    let source = open("b.tar", folder.path()).unwrap();
    assert!(source.corrupt_shards().is_none());
    assert_eq!(source.len(), plain.len());
    for index in 0..plain.len() {
        let [a, b] = [&plain, &source].map(|source| source.read(index, 0).unwrap());
        assert!(matches!((a.image, b.image), (RawImage::Encoded(a), RawImage::Encoded(b)) if a == b));
        assert_eq!(a.captions, b.captions);
    }
    // The offset of damage counts the label.
    std::fs::write(folder.path().join("b.tar"), &labelled[..512 + 700]).unwrap();
    let error = open("b.tar", folder.path()).err().unwrap().to_string();
    assert!(error.contains("at byte"), "{error}");
}

#[test]
fn files_that_are_no_tars_are_described_without_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let text = "a photo of a cat\na photo of a dog\n".repeat(40);
    for (bytes, words) in [
        (text.as_bytes(), "a text file"),
        (&text.as_bytes()[..30], "a text file"),
        (&png([1; 3], 4, 4), "an image (PNG)"),
        (b"{\"image\": \"a.jpg\"}", "a JSON file"),
    ] {
        std::fs::write(folder.path().join("a.tar"), bytes).unwrap();
        let error = open("a.tar", folder.path()).err().unwrap();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(words) && !said.contains(char::is_control) && !said.contains("photo"),
            "{said}"
        );
    }
    // Random bytes have no description and are not quoted.
    let noise = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();
    std::fs::write(folder.path().join("a.tar"), noise).unwrap();
    let said = open("a.tar", folder.path()).err().unwrap().to_string();
    assert!(!said.contains(char::is_control) && !said.contains('\u{FFFD}'), "{said}");
    // Among good shards, such a file is one broken shard.
    write_shard(&folder.path().join("b.tar"));
    std::fs::write(folder.path().join("a.tar"), &text).unwrap();
    let source = open("{a,b}.tar", folder.path()).unwrap();
    assert_eq!(source.corrupt_shards().unwrap().broken.len(), 1);
}

//! Parquet files as Hugging Face's datasets write them, and damaged ones.

use std::path::Path;
use std::sync::Arc;

use crate::common::png;
use crate::log::Log;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::{DamageKind, Error, RawImage, Result};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

/// A struct of bytes and path, as the feature `Image` is stored.
const IMAGE: &str = "optional group image { optional binary bytes; optional binary path (UTF8); }";

fn open(config: Value, base: &Path) -> Result<Arc<dyn Source>> {
    serde_json::from_value::<SourceConfig>(config).unwrap().open(base)
}

fn error(config: Value, base: &Path) -> String {
    open(config, base).err().expect("the source opened").to_string()
}

/// Values of a column: definition levels, repetition levels, and the values that are not null.
enum Column {
    Bytes(Vec<i16>, Vec<i16>, Vec<Vec<u8>>),
    Numbers(Vec<i16>, Vec<i64>),
}

/// A column of byte strings of a schema with `present` levels.
fn bytes(present: i16, values: &[Option<&[u8]>]) -> Column {
    let levels = values.iter().map(|value| if value.is_some() { present } else { present - 1 });
    Column::Bytes(levels.collect(), Vec::new(), values.iter().flatten().map(|value| value.to_vec()).collect())
}

/// Writes row groups of columns.
fn write(
    path: &Path,
    schema: &str,
    compression: Compression,
    metadata: Option<&str>,
    groups: Vec<Vec<Column>>,
) {
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let pairs = metadata.map(|text| vec![KeyValue::new("huggingface".into(), text.to_string())]);
    // Small pages, so that rows are skipped over several of them.
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(1)
        .set_key_value_metadata(pairs)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut cells = group.next_column().unwrap().unwrap();
            match (cells.untyped(), column) {
                (ColumnWriter::ByteArrayColumnWriter(writer), Column::Bytes(levels, repeats, values)) => {
                    let values = values.into_iter().map(ByteArray::from).collect::<Vec<_>>();
                    let repeats = (!repeats.is_empty()).then_some(&repeats[..]);
                    writer.write_batch(&values, Some(&levels), repeats).unwrap();
                }
                (ColumnWriter::Int64ColumnWriter(writer), Column::Numbers(levels, values)) => {
                    writer.write_batch(&values, Some(&levels), None).unwrap();
                }
                _ => panic!("the schema has another type"),
            }
            cells.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Two row groups of 10 and 7 rows, each with an image of its own brightness and the caption `row N`.
fn captions_file(path: &Path, compression: Compression) {
    let images = (0..17u8).map(|i| png([i; 3], 4, 4)).collect::<Vec<_>>();
    let texts = (0..17).map(|i| format!("row {i}")).collect::<Vec<_>>();
    let group = |rows: std::ops::Range<usize>| {
        let images = images[rows.clone()].iter().map(|image| Some(&image[..])).collect::<Vec<_>>();
        let texts = texts[rows].iter().map(|text| Some(text.as_bytes())).collect::<Vec<_>>();
        vec![bytes(2, &images), bytes(2, &vec![None; images.len()]), bytes(1, &texts)]
    };
    let schema = format!("{IMAGE} optional binary text (UTF8);");
    write(path, &schema, compression, None, vec![group(0..10), group(10..17)]);
}

#[test]
fn rows_are_read_in_any_order_with_each_compression() {
    let folder = tempfile::tempdir().unwrap();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::try_new(3).unwrap()),
        Compression::GZIP(Default::default()),
    ] {
        let path = folder.path().join("train.parquet");
        captions_file(&path, compression);
        let log = Log::start();
        let source = open(json!({"source": "parquet", "path": "train.parquet"}), folder.path()).unwrap();
        assert_eq!(source.len(), 17);
        let mut order = (0..17).chain((0..17).rev()).chain((0..17).map(|i| i * 5 % 17)).collect::<Vec<_>>();
        order.extend([16, 16, 0, 0, 9, 10]);
        for index in order {
            let sample = source.read(index, 0).unwrap();
            assert_eq!(sample.captions, [format!("row {index}")]);
            assert!(matches!(sample.image, RawImage::Encoded(bytes) if bytes == png([index as u8; 3], 4, 4)));
            assert!(sample.key.contains("train.parquet: row "), "{}", sample.key);
        }
        // The inferred column is logged once per process.
        assert!(log.lines().iter().all(|line| line.contains("caption = \"text\"")), "{:?}", log.lines());
    }
}

#[test]
fn threads_read_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    captions_file(&folder.path().join("a.parquet"), Compression::SNAPPY);
    captions_file(&folder.path().join("b.parquet"), Compression::SNAPPY);
    let source = open(json!({"source": "parquet", "path": "."}), folder.path()).unwrap();
    assert_eq!(source.len(), 34);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let source = &source;
            scope.spawn(move || {
                for step in 0..200 {
                    let index = (step * (2 * thread + 1) + thread) % 34;
                    assert_eq!(source.read(index, 0).unwrap().captions, [format!("row {}", index % 17)]);
                }
            });
        }
    });
}

#[test]
fn lists_of_captions_and_null_values_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, path) = (png([1; 3], 4, 4), folder.path().join("x.parquet"));
    // Rows: two captions; an empty list; null; one caption, a null and an empty text.
    let lists = Column::Bytes(
        vec![3, 3, 1, 0, 3, 2, 3],
        vec![0, 1, 0, 0, 0, 1, 1],
        [&b"one"[..], b"two", b"three", b" "].map(<[u8]>::to_vec).to_vec(),
    );
    let schema = "optional binary img; optional group captions (LIST) { repeated group list { optional binary element (UTF8); } }";
    write(
        &path,
        schema,
        Compression::SNAPPY,
        None,
        vec![vec![bytes(1, &[Some(picture.as_slice()); 4]), lists]],
    );
    let log = Log::start();
    let source = open(json!({"source": "parquet", "path": "x.parquet"}), folder.path()).unwrap();
    // Backwards, so that each row is found from the start.
    for (index, expected) in [(3, Some(vec!["three"])), (2, None), (1, None), (0, Some(vec!["one", "two"]))] {
        match (source.read(index, 0), expected) {
            (Ok(sample), Some(captions)) => assert_eq!(sample.captions, captions),
            (Err(Error::Sample { kind: DamageKind::NoCaption, .. }), None) => {}
            other => panic!("{other:?}"),
        }
    }
    let said = log.lines().join("\n");
    assert!(said.contains("image = \"img\", caption = \"captions\""), "{said}");
    assert!(said.contains("left out entries of `captions`") && said.contains("first 2 of"), "{said}");
    // Images without bytes.
    let schema = format!("{IMAGE} optional binary caption (UTF8);");
    let images = bytes(2, &[None, Some(b"")]);
    let paths = bytes(2, &[Some(b"cats/1.jpg"), None]);
    let texts = bytes(1, &[Some(b"a"), Some(b"caf\xE9")]);
    write(&path, &schema, Compression::SNAPPY, None, vec![vec![images, paths, texts]]);
    let source = open(json!({"source": "parquet", "path": "x.parquet"}), folder.path()).unwrap();
    for (index, words) in [(0, "`cats/1.jpg`"), (1, "`image` is empty")] {
        match source.read(index, 0) {
            Err(Error::Sample { kind: DamageKind::NoImage, reason, .. }) => {
                assert!(reason.contains(words), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn class_labels_have_the_names_of_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([1; 3], 4, 4);
    let metadata = r#"{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;
    let columns = || {
        let images = bytes(2, &[Some(picture.as_slice()); 4]);
        vec![images, bytes(2, &[None; 4]), Column::Numbers(vec![1, 1, 1, 0], vec![1, 0, -1])]
    };
    let schema = format!("{IMAGE} optional int64 label;");
    let path = folder.path().join("test-00000-of-00001.parquet");
    write(&path, &schema, Compression::SNAPPY, Some(metadata), vec![columns()]);
    let config = json!({"source": "parquet", "path": "test-*.parquet"});
    let source = open(config.clone(), folder.path()).unwrap();
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
    let sample = source.read(0, 0).unwrap();
    assert_eq!((sample.label, sample.captions), (Some(1), vec!["a photo of a dog.".to_string()]));
    assert_eq!(source.read(1, 0).unwrap().label, Some(0));
    assert!(matches!(source.read(2, 0), Err(Error::Sample { kind: DamageKind::Label, .. })));
    assert!(matches!(source.read(3, 0), Err(Error::Sample { kind: DamageKind::NoCaption, .. })));
    // A file of class names replaces those of the metadata, or stands in for them.
    std::fs::write(folder.path().join("names.txt"), "kitten\npuppy\n").unwrap();
    let mut named = config.clone();
    named["classes"] = "names.txt".into();
    named["templates"] = json!(["{}"]);
    assert_eq!(open(named.clone(), folder.path()).unwrap().read(0, 0).unwrap().captions, ["puppy"]);
    write(&path, &schema, Compression::SNAPPY, None, vec![columns()]);
    assert_eq!(open(named, folder.path()).unwrap().class_names().unwrap(), ["kitten", "puppy"]);
    let said = error(config, folder.path());
    assert!(
        said.contains("class names of `label` are unknown") && said.contains("classes = \"FILE\""),
        "{said}"
    );
}

#[test]
fn folder_with_several_splits_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("flickr/data");
    std::fs::create_dir_all(&data).unwrap();
    for name in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        captions_file(&data.join(name), Compression::SNAPPY);
    }
    // The layout of a repository on the hub.
    let config = json!({"source": "parquet", "path": "flickr"});
    assert_eq!(open(config.clone(), folder.path()).unwrap().len(), 34);
    captions_file(&data.join("test-00000-of-00001.parquet"), Compression::SNAPPY);
    let said = error(config, folder.path());
    assert!(said.contains("splits `test`, `train`"), "{said}");
    let one = json!({"source": "parquet", "path": "flickr/data/train-*.parquet"});
    assert_eq!(open(one, folder.path()).unwrap().len(), 34);
    let missing = error(json!({"source": "parquet", "path": "flickr/data/dev-*.parquet"}), folder.path());
    assert!(missing.contains("matches no file"), "{missing}");
}

#[test]
fn missing_columns_are_named_with_those_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let one = |value: &'static [u8]| bytes(1, &[Some(value)]);
    let config = json!({"source": "parquet", "path": "x.parquet"});
    // The table beside img2dataset's tars.
    let schema = "optional binary url (UTF8); optional binary caption (UTF8); optional binary key (UTF8);";
    write(&path, schema, Compression::SNAPPY, None, vec![vec![one(b"x"), one(b"y"), one(b"z")]]);
    let said = error(config.clone(), folder.path());
    for part in ["no column `image`", "`url`, `caption`, `key`", "img2dataset", "image = \"COLUMN\""] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let schema = "optional binary image; optional binary alt (UTF8);";
    write(&path, schema, Compression::SNAPPY, None, vec![vec![one(b"x"), one(b"y")]]);
    let said = error(config.clone(), folder.path());
    assert!(said.contains("no column `caption`") && said.contains("caption = \"COLUMN\""), "{said}");
    let mut named = config.clone();
    named["caption"] = "alt".into();
    assert_eq!(open(named, folder.path()).unwrap().read(0, 0).unwrap().captions, ["y"]);
    // Paths in the place of images, and a caption that is not a text.
    let schema = "optional binary image (UTF8); optional int64 text;";
    write(
        &path,
        schema,
        Compression::SNAPPY,
        None,
        vec![vec![one(b"x.jpg"), Column::Numbers(vec![1], vec![5])]],
    );
    assert!(error(config.clone(), folder.path()).contains("holds texts, not images"));
    let schema = "optional binary image; optional int64 text;";
    write(&path, schema, Compression::SNAPPY, None, vec![vec![one(b"x"), Column::Numbers(vec![1], vec![5])]]);
    let mut named = config;
    named["caption"] = "text".into();
    assert!(error(named, folder.path()).contains("`text` holds whole numbers (INT64), not text"));
}

#[test]
fn damaged_and_foreign_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    captions_file(&path, Compression::SNAPPY);
    let good = std::fs::read(&path).unwrap();
    let config = json!({"source": "parquet", "path": "x.parquet"});
    let mut broken_footer = good.clone();
    let footer = good.len() - 40;
    broken_footer[footer..footer + 20].fill(0xFF);
    let mut wrong_length = good.clone();
    let end = good.len();
    wrong_length[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, words) in [
        (Vec::new(), "the file is empty"),
        (good[..good.len() / 2].to_vec(), "truncated"),
        (good[..good.len() - 1].to_vec(), "truncated"),
        (b"PAR1".to_vec(), "metadata is damaged"),
        (broken_footer, "metadata is damaged"),
        (wrong_length, "metadata is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull"),
        (b"<!DOCTYPE html><html>".to_vec(), "web page"),
        (b"filepath,title\n".to_vec(), "does not start with `PAR1`"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open(config.clone(), folder.path()).err().unwrap();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(
            error.to_string().contains(words) && error.to_string().contains("x.parquet"),
            "{words}: {error}"
        );
    }
    // Damaged pages are damaged samples, whatever the bytes are. They never panic or end the program.
    for place in (4..good.len() - 12).step_by(11) {
        let mut broken = good.clone();
        broken[place] ^= 0xFF;
        std::fs::write(&path, broken).unwrap();
        let Ok(source) = open(config.clone(), folder.path()) else { continue };
        for index in (0..source.len().min(17)).rev() {
            match source.read(index, 0) {
                Ok(_) | Err(Error::Sample { .. }) => {}
                Err(other) => panic!("byte {place}: {other}"),
            }
        }
    }
}

/// A file with a picture and one other column of one row.
fn with_column(path: &Path, column: &str, value: Column, compression: Compression) {
    let picture = png([1; 3], 4, 4);
    let schema = format!("optional binary jpg; {column};");
    write(path, &schema, compression, None, vec![vec![bytes(1, &[Some(&picture)]), value]]);
}

#[test]
fn columns_of_another_type_are_named_with_their_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let config = json!({"source": "parquet", "path": "x.parquet"});
    let number = || Column::Numbers(vec![1], vec![7]);
    let text = || bytes(1, &[Some(b"dog")]);
    for (column, value, parts) in [
        (
            "optional int64 caption",
            number(),
            ["`caption` holds whole numbers (INT64), not text", "`caption = \"COLUMN\"`"],
        ),
        (
            "optional binary label (UTF8)",
            text(),
            ["`label` holds texts, not whole numbers", "`caption = \"label\"`"],
        ),
        ("optional binary class (UTF8)", text(), ["`class` holds texts", "recipe or suite file"]),
    ] {
        with_column(&path, column, value, Compression::SNAPPY);
        let said = error(config.clone(), folder.path());
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
    with_column(&path, "optional binary txt (UTF8)", text(), Compression::SNAPPY);
    assert_eq!(open(config, folder.path()).unwrap().read(0, 0).unwrap().captions, ["dog"]);
    // A common name with another type does not hide a later one.
    let picture = png([1; 3], 4, 4);
    let schema = "optional binary jpg; optional int64 title; optional binary text (UTF8);";
    let columns = vec![bytes(1, &[Some(&picture)]), number(), text()];
    write(&path, schema, Compression::SNAPPY, None, vec![columns]);
    let source = open(json!({"source": "parquet", "path": "x.parquet"}), folder.path()).unwrap();
    assert_eq!(source.read(0, 0).unwrap().captions, ["dog"]);
}

#[test]
fn unsupported_compression_refuses_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    captions_file(&path, Compression::UNCOMPRESSED);
    let metadata = |bytes: &[u8]| {
        let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
        bytes.len() - 8 - length
    };
    let whole = std::fs::read(&path).unwrap();
    // In the metadata of a column, the codec follows its path: a list of texts, then field 4 (zigzag 0: uncompressed).
    let start = metadata(&whole);
    let mark = [b"\x04text".as_slice(), &[0x15, 0]].concat();
    let places =
        (start..whole.len() - mark.len()).filter(|at| whole[*at..].starts_with(&mark)).collect::<Vec<_>>();
    assert!(!places.is_empty());
    for (codec, name) in [(4u8, "Brotli"), (5, "LZ4"), (7, "LZ4"), (3, "LZO")] {
        let mut bytes = whole.clone();
        for place in &places {
            bytes[place + mark.len() - 1] = 2 * codec;
        }
        std::fs::write(&path, bytes).unwrap();
        let said = error(json!({"source": "parquet", "path": "x.parquet"}), folder.path());
        assert!(said.contains(name) && said.contains("zstd or snappy"), "{said}");
    }
}

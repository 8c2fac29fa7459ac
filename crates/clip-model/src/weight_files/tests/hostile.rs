//! Tests of malicious files: each causes one clear error, without a panic, code execution, or memory beyond the
//! file's size.

use proptest::prelude::*;

use super::write::{PickleWriter, archive, legacy, storages, zip};
use super::{refusal, state};
use crate::weight_files::{WeightFile, opcode as op};
use crate::weights::write_safetensors;

/// Returns a file in each container.
fn files() -> Vec<Vec<u8>> {
    let state = state();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    write_safetensors(&path, state.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    vec![
        archive(PickleWriter::new().state(&state).stop(), &state),
        legacy(&state),
        std::fs::read(&path).unwrap(),
    ]
}

#[test]
fn callable_globals_are_refused_by_name() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("operator", "attrgetter"),
    ] {
        let argument = |pickle: PickleWriter| pickle.text("echo").op(op::TUPLE1).op(op::REDUCE).stop();
        let named = argument(PickleWriter::new().global(module, name));
        let stacked = argument(PickleWriter::new().text(module).text(name).op(op::STACK_GLOBAL));
        for pickle in [named, stacked] {
            let message = refusal(&archive(pickle, &[]));
            assert!(message.contains(&format!("`{module}.{name}`")), "{message}");
            assert!(message.contains("safetensors"), "{message}");
        }
    }
}

#[test]
fn other_calls_are_refused() {
    for (pickle, word) in [
        (PickleWriter::new().text("os.system").op(op::EMPTY_TUPLE).op(op::REDUCE), "unknown function"),
        (
            PickleWriter::new().global("torch", "FloatStorage").op(op::EMPTY_TUPLE).op(op::REDUCE),
            "only occur in",
        ),
        (
            PickleWriter::new().global("builtins", "object").op(op::EMPTY_TUPLE).op(op::NEWOBJ),
            "only occur in",
        ),
        (PickleWriter::new().op(b'i').raw(b"os\nsystem\n"), "INST"),
        (PickleWriter::new().op(op::MARK).op(b'o'), "OBJ"),
        (PickleWriter::new().op(b'P').raw(b"id\n"), "PERSID"),
        (PickleWriter::new().op(0x82).op(1), "EXT1"),
        (PickleWriter::new().op(0x97), "NEXT_BUFFER"),
        (PickleWriter::new().op(0xff), "0xff"),
    ] {
        let message = refusal(&archive(pickle.stop(), &[]));
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn truncated_files_are_refused() {
    for file in files() {
        WeightFile::from_bytes(&file).unwrap();
        for length in 0..file.len() {
            let message = refusal(&file[..length]);
            assert!(message.contains("bytes"), "{message}");
        }
    }
    // Truncated pickles within complete archives.
    let pickle = PickleWriter::new().state(&state()).stop();
    for length in 0..pickle.len() {
        refusal(&archive(pickle[..length].to_vec(), &state()));
    }
}

#[test]
fn nesting_needs_no_stack() {
    let deep = 100_000;
    for (open, close) in [(op::EMPTY_LIST, op::APPEND), (op::EMPTY_LIST, op::TUPLE1)] {
        let pickle = PickleWriter::new().raw(&vec![open; deep]).raw(&vec![close; deep - 1]);
        refusal(&archive(pickle.stop(), &[]));
    }
    let marks = PickleWriter::new().raw(&vec![op::MARK; deep]).raw(&vec![op::TUPLE; deep]);
    refusal(&archive(marks.stop(), &[]));
    // Nested TorchScript modules.
    let mut pickle = PickleWriter::new();
    for _ in 0..5000 {
        pickle =
            pickle.global("__torch__", "M").op(op::EMPTY_TUPLE).op(op::NEWOBJ).op(op::EMPTY_DICT).text("m");
    }
    pickle = pickle.op(op::NONE);
    for _ in 0..5000 {
        pickle = pickle.op(op::SETITEM).op(op::BUILD);
    }
    let message = refusal(&zip(&[("x/data.pkl", pickle.stop()), ("x/constants.pkl", Vec::new())]));
    assert!(message.contains("nested too deep"), "{message}");
}

#[test]
fn self_containing_values_terminate() {
    // A dictionary that is its own `state_dict`, and a module that is its own attribute.
    let dict =
        PickleWriter::new().op(op::EMPTY_DICT).op(op::BINPUT).op(0).text("state_dict").op(op::BINGET).op(0);
    refusal(&archive(dict.op(op::SETITEM).stop(), &[]));
    let module = PickleWriter::new()
        .global("__torch__", "M")
        .op(op::EMPTY_TUPLE)
        .op(op::NEWOBJ)
        .op(op::BINPUT)
        .op(0)
        .op(op::EMPTY_DICT)
        .text("self")
        .op(op::BINGET)
        .op(0)
        .op(op::SETITEM)
        .op(op::BUILD);
    let message = refusal(&zip(&[("x/data.pkl", module.stop()), ("x/constants.pkl", Vec::new())]));
    assert!(message.contains("no parameters"), "{message}");
    // A list that is copied repeatedly.
    let mut pickle = PickleWriter::new().op(op::EMPTY_LIST).raw(&vec![op::NONE; 1000]).op(op::POP);
    pickle = PickleWriter::new()
        .op(op::MARK)
        .raw(&vec![op::NONE; 60_000])
        .op(op::LIST)
        .op(op::BINPUT)
        .op(0)
        .raw(&pickle.0);
    for _ in 0..1000 {
        pickle = pickle.global("builtins", "list").op(op::BINGET).op(0).op(op::TUPLE1).op(op::REDUCE);
    }
    let message = refusal(&archive(pickle.stop(), &[]));
    assert!(message.contains("steps"), "{message}");
}

#[test]
fn claimed_sizes_are_not_trusted() {
    let huge = i64::MAX;
    for (count, offset, size, stride) in [
        (huge, 0, vec![1], vec![1]),
        (-1, 0, vec![1], vec![1]),
        (2, 0, vec![3], vec![1]),
        (2, 1, vec![2], vec![1]),
        (2, -1, vec![2], vec![1]),
        (2, huge, vec![1], vec![1]),
        (2, 3, vec![0], vec![1]),
        (2, 0, vec![huge, huge], vec![1, 1]),
        (2, 0, vec![huge], vec![0]),
        (2, 0, vec![2], vec![huge]),
        (2, 0, vec![2, 2], vec![huge, huge]),
        (2, 0, vec![-2], vec![1]),
        (2, 0, vec![2], vec![-1]),
        (2, 0, vec![2], vec![]),
        (2, 0, vec![1; 40], vec![1; 40]),
    ] {
        let pickle = PickleWriter::new().op(op::EMPTY_DICT).text("w");
        let pickle = pickle.tensor("FloatStorage", "0", count, offset, &size, &stride).op(op::SETITEM).stop();
        let state = vec![("w".to_string(), tch::Tensor::from_slice(&[1f32, 2.]))];
        let message = refusal(&archive(pickle, &state));
        assert!(message.contains("storage"), "{message} for {count} {offset} {size:?} {stride:?}");
    }
    for header in [
        &[op::BINUNICODE, 0xff, 0xff, 0xff, 0xff][..],
        &[op::BINUNICODE8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[op::LONG4, 0xff, 0xff, 0xff, 0x7f],
        &[op::BINBYTES8, 0, 0, 0, 0, 0, 0, 0, 0x80],
        &[op::BINGET, 7],
        &[op::POP],
        &[op::TUPLE3],
        &[op::APPENDS],
        &[op::MARK, op::POP, op::POP],
        &[op::NONE, op::MARK, op::APPEND],
        &[op::PROTO, 77],
    ] {
        refusal(&archive(PickleWriter::new().raw(header).stop(), &[]));
    }
    for header in [
        r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}}"#,
        r#"{"w":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#,
        r#"{"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
        r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#,
        r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        refusal(&bytes);
    }
}

#[test]
fn overlapping_entries_are_refused() {
    // A valid file with many entries.
    let state = (0..20)
        .map(|i| (format!("w{i}"), tch::Tensor::zeros([64], (tch::Kind::Float, tch::Device::Cpu))))
        .collect::<Vec<_>>();
    let entries = storages(&state);
    let mut file = zip(&[("run/data.pkl", PickleWriter::new().state(&state).stop())]
        .into_iter()
        .chain(entries.iter().take(20).map(|(name, bytes)| (name.as_str(), bytes.clone())))
        .collect::<Vec<_>>());
    WeightFile::from_bytes(&file).unwrap();
    // One large storage under many names.
    let whole = [("w".to_string(), tch::Tensor::zeros([4096], (tch::Kind::Float, tch::Device::Cpu)))];
    let many = (0..8).map(|key| (format!("w{key}"), whole[0].1.shallow_clone())).collect::<Vec<_>>();
    let bytes = super::write::bytes_of(&whole[0].1);
    file = zip(&[("run/data.pkl", PickleWriter::new().state(&many).stop()), ("run/data/0", bytes)]);
    // Point seven more names to the same header.
    let end = file.len() - 22;
    let start = u32::from_le_bytes(file[end + 16..end + 20].try_into().unwrap()) as usize;
    let directory = file[start..end].to_vec();
    let last = directory.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    let mut longer = directory.clone();
    for key in 1..8u8 {
        let mut entry = directory[last..].to_vec();
        *entry.last_mut().unwrap() = b'0' + key;
        longer.extend(entry);
    }
    let mut forged = file[..start].to_vec();
    forged.extend(&longer);
    let mut tail = file[end..].to_vec();
    tail[12..16].copy_from_slice(&(longer.len() as u32).to_le_bytes());
    forged.extend(tail);
    let message = refusal(&forged);
    assert!(message.contains("overlap"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(which in 0usize..3, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = files().swap_remove(which);
        for (index, value) in flips {
            let index = index.index(file.len());
            file[index] = value;
        }
        let _ = WeightFile::from_bytes(&file);
    }

    #[test]
    fn random_opcodes_never_panic(codes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = WeightFile::from_bytes(&archive(PickleWriter::new().raw(&codes).stop(), &[]));
    }
}

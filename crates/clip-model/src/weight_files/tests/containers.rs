//! Tests that every container returns the tensors that were written into it.

use tch::{Kind, Tensor};

use super::write::{PickleWriter, archive, legacy, storages, zip, zip_with};
use super::{assert_equal, read, refusal, state};
use crate::weight_files::{Layout, WeightFile, opcode as op};
use crate::weights::write_safetensors;

const KINDS: [Kind; 10] = [
    Kind::Double,
    Kind::Float,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

#[test]
fn archives_and_legacy_files_support_every_element_type() {
    let values = Tensor::from_slice(&[0i64, 1, 3, 100, 7, 2]).view([2, 3]);
    let state =
        KINDS.map(|kind| (format!("visual.{kind:?}"), values.to_kind(kind))).into_iter().collect::<Vec<_>>();
    assert_equal(&read(&archive(PickleWriter::new().state(&state).stop(), &state)).weights, &state);
    assert_equal(&read(&legacy(&state)).weights, &state);
}

#[test]
fn strides_and_shared_storages_are_preserved() {
    let whole = Tensor::arange(12, (Kind::Float, tch::Device::Cpu));
    let state = vec![("visual.whole".to_string(), whole.shallow_clone())];
    let pickle = PickleWriter::new()
        .op(op::EMPTY_DICT)
        .op(op::MARK)
        .text("visual.whole")
        .tensor("FloatStorage", "0", 12, 0, &[12], &[1])
        .text("visual.turned")
        .tensor("FloatStorage", "0", 12, 2, &[2, 3], &[1, 2])
        .text("visual.empty")
        .tensor("FloatStorage", "0", 12, 0, &[0, 4], &[4, 1])
        .op(op::SETITEMS);
    let found = read(&archive(pickle.stop(), &state)).weights;
    let turned = Tensor::from_slice(&[2f32, 4., 6., 3., 5., 7.]).view([2, 3]);
    assert!(found["visual.turned"].equal(&turned));
    assert!(found["visual.whole"].equal(&whole));
    assert_eq!(found["visual.empty"].size(), [0, 4]);
}

#[test]
fn training_checkpoints_return_their_plain_weights() {
    let state = state();
    let wrapped = state.iter().map(|(n, t)| (format!("module.module.{n}"), t.copy())).collect::<Vec<_>>();
    let pickle = PickleWriter::new()
        .op(op::EMPTY_DICT)
        .op(op::MARK)
        .text("epoch")
        .int(3)
        .text("args")
        .global("argparse", "Namespace")
        .op(op::EMPTY_TUPLE)
        .op(op::NEWOBJ)
        .op(op::EMPTY_DICT)
        .text("lr")
        .op(op::BINFLOAT)
        .raw(&[0; 8])
        .op(op::SETITEM)
        .op(op::BUILD)
        .text("best")
        .global("numpy.core.multiarray", "scalar")
        .global("numpy", "dtype")
        .text("f8")
        .op(op::NEWFALSE)
        .op(op::NEWTRUE)
        .op(op::TUPLE3)
        .op(op::REDUCE)
        .op(op::MARK)
        .int(3)
        .text("<")
        .op(op::NONE)
        .op(op::TUPLE)
        .op(op::BUILD)
        .op(op::SHORT_BINBYTES)
        .raw(&[2, 0, 0])
        .op(op::TUPLE2)
        .op(op::REDUCE)
        .text("ema")
        .state(&wrapped)
        .text("state_dict")
        .state(&wrapped)
        .op(op::SETITEMS);
    let found = read(&archive(pickle.stop(), &wrapped));
    assert_equal(&found.weights, &state);
    let notes = found.notes.join("; ");
    for word in ["weights in `state_dict`, not those in `ema`", "`state_dict` of a training", "`module.`"] {
        assert!(notes.contains(word), "{notes}");
    }
}

#[test]
fn parameters_and_untyped_storages_are_read() {
    let state = vec![("visual.proj".to_string(), Tensor::from_slice(&[1f32, 2.]))];
    let untyped = PickleWriter::new()
        .op(op::EMPTY_DICT)
        .text("visual.proj")
        .global("torch._utils", "_rebuild_parameter")
        .global("torch._utils", "_rebuild_tensor_v3")
        .op(op::MARK)
        .op(op::MARK)
        .text("storage")
        .global("torch.storage", "UntypedStorage")
        .text("0")
        .text("cuda:0")
        .int(8)
        .op(op::TUPLE)
        .op(op::BINPERSID)
        .int(0)
        .ints(&[2])
        .ints(&[1])
        .op(op::NEWFALSE)
        .op(op::EMPTY_DICT)
        .global("torch", "float32")
        .op(op::TUPLE)
        .op(op::REDUCE)
        .op(op::NEWTRUE)
        .op(op::EMPTY_DICT)
        .op(op::TUPLE3)
        .op(op::REDUCE)
        .op(op::SETITEM);
    assert_equal(&read(&archive(untyped.stop(), &state)).weights, &state);
}

#[test]
fn torchscript_returns_its_attributes() {
    let state = vec![("visual.conv1.weight".to_string(), Tensor::from_slice(&[1f32, 2.]))];
    let module = |pickle: PickleWriter, class: &str| {
        pickle
            .global("__torch__.model", class)
            .op(op::EMPTY_TUPLE)
            .op(op::NEWOBJ)
            .op(op::EMPTY_DICT)
            .op(op::MARK)
    };
    let pickle = module(PickleWriter::new(), "Multimodal")
        .text("training")
        .op(op::NEWFALSE)
        .text("input_resolution")
        .int(32);
    let pickle = module(pickle.text("visual"), "___torch_mangle_7.Visual");
    let pickle = module(pickle.text("conv1"), "Conv2d")
        .text("weight")
        .tensor("FloatStorage", "0", 2, 0, &[2], &[1])
        .op(op::SETITEMS)
        .op(op::BUILD)
        .op(op::SETITEMS)
        .op(op::BUILD)
        .op(op::SETITEMS)
        .op(op::BUILD);
    let storages = storages(&state);
    let file = zip(&[
        ("run/data.pkl", pickle.stop()),
        ("run/constants.pkl", Vec::new()),
        (&storages[0].0, storages[0].1.clone()),
    ]);
    let found = read(&file);
    assert_equal(&found.weights, &state);
    assert_eq!(found.layout, Layout::OpenAi);
}

#[test]
fn sharded_files_are_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let state = state();
    for (part, (name, tensor)) in state.iter().enumerate() {
        let path = folder.path().join(format!("part-{part}.safetensors"));
        write_safetensors(&path, [(name.as_str(), tensor)]).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let json = r#"{"metadata": {}, "weight_map": {"logit_scale": "part-0.safetensors",
        "visual.proj": "part-1.safetensors", "positional_embedding": "part-2.safetensors"}}"#;
    std::fs::write(&index, json).unwrap();
    assert_equal(&WeightFile::open(&index).unwrap().weights, &state);
    for (from, to, word) in [
        ("part-2", "../part-2", "not a file beside it"),
        ("positional_embedding", "ln_final.weight", "none of its files contains"),
        ("weight_map", "weights", "not an index"),
    ] {
        std::fs::write(&index, json.replace(from, to)).unwrap();
        let message = WeightFile::open(&index).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let state = state();
    let pickle = PickleWriter::new().state(&state).stop();
    let mut big = vec![("run/data.pkl", pickle.clone()), ("run/byteorder", b"big".to_vec())];
    let storages = storages(&state);
    big.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    let empty = PickleWriter::new().op(op::EMPTY_DICT).text("epoch").int(1).op(op::SETITEM).stop();
    for (bytes, word) in [
        (Vec::new(), "empty"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "git lfs pull"),
        (b"<!doctype html>".to_vec(), "web page"),
        (b"\x1f\x8b\x08".to_vec(), "gzip"),
        (pickle.clone(), "torch did not write"),
        (b"something else entirely".to_vec(), "neither a safetensors file"),
        (zip(&[("a.txt", vec![1])]), "without `data.pkl`"),
        (zip(&big), "byte order `big`"),
        (zip_with(&[("run/data.pkl", pickle.clone())], 8), "compressed entry `data.pkl`"),
        (zip(&[("run/data.pkl", pickle)]), "is missing"),
        (archive(empty, &[]), "no named tensors, but `epoch`"),
        (
            archive(PickleWriter::new().int(3).stop(), &[]),
            "no dictionary of named tensors: save the model's weights",
        ),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(word), "{message}");
    }
}

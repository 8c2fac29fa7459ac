//! Tests of files that contain several models, a model under an unusual key, or another model.

use tch::{Device, Kind, Tensor};

use super::write::{PickleWriter, archive, zip};
use super::{assert_equal, read, refusal, state};
use crate::weight_files::layout::plan_renames;
use crate::weight_files::opcode as op;
use crate::weights::write_safetensors;
use crate::{Error, folder};

/// Writes an archive of a dictionary whose values are state dicts.
fn nested(parts: &[(&str, &[(String, Tensor)])]) -> Vec<u8> {
    let start = PickleWriter::new().op(op::EMPTY_DICT).op(op::MARK).text("epoch").int(3);
    let pickle = parts.iter().fold(start, |pickle, (key, state)| pickle.text(key).state(state));
    // All state dicts name the same storages.
    let largest = parts.iter().map(|(_, state)| *state).max_by_key(|state| state.len()).unwrap_or_default();
    archive(pickle.op(op::SETITEMS).stop(), largest)
}

fn other() -> Vec<(String, Tensor)> {
    vec![("mean".into(), Tensor::zeros([], (Kind::Float, Device::Cpu)))]
}

#[test]
fn weights_are_found_under_any_single_key() {
    let (state, other) = (state(), other());
    for (parts, key) in [
        (vec![("net", &state[..])], "`net`"),
        (vec![("statistics", &other[..]), ("my_clip", &state)], "`my_clip`"),
        (vec![("teacher", &state[..]), ("student", &state)], "`student`"),
    ] {
        let found = read(&nested(&parts));
        assert_equal(&found.weights, &state);
        let notes = found.notes.join("; ");
        assert!(notes.contains(&format!("the weights are {key}")), "{notes}");
    }
    let found = read(&nested(&[("teacher", &state), ("net", &state)]));
    assert!(found.notes.iter().any(|note| note.contains("in `net`, not those in `teacher`")));
}

#[test]
fn several_models_without_a_preference_are_named() {
    let (state, other) = (state(), other());
    let message = refusal(&nested(&[("small", &state), ("large", &state), ("x", &other)]));
    for part in ["several models, in `small`, `large`: save", "torch.load(FILE)[\"small\"]"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let names = |prefixes: &[&str]| {
        let own = ["visual.proj", "token_embedding.weight", "logit_scale"];
        let names = prefixes.iter().flat_map(|prefix| own.map(|name| format!("{prefix}{name}")));
        names.collect::<Vec<_>>()
    };
    let plan = |prefixes: &[&str]| plan_renames(names(prefixes).iter().map(String::as_str), false);
    let error = plan(&["small.", "large."]).unwrap_err();
    assert!(error.contains("below `large.`, `small.`: save"), "{error}");
    // The student comes before its teacher, and plain weights before averaged ones.
    for (prefixes, chosen) in [
        (["model.", "teacher."], "model."),
        (["net.", "t_model."], "net."),
        (["student_net.", "teacher_net."], "student_net."),
        (["net.", "net_ema."], "net."),
        (["ema_model.", "model."], "model."),
        (["model.student.", "model.teacher."], "student."),
    ] {
        let plan = plan(&prefixes).unwrap();
        let kept = plan.kept.iter().flat_map(|(_, target)| target.names()).collect::<Vec<_>>();
        assert_eq!(kept, names(&[""]), "{prefixes:?}");
        assert_eq!(plan.dropped.len(), 3, "{prefixes:?}");
        assert!(plan.notes.iter().any(|note| note.contains(&format!("`{chosen}`"))), "{:?}", plan.notes);
    }
    // A teacher alone is the model.
    for prefix in ["teacher.", "model.teacher."] {
        assert_eq!(plan(&[prefix]).unwrap().kept.len(), 3, "{prefix}");
    }
}

#[test]
fn files_of_other_models_are_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = Tensor::from_slice(&[1f32, 2.]);
    let safetensors = folder.path().join("net.safetensors");
    write_safetensors(&safetensors, [("fc.weight", &tensor), ("fc.bias", &tensor)]).unwrap();
    let pickle = PickleWriter::new()
        .global("__torch__", "Linear")
        .op(op::EMPTY_TUPLE)
        .op(op::NEWOBJ)
        .op(op::EMPTY_DICT)
        .op(op::MARK)
        .text("weight")
        .tensor("FloatStorage", "0", 2, 0, &[2], &[1])
        .op(op::SETITEMS)
        .op(op::BUILD);
    let storages = super::write::storages(&[("weight".into(), tensor.copy())]);
    let script = folder.path().join("net.pt");
    let bytes = zip(&[
        ("run/data.pkl", pickle.stop()),
        ("run/constants.pkl", Vec::new()),
        (&storages[0].0, storages[0].1.clone()),
    ]);
    std::fs::write(&script, bytes).unwrap();
    let config = crate::presets::get("ViT-nano-32px").unwrap();
    for (path, parts) in [
        (&safetensors, ["net.safetensors", "another model", "`fc.bias`, `fc.weight`"]),
        (&script, ["net.pt", "TorchScript archive of another model", "`weight`"]),
    ] {
        let errors = [
            folder::open(path, Device::Cpu, 0).unwrap_err(),
            folder::config(path).unwrap_err(),
            folder::load_weights(&config, path, Device::Cpu).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::UnsupportedFormat { .. }), "{error}");
            let message = error.to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
    // A file of which the shapes are not enough is named too.
    let partial = folder.path().join("partial.safetensors");
    write_safetensors(&partial, [("token_embedding.weight", &tensor)]).unwrap();
    let message = folder::open(&partial, Device::Cpu, 0).unwrap_err().to_string();
    assert!(message.contains("partial.safetensors") && message.contains("token_embedding"), "{message}");
}

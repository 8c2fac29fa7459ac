//! State dicts in pickles: a bare state dict, a training checkpoint that contains one, or TorchScript's nested
//! modules.

use std::collections::HashSet;

use super::layout::{TEACHERS, has_model_name};
use super::read_error::{ReadError, ReadResult, damaged};
use super::value::{Node, Pickle, TensorRef, Value};

/// Keys of the weights in training checkpoints; plain weights come before averaged ones.
const KEYS: [&str; 8] = [
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
];

/// Limits on the number of tensors and the length of their names. They are far above every model, and keep a file
/// from filling the memory by repeating itself.
const MAX_TENSORS: usize = 1 << 17;
const MAX_NAME: usize = 1024;
/// Maximum number of dictionaries around the weights. Known files have two (`model` around `state_dict`). The limit also
/// stops at a file that contains itself.
const MAX_DEPTH: usize = 4;
/// Maximum number of keys in a message.
const MAX_LISTED: usize = 8;
/// How to write a file that is read.
const REMEDY: &str = "save the model's weights with `torch.save(model.state_dict(), FILE)`";

/// State dict of a pickle: tensors with their names.
#[derive(Debug, Default)]
pub(crate) struct StateDict<'a> {
    pub(crate) tensors: Vec<(String, &'a TensorRef)>,
    pub(crate) other: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl<'a> StateDict<'a> {
    fn push(&mut self, name: &str, tensor: Option<&'a TensorRef>) -> ReadResult<()> {
        if name.len() > MAX_NAME {
            return damaged(format!("the name of a tensor has more than {MAX_NAME} bytes"));
        }
        if self.tensors.len() + self.other.len() >= MAX_TENSORS {
            return damaged(format!("it has more than {MAX_TENSORS} named tensors"));
        }
        match tensor {
            Some(tensor) => self.tensors.push((name.to_string(), tensor)),
            None => self.other.push(name.to_string()),
        }
        Ok(())
    }
}

/// Finds the weights in a pickle.
pub(crate) fn find_state_dict(pickle: &Pickle, script: bool) -> ReadResult<StateDict<'_>> {
    if script {
        return module_attributes(pickle);
    }
    let (mut root, mut state, mut path) = (&pickle.root, StateDict::default(), Vec::new());
    for _ in 0..MAX_DEPTH {
        let holds_weights = |value: &Value| holds_tensors(pickle, value, 0, &mut HashSet::new());
        let known = KEYS.iter().filter_map(|key| Some((*key, pickle.get(root, key)?)));
        let mut candidates = known.filter(|(_, value)| holds_weights(value)).collect::<Vec<_>>();
        if candidates.is_empty() {
            candidates = unknown_parts(pickle, root)?;
        }
        let Some((key, value)) = candidates.first() else { break };
        path.push(*key);
        if candidates.len() > 1 {
            let others = quoted(candidates[1..].iter().map(|(key, _)| *key));
            state.notes.push(format!("used the weights in `{key}`, not those in {others}"));
        }
        root = value;
    }
    let Some(entries) = pickle.dict(root) else {
        return unsupported(format!("it contains no dictionary of named tensors: {REMEDY}"));
    };
    if !path.is_empty() {
        state.notes.push(format!("the weights are `{}` of a training checkpoint", path.join(".")));
    }
    for (name, value) in entries {
        let Value::Text(name) = name else { continue };
        match pickle.node(value) {
            Some(Node::Tensor(tensor)) => state.push(name, Some(tensor))?,
            _ => state.push(name, None)?,
        }
    }
    if state.tensors.is_empty() {
        let found = match state.other.is_empty() {
            true => String::new(),
            false => format!(", but {}", quoted(state.other.iter().map(String::as_str))),
        };
        return unsupported(format!("it contains no named tensors{found}: {REMEDY}"));
    }
    Ok(state)
}

/// Returns the parts of a training checkpoint that hold its weights under keys that are not known, the one to use first.
///
/// # Errors
/// The keys, if there is no reason to prefer one of them.
fn unknown_parts<'a>(pickle: &'a Pickle, root: &'a Value) -> ReadResult<Vec<(&'a str, &'a Value)>> {
    let is_model = |value: &Value| named_tensors(pickle, value).any(has_model_name);
    if is_model(root) {
        return Ok(Vec::new());
    }
    // A dictionary with several keys is found under the first one.
    let mut visited = HashSet::new();
    let texts = pickle.dict(root).unwrap_or_default().iter().filter_map(|(key, value)| match key {
        Value::Text(key) => Some((&**key, value)),
        _ => None,
    });
    let mut parts =
        texts.filter(|(_, value)| holds_tensors(pickle, value, 0, &mut visited)).collect::<Vec<_>>();
    // Other dictionaries of tensors can be an optimizer's state or statistics.
    if parts.iter().any(|(_, value)| is_model(value)) {
        parts.retain(|(_, value)| is_model(value));
    } else if named_tensors(pickle, root).next().is_some() {
        return Ok(Vec::new());
    }
    let is_teacher = |key: &str| TEACHERS.iter().any(|teacher| teacher.strip_suffix('.') == Some(key));
    parts.sort_by_key(|(key, _)| is_teacher(key));
    match parts.as_slice() {
        [(first, _), (second, _), ..] if !is_teacher(second) => unsupported(format!(
            "it contains the weights of several models, in {}: save the one to use in a file of its own, with \
             `torch.save(torch.load(FILE)[\"{}\"], NEW)`",
            quoted(parts.iter().map(|(key, _)| *key)),
            first.escape_debug()
        )),
        _ => Ok(parts),
    }
}

/// Returns the names of the tensors in a dictionary.
fn named_tensors<'a>(pickle: &'a Pickle, value: &'a Value) -> impl Iterator<Item = &'a str> {
    pickle.dict(value).unwrap_or_default().iter().filter_map(|(name, value)| {
        match (name, pickle.node(value)) {
            (Value::Text(name), Some(Node::Tensor(_))) => Some(&**name),
            _ => None,
        }
    })
}

/// Whether a value is a dictionary of named tensors, or contains one. Each dictionary is visited once.
fn holds_tensors(pickle: &Pickle, value: &Value, depth: usize, visited: &mut HashSet<usize>) -> bool {
    let (Value::Node(index), Some(entries)) = (value, pickle.dict(value)) else { return false };
    if depth >= MAX_DEPTH || !visited.insert(*index) {
        return false;
    }
    // An optimizer's state has numbers as keys.
    let mut named = entries.iter().filter(|(key, _)| matches!(key, Value::Text(_)));
    named.any(|(_, value)| {
        matches!(pickle.node(value), Some(Node::Tensor(_)))
            || holds_tensors(pickle, value, depth + 1, visited)
    })
}

/// Lists keys for a message.
fn quoted<'a>(mut keys: impl Iterator<Item = &'a str>) -> String {
    let listed = keys.by_ref().take(MAX_LISTED).map(|key| format!("`{}`", key.escape_debug()));
    let listed = listed.collect::<Vec<_>>().join(", ");
    if keys.next().is_some() { format!("{listed}, ...") } else { listed }
}

fn unsupported<T>(reason: String) -> ReadResult<T> {
    Err(ReadError::Unsupported(reason))
}

/// Collects the tensors among the attributes of nested modules, named by their paths with dots.
fn module_attributes(pickle: &Pickle) -> ReadResult<StateDict<'_>> {
    let mut state = StateDict::default();
    // Each object is visited once: a module that is shared or contains itself keeps its first name.
    let mut visited = HashSet::new();
    let mut pending = vec![(String::new(), &pickle.root)];
    while let Some((prefix, value)) = pending.pop() {
        let (Value::Node(index), Some(Node::Object { state: attributes })) = (value, pickle.node(value))
        else {
            continue;
        };
        if !visited.insert(*index) {
            continue;
        }
        for (name, value) in pickle.dict(attributes).unwrap_or_default() {
            let Value::Text(name) = name else { continue };
            let name = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            match pickle.node(value) {
                Some(Node::Tensor(tensor)) => state.push(&name, Some(tensor))?,
                Some(Node::Object { .. }) if name.len() > MAX_NAME => {
                    return damaged("its modules are nested too deep");
                }
                Some(Node::Object { .. }) => pending.push((name, value)),
                _ => {}
            }
        }
    }
    if state.tensors.is_empty() {
        return unsupported(format!("it is a TorchScript archive whose module has no parameters: {REMEDY}"));
    }
    Ok(state)
}

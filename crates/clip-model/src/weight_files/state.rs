//! State dicts in pickles: a bare state dict, a training checkpoint that contains one, or TorchScript's nested
//! modules.

use std::collections::HashSet;

use super::read_error::{ReadResult, damaged};
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
    // Known files have two levels (`model` around `state_dict`). The limit also stops at a file that contains itself.
    for _ in 0..4 {
        let candidates = KEYS
            .iter()
            .filter_map(|key| Some((*key, pickle.get(root, key)?)))
            .filter(|(_, value)| pickle.dict(value).is_some_and(|entries| !entries.is_empty()))
            .collect::<Vec<_>>();
        let Some((key, value)) = candidates.first() else { break };
        path.push(*key);
        if candidates.len() > 1 {
            let others = candidates[1..].iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>();
            state.notes.push(format!("used the weights in `{key}`, not those in {}", others.join(", ")));
        }
        root = value;
    }
    let Some(entries) = pickle.dict(root) else {
        return damaged("it contains no dictionary of named tensors");
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
        let shown = state.other.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return damaged(format!("it contains no named tensors, but {shown}"));
    }
    Ok(state)
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
        return damaged("its TorchScript module has no parameters");
    }
    Ok(state)
}

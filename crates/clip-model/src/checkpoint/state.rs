//! Finding the weights among what a pickle holds: a bare state dict, a training checkpoint around one, or
//! the nested module objects of TorchScript.

use std::collections::HashSet;

use super::fault::{Found, damaged};
use super::value::{Node, Pickle, TensorRef, Value};

/// Where training scripts put their weights, the plain ones before the averaged.
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

/// Names and letters of one name; far above every model, and low enough that a file cannot fill the
/// memory by repeating itself.
const MAX_TENSORS: usize = 1 << 17;
const MAX_NAME: usize = 1024;

/// The named tensors of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Chosen<'a> {
    pub(crate) tensors: Vec<(String, &'a TensorRef)>,
    pub(crate) other: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl<'a> Chosen<'a> {
    fn push(&mut self, name: &str, tensor: Option<&'a TensorRef>) -> Found<()> {
        if name.len() > MAX_NAME {
            return damaged(format!("a name of its tensors has more than {MAX_NAME} letters"));
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

/// Chooses the weights.
pub(crate) fn choose(pickle: &Pickle, script: bool) -> Found<Chosen<'_>> {
    if script {
        return attributes(pickle);
    }
    let (mut root, mut chosen, mut way) = (&pickle.root, Chosen::default(), Vec::new());
    // Two levels are known (`model` around `state_dict`); a file that contains itself ends here too.
    for _ in 0..4 {
        let candidates = KEYS
            .iter()
            .filter_map(|key| Some((*key, pickle.get(root, key)?)))
            .filter(|(_, value)| pickle.dict(value).is_some_and(|rows| !rows.is_empty()))
            .collect::<Vec<_>>();
        let Some((key, value)) = candidates.first() else { break };
        way.push(*key);
        if candidates.len() > 1 {
            let others = candidates[1..].iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>();
            chosen.notes.push(format!("of several weights, `{key}` was taken and not {}", others.join(", ")));
        }
        root = value;
    }
    let Some(rows) = pickle.dict(root) else {
        return damaged("it holds no dictionary of named tensors");
    };
    if !way.is_empty() {
        chosen.notes.push(format!("the weights are `{}` of a training checkpoint", way.join(".")));
    }
    for (name, value) in rows {
        let Value::Text(name) = name else { continue };
        match pickle.node(value) {
            Some(Node::Tensor(tensor)) => chosen.push(name, Some(tensor))?,
            _ => chosen.push(name, None)?,
        }
    }
    if chosen.tensors.is_empty() {
        let shown =
            chosen.other.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return damaged(format!("it holds no named tensors, but {shown}"));
    }
    Ok(chosen)
}

/// The tensors among the attributes of nested objects, named by their way with dots.
fn attributes(pickle: &Pickle) -> Found<Chosen<'_>> {
    let mut chosen = Chosen::default();
    // Each object once: a module that is shared, or contains itself, has the name it was first seen by.
    let mut seen = HashSet::new();
    let mut waiting = vec![(String::new(), &pickle.root)];
    while let Some((prefix, value)) = waiting.pop() {
        let (Value::Node(index), Some(Node::Object { state })) = (value, pickle.node(value)) else {
            continue;
        };
        if !seen.insert(*index) {
            continue;
        }
        for (name, value) in pickle.dict(state).unwrap_or_default() {
            let Value::Text(name) = name else { continue };
            let name = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            match pickle.node(value) {
                Some(Node::Tensor(tensor)) => chosen.push(&name, Some(tensor))?,
                Some(Node::Object { .. }) if name.len() > MAX_NAME => {
                    return damaged("its modules are nested too deep");
                }
                Some(Node::Object { .. }) => waiting.push((name, value)),
                _ => {}
            }
        }
    }
    if chosen.tensors.is_empty() {
        return damaged("its TorchScript module has no parameters");
    }
    Ok(chosen)
}

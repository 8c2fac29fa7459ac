//! Values of a pickle; containers live in one arena.
//!
//! Containers are indices, so a pickle that contains itself has no cyclic ownership, dropping nested containers needs
//! no stack, and a traversal can detect visited containers.

use std::rc::Rc;

use tch::Kind;

use super::globals::Global;

/// A value; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    /// A known class or function.
    Global(Global),
    /// A container, by its index in the arena.
    Node(usize),
    /// A value that is read but not kept: floats, bytes, integers beyond 64 bits.
    Inert,
}

/// A container.
#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Vec<Value>),
    /// A list or a set.
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// An instance of an unknown class, with its assigned state.
    Object {
        state: Value,
    },
    Storage(StorageRef),
    Tensor(TensorRef),
}

/// Reference to a storage.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub(crate) key: Rc<str>,
    /// Element type; `None` for an untyped storage, whose tensors state it.
    pub(crate) kind: Option<Kind>,
    /// Number of elements, or of bytes without an element type.
    pub(crate) count: u64,
}

/// Description of a tensor, not yet checked against its storage.
#[derive(Clone, Debug)]
pub(crate) struct TensorRef {
    pub(crate) storage: Rc<str>,
    pub(crate) kind: Kind,
    pub(crate) offset: i64,
    pub(crate) size: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) root: Value,
    pub(crate) nodes: Vec<Node>,
    /// All storages that the pickle names, in order.
    pub(crate) storages: Vec<StorageRef>,
}

impl Pickle {
    /// Returns the container of a value.
    pub(crate) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(*index),
            _ => None,
        }
    }

    /// Returns the entries of a dictionary.
    pub(crate) fn dict(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.node(value) {
            Some(Node::Dict(entries)) => Some(entries),
            _ => None,
        }
    }

    /// Returns the last value of a key, as in Python.
    pub(crate) fn get(&self, value: &Value, key: &str) -> Option<&Value> {
        let entries = self.dict(value)?;
        entries.iter().rev().find(|(k, _)| matches!(k, Value::Text(text) if **text == *key)).map(|(_, v)| v)
    }
}

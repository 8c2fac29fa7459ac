//! What a pickle can hold here: values whose containers lie in one arena.
//!
//! Containers are indices, so a pickle that contains itself is no cycle of owners, nesting costs no
//! stack when it is dropped, and a traversal can see where it has been.

use std::rc::Rc;

use tch::Kind;

use super::globals::Global;

/// A value; copying one is cheap.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
    /// A class or function that the reader knows.
    Global(Global),
    /// A container, by its place in the arena.
    Node(usize),
    /// Read and not kept: floats, bytes, integers beyond 64 bits.
    Inert,
}

/// A container.
#[derive(Debug)]
pub(crate) enum Node {
    Tuple(Vec<Value>),
    /// A list or a set.
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// An instance of a class that is not known, with what was assigned to it.
    Object {
        state: Value,
    },
    Storage(StorageRef),
    Tensor(TensorRef),
}

/// A storage as a pickle names it.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub(crate) key: Rc<str>,
    /// Left out for untyped storages, whose tensors say it.
    pub(crate) kind: Option<Kind>,
    /// Elements, or bytes where there is no kind.
    pub(crate) count: u64,
}

/// A tensor as a pickle describes it, not yet checked against the bytes there are.
#[derive(Clone, Debug)]
pub(crate) struct TensorRef {
    pub(crate) storage: Rc<str>,
    pub(crate) kind: Kind,
    pub(crate) offset: i64,
    pub(crate) size: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(crate) root: Value,
    pub(crate) nodes: Vec<Node>,
    /// All storages that it names, in order.
    pub(crate) storages: Vec<StorageRef>,
}

impl Pickle {
    /// The container behind a value.
    pub(crate) fn node(&self, value: &Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.nodes.get(*index),
            _ => None,
        }
    }

    /// The rows of a dictionary.
    pub(crate) fn dict(&self, value: &Value) -> Option<&[(Value, Value)]> {
        match self.node(value) {
            Some(Node::Dict(rows)) => Some(rows),
            _ => None,
        }
    }

    /// The last value of a key, as in Python.
    pub(crate) fn get(&self, value: &Value, key: &str) -> Option<&Value> {
        let rows = self.dict(value)?;
        rows.iter().rev().find(|(k, _)| matches!(k, Value::Text(text) if **text == *key)).map(|(_, v)| v)
    }
}

//! Globals, calls, tensors and storages of a pickle.

use std::rc::Rc;

use super::Machine;
use crate::weight_files::globals::{Global, lookup};
use crate::weight_files::opcode;
use crate::weight_files::read_error::{ReadError, ReadResult, damaged};
use crate::weight_files::value::{Node, StorageRef, TensorRef, Value};

impl Machine<'_> {
    /// Runs an opcode for globals, objects and storages; `false` for other opcodes.
    pub(super) fn object(&mut self, code: u8) -> ReadResult<bool> {
        match code {
            opcode::GLOBAL => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(&module, &name)?;
            }
            opcode::STACK_GLOBAL => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(&module, &name)?,
                _ => return damaged("its pickle names a global by something other than a string"),
            },
            opcode::REDUCE | opcode::NEWOBJ => {
                let args = self.pop()?;
                self.call(args)?;
            }
            opcode::NEWOBJ_EX => {
                let _keywords = self.pop()?;
                let args = self.pop()?;
                self.call(args)?;
            }
            opcode::BUILD => self.build()?,
            opcode::BINPERSID => {
                let id = self.pop()?;
                self.storage(&id)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn global(&mut self, module: &str, name: &str) -> ReadResult<()> {
        match lookup(module, name) {
            Some(global) => self.stack.push(Value::Global(global)),
            None => return Err(ReadError::Refused(format!("`{module}.{name}`"))),
        }
        Ok(())
    }

    /// Pops a callable and pushes the result of calling it with `args`.
    fn call(&mut self, args: Value) -> ReadResult<()> {
        let global = match self.pop()? {
            Value::Global(global) => global,
            _ => return Err(ReadError::Refused("a call of an unknown function".into())),
        };
        let args = match self.items(&args) {
            Some(args) => args.to_vec(),
            None => return damaged("its pickle calls a function with something other than a tuple"),
        };
        self.count_steps(args.len())?;
        let (global, args) = match (global, args.as_slice()) {
            (Global::RebuildFromType, [Value::Global(inner), _, inner_args, ..])
                if *inner != Global::RebuildFromType =>
            {
                let args = self.items(inner_args).unwrap_or_default().to_vec();
                self.count_steps(args.len())?;
                (*inner, args)
            }
            _ => (global, args),
        };
        match global {
            Global::Dict => {
                // Entries as pairs; a `defaultdict` has its factory instead.
                let entries = args.first().and_then(|list| self.items(list)).unwrap_or_default().to_vec();
                self.count_steps(entries.len())?;
                let entries = entries
                    .iter()
                    .filter_map(|entry| match self.items(entry) {
                        Some([key, value]) => Some((key.clone(), value.clone())),
                        _ => None,
                    })
                    .collect();
                self.push_node(Node::Dict(entries));
            }
            Global::List | Global::Tuple => {
                let items = args.first().and_then(|list| self.items(list)).unwrap_or_default().to_vec();
                self.count_steps(items.len())?;
                self.push_node(if global == Global::List { Node::List(items) } else { Node::Tuple(items) });
            }
            Global::First => match args.into_iter().next() {
                Some(first) => self.stack.push(first),
                None => return damaged("its pickle rebuilds a parameter without its tensor"),
            },
            Global::RebuildTensor | Global::RebuildTensorV3 => {
                let tensor = self.tensor(global, &args)?;
                self.push_node(Node::Tensor(tensor));
            }
            Global::Object => self.push_node(Node::Object { state: Value::None }),
            Global::RebuildFromType
            | Global::Storage(_)
            | Global::UntypedStorage
            | Global::Dtype(_)
            | Global::Name => {
                return Err(ReadError::Refused("a call of a name that may only occur in arguments".into()));
            }
        }
        Ok(())
    }

    /// Returns the items of a tuple or list.
    fn items(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Node(index) => match self.nodes.get(*index) {
                Some(Node::Tuple(items) | Node::List(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn tensor(&self, global: Global, args: &[Value]) -> ReadResult<TensorRef> {
        let [storage, Value::Int(offset), size, stride, rest @ ..] = args else {
            return damaged("its pickle rebuilds a tensor from other arguments than torch writes");
        };
        let Value::Node(index) = storage else { return damaged("a tensor of its pickle has no storage") };
        let Some(Node::Storage(storage)) = self.nodes.get(*index) else {
            return damaged("a tensor of its pickle has no storage");
        };
        let named = match (global, rest) {
            (Global::RebuildTensorV3, [_, _, Value::Global(Global::Dtype(kind)), ..]) => Some(*kind),
            _ => None,
        };
        let Some(kind) = named.or(storage.kind) else {
            return damaged("a tensor of its pickle does not state its element type");
        };
        let numbers = |value| -> ReadResult<Vec<i64>> {
            let items = self.items(value).unwrap_or_default();
            items
                .iter()
                .map(|item| match item {
                    Value::Int(number) => Ok(*number),
                    _ => damaged("a tensor of its pickle has a shape with other values than integers"),
                })
                .collect()
        };
        let (size, stride) = (numbers(size)?, numbers(stride)?);
        Ok(TensorRef { storage: storage.key.clone(), kind, offset: *offset, size, stride })
    }

    /// Assigns state to the object below it on the stack. Other values ignore theirs; torch attaches `_metadata` to a
    /// state dict.
    fn build(&mut self) -> ReadResult<()> {
        let new = self.pop()?;
        if let Node::Object { state } = self.top_node()? {
            *state = new;
        }
        Ok(())
    }

    /// Pushes the storage with one of torch's persistent ids: `("storage", class, key, device, elements)`.
    fn storage(&mut self, id: &Value) -> ReadResult<()> {
        let storage = match self.items(id) {
            Some(
                [Value::Text(tag), Value::Global(class), Value::Text(key), _, Value::Int(count), view @ ..],
            ) if **tag == *"storage" => {
                if !matches!(view, [] | [Value::None]) {
                    return damaged(
                        "it shares storages like torch before 0.4: load and save it with a newer torch",
                    );
                }
                let kind = match class {
                    Global::Storage(kind) => Some(*kind),
                    Global::UntypedStorage => None,
                    _ => return damaged("a storage of its pickle has another class than a storage"),
                };
                let Ok(count) = u64::try_from(*count) else {
                    return damaged("a storage of its pickle has a negative size");
                };
                StorageRef { key: Rc::clone(key), kind, count }
            }
            _ => return damaged("its pickle refers to something other than a storage"),
        };
        self.storages.push(storage.clone());
        self.push_node(Node::Storage(storage));
        Ok(())
    }
}

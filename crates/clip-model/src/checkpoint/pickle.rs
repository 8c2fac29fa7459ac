//! A pickle reader that can make tensors, numbers, texts and plain containers, and nothing else.
//!
//! Python's own reader runs whatever function a pickle names; this one knows a closed list
//! ([`super::globals`]) and stops at the first name beyond it. It never recurses, allocates only what it
//! has read, and gives up beyond fixed limits.

use std::collections::HashMap;
use std::io::BufRead;
use std::rc::Rc;

use super::fault::{Fault, Found, damaged};
use super::globals::{Global, lookup};
use super::input::{Input, text};
use super::opcode;
use super::value::{Node, Pickle, StorageRef, TensorRef, Value};

/// Steps and copied values of one pickle, which bounds what it can make of its bytes.
const MAX_STEPS: usize = 1 << 22;

/// Reads one pickle, of at most `available` bytes, and leaves the reader behind it.
///
/// # Errors
/// [`Fault::Refused`] naming the opcode or global that is not read; [`Fault::Damaged`] otherwise.
pub(crate) fn read(reader: &mut dyn BufRead, available: u64) -> Found<Pickle> {
    let mut machine = Machine {
        input: Input::new(reader, available),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        storages: Vec::new(),
        steps: 0,
    };
    let root = machine.run()?;
    Ok(Pickle { root, nodes: machine.nodes, storages: machine.storages })
}

struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value>,
    /// Heights of the stack where MARK was pushed.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
    storages: Vec<StorageRef>,
    steps: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Found<Value> {
        loop {
            self.spend(1)?;
            let code = self.input.byte()?;
            match code {
                opcode::PROTO => match self.input.byte()? {
                    0..=5 => {}
                    version => return damaged(format!("pickle protocol {version} is not known")),
                },
                opcode::FRAME => drop(self.input.array::<8>()?),
                opcode::STOP => return self.pop(),
                opcode::MARK => self.marks.push(self.stack.len()),
                opcode::POP if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
                opcode::POP => drop(self.pop()?),
                opcode::POP_MARK => drop(self.pop_mark()?),
                opcode::DUP => {
                    let top = self.top()?.clone();
                    self.stack.push(top);
                }
                opcode::NONE => self.stack.push(Value::None),
                opcode::NEWTRUE => self.stack.push(Value::Bool(true)),
                opcode::NEWFALSE => self.stack.push(Value::Bool(false)),
                opcode::INT
                | opcode::LONG
                | opcode::BININT
                | opcode::BININT1
                | opcode::BININT2
                | opcode::LONG1
                | opcode::LONG4 => self.integer(code)?,
                opcode::FLOAT => {
                    self.input.line()?;
                    self.stack.push(Value::Inert);
                }
                opcode::BINFLOAT => {
                    self.input.array::<8>()?;
                    self.stack.push(Value::Inert);
                }
                opcode::STRING
                | opcode::UNICODE
                | opcode::BINSTRING
                | opcode::SHORT_BINSTRING
                | opcode::BINUNICODE
                | opcode::SHORT_BINUNICODE
                | opcode::BINUNICODE8 => self.text(code)?,
                opcode::SHORT_BINBYTES | opcode::BINBYTES | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                    let count = self.length(code)?;
                    self.input.bytes(count)?;
                    self.stack.push(Value::Inert);
                }
                opcode::EMPTY_TUPLE => self.make(Node::Tuple(Vec::new())),
                opcode::EMPTY_LIST | opcode::EMPTY_SET => self.make(Node::List(Vec::new())),
                opcode::EMPTY_DICT => self.make(Node::Dict(Vec::new())),
                opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                    let items = self.pop_many(usize::from(code - opcode::TUPLE1) + 1)?;
                    self.make(Node::Tuple(items));
                }
                opcode::TUPLE => {
                    let items = self.pop_mark()?;
                    self.make(Node::Tuple(items));
                }
                opcode::LIST | opcode::FROZENSET => {
                    let items = self.pop_mark()?;
                    self.make(Node::List(items));
                }
                opcode::DICT => {
                    let rows = pairs(self.pop_mark()?)?;
                    self.make(Node::Dict(rows));
                }
                opcode::APPEND => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                opcode::APPENDS | opcode::ADDITEMS => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                opcode::SETITEM => {
                    let items = self.pop_many(2)?;
                    self.set(items)?;
                }
                opcode::SETITEMS => {
                    let items = self.pop_mark()?;
                    self.set(items)?;
                }
                opcode::GET | opcode::BINGET | opcode::LONG_BINGET => self.recall(code)?,
                opcode::PUT | opcode::BINPUT | opcode::LONG_BINPUT | opcode::MEMOIZE => {
                    self.remember(code)?
                }
                opcode::GLOBAL => {
                    let (module, name) = (self.input.line()?, self.input.line()?);
                    self.global(&module, &name)?;
                }
                opcode::STACK_GLOBAL => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.global(&module, &name)?,
                    _ => return damaged("its pickle names a global by something that is no text"),
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
                other => return Err(Fault::Refused(opcode::name(other))),
            }
        }
    }

    fn spend(&mut self, steps: usize) -> Found<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return damaged(format!(
                "its pickle takes more than {MAX_STEPS} steps, which no checkpoint needs"
            ));
        }
        Ok(())
    }

    /// The lowest place that may be popped: what lies below a mark belongs to what comes after it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Found<Value> {
        match self.stack.pop() {
            Some(value) if self.stack.len() >= self.floor() => Ok(value),
            _ => damaged("its pickle takes more values than it made"),
        }
    }

    fn pop_many(&mut self, count: usize) -> Found<Vec<Value>> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => damaged("its pickle takes more values than it made"),
        }
    }

    fn pop_mark(&mut self) -> Found<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => damaged("its pickle ends a group that it did not begin"),
        }
    }

    fn top(&self) -> Found<&Value> {
        match self.stack.last() {
            Some(value) if self.stack.len() > self.floor() => Ok(value),
            _ => damaged("its pickle takes more values than it made"),
        }
    }

    fn make(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn top_node(&mut self) -> Found<&mut Node> {
        let top = self.top()?.clone();
        match top {
            Value::Node(index) if index < self.nodes.len() => Ok(&mut self.nodes[index]),
            _ => damaged("its pickle fills something that is no container"),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Found<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // A list of a class that is kept as a name only.
            Node::Object { .. } => {}
            _ => return damaged("its pickle appends to something that is no list"),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Found<()> {
        let new = pairs(items)?;
        match self.top_node()? {
            Node::Dict(rows) => rows.extend(new),
            Node::Object { .. } => {}
            _ => return damaged("its pickle sets items of something that is no dictionary"),
        }
        Ok(())
    }

    fn integer(&mut self, code: u8) -> Found<()> {
        let value = match code {
            opcode::BININT => Value::Int(i32::from_le_bytes(self.input.array()?).into()),
            opcode::BININT1 => Value::Int(self.input.byte()?.into()),
            opcode::BININT2 => Value::Int(u16::from_le_bytes(self.input.array()?).into()),
            opcode::LONG1 | opcode::LONG4 => {
                let count = if code == opcode::LONG1 {
                    self.input.byte()?.into()
                } else {
                    u32::from_le_bytes(self.input.array()?).into()
                };
                little_endian(&self.input.bytes(count)?)
            }
            _ => match self.input.line()?.trim_end_matches('L') {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => digits.parse().map_or(Value::Inert, Value::Int),
            },
        };
        self.stack.push(value);
        Ok(())
    }

    /// The length that stands before a text or bytes.
    fn length(&mut self, code: u8) -> Found<u64> {
        Ok(match code {
            opcode::SHORT_BINSTRING | opcode::SHORT_BINUNICODE | opcode::SHORT_BINBYTES => {
                self.input.byte()?.into()
            }
            opcode::BINUNICODE8 | opcode::BINBYTES8 | opcode::BYTEARRAY8 => {
                u64::from_le_bytes(self.input.array()?)
            }
            _ => u32::from_le_bytes(self.input.array()?).into(),
        })
    }

    fn text(&mut self, code: u8) -> Found<()> {
        let value = match code {
            opcode::UNICODE => Value::Text(self.input.line()?.into()),
            opcode::STRING => {
                let line = self.input.line()?;
                Value::Text(line.trim().trim_matches(['\'', '"']).into())
            }
            // Python 2's texts are bytes, which need not be letters.
            opcode::BINSTRING | opcode::SHORT_BINSTRING => {
                let count = self.length(code)?;
                String::from_utf8(self.input.bytes(count)?)
                    .map_or(Value::Inert, |text| Value::Text(text.into()))
            }
            _ => {
                let count = self.length(code)?;
                Value::Text(text(self.input.bytes(count)?)?.into())
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Found<()> {
        let key = self.memo_key(code)?;
        match self.memo.get(&key) {
            Some(value) => self.stack.push(value.clone()),
            None => return damaged(format!("its pickle recalls entry {key}, which it did not make")),
        }
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Found<()> {
        let key = if code == opcode::MEMOIZE { self.memo.len() as u64 } else { self.memo_key(code)? };
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn memo_key(&mut self, code: u8) -> Found<u64> {
        Ok(match code {
            opcode::BINGET | opcode::BINPUT => self.input.byte()?.into(),
            opcode::LONG_BINGET | opcode::LONG_BINPUT => u32::from_le_bytes(self.input.array()?).into(),
            _ => match self.input.line()?.parse() {
                Ok(key) => key,
                Err(_) => return damaged("an entry of its pickle has no number"),
            },
        })
    }

    fn global(&mut self, module: &str, name: &str) -> Found<()> {
        match lookup(module, name) {
            Some(global) => self.stack.push(Value::Global(global)),
            None => return Err(Fault::Refused(format!("`{module}.{name}`"))),
        }
        Ok(())
    }

    /// Pops a callable and pushes what it makes of its arguments.
    fn call(&mut self, args: Value) -> Found<()> {
        let global = match self.pop()? {
            Value::Global(global) => global,
            _ => return Err(Fault::Refused("a call of something that is no known function".into())),
        };
        let args = match self.items(&args) {
            Some(args) => args.to_vec(),
            None => return damaged("its pickle calls a function with something that is no tuple"),
        };
        self.spend(args.len())?;
        let (global, args) = match (global, args.as_slice()) {
            (Global::RebuildFromType, [Value::Global(inner), _, inner_args, ..])
                if *inner != Global::RebuildFromType =>
            {
                let args = self.items(inner_args).unwrap_or_default().to_vec();
                self.spend(args.len())?;
                (*inner, args)
            }
            _ => (global, args),
        };
        match global {
            Global::Dict => {
                // Rows as pairs; a `defaultdict` comes with its factory instead.
                let rows = args.first().and_then(|list| self.items(list)).unwrap_or_default().to_vec();
                self.spend(rows.len())?;
                let rows = rows
                    .iter()
                    .filter_map(|row| match self.items(row) {
                        Some([key, value]) => Some((key.clone(), value.clone())),
                        _ => None,
                    })
                    .collect();
                self.make(Node::Dict(rows));
            }
            Global::List | Global::Tuple => {
                let items = args.first().and_then(|list| self.items(list)).unwrap_or_default().to_vec();
                self.spend(items.len())?;
                self.make(if global == Global::List { Node::List(items) } else { Node::Tuple(items) });
            }
            Global::First => match args.into_iter().next() {
                Some(first) => self.stack.push(first),
                None => return damaged("its pickle rebuilds a parameter without its tensor"),
            },
            Global::RebuildTensor | Global::RebuildTensorV3 => {
                let tensor = self.tensor(global, &args)?;
                self.make(Node::Tensor(tensor));
            }
            Global::Object => self.make(Node::Object { state: Value::None }),
            Global::RebuildFromType
            | Global::Storage(_)
            | Global::UntypedStorage
            | Global::Dtype(_)
            | Global::Name => {
                return Err(Fault::Refused("a call of a name that only stands in arguments".into()));
            }
        }
        Ok(())
    }

    /// The items of a tuple or list.
    fn items(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::Node(index) => match self.nodes.get(*index) {
                Some(Node::Tuple(items) | Node::List(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    fn tensor(&self, global: Global, args: &[Value]) -> Found<TensorRef> {
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
            return damaged("a tensor of its pickle does not say what its numbers are");
        };
        let numbers = |value| -> Found<Vec<i64>> {
            let items = self.items(value).unwrap_or_default();
            items
                .iter()
                .map(|item| match item {
                    Value::Int(number) => Ok(*number),
                    _ => damaged("a tensor of its pickle has a shape that is no numbers"),
                })
                .collect()
        };
        let (size, stride) = (numbers(size)?, numbers(stride)?);
        Ok(TensorRef { storage: storage.key.clone(), kind, offset: *offset, size, stride })
    }

    /// Assigns state to the object below it; containers and tensors of ours have no use for theirs
    /// (torch hangs `_metadata` on a state dict).
    fn build(&mut self) -> Found<()> {
        let new = self.pop()?;
        if let Node::Object { state } = self.top_node()? {
            *state = new;
        }
        Ok(())
    }

    /// Torch's persistent ids: `("storage", class, key, device, elements)`.
    fn storage(&mut self, id: &Value) -> Found<()> {
        let storage = match self.items(id) {
            Some(
                [Value::Text(tag), Value::Global(class), Value::Text(key), _, Value::Int(count), view @ ..],
            ) if **tag == *"storage" => {
                if !matches!(view, [] | [Value::None]) {
                    return damaged(
                        "it shares storages in the way of torch before 0.4: load and save it with a newer torch",
                    );
                }
                let kind = match class {
                    Global::Storage(kind) => Some(*kind),
                    Global::UntypedStorage => None,
                    _ => return damaged("a storage of its pickle is of no storage class"),
                };
                let Ok(count) = u64::try_from(*count) else {
                    return damaged("a storage of its pickle has a negative size");
                };
                StorageRef { key: Rc::clone(key), kind, count }
            }
            _ => return damaged("its pickle refers to something that is no storage"),
        };
        self.storages.push(storage.clone());
        self.make(Node::Storage(storage));
        Ok(())
    }
}

fn pairs(items: Vec<Value>) -> Found<Vec<(Value, Value)>> {
    if !items.len().is_multiple_of(2) {
        return damaged("a dictionary of its pickle has a key without a value");
    }
    let mut items = items.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

/// A two's complement integer of any length; beyond 64 bits it is not kept.
fn little_endian(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Inert;
    }
    let fill = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

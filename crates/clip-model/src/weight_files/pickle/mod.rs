//! Restricted unpickler: builds tensors, numbers, strings and plain containers, and nothing else.
//!
//! Python's unpickler calls any function that a pickle names. This one has a closed list ([`super::globals`]) and
//! stops at the first other name. It does not recurse, allocates no more than it has read, and enforces fixed limits.

mod objects;

use std::collections::HashMap;
use std::io::BufRead;

use super::input::{Input, text};
use super::opcode;
use super::read_error::{ReadError, ReadResult, damaged};
use super::value::{Node, Pickle, StorageRef, Value};

/// Maximum number of steps and copied values, which bounds what a pickle can build from its bytes.
const MAX_STEPS: usize = 1 << 22;

/// Parses one pickle of at most `available` bytes, and leaves the reader after it.
///
/// # Errors
/// [`ReadError::Refused`] with the opcode or global that is not supported; [`ReadError::Damaged`] otherwise.
pub(crate) fn parse(reader: &mut dyn BufRead, available: u64) -> ReadResult<Pickle> {
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
    /// Stack heights at which MARK was pushed.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
    storages: Vec<StorageRef>,
    steps: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> ReadResult<Value> {
        loop {
            self.count_steps(1)?;
            let code = self.input.byte()?;
            if code == opcode::STOP {
                return self.pop();
            }
            let known =
                self.stack_op(code)? || self.literal(code)? || self.container(code)? || self.object(code)?;
            if !known {
                return Err(ReadError::Refused(opcode::name(code)));
            }
        }
    }

    /// Runs an opcode that frames the pickle or moves values on the stack; `false` for other opcodes.
    fn stack_op(&mut self, code: u8) -> ReadResult<bool> {
        match code {
            opcode::PROTO => match self.input.byte()? {
                0..=5 => {}
                version => return damaged(format!("pickle protocol {version} is not known")),
            },
            opcode::FRAME => drop(self.input.array::<8>()?),
            opcode::MARK => self.marks.push(self.stack.len()),
            opcode::POP if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            opcode::POP => drop(self.pop()?),
            opcode::POP_MARK => drop(self.pop_mark()?),
            opcode::DUP => {
                let top = self.top()?.clone();
                self.stack.push(top);
            }
            opcode::GET | opcode::BINGET | opcode::LONG_BINGET => self.recall(code)?,
            opcode::PUT | opcode::BINPUT | opcode::LONG_BINPUT | opcode::MEMOIZE => self.memoize(code)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs an opcode that pushes a literal; `false` for other opcodes.
    fn literal(&mut self, code: u8) -> ReadResult<bool> {
        match code {
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs an opcode that builds or fills a container; `false` for other opcodes.
    fn container(&mut self, code: u8) -> ReadResult<bool> {
        match code {
            opcode::EMPTY_TUPLE => self.push_node(Node::Tuple(Vec::new())),
            opcode::EMPTY_LIST | opcode::EMPTY_SET => self.push_node(Node::List(Vec::new())),
            opcode::EMPTY_DICT => self.push_node(Node::Dict(Vec::new())),
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let items = self.pop_many(usize::from(code - opcode::TUPLE1) + 1)?;
                self.push_node(Node::Tuple(items));
            }
            opcode::TUPLE => {
                let items = self.pop_mark()?;
                self.push_node(Node::Tuple(items));
            }
            opcode::LIST | opcode::FROZENSET => {
                let items = self.pop_mark()?;
                self.push_node(Node::List(items));
            }
            opcode::DICT => {
                let entries = pairs(self.pop_mark()?)?;
                self.push_node(Node::Dict(entries));
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
                self.set_items(items)?;
            }
            opcode::SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn count_steps(&mut self, steps: usize) -> ReadResult<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return damaged(format!(
                "its pickle takes more than {MAX_STEPS} steps, more than any checkpoint needs"
            ));
        }
        Ok(())
    }

    /// Returns the lowest stack height that may be popped. Values below a mark belong to the opcode that pops the mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> ReadResult<Value> {
        match self.stack.pop() {
            Some(value) if self.stack.len() >= self.floor() => Ok(value),
            _ => damaged("its pickle pops more values than it pushed"),
        }
    }

    fn pop_many(&mut self, count: usize) -> ReadResult<Vec<Value>> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => damaged("its pickle pops more values than it pushed"),
        }
    }

    fn pop_mark(&mut self) -> ReadResult<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => damaged("its pickle pops a mark that it did not push"),
        }
    }

    fn top(&self) -> ReadResult<&Value> {
        match self.stack.last() {
            Some(value) if self.stack.len() > self.floor() => Ok(value),
            _ => damaged("its pickle pops more values than it pushed"),
        }
    }

    fn push_node(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn top_node(&mut self) -> ReadResult<&mut Node> {
        let top = self.top()?.clone();
        match top {
            Value::Node(index) if index < self.nodes.len() => Ok(&mut self.nodes[index]),
            _ => damaged("its pickle fills something other than a container"),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> ReadResult<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // A list class that is kept as a name only.
            Node::Object { .. } => {}
            _ => return damaged("its pickle appends to something other than a list"),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> ReadResult<()> {
        let new = pairs(items)?;
        match self.top_node()? {
            Node::Dict(entries) => entries.extend(new),
            Node::Object { .. } => {}
            _ => return damaged("its pickle sets items of something other than a dictionary"),
        }
        Ok(())
    }

    fn integer(&mut self, code: u8) -> ReadResult<()> {
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

    /// Reads the length before a string or bytes.
    fn length(&mut self, code: u8) -> ReadResult<u64> {
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

    fn text(&mut self, code: u8) -> ReadResult<()> {
        let value = match code {
            opcode::UNICODE => Value::Text(self.input.line()?.into()),
            opcode::STRING => {
                let line = self.input.line()?;
                Value::Text(line.trim().trim_matches(['\'', '"']).into())
            }
            // Strings of Python 2 are bytes, which may not be UTF-8.
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

    fn recall(&mut self, code: u8) -> ReadResult<()> {
        let key = self.memo_key(code)?;
        match self.memo.get(&key) {
            Some(value) => self.stack.push(value.clone()),
            None => return damaged(format!("its pickle recalls memo entry {key}, which does not exist")),
        }
        Ok(())
    }

    fn memoize(&mut self, code: u8) -> ReadResult<()> {
        let key = if code == opcode::MEMOIZE { self.memo.len() as u64 } else { self.memo_key(code)? };
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn memo_key(&mut self, code: u8) -> ReadResult<u64> {
        Ok(match code {
            opcode::BINGET | opcode::BINPUT => self.input.byte()?.into(),
            opcode::LONG_BINGET | opcode::LONG_BINPUT => u32::from_le_bytes(self.input.array()?).into(),
            _ => match self.input.line()?.parse() {
                Ok(key) => key,
                Err(_) => return damaged("a memo entry of its pickle has no number"),
            },
        })
    }
}

fn pairs(items: Vec<Value>) -> ReadResult<Vec<(Value, Value)>> {
    if !items.len().is_multiple_of(2) {
        return damaged("a dictionary of its pickle has a key without a value");
    }
    let mut items = items.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

/// Parses a two's complement integer of any length. Integers beyond 64 bits are not kept.
fn little_endian(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Inert;
    }
    let fill = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

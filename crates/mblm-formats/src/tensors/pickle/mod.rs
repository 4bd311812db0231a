//! Python's pickle language, protocols 0 to 5, read into a flat arena.
//!
//! A pickle is a program for a stack machine. This reader runs it without building or calling
//! anything: a call of a Python function becomes an [`Object::Call`] with the function and its
//! arguments. Objects lie in one arena and refer to each other by index, so no input can make
//! reading or dropping them recurse, and a shared value is stored once. Strings are borrowed from
//! the file. Objects that no tensor needs, such as sets, bytes and integers of more than 64 bits,
//! are [`Object::Opaque`]. State that is set on a Python object after its construction is ignored.

#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;

/// The largest number of objects in a pickle, not counting floats, booleans and other objects that
/// are stored once.
const MAX_OBJECTS: usize = 1 << 24;

/// The indices of the objects that are stored once, at the beginning of the arena.
const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;
const FLOAT: Id = 3;
const OPAQUE: Id = 4;
const EMPTY: Id = 5;

/// The index of an object in the arena.
pub(super) type Id = usize;

/// One Python object.
#[derive(Debug)]
pub(super) enum Object<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// An object that no tensor needs.
    Opaque,
    Text(&'a str),
    /// A function or class: the names of its module and itself.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A reference to data outside of the pickle, described by the object at this index.
    Persistent(Id),
    /// The result of calling `callable` with `arguments`; the call is not made.
    Call {
        callable: Id,
        arguments: Id,
    },
}

impl Object<'_> {
    /// Returns the kind of the object for an error message.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float => "a float",
            Self::Opaque => "a value",
            Self::Text(_) => "a string",
            Self::Global(..) => "a function or class",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Persistent(_) => "a storage",
            Self::Call { .. } => "a Python object",
        }
    }
}

/// The objects of a pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    top: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle. An error states the problem and its byte offset.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine::new(bytes);
        loop {
            let at = machine.position;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(top)) => {
                    return Ok(Self {
                        objects: machine.objects,
                        top,
                    });
                }
                Err(message) => return Err(format!("byte {at} of the pickle: {message}")),
            }
        }
    }

    /// Returns the pickled object.
    pub(super) fn top(&self) -> &Object<'a> {
        self.get(self.top)
    }

    /// Returns the index of the pickled object.
    pub(super) fn top_id(&self) -> Id {
        self.top
    }

    /// Returns the object at an index from this pickle.
    pub(super) fn get(&self, id: Id) -> &Object<'a> {
        &self.objects[id]
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    /// The stack heights at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            objects: vec![
                Object::None,
                Object::Bool(false),
                Object::Bool(true),
                Object::Float,
                Object::Opaque,
                Object::Tuple(Vec::new()),
            ],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs one opcode; returns the finished object after the last one.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let [opcode] = self.take()?;
        match opcode {
            0x80 => {
                let [version] = self.take()?;
                if version > 5 {
                    return Err(format!("pickle protocol {version}; expected 0 to 5"));
                }
            }
            0x95 => drop(self.take::<8>()?), // the length of a frame
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(NONE),
            0x88 => self.stack.push(TRUE),
            0x89 => self.stack.push(FALSE),
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode)?,
            b'G' => {
                self.take::<8>()?;
                self.stack.push(FLOAT);
            }
            b'X' | 0x8c | 0x8d | b'V' => self.text(opcode)?,
            b'U' | b'T' | b'C' | b'B' | 0x8e | 0x96 => {
                let length = self.length(opcode)?;
                self.slice(length)?;
                self.stack.push(OPAQUE);
            }
            b'I' | b'L' | b'F' | b'S' | b'P' => self.line_of_text(opcode)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(module, name))?;
            }
            0x93 => self.stack_global()?,
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b']' => self.push(Object::List(Vec::new()))?,
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b'l' | b'd' => self.filled(opcode)?,
            0x8f => self.push(Object::Opaque)?, // an empty set, which later opcodes fill
            0x91 => {
                self.pop_to_mark()?;
                self.stack.push(OPAQUE);
            }
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id))?;
            }
            b'R' | 0x81 | 0x92 | b'o' | b'i' => self.call(opcode)?,
            // The attributes of the object below (an ordered dict's `_metadata`) are ignored.
            b'b' => {
                self.pop()?;
                self.last()?;
            }
            b'q' | b'r' | b'h' | b'j' | b'p' | b'g' | 0x94 => self.memo(opcode)?,
            b'0' => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let id = self.last()?;
                self.stack.push(id);
            }
            0x97 | 0x98 => {
                return Err(
                    "the pickle's data lie outside of the pickle (buffer_callback); save it with torch.save only"
                        .into(),
                );
            }
            other => {
                return Err(format!("opcode 0x{other:02x}, which Python's pickle does not write"));
            }
        }
        Ok(None)
    }

    /// Pushes a function or class whose names are on the stack.
    fn stack_global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.objects[module], &self.objects[name]) {
            (&Object::Text(module), &Object::Text(name)) => self.push(Object::Global(module, name)),
            (other, _) => Err(format!("a function or class named by {}", other.describe())),
        }
    }

    /// Makes a list or dict of all objects above the mark.
    fn filled(&mut self, opcode: u8) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.push(match opcode {
            b'l' => Object::List(items),
            _ => Object::Dict(pairs(&items)?),
        })
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b')' => {
                self.stack.push(EMPTY);
                return Ok(());
            }
            b't' => self.pop_to_mark()?,
            _ => {
                let length = usize::from(opcode - 0x84); // TUPLE1, TUPLE2, TUPLE3
                let start = self.stack.len().checked_sub(length);
                match start.filter(|&start| start >= self.floor()) {
                    Some(start) => self.stack.split_off(start),
                    None => return Err("too few objects on the stack".into()),
                }
            }
        };
        self.push(Object::Tuple(items))
    }

    /// Adds one item, one key and value, or all objects above the mark to the list or dict below.
    fn fill(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let target = self.last()?;
        match (&mut self.objects[target], opcode) {
            (Object::List(list), b'a' | b'e') => list.extend(items),
            (Object::Dict(dict), b's' | b'u') => {
                dict.extend(pairs(&items)?);
            }
            // a set, or an object of a subclass of list or dict: not a state dict
            (Object::Opaque | Object::Call { .. }, _) => {}
            (other, _) => return Err(format!("items added to {}", other.describe())),
        }
        Ok(())
    }

    /// Makes a call. `OrderedDict()` without arguments makes a dict, which later opcodes fill.
    fn call(&mut self, opcode: u8) -> Result<(), String> {
        let (callable, arguments) = match opcode {
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let items = self.pop_to_mark()?;
                self.push(Object::Global(module, name))?;
                (self.pop()?, items)
            }
            b'o' => {
                let mut items = self.pop_to_mark()?;
                match items.is_empty() {
                    true => return Err("a Python object without its class".into()),
                    false => (items.remove(0), items),
                }
            }
            _ => {
                if opcode == 0x92 {
                    self.pop()?; // named arguments
                }
                let (arguments, callable) = (self.pop()?, self.pop()?);
                return self.push_call(callable, arguments);
            }
        };
        self.push(Object::Tuple(arguments))?;
        let arguments = self.pop()?;
        self.push_call(callable, arguments)
    }

    fn push_call(&mut self, callable: Id, arguments: Id) -> Result<(), String> {
        let ordered = matches!(self.objects[callable], Object::Global("collections", "OrderedDict"));
        let empty = matches!(&self.objects[arguments], Object::Tuple(items) if items.is_empty());
        self.push(if ordered && empty {
            Object::Dict(Vec::new())
        } else {
            Object::Call { callable, arguments }
        })
    }

    fn memo(&mut self, opcode: u8) -> Result<(), String> {
        let key = match opcode {
            0x94 => u32::try_from(self.memo.len()).map_err(|_| "the memo has too many objects".to_string())?,
            b'p' | b'g' => self
                .line()?
                .parse()
                .map_err(|_| "an object is put into the memo without a number".to_string())?,
            b'q' | b'h' => u32::from(u8::from_le_bytes(self.take()?)),
            _ => u32::from_le_bytes(self.take()?),
        };
        if matches!(opcode, b'q' | b'r' | b'p' | 0x94) {
            let id = self.last()?;
            self.memo.insert(key, id);
        } else {
            let id = *self
                .memo
                .get(&key)
                .ok_or_else(|| format!("the memo has no object {key}"))?;
            self.stack.push(id);
        }
        Ok(())
    }

    fn push(&mut self, object: Object<'a>) -> Result<(), String> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("more than {MAX_OBJECTS} objects"));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// Returns the stack height of the last mark, below which nothing may be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn last(&self) -> Result<Id, String> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err("too few objects on the stack".into()),
        }
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = self.last()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        // Nothing pops below a mark, so the stack is at least this high.
        Ok(self.stack.split_off(mark))
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.position..];
        let slice = rest
            .get(..length)
            .ok_or_else(|| format!("{length} bytes expected, but the pickle ends after {}", rest.len()))?;
        self.position += length;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        utf8(self.line_bytes()?)
    }

    fn line_bytes(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.position..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("a name without end")?;
        let line = self.slice(length)?;
        self.position += 1;
        Ok(line)
    }
}

/// Groups items into pairs of key and value.
fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    match rest.is_empty() {
        true => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        false => Err("a dict's key without a value".into()),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("a string that is not UTF-8: {error}"))
}

//! The part of Python's pickle language that `torch.save` uses (protocol 2), read into a flat arena.
//!
//! A pickle is a program for a stack machine. This reader runs it without building or calling anything: a call of a Python
//! function becomes an [`Object::Call`] that says what would have been called with what. Objects lie in one arena and
//! refer to each other by index, so that no input can make reading or dropping them recurse, and a value used twice is
//! stored once. Strings are borrowed from the file. An opcode outside the list below is an error.

use std::collections::HashMap;

/// The most objects a pickle may hold: some sixty thousand tensors.
const MAX_OBJECTS: usize = 1 << 20;

/// Where an object lies in the arena.
pub(super) type Id = usize;

/// One Python object.
#[derive(Debug)]
pub(super) enum Object<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    /// A function or class, by the names of its module and its own.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// Something stored outside of the pickle, by what the pickle says about it.
    Persistent(Id),
    /// What a call of `callable` with `arguments` would return.
    Call {
        callable: Id,
        arguments: Id,
    },
}

impl Object<'_> {
    /// What the object is, for an error message.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float => "a float",
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
    /// Reads a pickle. An error says what is wrong, and at which byte.
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

    /// The object that the pickle is of.
    pub(super) fn top(&self) -> &Object<'a> {
        self.get(self.top)
    }

    /// The object at an index that this pickle handed out.
    pub(super) fn get(&self, id: Id) -> &Object<'a> {
        &self.objects[id]
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            position: 0,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs one opcode; the finished object at the last one.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let [opcode] = self.take()?;
        match opcode {
            0x80 => {
                let [version] = self.take()?;
                if version != 2 {
                    return Err(format!("pickle protocol {version}, but torch.save writes protocol 2"));
                }
            }
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Object::None)?,
            0x88 | 0x89 => self.push(Object::Bool)?,
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode)?,
            b'G' => {
                self.take::<8>()?;
                self.push(Object::Float)?;
            }
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                let text = self.slice(length as usize)?;
                self.push(Object::Text(utf8(text)?))?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(module, name))?;
            }
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b']' => self.push(Object::List(Vec::new()))?,
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b'a' | b'e' | b's' | b'u' => self.fill(opcode)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id))?;
            }
            b'R' | 0x81 => self.call()?,
            // The attributes of the object below (an ordered dict's `_metadata`): nothing a tensor needs.
            b'b' => {
                self.pop()?;
                self.last()?;
            }
            b'q' | b'r' | b'h' | b'j' => self.memo(opcode)?,
            other => {
                return Err(format!(
                    "opcode 0x{other:02x}, which torch.save does not write for tensors"
                ));
            }
        }
        Ok(None)
    }

    fn integer(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.take()?)),
            b'M' => i64::from(u16::from_le_bytes(self.take()?)),
            b'J' => i64::from(i32::from_le_bytes(self.take()?)),
            // LONG1: as many bytes as its first byte says, two's complement.
            _ => {
                let [length] = self.take()?;
                let digits = self.slice(usize::from(length))?;
                let negative = digits.last().is_some_and(|&top| top >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide.get_mut(..digits.len())
                    .ok_or_else(|| format!("an integer of {length} bytes, at most 8 expected"))?
                    .copy_from_slice(digits);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Object::Int(value))
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b')' => Vec::new(),
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

    /// Adds to the list or dict below: one item or key and value, or all above the mark.
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
                let (pairs, rest) = items.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err("a dict's key without a value".into());
                }
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            (other, _) => return Err(format!("items added to {}", other.describe())),
        }
        Ok(())
    }

    /// A call. That of `OrderedDict` with no arguments makes a dict, which the following opcodes fill.
    fn call(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
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
            b'q' | b'h' => u32::from(u8::from_le_bytes(self.take()?)),
            _ => u32::from_le_bytes(self.take()?),
        };
        if matches!(opcode, b'q' | b'r') {
            let id = self.last()?;
            self.memo.insert(key, id);
        } else {
            let id = *self
                .memo
                .get(&key)
                .ok_or_else(|| format!("no object was kept as {key}"))?;
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

    /// The height of the stack that may not be popped below.
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
        // Nothing pops below a mark, so the stack is at least as high.
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
        let rest = &self.bytes[self.position..];
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("a name without end")?;
        let line = self.slice(length)?;
        self.position += 1;
        utf8(line)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("a string that is not UTF-8: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn integers(bytes: &[u8]) -> Vec<i64> {
        let pickle = Pickle::read(bytes).unwrap();
        let Object::Tuple(items) = pickle.top() else {
            panic!("{pickle:?}")
        };
        items
            .iter()
            .map(|&id| match pickle.get(id) {
                Object::Int(value) => *value,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn integers_of_every_width() {
        // Written by Python: pickle.dumps((7, 300, -5, 2**40, -2**40, 0), 2) without the memo.
        let bytes = b"\x80\x02(K\x07M\x2c\x01J\xfb\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff\x8a\x00t.";
        assert_eq!(integers(bytes), [7, 300, -5, 1 << 40, -(1 << 40), 0]);
    }

    #[test]
    fn a_shared_object_is_filled_once_for_all() {
        // d = OrderedDict(); d kept as 0, a tuple of d twice, then {"a": 1} put into d.
        let bytes = b"\x80\x02ccollections\nOrderedDict\n)Rq\x00X\x01\x00\x00\x00aK\x01sh\x00\x86.";
        let pickle = Pickle::read(bytes).unwrap();
        let Object::Tuple(items) = pickle.top() else {
            panic!("{pickle:?}")
        };
        assert_eq!(items[0], items[1]);
        assert!(matches!(pickle.get(items[0]), Object::Dict(pairs) if pairs.len() == 1));
    }

    #[test]
    fn doubling_and_nesting_stay_linear() {
        // ((((), ()), ((), ())), …): 2^2000 leaves when copied, 2001 objects here; dropped without recursion.
        let mut bytes = b"\x80\x02)".to_vec();
        for _ in 0..2000 {
            bytes.extend(b"q\x00h\x00\x86");
        }
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().objects.len(), 2001);
        let mut bytes = b"\x80\x02)".to_vec();
        bytes.extend(std::iter::repeat_n(0x85, 500_000));
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().objects.len(), 500_001);
    }

    #[test]
    fn errors_say_where_and_what() {
        let message = |bytes: &[u8]| Pickle::read(bytes).unwrap_err();
        assert_eq!(
            message(b"\x80\x04."),
            "byte 0 of the pickle: pickle protocol 4, but torch.save writes protocol 2"
        );
        assert!(
            message(b"\x80\x02X\xff\xff\xff\xffabc").contains("4294967295 bytes expected, but the pickle ends after 3")
        );
        assert!(message(b"\x80\x02\x8a\xff").contains("255 bytes expected"));
        assert!(message(b"\x80\x02i").contains("opcode 0x69"));
        assert!(message(b"\x80\x02h\x05").contains("no object was kept as 5"));
        assert!(
            message(b"\x80\x02K\x01(\x85").contains("too few objects"),
            "pops below a mark"
        );
        assert!(message(b"\x80\x02K\x01K\x02a").contains("items added to an integer"));
        assert!(message(b"\x80\x02}(K\x01u").contains("key without a value"));
        assert!(message(b"\x80\x02cabc").contains("a name without end"));
        assert!(message(&[b')'; MAX_OBJECTS + 1]).contains("more than"));
    }

    proptest! {
        #[test]
        fn any_program_ends_without_panic(program in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b"().NKMJGXcttt]}aesuQRbqrhj".to_vec()),
                0x80u8..0x8b,
                0u8..4,
                any::<u8>(),
            ],
            0..200,
        )) {
            if let Ok(pickle) = Pickle::read(&program) {
                prop_assert!(pickle.objects.len() <= program.len());
            }
        }
    }
}

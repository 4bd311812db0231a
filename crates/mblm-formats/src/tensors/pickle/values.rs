//! Numbers and strings in a pickle, in the encodings of all protocols.

use super::{FALSE, FLOAT, Machine, OPAQUE, Object, TRUE};

impl Machine<'_> {
    /// Reads the length of a string, which precedes its bytes.
    pub(super) fn length(&mut self, opcode: u8) -> Result<usize, String> {
        let length = match opcode {
            0x8c | b'U' | b'C' => u64::from(u8::from_le_bytes(self.take()?)),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.take()?),
            _ => u64::from(u32::from_le_bytes(self.take()?)),
        };
        usize::try_from(length).map_err(|_| format!("a string of {length} bytes"))
    }

    pub(super) fn text(&mut self, opcode: u8) -> Result<(), String> {
        let bytes = match opcode {
            b'V' => self.line_bytes()?,
            _ => {
                let length = self.length(opcode)?;
                self.slice(length)?
            }
        };
        match std::str::from_utf8(bytes) {
            Ok(text) if opcode != b'V' || !text.contains('\\') => self.push(Object::Text(text)),
            // has lone surrogates or escapes: not the name of a tensor
            _ => {
                self.stack.push(OPAQUE);
                Ok(())
            }
        }
    }

    /// Reads a value of protocol 0, which takes one line.
    pub(super) fn line_of_text(&mut self, opcode: u8) -> Result<(), String> {
        let line = self.line_bytes()?;
        let text = std::str::from_utf8(line).unwrap_or("");
        match (opcode, text) {
            (b'I', "00") => self.stack.push(FALSE),
            (b'I', "01") => self.stack.push(TRUE),
            (b'I' | b'L', _) => match text.trim_end_matches('L').parse() {
                Ok(value) => return self.push(Object::Int(value)),
                Err(_) => self.stack.push(OPAQUE),
            },
            (b'F', _) => self.stack.push(FLOAT),
            _ => self.stack.push(OPAQUE),
        }
        Ok(())
    }

    pub(super) fn integer(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'K' => i64::from(u8::from_le_bytes(self.take()?)),
            b'M' => i64::from(u16::from_le_bytes(self.take()?)),
            b'J' => i64::from(i32::from_le_bytes(self.take()?)),
            // LONG1, LONG4: two's complement, preceded by the number of bytes.
            _ => {
                let length = match opcode {
                    0x8a => u32::from(u8::from_le_bytes(self.take()?)),
                    _ => u32::from_le_bytes(self.take()?),
                };
                let digits = self.slice(length as usize)?;
                let negative = digits.last().is_some_and(|&top| top >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                let Some(low) = wide.get_mut(..digits.len()) else {
                    self.stack.push(OPAQUE); // beyond 64 bits: not a tensor size
                    return Ok(());
                };
                low.copy_from_slice(digits);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Object::Int(value))
    }
}

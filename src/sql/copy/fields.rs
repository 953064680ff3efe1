//! The fields of one line, as CopyReadAttributesText and CopyReadAttributesCSV of PostgreSQL find them; and the one form in
//! which they are sent.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::{Csv, bad_file};
use crate::error::{SqlError, sqlstate};

/// The fields of a line; `None` is NULL. Reused from line to line.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Their values, one after the other.
    bytes: Vec<u8>,
    fields: Vec<Option<Range<usize>>>,
}

impl Fields {
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.fields.get(index)?.clone().map(|range| &self.bytes[range])
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.fields.iter().map(|field| field.clone().map(|range| &self.bytes[range]))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// # Errors
    /// 22021: an escape makes bytes that are no UTF-8.
    pub fn read_text(&mut self, line: &[u8], delimiter: u8, null: &[u8]) -> Result<(), SqlError> {
        self.clear();
        let mut rest = line;
        loop {
            let (start, from) = (self.bytes.len(), rest);
            let mut ended = true;
            let mut raw = rest.len();
            while let Some((&c, after)) = rest.split_first() {
                if c == delimiter {
                    raw = from.len() - rest.len();
                    rest = after;
                    ended = false;
                    break;
                }
                rest = after;
                if c != b'\\' {
                    self.bytes.push(c);
                } else if let Some((byte, length)) = unescape(rest) {
                    self.bytes.push(byte);
                    rest = &rest[length..];
                }
            }
            if &from[..raw] == null {
                self.bytes.truncate(start);
                self.fields.push(None);
            } else {
                check_encoding(&self.bytes[start..])?;
                self.fields.push(Some(start..self.bytes.len()));
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// 22P04: a quoted field does not end.
    pub fn read_csv(&mut self, line: &[u8], csv: &Csv) -> Result<(), SqlError> {
        self.clear();
        let mut at = 0;
        loop {
            let (start, from) = (self.bytes.len(), at);
            let mut was_quoted = false;
            let mut in_quotes = false;
            let mut ended = false;
            let raw_end = loop {
                let here = at;
                let Some(&c) = line.get(at) else {
                    if in_quotes {
                        return Err(bad_file("unterminated CSV quoted field"));
                    }
                    ended = true;
                    break here;
                };
                at += 1;
                if !in_quotes {
                    if c == csv.delimiter {
                        break here;
                    }
                    if c == csv.quote {
                        (in_quotes, was_quoted) = (true, true);
                        continue;
                    }
                } else {
                    if c == csv.escape
                        && let Some(&next) = line.get(at)
                        && (next == csv.escape || next == csv.quote)
                    {
                        self.bytes.push(next);
                        at += 1;
                        continue;
                    }
                    if c == csv.quote {
                        in_quotes = false;
                        continue;
                    }
                }
                self.bytes.push(c);
            };
            let index = self.fields.len();
            let forced = |flags: &[bool]| flags.get(index).copied().unwrap_or(false);
            let null = csv.null.as_bytes();
            let mut is_null = !was_quoted && &line[from..raw_end] == null;
            if is_null && forced(&csv.force_not_null) {
                // The value is then the text that stands for NULL, which is what was read.
                is_null = false;
            } else if !is_null && forced(&csv.force_null) && &self.bytes[start..] == null {
                is_null = true;
            }
            if is_null {
                self.bytes.truncate(start);
                self.fields.push(None);
            } else {
                self.fields.push(Some(start..self.bytes.len()));
            }
            if ended {
                return Ok(());
            }
        }
    }
}

/// What stands after a backslash: the byte that it means, and how many bytes it takes. `None`: nothing follows.
fn unescape(rest: &[u8]) -> Option<(u8, usize)> {
    let digit = |at: usize, radix: u32| rest.get(at).and_then(|c| char::from(*c).to_digit(radix));
    let (&c, _) = rest.split_first()?;
    Some(match c {
        b'0'..=b'7' => {
            let mut value = u32::from(c - b'0');
            let mut length = 1;
            while let Some(next) = digit(length, 8).filter(|_| length < 3) {
                value = value * 8 + next;
                length += 1;
            }
            ((value & 0xff) as u8, length)
        }
        b'x' => match (digit(1, 16), digit(2, 16)) {
            (None, _) => (b'x', 1),
            (Some(one), None) => (one as u8, 2),
            (Some(high), Some(low)) => ((high * 16 + low) as u8, 3),
        },
        b'b' => (8, 1),
        b'f' => (12, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'v' => (11, 1),
        other => (other, 1),
    })
}

/// # Errors
/// 22021, with the bytes that are wrong, as PostgreSQL shows them.
pub(super) fn check_encoding(bytes: &[u8]) -> Result<(), SqlError> {
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) if !bytes.contains(&0) => return Ok(()),
        Ok(_) => bytes.len(),
        Err(error) => error.valid_up_to(),
    };
    let bad = bytes[..valid].iter().position(|b| *b == 0).unwrap_or(valid);
    let Some(first) = bytes.get(bad) else { return Ok(()) };
    let length = match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        0..=0xbf | 0xf8.. => 1,
    };
    let shown: Vec<String> = bytes[bad..].iter().take(length).map(|b| format!("0x{b:02x}")).collect();
    let message = format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" "));
    Err(SqlError::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, message))
}

/// Appends one field in the text format with its default options.
pub(super) fn put_field(out: &mut BytesMut, value: Option<&[u8]>) {
    let Some(value) = value else { return out.put_slice(b"\\N") };
    let mut rest = value;
    while let Some(at) = rest.iter().position(|c| matches!(c, b'\\' | b'\t' | b'\n' | b'\r')) {
        out.put_slice(&rest[..at]);
        out.put_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
}

//! Reads the fields of one message body; never beyond it.

use crate::error::{SqlError, sqlstate};

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Cursor { rest: body }
    }

    /// # Errors
    /// 08P01: fewer than `count` bytes are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], SqlError> {
        match self.rest.split_at_checked(count) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(violation("insufficient data left in message")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SqlError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(*head)
            }
            None => Err(violation("insufficient data left in message")),
        }
    }

    pub fn u8(&mut self) -> Result<u8, SqlError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, SqlError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> Result<i16, SqlError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, SqlError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, SqlError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A value with its length before it; -1 is NULL.
    ///
    /// # Errors
    /// 08P01: a length below -1, or beyond the body.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, SqlError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| violation("invalid length of a value in message"))?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// The bytes up to the next NUL, which is consumed too.
    ///
    /// # Errors
    /// 08P01: no NUL is left.
    pub fn c_bytes(&mut self) -> Result<&'a [u8], SqlError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| violation("invalid string in message"))?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// A NUL-terminated text.
    ///
    /// # Errors
    /// 08P01: no NUL is left. 22021: not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, SqlError> {
        utf8(self.c_bytes()?)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// # Errors
    /// 08P01: something is left over.
    pub fn end(self) -> Result<(), SqlError> {
        if self.rest.is_empty() { Ok(()) } else { Err(violation("invalid message format")) }
    }
}

/// # Errors
/// 22021: not UTF-8. Never replaced: what is checked must be what was sent.
pub fn utf8(bytes: &[u8]) -> Result<&str, SqlError> {
    std::str::from_utf8(bytes)
        .map_err(|_| SqlError::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\""))
}

/// A body that breaks the protocol.
pub fn violation(message: &'static str) -> SqlError {
    SqlError::new(sqlstate::PROTOCOL_VIOLATION, message)
}

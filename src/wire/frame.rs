//! Frames: one tag byte, a length that counts itself, a body. Only the header is looked at here.

use bytes::{Buf, BufMut, BytesMut};

use crate::error::{SqlError, sqlstate};

/// Bytes of a header: tag and length.
pub const HEADER: usize = 5;

/// The largest body of a client's message before it has authenticated, bytes: SCRAM and password messages are far smaller.
pub const CAP_AUTHENTICATION: usize = 8 * 1024;

/// The largest body that a server may send before it is ready, bytes (libpq refuses errors above 30,000).
pub const CAP_SERVER_STARTUP: usize = 64 * 1024;

/// The largest body that a server may send at all, bytes: PostgreSQL's own limit of 1 GB for a message.
pub const CAP_SERVER: usize = 0x3fff_ffff;

/// The header of a frame whose length was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Length of the body, bytes.
    pub body: usize,
}

impl Header {
    /// Length of the whole frame, bytes.
    pub fn frame(self) -> usize {
        self.body + HEADER
    }
}

/// The first of whole frames: tag, body, and what comes after it.
pub fn split(frames: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let header = peek(frames, usize::MAX).ok()??;
    let (frame, rest) = frames.split_at_checked(header.frame())?;
    Some((header.tag, &frame[HEADER..], rest))
}

/// The header at the start of `buffer`, or `None` where fewer than five bytes are there. `cap`: the largest body allowed now.
///
/// # Errors
/// FATAL 08P01: the length is below 4 or above the cap; nothing after it can be trusted.
pub fn peek(buffer: &[u8], cap: usize) -> Result<Option<Header>, SqlError> {
    let Some(([tag, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    let body = length.checked_sub(4).and_then(|body| usize::try_from(body).ok()).filter(|body| *body <= cap);
    match body {
        Some(body) => Ok(Some(Header { tag: *tag, body })),
        None => Err(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid message length")),
    }
}

/// The first whole frame, borrowed: its tag and body. Drop it with [`discard`].
///
/// # Errors
/// As [`peek`].
pub fn first(buffer: &[u8], cap: usize) -> Result<Option<(Header, &[u8])>, SqlError> {
    let Some(header) = peek(buffer, cap)? else { return Ok(None) };
    Ok(buffer.get(HEADER..header.frame()).map(|body| (header, body)))
}

/// Drops the frame of `header` from the front.
pub fn discard(buffer: &mut BytesMut, header: Header) {
    buffer.advance(header.frame().min(buffer.len()));
}

/// A whole frame, taken out of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: BytesMut,
}

/// Takes the first whole frame out of `buffer` without copying it; `None` where it is not whole yet.
///
/// # Errors
/// As [`peek`].
pub fn take(buffer: &mut BytesMut, cap: usize) -> Result<Option<Frame>, SqlError> {
    let Some(header) = peek(buffer, cap)? else { return Ok(None) };
    if buffer.len() < header.frame() {
        return Ok(None);
    }
    let mut body = buffer.split_to(header.frame());
    body.advance(HEADER);
    Ok(Some(Frame { tag: header.tag, body }))
}

/// Moves the first frame, which must be whole, from one buffer to another as it is.
pub fn forward(from: &mut BytesMut, header: Header, to: &mut BytesMut) {
    let length = header.frame().min(from.len());
    to.extend_from_slice(&from[..length]);
    from.advance(length);
}

/// Length in bytes of the run of whole frames at the start of `buffer` that are not `interesting`, so that they can be
/// forwarded as one slice.
///
/// # Errors
/// As [`peek`], but only where the very first header is bad: a good run before a bad header is returned first.
pub fn run(buffer: &[u8], cap: usize, interesting: impl Fn(u8) -> bool) -> Result<usize, SqlError> {
    let mut length = 0;
    loop {
        match peek(&buffer[length..], cap) {
            Ok(Some(header)) if !interesting(header.tag) && buffer.len() - length >= header.frame() => length += header.frame(),
            Err(error) if length == 0 => return Err(error),
            Ok(_) | Err(_) => return Ok(length),
        }
    }
}

/// Forwards uninteresting frames as bytes arrive, without waiting for a large one to be whole: a row of 1 GB needs no
/// more memory than a small one. While [`Passage::is_inside`], nothing else may be written to the receiver; if the sender
/// dies then, the receiver can only be closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Bytes of the current frame that have not arrived yet.
    remaining: usize,
}

impl Passage {
    /// Whether a frame was forwarded in part.
    pub fn is_inside(self) -> bool {
        self.remaining > 0
    }

    /// How many bytes at the start of `buffer` to forward now. The caller does forward them. 0: the buffer is empty, or
    /// starts with an interesting frame, or with less than a header.
    ///
    /// # Errors
    /// As [`run`].
    pub fn advance(&mut self, buffer: &[u8], cap: usize, interesting: impl Fn(u8) -> bool) -> Result<usize, SqlError> {
        self.advance_by(0, buffer, cap, interesting)
    }

    /// The same, that forwards frames of up to `whole` bytes when they are whole.
    ///
    /// # Errors
    /// As [`run`].
    pub fn advance_by(
        &mut self,
        whole: usize,
        buffer: &[u8],
        cap: usize,
        interesting: impl Fn(u8) -> bool,
    ) -> Result<usize, SqlError> {
        let mut length = self.remaining.min(buffer.len());
        self.remaining -= length;
        while self.remaining == 0 {
            let header = match peek(&buffer[length..], cap) {
                Ok(Some(header)) if !interesting(header.tag) => header,
                Err(error) if length == 0 => return Err(error),
                Ok(_) | Err(_) => break,
            };
            let here = header.frame().min(buffer.len() - length);
            if here < header.frame() && header.frame() <= whole {
                break;
            }
            length += here;
            self.remaining = header.frame() - here;
        }
        Ok(length)
    }
}

/// Appends a frame whose body `write` appends.
///
/// A body that no length can tell (2 GiB or more; the caps on what comes in keep it from being reached) gets the length -1,
/// which every receiver refuses: never a length that wraps.
pub fn write(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    write_untagged(out, write);
}

/// As [`write`], without a tag: startup packets.
pub fn write_untagged(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    write(out);
    let length = i32::try_from(out.len() - start).unwrap_or(-1);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a NUL-terminated text. A NUL inside it, which no text that came over the wire has, ends it.
pub fn put_text(out: &mut BytesMut, text: &str) {
    put_c_bytes(out, text.as_bytes());
}

/// As [`put_text`], for bytes of unknown encoding.
pub fn put_c_bytes(out: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// Appends a value with its length before it; `None` is NULL. As in [`write`], a length that does not fit becomes one that
/// every receiver refuses.
pub fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_i32(-1),
        Some(value) => {
            out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MIN));
            out.put_slice(value);
        }
    }
}

/// Gives memory back: replaces an empty buffer that has grown beyond `keep` bytes.
pub fn shrink(buffer: &mut BytesMut, keep: usize) {
    if buffer.is_empty() && buffer.capacity() > keep {
        *buffer = BytesMut::new();
    }
}

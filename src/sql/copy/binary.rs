//! The binary format: tuples in, tuples of one more field out. Its errors are those of copyfromparse.c.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use super::{Failure, Target, bad_file, too_long, violation};
use crate::error::{SqlError, sqlstate};
use crate::sql::template::TenantType;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = SIGNATURE.len() + 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    /// Bytes of the header's extension that are to be dropped.
    Extension(usize),
    Tuples,
    /// The trailer has come.
    Ended,
}

#[derive(Debug)]
pub(super) struct Tuples {
    target: Arc<Target>,
    /// The tenant in the binary form of its type.
    tenant: Vec<u8>,
    max_row: usize,
    state: State,
    /// What has come and is not whole.
    waiting: BytesMut,
    sent: u64,
}

impl Tuples {
    pub fn new(target: Arc<Target>, tenant: &str, max_row: usize) -> Result<Self, SqlError> {
        let type_ = target.tenant_type;
        let wrong = || SqlError::new(sqlstate::INVALID_AUTHORIZATION, format!("the tenant's value is not a {}", type_.name()));
        let tenant = send(type_, tenant).ok_or_else(wrong)?;
        Ok(Tuples { target, tenant, max_row, state: State::Header, waiting: BytesMut::new(), sent: 0 })
    }

    pub fn feed(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), Box<Failure>> {
        self.waiting.extend_from_slice(data);
        loop {
            match self.state {
                State::Header => {
                    if self.waiting.len() < HEADER {
                        return Ok(());
                    }
                    let extension = header(&self.waiting).map_err(|error| self.located(error))?;
                    self.waiting.advance(HEADER);
                    out.put_slice(SIGNATURE);
                    out.put_u64(0);
                    self.state = State::Extension(extension);
                }
                State::Extension(left) => {
                    let here = left.min(self.waiting.len());
                    self.waiting.advance(here);
                    if here < left {
                        self.state = State::Extension(left - here);
                        return Ok(());
                    }
                    self.state = State::Tuples;
                }
                State::Tuples => {
                    if !self.tuple(out).map_err(|error| self.located(error))? {
                        return Ok(());
                    }
                }
                State::Ended => {
                    if self.waiting.is_empty() {
                        return Ok(());
                    }
                    return Err(self.located(bad_file("received copy data after EOF marker")));
                }
            }
        }
    }

    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Box<Failure>> {
        let had = self.waiting.len();
        let error = match self.state {
            State::Header if had < SIGNATURE.len() || !self.waiting.starts_with(SIGNATURE) => {
                "COPY file signature not recognized"
            }
            State::Header if had < SIGNATURE.len() + 4 => "invalid COPY file header (missing flags)",
            State::Header => "invalid COPY file header (missing length)",
            State::Extension(_) => "invalid COPY file header (wrong length)",
            // Less than a field count is the end, as for PostgreSQL.
            State::Tuples if had >= 2 => "unexpected EOF in COPY data",
            State::Tuples | State::Ended => {
                out.put_i16(-1);
                return Ok(());
            }
        };
        Err(self.located(bad_file(error)))
    }

    /// Takes one tuple, or the trailer. `false`: it is not whole.
    fn tuple(&mut self, out: &mut BytesMut) -> Result<bool, SqlError> {
        let mut rest = &self.waiting[..];
        if rest.len() < 2 {
            return Ok(false);
        }
        let count = rest.get_i16();
        if count == -1 {
            self.waiting.advance(2);
            self.state = State::Ended;
            return Ok(true);
        }
        let wanted = self.target.columns.len();
        if usize::try_from(count) != Ok(wanted) {
            return Err(bad_file(format!("row field count is {count}, expected {wanted}")));
        }
        let supplied = self.target.supplied();
        let body = self.waiting.len() - rest.len();
        // What goes on without change, and the tenant's field, which does not.
        let (mut before, mut own, mut after) = (0, None, 0);
        for index in 0..wanted {
            let start = self.waiting.len() - rest.len();
            if rest.len() < 4 {
                return Ok(false);
            }
            let size = rest.get_i32();
            let length = match size {
                -1 => 0,
                _ => usize::try_from(size).map_err(|_| bad_file("invalid field size"))?,
            };
            let end = start + 4 + length;
            if end > self.max_row {
                return Err(too_long(self.max_row));
            }
            if rest.len() < length {
                return Ok(false);
            }
            if Some(index) == supplied {
                (before, own, after) = (start, (size >= 0).then(|| &rest[..length]), end);
            }
            rest.advance(length);
        }
        let end = self.waiting.len() - rest.len();
        if supplied.is_some() && own != Some(self.tenant.as_slice()) {
            return Err(violation(&self.target.table));
        }
        let fields = if supplied.is_some() { wanted } else { wanted + 1 };
        // A table has at most 1600 columns.
        out.put_i16(i16::try_from(fields).unwrap_or(i16::MAX));
        match supplied {
            Some(_) => {
                out.put_slice(&self.waiting[body..before]);
                out.put_slice(&self.waiting[after..end]);
            }
            None => out.put_slice(&self.waiting[body..end]),
        }
        out.put_i32(i32::try_from(self.tenant.len()).unwrap_or(i32::MIN));
        out.put_slice(&self.tenant);
        self.waiting.advance(end);
        self.sent += 1;
        Ok(true)
    }

    /// Before the first tuple, PostgreSQL has no context to show.
    fn located(&self, error: SqlError) -> Box<Failure> {
        let context = match self.state {
            State::Header | State::Extension(_) => String::new(),
            State::Tuples | State::Ended => format!("COPY {}, line {}", self.target.table, self.sent + 1),
        };
        Failure::boxed(error, context)
    }
}

/// Checks a header and tells how long its extension is.
fn header(bytes: &[u8]) -> Result<usize, SqlError> {
    let Some(mut rest) = bytes.strip_prefix(SIGNATURE) else {
        return Err(bad_file("COPY file signature not recognized"));
    };
    let flags = rest.get_u32();
    if flags & 1 << 16 != 0 {
        return Err(bad_file("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(bad_file("unrecognized critical flags in COPY file header"));
    }
    usize::try_from(rest.get_i32()).map_err(|_| bad_file("invalid COPY file header (missing length)"))
}

/// A value in the form that the type's receive function takes.
fn send(type_: TenantType, text: &str) -> Option<Vec<u8>> {
    Some(match type_ {
        TenantType::Int2 => text.parse::<i16>().ok()?.to_be_bytes().to_vec(),
        TenantType::Int4 => text.parse::<i32>().ok()?.to_be_bytes().to_vec(),
        TenantType::Int8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
        TenantType::Text => text.as_bytes().to_vec(),
        TenantType::Uuid => {
            let digits: Vec<u8> = text.bytes().filter(|c| *c != b'-').collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
            (bytes.len() == 16).then_some(bytes)?
        }
    })
}

//! Messages of clients: typed views that borrow from the body, and builders of what the proxy sends to servers.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::cursor::{Cursor, utf8, violation};
use super::frame;
use crate::error::{SqlError, sqlstate};

/// A client's message, checked whole.
#[derive(Clone, Debug, PartialEq)]
pub enum FrontendMessage<'a> {
    Query(&'a str),
    Parse(Parse<'a>),
    Bind(Bind<'a>),
    Describe(Target<'a>),
    Execute(Execute<'a>),
    Close(Target<'a>),
    Flush,
    Sync,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail(&'a str),
    Terminate,
    /// Recognised so that it can be refused in its own words; its body is not read.
    FunctionCall,
    /// `p`: a password, or a SASL message; see [`password`], [`sasl_initial`] and [`sasl_response`].
    Authentication(&'a [u8]),
}

/// Reads a client's message. `Ok(None)`: no message of clients has this tag, so the stream cannot be trusted further.
///
/// # Errors
/// 08P01: the body breaks the protocol. 22021: text is not UTF-8. 22023: a format code that does not exist.
pub fn parse(tag: u8, body: &[u8]) -> Result<Option<FrontendMessage<'_>>, SqlError> {
    let message = match tag {
        b'Q' => FrontendMessage::Query(only_text(body)?),
        b'P' => FrontendMessage::Parse(Parse::parse(body)?),
        b'B' => FrontendMessage::Bind(Bind::parse(body)?),
        b'D' => FrontendMessage::Describe(Target::parse(body)?),
        b'E' => FrontendMessage::Execute(Execute::parse(body)?),
        b'C' => FrontendMessage::Close(Target::parse(body)?),
        b'H' => empty(body, FrontendMessage::Flush)?,
        b'S' => empty(body, FrontendMessage::Sync)?,
        b'd' => FrontendMessage::CopyData(body),
        b'c' => empty(body, FrontendMessage::CopyDone)?,
        b'f' => FrontendMessage::CopyFail(only_text(body)?),
        b'X' => empty(body, FrontendMessage::Terminate)?,
        b'F' => FrontendMessage::FunctionCall,
        b'p' => FrontendMessage::Authentication(body),
        _ => return Ok(None),
    };
    Ok(Some(message))
}

fn empty<'a>(body: &[u8], message: FrontendMessage<'a>) -> Result<FrontendMessage<'a>, SqlError> {
    Cursor::new(body).end().map(|()| message)
}

fn only_text(body: &[u8]) -> Result<&str, SqlError> {
    let mut cursor = Cursor::new(body);
    let text = cursor.text()?;
    cursor.end()?;
    Ok(text)
}

/// Parse: prepares a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub name: &'a str,
    pub text: &'a str,
    /// Type OIDs; 0 leaves one open. May be fewer than the text has parameters.
    pub types: SmallVec<[u32; 8]>,
}

#[expect(clippy::self_named_constructors, reason = "the reader of every view is called parse")]
impl<'a> Parse<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, SqlError> {
        let mut cursor = Cursor::new(body);
        let name = cursor.text()?;
        let text = cursor.text()?;
        let count = cursor.u16()?;
        let types = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
        cursor.end()?;
        Ok(Parse { name, text, types })
    }
}

/// Whether a value is text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    fn parse(code: u16) -> Result<Self, SqlError> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unsupported format code: {other}"))),
        }
    }

    pub fn code(self) -> u16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// Format codes as the protocol writes them: none (all text), one (for all), or one each.
pub type Formats = SmallVec<[Format; 8]>;

/// The format of the value at `index`.
pub fn format_at(formats: &[Format], index: usize) -> Format {
    match formats {
        [] => Format::Text,
        [one] => *one,
        each => each.get(index).copied().unwrap_or(Format::Text),
    }
}

fn parse_formats(cursor: &mut Cursor<'_>) -> Result<Formats, SqlError> {
    let count = cursor.u16()?;
    (0..count).map(|_| cursor.u16().and_then(Format::parse)).collect()
}

/// Bind: makes a portal of a statement and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind<'a> {
    /// Empty: the unnamed portal.
    pub portal: &'a str,
    pub statement: &'a str,
    /// None, one, or as many as there are values.
    pub formats: Formats,
    /// `None` is NULL.
    pub values: SmallVec<[Option<&'a [u8]>; 8]>,
    pub result_formats: Formats,
}

impl<'a> Bind<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, SqlError> {
        let mut cursor = Cursor::new(body);
        let portal = cursor.text()?;
        let statement = cursor.text()?;
        let formats = parse_formats(&mut cursor)?;
        let count = cursor.u16()?;
        if formats.len() > 1 && formats.len() != usize::from(count) {
            let message = format!("bind message has {} parameter formats but {count} parameters", formats.len());
            return Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        let values = (0..count).map(|_| cursor.value()).collect::<Result<_, _>>()?;
        let result_formats = parse_formats(&mut cursor)?;
        cursor.end()?;
        Ok(Bind { portal, statement, formats, values, result_formats })
    }

    /// The format of the value at `index`, from 0.
    pub fn format(&self, index: usize) -> Format {
        format_at(&self.formats, index)
    }
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a str),
    Portal(&'a str),
}

impl<'a> Target<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, SqlError> {
        let mut cursor = Cursor::new(body);
        let kind = cursor.u8()?;
        let name = cursor.text()?;
        cursor.end()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(violation("invalid subtype of a DESCRIBE or CLOSE message")),
        }
    }

    fn put(self, out: &mut BytesMut) {
        let (kind, name) = match self {
            Target::Statement(name) => (b'S', name),
            Target::Portal(name) => (b'P', name),
        };
        out.put_u8(kind);
        frame::put_text(out, name);
    }
}

/// Execute: runs a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a str,
    /// At most so many rows; 0 or less: all, as in PostgreSQL.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, SqlError> {
        let mut cursor = Cursor::new(body);
        let portal = cursor.text()?;
        let max_rows = cursor.i32()?;
        cursor.end()?;
        Ok(Execute { portal, max_rows })
    }
}

/// PasswordMessage.
///
/// # Errors
/// As [`parse`].
pub fn password(body: &[u8]) -> Result<&str, SqlError> {
    only_text(body)
}

/// SASLInitialResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a str,
    pub data: Option<&'a [u8]>,
}

/// # Errors
/// As [`parse`].
pub fn sasl_initial(body: &[u8]) -> Result<SaslInitial<'_>, SqlError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.text()?;
    let data = cursor.value()?;
    cursor.end()?;
    Ok(SaslInitial { mechanism, data })
}

/// SASLResponse: the whole body is the mechanism's, and SCRAM's is UTF-8.
///
/// # Errors
/// As [`parse`].
pub fn sasl_response(body: &[u8]) -> Result<&str, SqlError> {
    utf8(body)
}

/// Appends Query.
pub fn put_query(out: &mut BytesMut, text: &str) {
    put_query_with(out, |out| out.put_slice(text.as_bytes()));
}

/// Appends Query; `write` appends the text, which has no NUL in it.
pub fn put_query_with(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    frame::write(out, b'Q', |out| {
        write(out);
        out.put_u8(0);
    });
}

/// Appends Parse.
pub fn put_parse(out: &mut BytesMut, name: &str, text: &str, types: &[u32]) {
    put_parse_with(out, name, |out| out.put_slice(text.as_bytes()), types);
}

/// Appends Parse; `write` appends the text, which has no NUL in it. At most 65,535 types are written: a statement can have
/// no more parameters.
pub fn put_parse_with(out: &mut BytesMut, name: &str, write: impl FnOnce(&mut BytesMut), types: &[u32]) {
    frame::write(out, b'P', |out| {
        frame::put_text(out, name);
        write(out);
        out.put_u8(0);
        let count = u16::try_from(types.len()).unwrap_or(u16::MAX);
        out.put_u16(count);
        types.iter().take(usize::from(count)).for_each(|oid| out.put_u32(*oid));
    });
}

/// Appends Bind: the client's values and formats under names of the proxy's choosing, and after them one more value in text
/// format (the tenant) where `extra` is given.
///
/// # Errors
/// 54000: with the extra value there would be more than 65,535.
pub fn put_bind(
    out: &mut BytesMut,
    portal: &str,
    statement: &str,
    bind: &Bind<'_>,
    extra: Option<&[u8]>,
) -> Result<(), SqlError> {
    let total = bind.values.len() + usize::from(extra.is_some());
    let count = u16::try_from(total)
        .map_err(|_| SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "number of parameters must be between 0 and 65534"))?;
    frame::write(out, b'B', |out| {
        frame::put_text(out, portal);
        frame::put_text(out, statement);
        put_parameter_formats(out, bind, extra.is_some(), count);
        out.put_u16(count);
        bind.values.iter().for_each(|value| frame::put_value(out, *value));
        if extra.is_some() {
            frame::put_value(out, extra);
        }
        put_formats(out, &bind.result_formats);
    });
    Ok(())
}

/// Appends Bind of the unnamed portal: values and results in text format. There are at most 65,535 values.
pub fn put_bind_text<'v>(out: &mut BytesMut, statement: &str, values: impl ExactSizeIterator<Item = Cow<'v, [u8]>>) {
    frame::write(out, b'B', |out| {
        frame::put_text(out, "");
        frame::put_text(out, statement);
        out.put_u16(0);
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        values.for_each(|value| frame::put_value(out, Some(&value)));
        out.put_u16(0);
    });
}

/// None, and one that says text, hold for the extra value too; any other form is spelled out, with text for the extra.
fn put_parameter_formats(out: &mut BytesMut, bind: &Bind<'_>, extra: bool, count: u16) {
    if !extra || matches!(&bind.formats[..], [] | [Format::Text]) {
        return put_formats(out, &bind.formats);
    }
    out.put_u16(count);
    (0..bind.values.len()).for_each(|i| out.put_u16(bind.format(i).code()));
    out.put_u16(Format::Text.code());
}

fn put_formats(out: &mut BytesMut, formats: &[Format]) {
    let count = u16::try_from(formats.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    formats.iter().take(usize::from(count)).for_each(|f| out.put_u16(f.code()));
}

pub fn put_describe(out: &mut BytesMut, target: Target<'_>) {
    frame::write(out, b'D', |out| target.put(out));
}

pub fn put_execute(out: &mut BytesMut, portal: &str, max_rows: i32) {
    frame::write(out, b'E', |out| {
        frame::put_text(out, portal);
        out.put_i32(max_rows);
    });
}

pub fn put_close(out: &mut BytesMut, target: Target<'_>) {
    frame::write(out, b'C', |out| target.put(out));
}

pub fn put_flush(out: &mut BytesMut) {
    frame::write(out, b'H', |_| {});
}

pub fn put_sync(out: &mut BytesMut) {
    frame::write(out, b'S', |_| {});
}

pub fn put_copy_data(out: &mut BytesMut, data: &[u8]) {
    frame::write(out, b'd', |out| out.put_slice(data));
}

pub fn put_copy_done(out: &mut BytesMut) {
    frame::write(out, b'c', |_| {});
}

pub fn put_copy_fail(out: &mut BytesMut, reason: &str) {
    frame::write(out, b'f', |out| frame::put_text(out, reason));
}

pub fn put_terminate(out: &mut BytesMut) {
    frame::write(out, b'X', |_| {});
}

/// Appends PasswordMessage: the password itself, or the md5 answer.
pub fn put_password(out: &mut BytesMut, password: &str) {
    frame::write(out, b'p', |out| frame::put_text(out, password));
}

pub fn put_sasl_initial(out: &mut BytesMut, mechanism: &str, data: &[u8]) {
    frame::write(out, b'p', |out| {
        frame::put_text(out, mechanism);
        frame::put_value(out, Some(data));
    });
}

pub fn put_sasl_response(out: &mut BytesMut, data: &[u8]) {
    frame::write(out, b'p', |out| out.put_slice(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(out: &BytesMut) -> &[u8] {
        frame::first(out, usize::MAX).unwrap().unwrap().1
    }

    fn rebound(formats: &[Format], values: usize) -> (Formats, usize, Option<Vec<u8>>) {
        let bind = Bind {
            portal: "",
            statement: "s",
            formats: Formats::from_slice(formats),
            values: (0..values).map(|_| Some(&b"xx"[..])).collect(),
            result_formats: Formats::new(),
        };
        let mut out = BytesMut::new();
        put_bind(&mut out, "", "b1", &bind, Some(b"7")).unwrap();
        let again = Bind::parse(body(&out)).unwrap();
        (again.formats.clone(), again.values.len(), again.values.last().unwrap().map(<[u8]>::to_vec))
    }

    #[test]
    fn the_extra_parameter_is_text_whatever_the_client_s_formats() {
        use Format::{Binary, Text};
        for (formats, values, expected) in [
            (&[][..], 0, &[][..]),
            (&[], 2, &[]),
            (&[Text], 2, &[Text]),
            (&[Binary], 0, &[Text]),
            (&[Binary], 1, &[Binary, Text]),
            (&[Binary], 2, &[Binary, Binary, Text]),
            (&[Binary, Text], 2, &[Binary, Text, Text]),
        ] {
            let (got, count, last) = rebound(formats, values);
            assert_eq!((&got[..], count, last.as_deref()), (expected, values + 1, Some(&b"7"[..])));
        }
    }

    #[test]
    fn a_parameter_too_many_is_an_error() {
        let values = (0..65_535).map(|_| None).collect();
        let bind = Bind { portal: "", statement: "", formats: Formats::new(), values, result_formats: Formats::new() };
        let mut out = BytesMut::new();
        assert!(put_bind(&mut out, "", "", &bind, None).is_ok());
        assert!(put_bind(&mut out, "", "", &bind, Some(b"1")).is_err());
    }

    #[test]
    fn broken_bodies_are_refused() {
        for (tag, body) in [
            (b'Q', &b"select 1"[..]),                        // no terminator
            (b'Q', b"select 1\0; drop\0"),                   // text after the terminator
            (b'Q', b"select '\xff'\0"),                      // not UTF-8
            (b'P', b"\0select 1\0\0\x02\0\0\0\x17"),         // one type missing
            (b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0"), // two formats, one value
            (b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),   // length -2
            (b'B', b"\0\0\0\0\0\x01\0\0\x03\xe8x\0\0"),      // length beyond the body
            (b'B', b"\0\0\0\x01\0\x02\0\0\0\0"),             // format 2
            (b'D', b"Xname\0"),
            (b'E', b"\0\0\0"),
            (b'S', b"x"),
        ] {
            assert!(parse(tag, body).is_err(), "{} {body:?}", char::from(tag));
        }
        assert_eq!(parse(b'!', b"").unwrap(), None);
    }
}

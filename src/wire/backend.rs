//! Messages of servers: typed views of those that matter, and builders of what the proxy sends to clients.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::cursor::{Cursor, violation};
use super::frame;
use super::frontend::Format;
use crate::error::SqlError;

/// Tags of messages that servers send.
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// What ReadyForQuery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    /// Until ROLLBACK.
    Failed,
}

impl TransactionStatus {
    pub fn code(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }

    /// Reads the body of ReadyForQuery.
    ///
    /// # Errors
    /// 08P01, as in all readers here.
    pub fn parse(body: &[u8]) -> Result<Self, SqlError> {
        match body {
            b"I" => Ok(TransactionStatus::Idle),
            b"T" => Ok(TransactionStatus::InTransaction),
            b"E" => Ok(TransactionStatus::Failed),
            _ => Err(violation("invalid transaction status from the server")),
        }
    }
}

/// Authentication requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    Sasl {
        mechanisms: SmallVec<[&'a str; 2]>,
    },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSS, SSPI and what may come.
    Other(u32),
}

impl<'a> Authentication<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, SqlError> {
        let mut cursor = Cursor::new(body);
        let request = match cursor.u32()? {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => {
                let salt = cursor.bytes(4)?;
                Authentication::Md5Password { salt: [salt[0], salt[1], salt[2], salt[3]] }
            }
            10 => {
                let mut mechanisms = SmallVec::new();
                loop {
                    match cursor.text()? {
                        "" => break,
                        mechanism => mechanisms.push(mechanism),
                    }
                }
                Authentication::Sasl { mechanisms }
            }
            11 => Authentication::SaslContinue(cursor.rest()),
            12 => Authentication::SaslFinal(cursor.rest()),
            other => {
                cursor.rest();
                Authentication::Other(other)
            }
        };
        cursor.end()?;
        Ok(request)
    }
}

/// ParameterStatus: name and value.
pub fn parse_parameter_status(body: &[u8]) -> Result<(&str, &str), SqlError> {
    let mut cursor = Cursor::new(body);
    let pair = (cursor.text()?, cursor.text()?);
    cursor.end()?;
    Ok(pair)
}

/// BackendKeyData: process id and key (4 bytes in protocol 3.0, up to 256 in 3.2).
pub fn parse_key_data(body: &[u8]) -> Result<(u32, &[u8]), SqlError> {
    let mut cursor = Cursor::new(body);
    let process_id = cursor.u32()?;
    let key = cursor.rest();
    if !(4..=super::startup::CAP_CANCEL_KEY).contains(&key.len()) {
        return Err(violation("invalid length of a cancel key from the server"));
    }
    Ok((process_id, key))
}

/// CommandComplete: the tag.
pub fn parse_command_complete(body: &[u8]) -> Result<&str, SqlError> {
    let mut cursor = Cursor::new(body);
    let tag = cursor.text()?;
    cursor.end()?;
    Ok(tag)
}

/// NegotiateProtocolVersion: the version to speak (major in the high half) and the options that are not supported.
pub fn parse_negotiate(body: &[u8]) -> Result<(u32, Vec<&str>), SqlError> {
    let mut cursor = Cursor::new(body);
    let version = cursor.u32()?;
    let count = cursor.u32()?;
    let mut options = Vec::new();
    for _ in 0..count {
        options.push(cursor.text()?);
    }
    cursor.end()?;
    Ok((version, options))
}

/// NotificationResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    pub process_id: u32,
    pub channel: &'a str,
    pub payload: &'a str,
}

pub fn parse_notification(body: &[u8]) -> Result<Notification<'_>, SqlError> {
    let mut cursor = Cursor::new(body);
    let notification = Notification { process_id: cursor.u32()?, channel: cursor.text()?, payload: cursor.text()? };
    cursor.end()?;
    Ok(notification)
}

/// The fields of ErrorResponse or NoticeResponse. A field may be missing, also those that PostgreSQL always sends, and its
/// bytes may be in another encoding than UTF-8 before the connection has one. Ends at the first thing that is not a field.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFields<'a> {
    cursor: Cursor<'a>,
}

impl<'a> ErrorFields<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        ErrorFields { cursor: Cursor::new(body) }
    }

    /// The value of the first field with this code.
    pub fn get(self, code: u8) -> Option<&'a [u8]> {
        { self }.find(|(c, _)| *c == code).map(|(_, v)| v)
    }

    /// Field `C`, where it is five letters and digits.
    pub fn sqlstate(self) -> Option<&'a str> {
        let code = self.get(b'C')?;
        let well_formed = code.len() == 5 && code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        if well_formed { std::str::from_utf8(code).ok() } else { None }
    }

    /// Field `V` (or `S` of servers before 9.6): ERROR, FATAL, PANIC, WARNING, NOTICE, ...
    pub fn severity(self) -> Option<&'a [u8]> {
        self.get(b'V').or_else(|| self.get(b'S'))
    }

    /// Whether the server ends the connection after this.
    pub fn is_fatal(self) -> bool {
        matches!(self.severity(), Some(b"FATAL" | b"PANIC"))
    }

    /// Field `M`.
    pub fn message(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.get(b'M').unwrap_or(b"(the server gave no message)"))
    }
}

impl<'a> Iterator for ErrorFields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self.cursor.u8() {
            Ok(0) | Err(_) => {
                self.cursor.rest();
                None
            }
            Ok(code) => self.cursor.c_bytes().ok().map(|value| (code, value)),
        }
    }
}

/// One column of RowDescription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    /// OID of the table that the column is of; 0: none.
    pub table_oid: u32,
    pub column: i16,
    pub type_oid: u32,
    pub type_size: i16,
    pub typmod: i32,
    pub format: Format,
}

impl<'a> Field<'a> {
    /// A column of type text that belongs to no table.
    pub fn text(name: &'a str) -> Self {
        Field { name, table_oid: 0, column: 0, type_oid: 25, type_size: -1, typmod: -1, format: Format::Text }
    }
}

/// RowDescription.
pub fn parse_row_description(body: &[u8]) -> Result<Vec<Field<'_>>, SqlError> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16()?;
    let mut fields = Vec::new();
    for _ in 0..count {
        fields.push(Field {
            name: cursor.text()?,
            table_oid: cursor.u32()?,
            column: cursor.i16()?,
            type_oid: cursor.u32()?,
            type_size: cursor.i16()?,
            typmod: cursor.i32()?,
            format: if cursor.u16()? == 0 { Format::Text } else { Format::Binary },
        });
    }
    cursor.end()?;
    Ok(fields)
}

/// DataRow: its values.
pub fn parse_data_row(body: &[u8]) -> Result<SmallVec<[Option<&[u8]>; 8]>, SqlError> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16()?;
    let values = (0..count).map(|_| cursor.value()).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(values)
}

/// ParameterDescription: the types of a statement's parameters.
pub fn parse_parameter_description(body: &[u8]) -> Result<SmallVec<[u32; 8]>, SqlError> {
    let mut cursor = Cursor::new(body);
    let count = cursor.u16()?;
    let types = (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(types)
}

/// CopyInResponse, CopyOutResponse, CopyBothResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyResponse {
    pub format: Format,
    /// One for each column.
    pub columns: SmallVec<[Format; 8]>,
}

pub fn parse_copy_response(body: &[u8]) -> Result<CopyResponse, SqlError> {
    let format = |code: u16| if code == 0 { Format::Text } else { Format::Binary };
    let mut cursor = Cursor::new(body);
    let overall = format(cursor.u8()?.into());
    let count = cursor.u16()?;
    let columns = (0..count).map(|_| cursor.u16().map(format)).collect::<Result<_, _>>()?;
    cursor.end()?;
    Ok(CopyResponse { format: overall, columns })
}

/// Appends CopyInResponse; all columns have the format of the whole.
pub fn put_copy_in(out: &mut BytesMut, format: Format, columns: u16) {
    let code = u8::from(format == Format::Binary);
    frame::write(out, tag::COPY_IN, |out| {
        out.put_u8(code);
        out.put_u16(columns);
        (0..columns).for_each(|_| out.put_u16(code.into()));
    });
}

/// Appends ErrorResponse.
pub fn put_error(out: &mut BytesMut, error: &SqlError) {
    frame::write(out, tag::ERROR, |out| {
        let severity = error.severity.as_str();
        let position = error.position.map(|p| p.to_string());
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(error.sqlstate.0)),
            (b'M', Some(&*error.message)),
            (b'D', error.detail.as_deref()),
            (b'H', error.hint.as_deref()),
            (b'P', position.as_deref()),
        ];
        for (code, value) in fields {
            if let Some(value) = value {
                out.put_u8(code);
                frame::put_text(out, value);
            }
        }
        out.put_u8(0);
    });
}

/// Appends ErrorResponse or NoticeResponse (`tag`) with the fields given: a server's, filtered.
pub fn put_error_fields<'a>(out: &mut BytesMut, tag: u8, fields: impl IntoIterator<Item = (u8, &'a [u8])>) {
    frame::write(out, tag, |out| {
        for (code, value) in fields {
            out.put_u8(code);
            frame::put_c_bytes(out, value);
        }
        out.put_u8(0);
    });
}

/// Appends NoticeResponse of the proxy's own: severity `WARNING` or `NOTICE`.
pub fn put_notice(out: &mut BytesMut, severity: &str, sqlstate: &str, message: &str) {
    let fields = [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)];
    put_error_fields(out, tag::NOTICE, fields.map(|(code, value)| (code, value.as_bytes())));
}

pub fn put_ready(out: &mut BytesMut, status: TransactionStatus) {
    frame::write(out, tag::READY_FOR_QUERY, |out| out.put_u8(status.code()));
}

/// Appends RowDescription. A target list has at most 1,664 columns in PostgreSQL.
pub fn put_row_description(out: &mut BytesMut, fields: &[Field<'_>]) {
    frame::write(out, tag::ROW_DESCRIPTION, |out| {
        let count = u16::try_from(fields.len()).unwrap_or(u16::MAX);
        out.put_u16(count);
        for field in fields.iter().take(usize::from(count)) {
            frame::put_text(out, field.name);
            out.put_u32(field.table_oid);
            out.put_i16(field.column);
            out.put_u32(field.type_oid);
            out.put_i16(field.type_size);
            out.put_i32(field.typmod);
            out.put_u16(field.format.code());
        }
    });
}

pub fn put_data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    frame::write(out, tag::DATA_ROW, |out| {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        out.put_u16(count);
        values.iter().take(usize::from(count)).for_each(|value| frame::put_value(out, *value));
    });
}

pub fn put_command_complete(out: &mut BytesMut, command_tag: &str) {
    frame::write(out, tag::COMMAND_COMPLETE, |out| frame::put_text(out, command_tag));
}

/// The number of rows that a command tag tells of; 0 where it tells of none.
pub fn rows_of_tag(body: &[u8]) -> u64 {
    let digits = body.strip_suffix(b"\0").unwrap_or(body);
    let digits = &digits[digits.iter().rposition(|b| *b == b' ').map_or(digits.len(), |at| at + 1)..];
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The number of rows in the command tag of a SELECT.
pub fn rows_of_select(body: &[u8]) -> Option<u64> {
    let rows = body.strip_prefix(b"SELECT ")?.strip_suffix(b"\0")?;
    if let [digit @ b'0'..=b'9'] = rows {
        return Some(u64::from(digit - b'0'));
    }
    std::str::from_utf8(rows).ok()?.parse().ok()
}

/// CommandComplete of a SELECT.
pub fn put_select_complete(out: &mut BytesMut, rows: u64) {
    frame::write(out, tag::COMMAND_COMPLETE, |out| {
        out.put_slice(b"SELECT ");
        out.put_slice(itoa::Buffer::new().format(rows).as_bytes());
        out.put_u8(0);
    });
}

pub fn put_parse_complete(out: &mut BytesMut) {
    frame::write(out, tag::PARSE_COMPLETE, |_| {});
}

pub fn put_bind_complete(out: &mut BytesMut) {
    frame::write(out, tag::BIND_COMPLETE, |_| {});
}

pub fn put_close_complete(out: &mut BytesMut) {
    frame::write(out, tag::CLOSE_COMPLETE, |_| {});
}

pub fn put_no_data(out: &mut BytesMut) {
    frame::write(out, tag::NO_DATA, |_| {});
}

pub fn put_empty_query(out: &mut BytesMut) {
    frame::write(out, tag::EMPTY_QUERY, |_| {});
}

pub fn put_portal_suspended(out: &mut BytesMut) {
    frame::write(out, tag::PORTAL_SUSPENDED, |_| {});
}

pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    frame::write(out, tag::PARAMETER_STATUS, |out| {
        frame::put_text(out, name);
        frame::put_text(out, value);
    });
}

pub fn put_key_data(out: &mut BytesMut, process_id: u32, key: &[u8]) {
    frame::write(out, tag::BACKEND_KEY_DATA, |out| {
        out.put_u32(process_id);
        out.put_slice(key);
    });
}

/// Appends an Authentication request.
pub fn put_authentication(out: &mut BytesMut, request: &Authentication<'_>) {
    frame::write(out, tag::AUTHENTICATION, |out| match request {
        Authentication::Ok => out.put_u32(0),
        Authentication::CleartextPassword => out.put_u32(3),
        Authentication::Md5Password { salt } => {
            out.put_u32(5);
            out.put_slice(salt);
        }
        Authentication::Sasl { mechanisms } => {
            out.put_u32(10);
            mechanisms.iter().for_each(|m| frame::put_text(out, m));
            out.put_u8(0);
        }
        Authentication::SaslContinue(data) => {
            out.put_u32(11);
            out.put_slice(data);
        }
        Authentication::SaslFinal(data) => {
            out.put_u32(12);
            out.put_slice(data);
        }
        Authentication::Other(code) => out.put_u32(*code),
    });
}

/// Appends AuthenticationSASL that offers SCRAM-SHA-256 only.
pub fn put_authentication_scram(out: &mut BytesMut) {
    let mechanisms = SmallVec::from_slice(&[super::scram::MECHANISM]);
    put_authentication(out, &Authentication::Sasl { mechanisms });
}

/// Appends NegotiateProtocolVersion: the newest version that the proxy speaks, and the options it does not know.
pub fn put_negotiate(out: &mut BytesMut, minor: u16, options: &[String]) {
    frame::write(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.put_u32((3 << 16) | u32::from(minor));
        out.put_u32(u32::try_from(options.len()).unwrap_or(0));
        options.iter().for_each(|option| frame::put_text(out, option));
    });
}

/// Appends ParameterDescription.
pub fn put_parameter_description(out: &mut BytesMut, types: &[u32]) {
    frame::write(out, tag::PARAMETER_DESCRIPTION, |out| {
        let count = u16::try_from(types.len()).unwrap_or(u16::MAX);
        out.put_u16(count);
        types.iter().take(usize::from(count)).for_each(|oid| out.put_u32(*oid));
    });
}

/// Appends the server's ParameterDescription without its last parameter, which is the proxy's (the tenant) and not the
/// client's to see.
///
/// # Errors
/// 08P01: the body breaks the protocol, or has no parameter.
pub fn put_parameter_description_without_last(out: &mut BytesMut, body: &[u8]) -> Result<(), SqlError> {
    let types = parse_parameter_description(body)?;
    let (_, rest) = types.split_last().ok_or_else(|| violation("the server describes fewer parameters than were prepared"))?;
    put_parameter_description(out, rest);
    Ok(())
}

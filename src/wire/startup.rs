//! The first packets of a connection, which have no tag: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use bytes::{BufMut, BytesMut};

use super::cursor::{Cursor, violation};
use super::frame;
use crate::error::{SqlError, sqlstate};

/// The largest startup packet, bytes: PostgreSQL's MAX_STARTUP_PACKET_LENGTH.
pub const CAP_STARTUP: usize = 10_000;

/// The newest minor version of protocol 3 that Bulkhead speaks.
pub const NEWEST_MINOR: u16 = 2;

/// The longest cancel key, bytes (protocol 3.2).
pub const CAP_CANCEL_KEY: usize = 256;

const CODE_CANCEL: u32 = (1234 << 16) | 5678;
const CODE_SSL: u32 = (1234 << 16) | 5679;
const CODE_GSSENC: u32 = (1234 << 16) | 5680;

/// What a connection may begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    Ssl,
    GssEnc,
    Cancel(CancelRequest),
    Startup(Startup),
}

/// Names a session to cancel.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    pub process_id: u32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2. A secret.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelRequest({}, ***)", self.process_id)
    }
}

/// A StartupMessage of protocol 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Minor version as asked for; may be newer than [`NEWEST_MINOR`].
    pub minor: u16,
    /// In the order sent, without `_pq_.` options. A name sent twice counts as sent last, as in PostgreSQL.
    pub parameters: Vec<(String, String)>,
    /// Names of `_pq_.` options: none is supported.
    pub protocol_options: Vec<String>,
}

impl Startup {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The minor version to speak.
    pub fn agreed_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// Whether the client must be told what of its wishes is not supported.
    pub fn needs_negotiation(&self) -> bool {
        self.minor > NEWEST_MINOR || !self.protocol_options.is_empty()
    }

    /// Whether cancel keys may be longer than 4 bytes.
    pub fn takes_long_cancel_keys(&self) -> bool {
        self.agreed_minor() >= 2
    }
}

/// Whether the connection begins with a TLS ClientHello instead of a packet (PostgreSQL 17's `sslnegotiation=direct`).
/// No packet can begin so: its length would be above any cap.
pub fn is_tls_hello(buffer: &[u8]) -> bool {
    buffer.first() == Some(&0x16)
}

/// The first packet of `buffer` and its length in bytes, or `None` where it is not whole yet.
///
/// # Errors
/// FATAL 08P01 for lengths and contents that break the protocol (HTTP on the wrong port is the usual one), 0A000 for another
/// major version, 22021 for text that is not UTF-8.
pub fn parse(buffer: &[u8]) -> Result<Option<(FirstPacket, usize)>, SqlError> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = match usize::try_from(u32::from_be_bytes(*length)) {
        Ok(length) if (8..=CAP_STARTUP).contains(&length) => length,
        Ok(_) | Err(_) => return Err(fatal(violation("invalid length of startup packet"))),
    };
    let Some(body) = buffer.get(4..length) else { return Ok(None) };
    let packet = parse_body(body).map_err(fatal)?;
    Ok(Some((packet, length)))
}

fn parse_body(body: &[u8]) -> Result<FirstPacket, SqlError> {
    let mut cursor = Cursor::new(body);
    match cursor.u32()? {
        CODE_SSL => cursor.end().map(|()| FirstPacket::Ssl),
        CODE_GSSENC => cursor.end().map(|()| FirstPacket::GssEnc),
        CODE_CANCEL => {
            let process_id = cursor.u32()?;
            let key = cursor.rest();
            if !(4..=CAP_CANCEL_KEY).contains(&key.len()) {
                return Err(violation("invalid length of cancel request packet"));
            }
            Ok(FirstPacket::Cancel(CancelRequest { process_id, key: key.to_vec() }))
        }
        version if version >> 16 == 3 => parse_parameters((version & 0xffff) as u16, cursor).map(FirstPacket::Startup),
        version => Err(SqlError::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!(
                "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{NEWEST_MINOR}",
                version >> 16,
                version & 0xffff
            ),
        )),
    }
}

fn parse_parameters(minor: u16, mut cursor: Cursor<'_>) -> Result<Startup, SqlError> {
    let mut startup = Startup { minor, parameters: Vec::new(), protocol_options: Vec::new() };
    loop {
        let name = cursor.text()?;
        if name.is_empty() {
            break;
        }
        let value = cursor.text()?;
        if name.starts_with("_pq_.") {
            startup.protocol_options.push(name.to_owned());
        } else {
            startup.parameters.push((name.to_owned(), value.to_owned()));
        }
    }
    cursor.end().map_err(|_| violation("invalid startup packet layout: expected terminator as last byte"))?;
    Ok(startup)
}

fn fatal(error: SqlError) -> SqlError {
    SqlError { severity: crate::error::Severity::Fatal, ..error }
}

/// Takes the startup parameter `options` apart: `-c name=value`, `-cname=value`, `--name=value`, words separated by white
/// space, a backslash before a character taking it as it is (PostgreSQL's `pg_split_opts`). In names `-` means `_`.
///
/// # Errors
/// FATAL 42601: anything else; the server's own switches are not taken from clients.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, SqlError> {
    let mut settings = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let refuse = |what: &str| {
            SqlError::fatal(sqlstate::SYNTAX_ERROR, format!("invalid command-line argument for server process: {what}"))
        };
        let assignment = if word == "-c" {
            words.next().ok_or_else(|| refuse(&word))?
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(refuse(&word));
        };
        match assignment.split_once('=') {
            Some((name, value)) if !name.is_empty() => settings.push((name.replace('-', "_"), value.to_owned())),
            Some(_) | None => return Err(refuse(&assignment)),
        }
    }
    Ok(settings)
}

/// White space is C's isspace() in the C locale, not Unicode's.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut inside = false;
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                if inside {
                    words.push(std::mem::take(&mut word));
                    inside = false;
                }
            }
            '\\' => {
                inside = true;
                word.extend(characters.next());
            }
            c => {
                inside = true;
                word.push(c);
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

/// Appends a StartupMessage of protocol 3.0.
pub fn put_startup<'a>(out: &mut BytesMut, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    put_startup_version(out, 0, parameters);
}

/// Appends a StartupMessage of protocol 3.`minor`.
pub fn put_startup_version<'a>(out: &mut BytesMut, minor: u16, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    frame::write_untagged(out, |out| {
        out.put_u32((3 << 16) | u32::from(minor));
        for (name, value) in parameters {
            frame::put_text(out, name);
            frame::put_text(out, value);
        }
        out.put_u8(0);
    });
}

pub fn put_ssl_request(out: &mut BytesMut) {
    frame::write_untagged(out, |out| out.put_u32(CODE_SSL));
}

pub fn put_gssenc_request(out: &mut BytesMut) {
    frame::write_untagged(out, |out| out.put_u32(CODE_GSSENC));
}

pub fn put_cancel_request(out: &mut BytesMut, process_id: u32, key: &[u8]) {
    frame::write_untagged(out, |out| {
        out.put_u32(CODE_CANCEL);
        out.put_u32(process_id);
        out.put_slice(key);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(options: &str) -> Vec<(String, String)> {
        parse_options(options).unwrap()
    }

    #[test]
    fn options_are_split_as_postgres_does() {
        let expected = vec![("search_path".to_owned(), "a b".to_owned()), ("bulkhead.tenant".to_owned(), "1".to_owned())];
        assert_eq!(pairs(r"-c search-path=a\ b  --bulkhead.tenant=1 "), expected);
        assert_eq!(pairs(r"-csearch_path=a\ b -c bulkhead.tenant=1"), expected);
        assert_eq!(pairs(r"-c x=a\\b\=c"), vec![("x".to_owned(), r"a\b=c".to_owned())]);
        assert_eq!(pairs("  "), vec![]);
        for bad in ["-c", "-c x", "-d 5", "x=1", "--=1", "-S 4", "--x"] {
            assert_eq!(parse_options(bad).unwrap_err().sqlstate, sqlstate::SYNTAX_ERROR, "{bad}");
        }
    }

    #[test]
    fn other_protocols_on_the_port_are_refused_by_length() {
        assert!(parse(b"GET / HTTP/1.1\r\n").is_err());
        assert!(parse(&[0x16, 3, 1, 2, 0]).is_err());
        assert!(parse(&[0, 0, 0, 7, 0, 3, 0]).is_err());
        assert!(parse(&[255; 8]).is_err());
        assert!(parse(&[0, 0, 0, 8, 0, 2, 0, 0]).is_err_and(|e| e.message.contains("2.0")));
    }

    #[test]
    fn requests_with_something_after_them_inside_the_length_are_refused() {
        assert!(parse(&[0, 0, 0, 9, 0x04, 0xd2, 0x16, 0x2f, 0]).is_err());
        let mut packet = BytesMut::new();
        put_cancel_request(&mut packet, 1, &[0; 257]);
        assert!(parse(&packet).is_err());
        packet.clear();
        put_cancel_request(&mut packet, 1, &[0; 3]);
        assert!(parse(&packet).is_err());
    }

    #[test]
    fn newer_minor_versions_and_options_are_negotiated() {
        let mut packet = BytesMut::new();
        put_startup_version(&mut packet, 9999, [("user", "a"), ("_pq_.x", "1"), ("user", "b")]);
        let Some((FirstPacket::Startup(startup), _)) = parse(&packet).unwrap() else { panic!("not a startup packet") };
        assert!(startup.needs_negotiation() && startup.takes_long_cancel_keys());
        assert_eq!((startup.agreed_minor(), startup.get("user")), (2, Some("b")));
        assert_eq!(startup.protocol_options, ["_pq_.x"]);
    }
}

//! A small blocking client of protocol 3.0 that keeps every byte it receives.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
};

use super::answer::{Answer, Column, Part, Report, Row};

/// Bytes of one answer that are kept; of rows beyond, nothing is.
const ENOUGH: usize = 2 << 20;

#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Where and as whom to connect.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: Address,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    /// Further startup parameters.
    pub options: Vec<(String, String)>,
}

/// Why there is no session.
#[derive(Debug)]
pub enum ConnectError {
    Io(io::Error),
    Refused(Report),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        ConnectError::Io(error)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn open(address: &Address, timeout: Option<Duration>) -> io::Result<Stream> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(timeout)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(timeout)?;
                Ok(Stream::Unix(stream))
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let done = match self {
                Stream::Tcp(s) => s.read(buffer),
                Stream::Unix(s) => s.read(buffer),
            };
            // A process that was stopped and goes on.
            if !done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
                return done;
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.write_all(bytes),
            Stream::Unix(s) => s.write_all(bytes),
        }
    }
}

/// One message from the server: its type and its body.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

/// A session.
pub struct Wire {
    stream: Stream,
    address: Address,
    /// Received and not yet decoded.
    pending: Vec<u8>,
    start: usize,
    pub process_id: u32,
    pub secret_key: Vec<u8>,
    /// ParameterStatus.
    pub settings: BTreeMap<String, String>,
    /// Every byte since the last `take_raw`.
    raw: Vec<u8>,
    /// What a COPY that wants data gets; a CopyFail without it.
    pub copy_data: Option<Vec<u8>>,
    /// In messages of so many bytes.
    pub copy_piece: usize,
    /// The Sync that was sent is lost to a COPY that wants data.
    sync_sent: bool,
}

/// What to send by the extended protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extended<'a> {
    pub sql: &'a [u8],
    pub parameter_types: &'a [u32],
    /// In text format; `None` is NULL.
    pub parameters: &'a [Option<&'a str>],
    /// 0 text, 1 binary.
    pub result_format: i16,
    /// 0: all.
    pub max_rows: i32,
}

impl Wire {
    pub fn connect(target: &Target) -> Result<Wire, ConnectError> {
        let stream = Stream::open(&target.address, Some(Duration::from_secs(60)))?;
        let mut wire = Wire {
            stream,
            address: target.address.clone(),
            pending: Vec::new(),
            start: 0,
            process_id: 0,
            secret_key: Vec::new(),
            settings: BTreeMap::new(),
            raw: Vec::new(),
            copy_data: None,
            copy_piece: 7,
            sync_sent: false,
        };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        let fixed = [("user", target.user.as_str()), ("database", target.database.as_str())];
        let further = target.options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        for (name, value) in fixed.into_iter().chain(further) {
            put_string(&mut body, name.as_bytes());
            put_string(&mut body, value.as_bytes());
        }
        body.push(0);
        let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
        message.extend(body);
        wire.stream.write_all(&message)?;
        wire.authenticate(target)?;
        wire.raw.clear();
        Ok(wire)
    }

    fn authenticate(&mut self, target: &Target) -> Result<(), ConnectError> {
        let password = target.password.clone().unwrap_or_default();
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let message = self.receive()?;
            let mut body = Reader(&message.body);
            match message.kind {
                b'R' => match body.u32() {
                    0 => {}
                    3 => self.send(b'p', &with_nul(password.as_bytes()))?,
                    5 => {
                        let salt = [message.body[4], message.body[5], message.body[6], message.body[7]];
                        let hash = md5_hash(target.user.as_bytes(), password.as_bytes(), salt);
                        self.send(b'p', &with_nul(hash.as_bytes()))?;
                    }
                    10 => {
                        let mut out = with_nul(SCRAM_SHA_256.as_bytes());
                        out.extend((scram.message().len() as u32).to_be_bytes());
                        out.extend(scram.message());
                        self.send(b'p', &out)?;
                    }
                    11 => {
                        scram.update(&message.body[4..])?;
                        let out = scram.message().to_vec();
                        self.send(b'p', &out)?;
                    }
                    12 => scram.finish(&message.body[4..])?,
                    other => return Err(io::Error::other(format!("authentication {other}")).into()),
                },
                b'K' => {
                    self.process_id = body.u32();
                    self.secret_key = body.0.to_vec();
                }
                b'S' => self.keep_setting(&message.body),
                b'E' => return Err(ConnectError::Refused(report(&message.body))),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    fn keep_setting(&mut self, body: &[u8]) {
        let mut body = Reader(body);
        let name = String::from_utf8_lossy(&body.string()).into_owned();
        let value = String::from_utf8_lossy(&body.string()).into_owned();
        self.settings.insert(name, value);
    }

    /// Sends one message.
    pub fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(body.len() + 5);
        put_message(&mut message, kind, body);
        self.stream.write_all(&message)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// How long `receive` waits.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        let done = match &self.stream {
            Stream::Tcp(s) => s.set_read_timeout(Some(timeout)),
            Stream::Unix(s) => s.set_read_timeout(Some(timeout)),
        };
        done.expect("set a timeout");
    }

    /// The next message. An end of file is an error.
    pub fn receive(&mut self) -> io::Result<Message> {
        loop {
            let have = &self.pending[self.start..];
            if have.len() >= 5 {
                let length = u32::from_be_bytes([have[1], have[2], have[3], have[4]]) as usize;
                if have.len() > length {
                    let message = Message { kind: have[0], body: have[5..=length].to_vec() };
                    self.start += length + 1;
                    return Ok(message);
                }
            }
            self.pending.drain(..self.start);
            self.start = 0;
            let mut chunk = [0_u8; 16 << 10];
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.pending.extend_from_slice(&chunk[..n]);
            self.raw.extend_from_slice(&chunk[..n]);
        }
    }

    /// Simple query: the text is sent as it is, one NUL behind it.
    pub fn query(&mut self, sql: impl AsRef<[u8]>) -> Answer {
        self.sync_sent = false;
        if let Err(error) = self.send(b'Q', &with_nul(sql.as_ref())) {
            return lost(Answer::default(), &error);
        }
        self.answer()
    }

    /// Parse, Bind, Describe, Execute, Sync of unnamed statement and portal, in one write.
    pub fn extended(&mut self, what: &Extended<'_>) -> Answer {
        let mut out = Vec::new();
        put_parse(&mut out, "", what.sql, what.parameter_types);
        put_bind(&mut out, "", "", what.parameters, what.result_format);
        put_message(&mut out, b'D', b"P\0");
        put_execute(&mut out, "", what.max_rows);
        put_message(&mut out, b'S', b"");
        self.exchange(&out)
    }

    /// As `extended`, by a named statement that is executed `times` times: from the sixth on PostgreSQL may use a generic
    /// plan. The last answer counts, or the first error.
    pub fn prepared(&mut self, what: &Extended<'_>, times: usize) -> Answer {
        const NAME: &str = "prepared";
        let mut out = Vec::new();
        put_message(&mut out, b'C', b"Sprepared\0");
        put_parse(&mut out, NAME, what.sql, what.parameter_types);
        put_message(&mut out, b'S', b"");
        let mut answer = self.exchange(&out);
        for _ in 0..times {
            if answer.error.is_some() {
                break;
            }
            out.clear();
            put_bind(&mut out, "", NAME, what.parameters, what.result_format);
            put_message(&mut out, b'D', b"P\0");
            put_execute(&mut out, "", what.max_rows);
            put_message(&mut out, b'S', b"");
            answer = self.exchange(&out);
        }
        answer
    }

    /// Sends messages that end in Sync and takes the answer.
    fn exchange(&mut self, messages: &[u8]) -> Answer {
        self.sync_sent = true;
        match self.stream.write_all(messages) {
            Ok(()) => self.answer(),
            Err(error) => lost(Answer::default(), &error),
        }
    }

    /// Parse, Describe, Sync: what the statement's parameters and columns are.
    pub fn describe(&mut self, sql: &[u8], parameter_types: &[u32]) -> Answer {
        let mut out = Vec::new();
        put_parse(&mut out, "", sql, parameter_types);
        put_message(&mut out, b'D', b"S\0");
        put_message(&mut out, b'S', b"");
        self.exchange(&out)
    }

    /// Data, or a CopyFail, for a COPY.
    fn answer_copy(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        match &self.copy_data {
            None => put_message(&mut out, b'f', b"no data in this test\0"),
            Some(data) => {
                data.chunks(self.copy_piece).for_each(|piece| put_message(&mut out, b'd', piece));
                put_message(&mut out, b'c', b"");
            }
        }
        if self.sync_sent {
            put_message(&mut out, b'S', b"");
        }
        self.stream.write_all(&out)
    }

    /// Everything up to the next ReadyForQuery. A COPY that wants data gets `copy_data`.
    pub fn answer(&mut self) -> Answer {
        self.raw.clear();
        self.raw.extend_from_slice(&self.pending[self.start..]);
        let mut answer = Answer::default();
        let mut part: Option<Part> = None;
        loop {
            let message = match self.receive() {
                Ok(message) => message,
                Err(error) => {
                    answer.parts.extend(part);
                    answer.raw = std::mem::take(&mut self.raw);
                    return lost(answer, &error);
                }
            };
            let mut body = Reader(&message.body);
            match message.kind {
                b'T' => part.get_or_insert_default().columns = Some(columns(&mut body)),
                b't' => {
                    let n = body.u16();
                    answer.parameters = Some((0..n).map(|_| body.u32()).collect());
                }
                b'D' if self.raw.len() > ENOUGH => {
                    // An endless recursion streams until its timeout: what matters has been seen.
                    let fresh = self.pending.len() - self.start;
                    self.raw.truncate(ENOUGH.max(fresh));
                    answer.truncated = true;
                }
                b'D' => part.get_or_insert_default().rows.push(row(&mut body)),
                b'd' => part.get_or_insert_default().copied.push(message.body),
                b'C' => {
                    let mut done = part.take().unwrap_or_default();
                    done.tag = Some(String::from_utf8_lossy(&body.string()).into_owned());
                    answer.parts.push(done);
                }
                b'I' => answer.parts.push(Part { tag: Some(String::new()), ..Part::default() }),
                b's' => {
                    let mut done = part.take().unwrap_or_default();
                    done.tag = Some("(suspended)".to_owned());
                    answer.parts.push(done);
                }
                b'E' => answer.error = Some(report(&message.body)),
                b'N' => answer.notices.push(report(&message.body)),
                b'S' => self.keep_setting(&message.body),
                b'G' => {
                    answer.copy_formats = Some(message.body);
                    let _ = self.answer_copy();
                }
                b'Z' => {
                    answer.parts.extend(part);
                    answer.status = message.body.first().copied();
                    answer.raw = std::mem::take(&mut self.raw);
                    return answer;
                }
                _ => {}
            }
        }
    }

    /// CancelRequest for this session, on a connection of its own.
    pub fn cancel(&self) -> io::Result<()> {
        self.cancel_with(&self.secret_key)
    }

    /// The same with any key.
    pub fn cancel_with(&self, key: &[u8]) -> io::Result<()> {
        let mut stream = Stream::open(&self.address, Some(Duration::from_secs(10)))?;
        let mut out = (12 + key.len() as u32).to_be_bytes().to_vec();
        out.extend(80_877_102_u32.to_be_bytes());
        out.extend(self.process_id.to_be_bytes());
        out.extend(key);
        stream.write_all(&out)?;
        let mut end = [0_u8; 1];
        let _ = stream.read(&mut end); // the server closes when it has handled the request
        Ok(())
    }
}

/// The connection ended: told as an error of the client's own, which equals no server's.
fn lost(mut answer: Answer, error: &io::Error) -> Answer {
    if answer.error.is_none() {
        let fields = [('S', "LOST".to_owned()), ('C', "08006".to_owned()), ('M', format!("connection ended: {error}"))];
        answer.error = Some(Report(fields.into_iter().collect()));
    }
    answer
}

pub fn put_message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

pub fn put_parse(out: &mut Vec<u8>, name: &str, sql: &[u8], types: &[u32]) {
    let mut body = with_nul(name.as_bytes());
    put_string(&mut body, sql);
    body.extend((types.len() as u16).to_be_bytes());
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    put_message(out, b'P', &body);
}

pub fn put_bind(out: &mut Vec<u8>, portal: &str, statement: &str, parameters: &[Option<&str>], result_format: i16) {
    let mut body = with_nul(portal.as_bytes());
    put_string(&mut body, statement.as_bytes());
    body.extend(0_u16.to_be_bytes());
    body.extend((parameters.len() as u16).to_be_bytes());
    for parameter in parameters {
        match parameter {
            Some(value) => {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(value.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend(1_u16.to_be_bytes());
    body.extend(result_format.to_be_bytes());
    put_message(out, b'B', &body);
}

pub fn put_execute(out: &mut Vec<u8>, portal: &str, max_rows: i32) {
    let mut body = with_nul(portal.as_bytes());
    body.extend(max_rows.to_be_bytes());
    put_message(out, b'E', &body);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

fn with_nul(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    out.push(0);
    out
}

fn columns(body: &mut Reader<'_>) -> Vec<Column> {
    let n = body.u16();
    (0..n)
        .map(|_| {
            let name = body.string();
            body.u32(); // table
            body.u16(); // column
            let type_oid = body.u32();
            body.u16(); // size
            let typmod = body.u32() as i32;
            Column { name, type_oid, typmod, format: body.u16() as i16 }
        })
        .collect()
}

fn row(body: &mut Reader<'_>) -> Row {
    let n = body.u16();
    (0..n)
        .map(|_| {
            let length = body.u32() as i32;
            (length >= 0).then(|| body.take(length as usize).to_vec())
        })
        .collect()
}

fn report(body: &[u8]) -> Report {
    let mut body = Reader(body);
    let mut fields = BTreeMap::new();
    while let Some((&letter, rest)) = body.0.split_first() {
        body = Reader(rest);
        if letter != 0 {
            fields.insert(char::from(letter), String::from_utf8_lossy(&body.string()).into_owned());
        }
    }
    Report(fields)
}

/// Reads a message's body; panics where a server sends less than it says, for that is a failure of the test.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }

    fn u16(&mut self) -> u16 {
        let b = self.take(2);
        u16::from_be_bytes([b[0], b[1]])
    }

    fn u32(&mut self) -> u32 {
        let b = self.take(4);
        u32::from_be_bytes([b[0], b[1], b[2], b[3]])
    }

    fn string(&mut self) -> Vec<u8> {
        let end = self.0.iter().position(|b| *b == 0).expect("a string ends with NUL");
        let text = self.take(end).to_vec();
        self.take(1);
        text
    }
}

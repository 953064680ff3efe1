//! For tests on the wire: a PostgreSQL of our own, a raw client, and scripts of messages.
//!
//! A script is a list of lines. `1> Q "select 1"` sends a message on connection 1 (opened at first use), `1< Z` reads on it up
//! to a message of that type (`1< ZZ`: two of them), `1< end` up to the end of the connection. `#` begins a comment. What was
//! read is the transcript, one line a message. Messages: `Q text`, `P name text [oid ..]`, `B portal statement [value ..]`
//! (`null`; `b:hex` is a binary value; `=1` asks for binary results), `D S|P name`, `C S|P name`, `E portal rows`, `H`, `S`,
//! `d data`, `c`, `f reason`, `F oid`, `X`, `raw hex`, and `wait seconds sql`, which waits until the SQL on a direct
//! connection returns true.

#![allow(dead_code)] // each test target uses a part of it

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bulkhead::wire::backend::ErrorFields;
use bulkhead::wire::frontend::{self, Bind, Format, Formats, Target};
use bulkhead::wire::{frame, scram, startup};
use bytes::BytesMut;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(20);

/// A PostgreSQL server in a temporary directory, shared by the tests of a process that run at the same time.
pub struct Postgres {
    pub port: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Postgres {
    /// Users: `postgres` (superuser), `owner`, `app`, all with password `secret`; database `shop`.
    pub fn shared() -> Arc<Postgres> {
        static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(|e| e.into_inner());
        running.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Postgres::start());
            *running = Arc::downgrade(&new);
            new
        })
    }

    fn start() -> Postgres {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let user = own_to_postgres(dir.path());
        let password = dir.path().join("password");
        std::fs::write(&password, "secret").unwrap();
        let mut initdb = command("initdb", user);
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        initdb.arg("--pwfile").arg(&password).arg("-D").arg(&data);
        let done = initdb.output().unwrap();
        assert!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        let port = free_port();
        let mut server = command("postgres", user);
        server.arg("-D").arg(&data).arg("-k").arg(dir.path()).arg("-p").arg(port.to_string());
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=200", "log_min_messages=log"] {
            server.args(["-c", setting]);
        }
        let mut child = server.stderr(Stdio::piped()).spawn().unwrap();
        await_readiness(child.stderr.take().unwrap());
        let server = Postgres { port, child, _dir: dir };
        server.prepare();
        server
    }

    fn prepare(&self) {
        let mut client = Wire::connect(self.address(), "postgres", "secret", "postgres", &[]).unwrap();
        client.run("create role owner login password 'secret'");
        client.run("create role app login password 'secret'");
        client.run("create database shop owner owner");
        client.run("grant pg_signal_backend to owner");
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A direct connection.
    pub fn connect(&self, user: &str) -> Wire {
        Wire::connect(self.address(), user, "secret", "shop", &[]).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: the fast shutdown.
        let _ = Command::new("kill").arg("-INT").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Reads the server's log until it says that it is ready, and in a thread to its end, so that it never blocks.
fn await_readiness(log: std::process::ChildStderr) {
    let mut lines = BufReader::new(log).lines();
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
    assert!(ready, "PostgreSQL does not start");
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
}

/// PostgreSQL does not run as root. Returns the user and group to run as, where we are root.
fn own_to_postgres(dir: &Path) -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| -> Option<u32> {
        let out = Command::new("id").arg(flag).args(user).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    if id("-u", &[]) != Some(0) {
        return None;
    }
    let (uid, gid) = (id("-u", &["postgres"])?, id("-g", &["postgres"])?);
    std::os::unix::fs::chown(dir, Some(uid), Some(gid)).unwrap();
    Some((uid, gid))
}

fn command(program: &str, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(format!("{BIN}/{program}"));
    command.current_dir("/").stdout(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// The SQLSTATE of an ErrorResponse.
    pub fn sqlstate(&self) -> &str {
        ErrorFields::new(&self.body).sqlstate().unwrap_or("")
    }

    pub fn text(&self) -> String {
        ErrorFields::new(&self.body).message().into_owned()
    }

    /// One line. `lax`: without the error fields that the proxy scrubs or does not have.
    pub fn line(&self, lax: bool) -> String {
        let mut out = String::from(char::from(self.tag));
        if matches!(self.tag, b'E' | b'N') {
            for (code, value) in ErrorFields::new(&self.body) {
                // Line numbers of PostgreSQL's source are the same on both sides where the error is the server's.
                if !lax || !matches!(code, b'F' | b'L' | b'R' | b'P') {
                    let _ = write!(out, " {}={}", char::from(code), String::from_utf8_lossy(value));
                }
            }
            return out;
        }
        out.push(' ');
        for byte in &self.body {
            match byte {
                b' '..=b'~' => out.push(char::from(*byte)),
                other => {
                    let _ = write!(out, "\\{other:02x}");
                }
            }
        }
        out
    }
}

/// A raw client.
pub struct Wire {
    stream: TcpStream,
    inbox: BytesMut,
    out: BytesMut,
    pub process_id: u32,
    pub key: Vec<u8>,
    pub parameters: Vec<(String, String)>,
}

impl Wire {
    /// A socket, before anything was said.
    pub fn open(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream, inbox: BytesMut::new(), out: BytesMut::new(), process_id: 0, key: Vec::new(), parameters: Vec::new() })
    }

    pub fn connect(
        address: SocketAddr,
        user: &str,
        password: &str,
        database: &str,
        extra: &[(&str, &str)],
    ) -> Result<Wire, String> {
        Wire::connect_version(address, 0, user, password, database, extra)
    }

    /// # Errors
    /// `SQLSTATE: message` of the refusal, or of the socket.
    pub fn connect_version(
        address: SocketAddr,
        minor: u16,
        user: &str,
        password: &str,
        database: &str,
        extra: &[(&str, &str)],
    ) -> Result<Wire, String> {
        let mut wire = Wire::open(address).map_err(|e| e.to_string())?;
        let own = [("user", user), ("database", database)];
        startup::put_startup_version(&mut wire.out, minor, own.into_iter().chain(extra.iter().copied()));
        wire.flush();
        wire.log_in(password)?;
        Ok(wire)
    }

    /// From AuthenticationSASL to ReadyForQuery.
    pub fn log_in(&mut self, password: &str) -> Result<(), String> {
        let mut answered = None;
        loop {
            let message = self.read().ok_or("connection closed during login")?;
            match (message.tag, message.body.get(3)) {
                (b'R', Some(10)) => {
                    let (client, first) = scram::Client::start();
                    frontend::put_sasl_initial(&mut self.out, scram::MECHANISM, first.as_bytes());
                    answered = Some(client);
                }
                (b'R', Some(11)) => {
                    let server_first = std::str::from_utf8(&message.body[4..]).unwrap();
                    let (_, last) = answered.take().unwrap().answer(password, server_first).map_err(|e| e.to_string())?;
                    frontend::put_sasl_response(&mut self.out, last.as_bytes());
                }
                (b'R' | b'v' | b'N', _) => {}
                (b'K', _) => {
                    self.process_id = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.key = message.body[4..].to_vec();
                }
                (b'S', _) => {
                    let text = String::from_utf8(message.body).unwrap();
                    let mut parts = text.split('\0').map(str::to_owned);
                    self.parameters.push((parts.next().unwrap(), parts.next().unwrap()));
                }
                (b'E', _) => return Err(format!("{}: {}", message.sqlstate(), message.text())),
                (b'Z', _) => return Ok(()),
                (other, _) => return Err(format!("unexpected {}", char::from(other))),
            }
            self.flush();
        }
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// To be sent with the next flush.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends; a peer that has closed shows when reading.
    pub fn flush(&mut self) {
        let _ = self.stream.write_all(&self.out);
        self.out.clear();
    }

    /// The socket, to write from another thread.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// The next message; `None` at the end. Panics where nothing comes.
    pub fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = frame::take(&mut self.inbox, frame::CAP_SERVER).unwrap() {
                return Some(Message { tag: frame.tag, body: frame.body.to_vec() });
            }
            let mut chunk = [0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("nothing came in {PATIENCE:?}; half a message: {:?}", self.inbox)
                }
                Err(_) => return None,
            }
        }
    }

    /// All up to the first message of that type, which is the last; or up to the end.
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read() {
            let last = message.tag == tag;
            messages.push(message);
            if last {
                break;
            }
        }
        messages
    }

    /// As [`Wire::until`], but empty where nothing comes in the socket's timeout.
    pub fn poll(&mut self, tag: u8) -> Vec<Message> {
        let mut byte = [0];
        match self.stream.peek(&mut byte) {
            Ok(_) => self.until(tag),
            Err(_) => Vec::new(),
        }
    }

    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        frontend::put_query(&mut self.out, sql);
        self.flush();
        self.until(b'Z')
    }

    /// Runs what must succeed; the rows' first values.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> Vec<String> {
        let messages = self.query(sql);
        if let Some(error) = messages.iter().find(|m| m.tag == b'E') {
            panic!("{sql}: {} {}", error.sqlstate(), error.text());
        }
        assert_eq!(messages.last().map(|m| m.tag), Some(b'Z'), "{sql}");
        messages.iter().filter(|m| m.tag == b'D').map(first_value).collect()
    }

    /// Runs what must fail; the SQLSTATE.
    #[track_caller]
    pub fn fails(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let error = messages.iter().find(|m| m.tag == b'E');
        error.unwrap_or_else(|| panic!("{sql} did not fail")).sqlstate().to_owned()
    }

    /// The status byte of the last ReadyForQuery after `sql`.
    pub fn status(&mut self, sql: &str) -> char {
        self.query(sql).last().and_then(|m| m.body.first()).map_or('?', |b| char::from(*b))
    }

    /// Sends a CancelRequest with these keys on a connection of its own and waits for its end.
    pub fn cancel(address: SocketAddr, process_id: u32, key: &[u8]) {
        let mut wire = Wire::open(address).unwrap();
        startup::put_cancel_request(&mut wire.out, process_id, key);
        wire.flush();
        assert_eq!(wire.read(), None);
    }

    /// Bytes up to the end, not as messages.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.inbox.split().to_vec();
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        let mut one = [0];
        self.stream.read_exact(&mut one).ok().map(|()| one[0])
    }
}

fn first_value(row: &Message) -> String {
    let length = i32::from_be_bytes(row.body[2..6].try_into().unwrap());
    match usize::try_from(length) {
        Ok(length) => String::from_utf8_lossy(&row.body[6..6 + length]).into_owned(),
        Err(_) => "NULL".to_owned(),
    }
}

/// Runs a script; `connect` opens the connections. `lax`: see [`Message::line`].
pub fn run_script(script: &str, lax: bool, direct: &Postgres, connect: &dyn Fn() -> Wire) -> String {
    let mut wires: std::collections::BTreeMap<char, Wire> = Default::default();
    let mut transcript = String::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(sql) = line.strip_prefix("wait ") {
            wait_until(direct, sql);
            continue;
        }
        let (who, rest) = line.split_at(1);
        let (direction, rest) = rest.split_at(1);
        let who = who.chars().next().unwrap();
        let wire = wires.entry(who).or_insert_with(connect);
        match direction {
            ">" => send(wire, &words(rest)),
            "<" => {
                wire.flush();
                let _ = writeln!(transcript, "{line}");
                receive(wire, rest.trim(), lax, &mut transcript);
            }
            _ => panic!("script: {line}"),
        }
    }
    transcript
}

pub fn wait_until(direct: &Postgres, sql: &str) {
    let begun = Instant::now();
    let mut client = direct.connect("postgres");
    while client.run(sql).first().map(String::as_str) != Some("t") {
        assert!(begun.elapsed() < PATIENCE, "never true: {sql}");
        client.run("select pg_sleep(0.005)");
    }
}

fn receive(wire: &mut Wire, until: &str, lax: bool, transcript: &mut String) {
    let mut left: Vec<u8> = if until == "end" { Vec::new() } else { until.bytes().collect() };
    while until == "end" || !left.is_empty() {
        let Some(message) = wire.read() else {
            transcript.push_str("  end\n");
            return;
        };
        if left.first() == Some(&message.tag) {
            left.remove(0);
        }
        let _ = writeln!(transcript, "  {}", message.line(lax));
    }
}

/// Words; `"..."` is one, with `\n` and `\"` inside.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.peek() else { return words };
        let mut word = String::new();
        if *first == '"' {
            chars.next();
            loop {
                match chars.next().expect("script: unterminated text") {
                    '"' => break,
                    '\\' => match chars.next() {
                        Some('n') => word.push('\n'),
                        Some('t') => word.push('\t'),
                        Some(other) => word.push(other),
                        None => panic!("script: backslash at the end"),
                    },
                    other => word.push(other),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
        }
        words.push(word);
    }
}

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    text.as_bytes().chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

fn send(wire: &mut Wire, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let target = |kind: &str, name| if kind == "S" { Target::Statement(name) } else { Target::Portal(name) };
    let out = wire.out();
    match words.as_slice() {
        ["Q", text] => frontend::put_query(out, text),
        ["P", name, text, types @ ..] => {
            let types: Vec<u32> = types.iter().map(|t| t.parse().unwrap()).collect();
            frontend::put_parse(out, name, text, &types);
        }
        ["B", portal, statement, values @ ..] => put_bind(out, portal, statement, values),
        ["D", kind, name] => frontend::put_describe(out, target(kind, *name)),
        ["C", kind, name] => frontend::put_close(out, target(kind, *name)),
        ["E", portal, rows] => frontend::put_execute(out, portal, rows.parse().unwrap()),
        ["H"] => frontend::put_flush(out),
        ["S"] => frontend::put_sync(out),
        ["d", data] => frontend::put_copy_data(out, data.as_bytes()),
        ["c"] => frontend::put_copy_done(out),
        ["f", reason] => frontend::put_copy_fail(out, reason),
        ["F", oid] => {
            let mut body = oid.parse::<u32>().unwrap().to_be_bytes().to_vec();
            body.extend([0; 6]);
            frame::write(out, b'F', |out| out.extend_from_slice(&body));
        }
        ["X"] => frontend::put_terminate(out),
        ["raw", bytes] => out.extend_from_slice(&hex(bytes)),
        other => panic!("script: {other:?}"),
    }
}

fn put_bind(out: &mut BytesMut, portal: &str, statement: &str, values: &[&str]) {
    let result_formats: Formats = if values.contains(&"=1") { [Format::Binary].into_iter().collect() } else { Formats::new() };
    let values: Vec<&str> = values.iter().copied().filter(|v| *v != "=1").collect();
    let bytes: Vec<Option<Vec<u8>>> = (values.iter())
        .map(|v| match v.strip_prefix("b:") {
            Some(digits) => Some(hex(digits)),
            None => (*v != "null").then(|| v.as_bytes().to_vec()),
        })
        .collect();
    let format = |v: &&str| if v.starts_with("b:") { Format::Binary } else { Format::Text };
    let bind = Bind {
        portal,
        statement,
        formats: values.iter().map(format).collect(),
        values: bytes.iter().map(|v| v.as_deref()).collect(),
        result_formats,
    };
    frontend::put_bind(out, portal, statement, &bind, None).unwrap();
}

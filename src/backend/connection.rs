//! One authenticated connection to a server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::hashed::OfHashes;
use super::stream::{Address, Dialer, Stream, Waiting};
use super::{ConnectError, handshake};
use crate::error::{SqlError, sqlstate};
use crate::event::{Event, Events};
use crate::policy::lock::{IDENTITY_SQL, LockKey, SETTING};
use crate::principal::Tenant;
use crate::wire::backend::{self, ErrorFields, TransactionStatus, tag};
use crate::wire::{frame, frontend};
use crate::worker::{self, WorkerId};

/// From dialling to ready for queries.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How much is read at once, bytes.
const READ: usize = 16 * 1024;

/// What an idle connection keeps of its buffers, bytes.
const KEEP: usize = 4 * READ;

/// A server reports some fifteen parameters; one that reports more than this many names is not believed.
const MAX_PARAMETERS: usize = 1000;

/// Statements that a connection remembers to have prepared.
const MAX_PREPARED: usize = 200;

/// The settings that a session gave to a connection, by name: the connection's label. Sessions that have the same map share
/// it, so that most comparisons are of pointers. Empty: the role's defaults.
#[derive(Clone, Debug, Default)]
pub struct Settings(Arc<Shared>);

type Map = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Shared {
    map: Map,
    /// Of the cache's keys.
    shown: Box<[u8]>,
    /// Of statements that are prepared.
    read_by: Box<[u8]>,
}

/// Settings that no answer depends on.
const WITHOUT_EFFECT: [&str; 6] = [
    "application_name",
    "client_min_messages",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
];

/// Settings by which constants of a statement are read when it is parsed.
const READ_BY: [&str; 7] =
    ["datestyle", "default_text_search_config", "intervalstyle", "lc_monetary", "lc_numeric", "timezone", "xmloption"];

impl Shared {
    fn new(map: Map) -> Shared {
        let bytes_of = |wanted: &dyn Fn(&str) -> bool| {
            let mut bytes = vec![];
            for (name, value) in map.iter().filter(|(name, _)| wanted(name)) {
                for part in [name, value] {
                    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    bytes.extend_from_slice(part.as_bytes());
                }
            }
            bytes.into()
        };
        let shown = bytes_of(&|name| !WITHOUT_EFFECT.contains(&name));
        let read_by = bytes_of(&|name| READ_BY.contains(&name));
        Shared { map, shown, read_by }
    }
}

impl std::borrow::Borrow<Map> for ByMap {
    fn borrow(&self) -> &Map {
        &self.0.map
    }
}

/// Found by its map.
#[derive(Debug)]
struct ByMap(Arc<Shared>);

impl std::hash::Hash for ByMap {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.map.hash(state);
    }
}

impl PartialEq for ByMap {
    fn eq(&self, other: &Self) -> bool {
        self.0.map == other.0.map
    }
}

impl Eq for ByMap {}

/// Larger ones (bytes of names and values) are rare, and nobody's memory.
const MAX_SHARED: usize = 1 << 10;

/// The maps that sessions share, and how many may come before those that nobody has any more are looked for.
#[derive(Debug, Default)]
struct Known {
    maps: HashSet<ByMap>,
    until_swept: usize,
}

impl Known {
    fn share(&mut self, map: Map) -> Arc<Shared> {
        if let Some(known) = self.maps.get(&map) {
            return known.0.clone();
        }
        if self.until_swept == 0 {
            self.maps.retain(|known| Arc::strong_count(&known.0) > 1);
            self.maps.shrink_to(2 * self.maps.len());
            self.until_swept = 64 + self.maps.len() / 4;
        }
        self.until_swept -= 1;
        let new = Arc::new(Shared::new(map));
        self.maps.insert(ByMap(new.clone()));
        new
    }
}

impl Settings {
    pub fn new(map: Map) -> Self {
        static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
        if map.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_SHARED {
            return Settings(Arc::new(Shared::new(map)));
        }
        Settings(KNOWN.lock().unwrap_or_else(PoisonError::into_inner).share(map))
    }

    pub fn map(&self) -> &Map {
        &self.0.map
    }

    /// Those by which the server reads constants of a statement when it parses it, likewise.
    pub fn read_by(&self) -> &[u8] {
        &self.0.read_by
    }

    /// Those that the answer of a statement may depend on: equal ones have equal bytes, others others.
    pub fn shown(&self) -> &[u8] {
        &self.0.shown
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.map == other.0.map
    }
}

impl Eq for Settings {}

/// The tenant whose token a connection has (`policy::lock`): it follows transactions, as the setting that carries it does.
/// Noted when it is sent: where the server does not take it, the connection is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    now: Option<Tenant>,
    after: Option<Tenant>,
}

impl Lock {
    /// The tenant that statements run for now.
    pub fn now(&self) -> Option<&Tenant> {
        self.now.as_ref()
    }

    /// Whether the end of the transaction changes it.
    pub fn is_local(&self) -> bool {
        self.now != self.after
    }

    /// `local`: until the end of the transaction, however it ends.
    pub fn set(&mut self, tenant: Option<Tenant>, local: bool) {
        if !local {
            self.after.clone_from(&tenant);
        }
        self.now = tenant;
    }

    /// A transaction has ended.
    pub fn end_transaction(&mut self) {
        if self.is_local() {
            self.now.clone_from(&self.after);
        }
    }
}

/// The server's side of a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerProcess {
    pub address: Address,
    pub process_id: u32,
    /// A secret.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ServerProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerProcess({} at {:?})", self.process_id, self.address)
    }
}

/// An authenticated connection. Its user writes messages into `outbox` and calls [`Connection::flush`], calls
/// [`Connection::fill`] and reads messages out of `inbox`, and keeps the notes (`note_..`) true.
/// How long a connection that was given back counts as alive without being asked.
const MOMENT: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct Connection {
    id: u64,
    created_at: Instant,
    /// When it was given back last.
    rested_at: Option<Instant>,
    counted: Option<Counted>,
    stream: Stream,
    server: Arc<ServerProcess>,
    parameters: BTreeMap<String, String>,
    transaction_status: TransactionStatus,
    /// ReadyForQuery messages that are still to come.
    expected_ready: u32,
    /// Bytes were handed to TLS and may still be in it.
    flushing: bool,
    /// Read, not consumed.
    pub inbox: BytesMut,
    /// To be written.
    pub outbox: BytesMut,
    /// The label: what the settings on the server are. Changed when the server has confirmed the change; until then
    /// ReadyForQuery is still to come, so that the connection cannot be given back with a label that is not true.
    pub settings: Settings,
    /// What is prepared on the server.
    pub prepared: Prepared,
    /// Whom the server shows its rows to, where the second lock is used.
    pub lock: Lock,
    /// What tokens of the second lock are bound to; empty until [`Connection::identify`].
    identity: String,
    /// The thread whose reactor watches it.
    home: WorkerId,
}

/// Dropped with its connection.
#[derive(Debug)]
struct Counted(Events);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.emit(Event::BackendClosed);
    }
}

impl Connection {
    /// Dials, logs in, and checks that the server is one that can be worked with. `startup`: settings for the startup message;
    /// empty for a connection that is shared.
    ///
    /// # Errors
    /// [`ConnectError`]; at the latest after 10 s.
    pub async fn connect(dialer: &Dialer, id: u64, startup: &Settings) -> Result<Self, ConnectError> {
        let connecting = async {
            let (stream, address) = dialer.dial().await?;
            let mut connection = Connection::new(stream, address, id);
            handshake::run(&mut connection, dialer.upstream(), startup).await?;
            Ok(connection)
        };
        tokio::time::timeout(CONNECT_DEADLINE, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    fn new(stream: Stream, address: Address, id: u64) -> Self {
        Connection {
            id,
            created_at: Instant::now(),
            rested_at: None,
            counted: None,
            stream,
            server: Arc::new(ServerProcess { address, process_id: 0, key: Vec::new() }),
            parameters: BTreeMap::new(),
            transaction_status: TransactionStatus::Idle,
            expected_ready: 0,
            flushing: false,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            settings: Settings::default(),
            prepared: Prepared::default(),
            lock: Lock::default(),
            identity: String::new(),
            home: worker::here(),
        }
    }

    /// The thread whose reactor watches it.
    pub fn home(&self) -> WorkerId {
        self.home
    }

    /// Lets the reactor of the thread that calls watch it.
    ///
    /// # Errors
    /// The stream's: the connection cannot be used any more.
    pub fn come_here(&mut self) -> io::Result<()> {
        let here = worker::here();
        if self.home != here {
            self.stream.register_here()?;
            self.home = here;
        }
        Ok(())
    }

    /// Counted from 1 by the pool.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn created_at(&self) -> Instant {
        self.created_at
    }

    /// Tells that it is open, and when it is closed.
    pub fn count(&mut self, events: &Events) {
        events.emit(Event::BackendOpened);
        self.counted = Some(Counted(events.clone()));
    }

    /// When it was given back last, or made.
    pub fn idle_since(&self) -> Instant {
        self.rested_at.unwrap_or(self.created_at)
    }

    /// The server's side of the connection, as a cancel names it.
    pub fn server(&self) -> &Arc<ServerProcess> {
        &self.server
    }

    pub(super) fn set_cancel_key(&mut self, process_id: u32, key: &[u8]) {
        self.server = Arc::new(ServerProcess { address: self.server.address.clone(), process_id, key: key.to_vec() });
    }

    /// ParameterStatus values, as last reported.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// To be called for every ParameterStatus.
    pub fn note_parameter(&mut self, name: &str, value: &str) {
        if let Some(known) = self.parameters.get_mut(name) {
            value.clone_into(known);
        } else if self.parameters.len() < MAX_PARAMETERS {
            self.parameters.insert(name.to_owned(), value.to_owned());
        }
    }

    /// What the last ReadyForQuery said.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.transaction_status
    }

    /// To be called for every Query and Sync that is put into `outbox`: one more ReadyForQuery is to come.
    pub fn expect_ready(&mut self) {
        self.expected_ready += 1;
    }

    /// How many ReadyForQuery are still to come. INVARIANT (KNOWN-STATE): a connection goes back only at 0.
    pub fn expected_ready(&self) -> u32 {
        self.expected_ready
    }

    /// To be called for every ReadyForQuery.
    ///
    /// # Errors
    /// 08P01: none was to come; the connection is one answer ahead and must be closed.
    pub fn note_ready(&mut self, status: TransactionStatus) -> Result<(), SqlError> {
        let left = self.expected_ready.checked_sub(1);
        self.expected_ready = left.ok_or_else(|| SqlError::new(sqlstate::PROTOCOL_VIOLATION, "unexpected ReadyForQuery"))?;
        self.transaction_status = status;
        Ok(())
    }

    /// Whether nothing is under way and no transaction is open.
    pub fn is_at_rest(&self) -> bool {
        self.transaction_status == TransactionStatus::Idle
            && self.expected_ready == 0
            && self.inbox.is_empty()
            && self.outbox.is_empty()
            && !self.flushing
    }

    /// Reads into `inbox`; 0: the server closed. Cancel-safe.
    ///
    /// # Errors
    /// The stream's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.inbox.reserve(READ);
        self.stream.read_buf(&mut self.inbox).await
    }

    /// Writes all of `outbox`. Cancel-safe: what was not written stays in it. Reads nothing meanwhile: where the server may
    /// answer more than the sockets hold before it takes all, use [`Connection::exchange`].
    ///
    /// # Errors
    /// The stream's.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            self.flushing = true;
            if self.stream.write_buf(&mut self.outbox).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.flushing {
            self.stream.flush().await?;
            self.flushing = false;
        }
        Ok(())
    }

    /// Whether something is left to write.
    pub fn has_output(&self) -> bool {
        self.flushing || !self.outbox.is_empty()
    }

    /// Writes and reads at once, so that two peers that both wait to be read cannot wait for ever. Cancel-safe.
    ///
    /// # Errors
    /// The stream's.
    pub async fn exchange(&mut self) -> io::Result<Progress> {
        let had_output = self.has_output();
        poll_fn(|cx| {
            while !self.outbox.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, &self.outbox) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => self.outbox.advance(written),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
                self.flushing = true;
            }
            if self.flushing && self.outbox.is_empty() {
                match Pin::new(&mut self.stream).poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.flushing = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            self.inbox.reserve(READ);
            // A read that is polled once and dropped loses nothing; the stream keeps the waker.
            match pin!(self.stream.read_buf(&mut self.inbox)).poll(cx) {
                Poll::Ready(Ok(0)) => Poll::Ready(Ok(Progress::Closed)),
                Poll::Ready(Ok(count)) => Poll::Ready(Ok(Progress::Read(count))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending if had_output && !self.has_output() => Poll::Ready(Ok(Progress::Flushed)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Notes that it is given back.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rested_at = Some(now);
    }

    /// Whether it can be lent without a question to the kernel: it answered a moment ago, and is taken at its word.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.rested_at.is_some_and(|at| now.saturating_duration_since(at) < MOMENT) && self.is_at_rest()
    }

    /// Whether an idle connection is alive, as far as this side can know without a round trip. What the server may send to
    /// an idle client (new settings, notices) is taken in; anything else, and the connection is not to be used.
    pub async fn is_healthy(&mut self) -> bool {
        if self.is_fresh(Instant::now()) {
            return true;
        }
        loop {
            match self.stream.waiting() {
                Waiting::End => return false,
                Waiting::Nothing => return self.is_at_rest(),
                Waiting::Input => {}
            }
            match tokio::time::timeout(Duration::from_millis(100), self.fill()).await {
                Ok(Ok(count)) if count > 0 && self.absorb() => {}
                Ok(Ok(_) | Err(_)) | Err(_) => return false,
            }
        }
    }

    /// Takes in what an idle server may send. `false`: there was something else.
    fn absorb(&mut self) -> bool {
        while let Ok(Some(message)) = frame::take(&mut self.inbox, frame::CAP_SERVER_STARTUP) {
            match message.tag {
                tag::NOTICE => {}
                tag::PARAMETER_STATUS => match backend::parse_parameter_status(&message.body) {
                    Ok((name, value)) => self.note_parameter(name, value),
                    Err(_) => return false,
                },
                _ => return false,
            }
        }
        self.inbox.is_empty()
    }

    /// Gives memory back before a time of idleness.
    pub fn shrink(&mut self) {
        frame::shrink(&mut self.inbox, KEEP);
        frame::shrink(&mut self.outbox, KEEP);
    }

    /// Runs one of the proxy's own queries by the simple protocol and returns its rows.
    ///
    /// # Errors
    /// The server's own error as 08006 with its text; a broken connection or protocol. The connection must be closed then.
    pub async fn query(&mut self, sql: &'static str) -> Result<Vec<Vec<Option<String>>>, SqlError> {
        self.ask(sql).await
    }

    /// Asks what tokens of the second lock are bound to. The connection must be at rest.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn identify(&mut self) -> Result<(), SqlError> {
        let rows = self.query(IDENTITY_SQL).await?;
        self.identity = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten().unwrap_or_default();
        Ok(())
    }

    /// Writes the statement that makes this connection speak for `tenant`, or for nobody.
    pub fn write_lock(&self, key: &LockKey, tenant: Option<&Tenant>, local: bool, out: &mut String) {
        // A token without an identity opens nothing.
        let token = tenant.map_or_else(String::new, |tenant| key.token(&self.identity, tenant));
        out.push_str("SELECT pg_catalog.set_config('");
        out.push_str(SETTING);
        out.push_str("','");
        out.push_str(&token.replace('\'', "''"));
        out.push_str(if local { "',true)" } else { "',false)" });
    }

    /// As [`Connection::query`]; `sql` is the proxy's own, put together from literals.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, SqlError> {
        frontend::put_query(&mut self.outbox, sql);
        self.expect_ready();
        let lost = |_| SqlError::new(sqlstate::CONNECTION_FAILURE, "lost the connection to the upstream server");
        self.flush().await.map_err(lost)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let Some(message) = frame::take(&mut self.inbox, frame::CAP_SERVER)? else {
                if self.fill().await.map_err(lost)? == 0 {
                    return Err(lost(io::ErrorKind::UnexpectedEof.into()));
                }
                continue;
            };
            match message.tag {
                tag::DATA_ROW => rows.push(text_row(&message.body)?),
                tag::ERROR => failure = Some(server_error(&message.body)),
                tag::PARAMETER_STATUS => {
                    let (name, value) = backend::parse_parameter_status(&message.body)?;
                    self.note_parameter(name, value);
                }
                tag::READY_FOR_QUERY => {
                    self.note_ready(TransactionStatus::parse(&message.body)?)?;
                    return failure.map_or(Ok(rows), Err);
                }
                tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY | tag::NOTICE => {}
                _ => return Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, "unexpected message from the upstream server")),
            }
        }
    }

    /// Says goodbye, so that the server does not log a lost client. Only at rest: after half a message, it would be read as
    /// the rest of it.
    pub async fn terminate(mut self) {
        if self.is_at_rest() {
            frontend::put_terminate(&mut self.outbox);
            // The connection ends either way.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.flush()).await;
        }
    }
}

fn text_row(body: &[u8]) -> Result<Vec<Option<String>>, SqlError> {
    let text = |value: Option<&[u8]>| value.map(|v| crate::wire::cursor::utf8(v).map(str::to_owned)).transpose();
    backend::parse_data_row(body)?.into_iter().map(text).collect()
}

fn server_error(body: &[u8]) -> SqlError {
    let fields = ErrorFields::new(body);
    let text = format!("the upstream server says: {} (SQLSTATE {})", fields.message(), fields.sqlstate().unwrap_or("unknown"));
    // What a later attempt may change is told apart.
    let is_locked = fields.sqlstate() == Some(sqlstate::LOCK_NOT_AVAILABLE.0);
    SqlError::new(if is_locked { sqlstate::LOCK_NOT_AVAILABLE } else { sqlstate::CONNECTION_FAILURE }, text)
}

/// What [`Connection::exchange`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are new in `inbox`; `outbox` may still hold some.
    Read(usize),
    /// All is written; nothing was read.
    Flushed,
    /// The server closed.
    Closed,
}

/// Which statements are prepared on a connection, the least recently used first to go. An entry is made when the server
/// confirmed (ParseComplete), never before. The key is a keyed hash of what was prepared, long enough to be its identity.
#[derive(Debug, Default)]
pub struct Prepared {
    last_use: HashMap<u128, u64, OfHashes>,
    by_use: BTreeMap<u64, u128>,
    clock: u64,
}

impl Prepared {
    /// Whether the statement is prepared; marks it as used.
    pub fn touch(&mut self, statement: u128) -> bool {
        let Some(last) = self.last_use.get_mut(&statement) else { return false };
        self.by_use.remove(last);
        self.clock += 1;
        *last = self.clock;
        self.by_use.insert(self.clock, statement);
        true
    }

    /// Notes that the statement is prepared now. Returns one that the caller must close on the server, if there are too many.
    #[must_use = "the evicted statement must be closed on the server"]
    pub fn insert(&mut self, statement: u128) -> Option<u128> {
        if self.touch(statement) {
            return None;
        }
        self.clock += 1;
        self.last_use.insert(statement, self.clock);
        self.by_use.insert(self.clock, statement);
        if self.last_use.len() <= MAX_PREPARED {
            return None;
        }
        let (_, oldest) = self.by_use.pop_first()?;
        self.last_use.remove(&oldest);
        Some(oldest)
    }

    /// Notes that the statement is no longer prepared.
    pub fn remove(&mut self, statement: u128) {
        if let Some(last) = self.last_use.remove(&statement) {
            self.by_use.remove(&last);
        }
    }

    pub fn clear(&mut self) {
        *self = Prepared::default();
    }

    /// Whether one more would be one too many.
    pub fn is_full(&self) -> bool {
        self.last_use.len() >= MAX_PREPARED && !crate::mutant!("lookup.evicts-others")
    }

    pub fn len(&self) -> usize {
        self.last_use.len()
    }

    pub fn is_empty(&self) -> bool {
        self.last_use.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut prepared = Prepared::default();
        for statement in 0..MAX_PREPARED as u128 {
            assert_eq!(prepared.insert(statement), None);
        }
        assert!(prepared.touch(0));
        assert_eq!(prepared.insert(1000), Some(1));
        assert!(!prepared.touch(1) && prepared.touch(0) && prepared.touch(1000));
        prepared.remove(2);
        assert_eq!(prepared.insert(1001), None);
        assert_eq!(prepared.len(), MAX_PREPARED);
    }

    #[test]
    fn labels_are_equal_by_content() {
        let map = || BTreeMap::from([("TimeZone".to_owned(), "UTC".to_owned())]);
        assert_eq!(Settings::new(map()), Settings::new(map()));
        assert!(Arc::ptr_eq(&Settings::new(map()).0, &Settings::new(map()).0));
        assert_ne!(Settings::new(map()), Settings::default());
        let large = || BTreeMap::from([("application_name".to_owned(), "x".repeat(MAX_SHARED))]);
        assert_eq!(Settings::new(large()), Settings::new(large()));
    }

    #[test]
    fn what_nobody_has_any_more_is_not_kept() {
        let map = |n: usize| BTreeMap::from([("application_name".to_owned(), n.to_string())]);
        let mut known = Known::default();
        let held: Vec<_> = (0..3000).map(|n| known.share(map(n))).collect();
        assert_eq!(known.maps.len(), 3000);
        drop(held);
        (3000..6000).for_each(|n| drop(known.share(map(n))));
        assert!(known.maps.len() < 200 && known.maps.capacity() < 1000, "{} of {}", known.maps.len(), known.maps.capacity());
    }
}

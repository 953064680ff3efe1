//! An unrestricted user's session (UNRESTRICTED): one backend for its whole life, messages passed on as they came.
//!
//! Only headers are looked at. What cannot be passed on is a FunctionCall (its arguments reach functions past any review) and
//! bytes that are no message at all. After the session the backend is closed: what it holds cannot be known.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Buf;

use super::drive::{DrainWatch, HIGH, Happened, Wants, drive};
use super::poison;
use super::relayed::Recorder;
use super::shared::{Database, Drain, Shared};
use super::startup::Established;
use crate::backend::pool::{Lease, Pool};
use crate::cache::WrittenRows;
use crate::cache::doubt;
use crate::cache::tags::Intent;
use crate::error::{SqlError, sqlstate};
use crate::id::PolicyEpoch;
use crate::plan::Writes;
use crate::policy::limits::Change;
use crate::sql::change;
use crate::wire::backend::{self as reply, ErrorFields, TransactionStatus, tag};
use crate::wire::{frame, frontend};

/// Serves the client until it leaves, or the server does.
pub async fn serve(established: Established, shared: &Shared, pool: &Pool) {
    let Established { mut client, settings, registration, database, trail, principal, .. } = established;
    let slot = registration.slot().clone();
    let mut lease = match pool.lease_own(settings.base()).await {
        Ok(lease) => lease,
        Err(error) => {
            let error = SqlError { severity: crate::error::Severity::Fatal, ..error };
            reply::put_error(&mut client.outbox, &error);
            return client.close().await;
        }
    };
    slot.set_backend(lease.cancel_handle());
    for (name, value) in lease.parameters() {
        reply::put_parameter_status(&mut client.outbox, name, value);
    }
    reply::put_key_data(&mut client.outbox, registration.pid(), registration.key());
    reply::put_ready(&mut client.outbox, TransactionStatus::Idle);
    let mut relay = Relay {
        max_message: shared.limits.max_message,
        up: frame::Passage::default(),
        down: frame::Passage::default(),
        status: TransactionStatus::Idle,
        awaited: 0,
        refused: Vec::new(),
        ddl: false,
        rows: Cell::new(false),
        simple: false,
        unsynced: false,
        intent: None,
        database,
        recorder: Recorder::new(trail),
        user: principal.user,
        ticket: None,
        watched: None,
        misread: lease.parameters().iter().any(|(name, value)| reads_otherwise(name, value)),
    };
    let mut drain = DrainWatch::new(&shared.drain);
    let end = relay.run(&mut client, &mut lease, &mut drain).await;
    relay.end_intent(&lease, pool);
    if relay.awaited > 0 && end == End::Client {
        // Nobody waits for the answer any more.
        slot.cancel().await;
    }
    slot.clear();
    match end {
        End::Client => lease_terminate(lease).await,
        End::Refused(error) => reply::put_error(&mut client.outbox, &error),
        End::Server => {}
        End::Lost => {
            let error = SqlError::fatal(sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly");
            reply::put_error(&mut client.outbox, &error);
        }
    }
    // After half a message, what we add would be read as the rest of it.
    if relay.down.is_inside() {
        client.outbox.clear();
    }
    client.close().await;
}

/// Says goodbye, so that the server does not log a lost client, and closes.
async fn lease_terminate(mut lease: Lease) {
    if lease.outbox.is_empty() {
        frontend::put_terminate(&mut lease.outbox);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), lease.flush()).await;
    }
}

/// A longer query string (bytes) is not read to see whether it writes.
const LONGEST_READ: usize = 16 << 10;

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client left.
    Client,
    /// The client is told why it cannot stay.
    Refused(SqlError),
    /// The server ended it and has said why.
    Server,
    /// The server's connection broke.
    Lost,
}

struct Relay {
    max_message: usize,
    /// Client to server.
    up: frame::Passage,
    /// Server to client.
    down: frame::Passage,
    /// As the server said last.
    status: TransactionStatus,
    /// ReadyForQuery messages that may still come. Not exact: COPY swallows Sync. Only for what to do when the client is gone.
    awaited: u32,
    /// Errors for the poison that is under way, in order.
    refused: Vec<SqlError>,
    /// Definitions were changed in the transaction.
    ddl: bool,
    /// The statement under way has described or sent rows.
    rows: Cell<bool>,
    /// The last of the client's messages was a query string, whose rows are always described.
    simple: bool,
    /// Something was passed on since the last message that brings a ReadyForQuery.
    unsynced: bool,
    /// To the result cache, all that such a user does is a write of everything.
    intent: Option<Intent>,
    database: Arc<Database>,
    recorder: Recorder,
    user: Arc<str>,
    /// Why it changes definitions, as it has said.
    ticket: Option<String>,
    /// Whether policies say when it may, and as of when.
    watched: Option<(PolicyEpoch, bool)>,
    /// The server may read texts otherwise than they are read here: what they do is not known.
    misread: bool,
}

impl Relay {
    async fn run(&mut self, client: &mut super::socket::Client, lease: &mut Lease, drain: &mut DrainWatch) -> End {
        loop {
            match self.downstream(client, lease).await {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => {
                    tracing::warn!(%error, "the server broke the protocol");
                    return End::Lost;
                }
            }
            match self.upstream(client, lease) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => return End::Refused(error),
            }
            let idle = self.awaited == 0 && self.status == TransactionStatus::Idle;
            match drain.seen() {
                Drain::Gently if idle => return End::Refused(going_down()),
                Drain::Now => return End::Refused(going_down()),
                Drain::No | Drain::Gently => {}
            }
            // Before anything is passed on, or told.
            if let Err(error) = self.recorder.recorded().await {
                client.outbox.clear();
                return End::Refused(SqlError { severity: crate::error::Severity::Fatal, ..error });
            }
            let wants = Wants { client: lease.outbox.len() < HIGH };
            match drive(client, Some(&mut *lease), wants, drain).await {
                Happened::Client | Happened::Server | Happened::Drain(_) => {}
                Happened::ClientGone => return End::Client,
                Happened::ServerGone => return End::Lost,
            }
        }
    }

    /// Passes the server's messages on.
    async fn downstream(&mut self, client: &mut super::socket::Client, lease: &mut Lease) -> Result<Option<End>, SqlError> {
        let recording = self.recorder.is_on();
        loop {
            let interesting = |tag| {
                if matches!(tag, tag::ROW_DESCRIPTION | tag::DATA_ROW) {
                    self.rows.set(true);
                }
                matches!(tag, tag::ERROR | tag::READY_FOR_QUERY | tag::COMMAND_COMPLETE) || recording && Recorder::hears(tag)
            };
            let plain = self.down.advance(&lease.inbox, frame::CAP_SERVER, interesting)?;
            self.recorder.pass(plain);
            if plain == lease.inbox.len() && client.outbox.is_empty() {
                // All of it, and nothing before it: no copy.
                std::mem::swap(&mut lease.inbox, &mut client.outbox);
            } else {
                client.outbox.extend_from_slice(&lease.inbox[..plain]);
                lease.inbox.advance(plain);
            }
            if self.down.is_inside() {
                return Ok(None);
            }
            let Some(message) = frame::take(&mut lease.inbox, frame::CAP_SERVER)? else { return Ok(None) };
            if !(message.tag == tag::ERROR && poison::is_poison(&message.body)) {
                self.recorder.answer(message.tag, &message.body);
            }
            match message.tag {
                tag::READY_FOR_QUERY => {
                    self.rows.set(false);
                    self.status = TransactionStatus::parse(&message.body)?;
                    self.awaited = self.awaited.saturating_sub(1);
                    if self.awaited == 0 && !self.unsynced {
                        self.refused.clear();
                    }
                    let changed = self.ddl && self.status == TransactionStatus::Idle;
                    if changed {
                        self.ddl = false;
                        self.database.gate.changed();
                    }
                    self.has_ended(changed);
                }
                tag::COMMAND_COMPLETE => {
                    let shown = self.rows.replace(false);
                    self.ddl |= changes_definitions(&message.body) || !shown && has_made_a_table(&message.body, self.simple);
                    // Of several in one string the client hears before ReadyForQuery.
                    if self.ddl && message.body.starts_with(b"COMMIT") {
                        self.database.gate.changed();
                    }
                }
                tag::ERROR if poison::is_poison(&message.body) => {
                    if let Some(error) = (!self.refused.is_empty()).then(|| self.refused.remove(0)) {
                        reply::put_error(&mut client.outbox, &error);
                    }
                    continue;
                }
                _ => {}
            }
            let fatal = message.tag == tag::ERROR && ErrorFields::new(&message.body).is_fatal();
            frame::write(&mut client.outbox, message.tag, |out| out.extend_from_slice(&message.body));
            if fatal {
                return Ok(Some(End::Server));
            }
        }
    }

    /// Before anything is passed on.
    fn intend(&mut self) {
        if let (None, Some(cache)) = (&self.intent, &self.database.cache) {
            let mut intent = cache.intend();
            cache.widen(&mut intent, &Writes::Everything, &WrittenRows::default(), None);
            self.intent = Some(intent);
        }
    }

    /// Whether a query string, which is at the beginning of the inbox, is known not to write.
    fn only_reads(&self, inbox: &[u8], frame: usize) -> bool {
        if self.database.cache.is_none() || self.intent.is_some() || frame > LONGEST_READ || self.misread {
            return false;
        }
        let text = inbox.get(frame::HEADER..frame).and_then(|body| body.strip_suffix(&[0]));
        text.and_then(|text| std::str::from_utf8(text).ok()).is_some_and(|text| self.database.gate.only_reads(text))
    }

    /// Passes on the message that the inbox begins with, as far as it is there.
    fn pass_one(&mut self, client: &mut super::socket::Client, lease: &mut Lease) -> Result<(), SqlError> {
        let past_it = Cell::new(false);
        let plain = self.up.advance(&client.inbox, self.max_message, |_| past_it.replace(true))?;
        lease.outbox.extend_from_slice(&client.inbox[..plain]);
        client.inbox.advance(plain);
        Ok(())
    }

    /// A ReadyForQuery has come. `changed`: definitions have.
    fn has_ended(&mut self, changed: bool) {
        if changed && let Some(intent) = self.intent.take() {
            // What is under way is still to come to its end.
            if !self.is_at_rest() {
                self.intend();
            }
            if let Some(cache) = &self.database.cache {
                cache.end_with_others(intent);
            }
        } else if self.is_at_rest()
            && let Some(intent) = self.intent.take()
        {
            intent.end();
        }
    }

    /// Whether the outcome of all that was passed on is known.
    fn is_at_rest(&self) -> bool {
        self.awaited == 0 && self.status == TransactionStatus::Idle && !self.unsynced
    }

    /// The connection is about to be lost.
    fn end_intent(&mut self, lease: &Lease, pool: &Pool) {
        if let Some(intent) = self.intent.take() {
            doubt::settle(intent, lease.server().process_id, pool.clone());
        }
    }

    /// Passes the client's messages on.
    fn upstream(&mut self, client: &mut super::socket::Client, lease: &mut Lease) -> Result<Option<End>, SqlError> {
        if client.inbox.is_empty() {
            return Ok(None);
        }
        let (recording, is_watched) = (self.recorder.is_on(), self.is_watched());
        while lease.outbox.len() < HIGH {
            let reads = is_watched || self.database.cache.is_some() && !self.misread;
            let asks = Cell::new(false);
            let interesting = |tag| {
                // Data of a COPY belongs to the statement before it.
                if matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C' | b'H') {
                    asks.set(true);
                }
                !matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'd' | b'c' | b'f')
                    || recording && matches!(tag, b'P' | b'B' | b'E' | b'C' | b'c' | b'f')
                    || reads && tag == b'P'
            };
            let plain = self.up.advance(&client.inbox, self.max_message, interesting)?;
            self.unsynced |= asks.get();
            if plain > 0 {
                self.intend();
            }
            lease.outbox.extend_from_slice(&client.inbox[..plain]);
            client.inbox.advance(plain);
            if self.up.is_inside() {
                return Ok(None);
            }
            let Some(header) = frame::peek(&client.inbox, self.max_message)? else { return Ok(None) };
            if !self.recorder.sees(&client.inbox, header.frame()) {
                return Ok(None);
            }
            let length = header.frame();
            if matches!(header.tag, b'Q' | b'P') && !self.sees_reading(&client.inbox, length) {
                return Ok(None);
            }
            if is_watched && matches!(header.tag, b'Q' | b'P') {
                if client.inbox.len() < length.min(LONGEST_CHANGE) {
                    return Ok(None);
                }
                if let Err(error) = self.check_change(&client.inbox[..length.min(client.inbox.len())], length) {
                    let Some(message) = frame::take(&mut client.inbox, self.max_message)? else { return Ok(None) };
                    self.recorder.refuse(&error, message.tag == b'Q');
                    self.refused.push(error);
                    poison::put(&mut lease.outbox);
                    self.unsynced = message.tag == b'P';
                    if message.tag == b'Q' {
                        frontend::put_sync(&mut lease.outbox);
                        self.awaited += 1;
                    }
                    continue;
                }
            }
            self.recorder.take(header.tag, &client.inbox[..length.min(client.inbox.len())], length)?;
            match header.tag {
                b'P' | b'B' | b'E' | b'C' | b'c' | b'f' => {
                    self.intend();
                    self.pass_one(client, lease)?;
                }
                b'Q' | b'S' => {
                    self.simple = header.tag == b'Q';
                    self.unsynced = false;
                    if header.tag == b'S' || !self.only_reads(&client.inbox, header.frame()) {
                        self.intend();
                    }
                    // Counted at its header; its text is passed on as it comes.
                    self.awaited += 1;
                    self.pass_one(client, lease)?;
                }
                b'F' => {
                    let Some(_) = frame::take(&mut client.inbox, self.max_message)? else { return Ok(None) };
                    self.refused.push(function_call_refused());
                    poison::put(&mut lease.outbox);
                    frontend::put_sync(&mut lease.outbox);
                    self.awaited += 1;
                }
                b'X' => return Ok(Some(End::Client)),
                other => return Err(unknown_message(other)),
            }
        }
        Ok(None)
    }
}

/// A longer text (bytes) is taken for one that changes definitions.
const LONGEST_CHANGE: usize = 1 << 20;

impl Relay {
    /// Notes whether a text changes how the next ones are read. `false`: not enough of it is there to tell.
    fn sees_reading(&mut self, inbox: &[u8], length: usize) -> bool {
        if self.misread || self.database.cache.is_none() && self.watched.is_none_or(|(_, watched)| !watched) {
            return true;
        }
        let wanted = length.min(LONGEST_CHANGE);
        if inbox.len() < wanted {
            return false;
        }
        let text = text_of(&inbox[..wanted]).filter(|_| length <= LONGEST_CHANGE);
        self.misread = text.is_none_or(change::may_change_reading);
        true
    }

    /// Whether policies say when it may change definitions.
    fn is_watched(&mut self) -> bool {
        let epoch = self.database.gate.epoch();
        match self.watched {
            Some((as_of, watched)) if as_of == epoch => watched,
            Some(_) | None => {
                let watched = self.database.gate.may_change(&self.user, false) != Change::Free;
                self.watched = Some((epoch, watched));
                watched
            }
        }
    }

    /// What a user sends for whom policies say when definitions may be changed: a message of so many bytes, as far as it is looked at.
    ///
    /// # Errors
    /// 42501: not now, or not without a ticket.
    fn check_change(&mut self, message: &[u8], length: usize) -> Result<(), SqlError> {
        let text = text_of(message).filter(|_| message.len() == length);
        let kind =
            text.filter(|_| !self.misread || crate::mutant!("watch.read-as-usual")).map_or(change::Kind::Changes, change::kind);
        match kind {
            change::Kind::Leaves => Ok(()),
            // What is only parsed, or may be rolled back, says nothing yet.
            change::Kind::Ticket(ticket)
                if !ticket.is_empty()
                    && (message.first() != Some(&b'Q') || self.status != TransactionStatus::Idle || self.awaited > 0) =>
            {
                Ok(())
            }
            change::Kind::Ticket(ticket) => {
                self.recorder.note("ticket", &ticket);
                self.ticket = Some(ticket).filter(|ticket| !ticket.trim().is_empty());
                Ok(())
            }
            change::Kind::Changes => match self.database.gate.may_change(&self.user, self.ticket.is_some()) {
                Change::Free | Change::Open => Ok(()),
                Change::Closed => Err(not_now("definitions may not be changed now: a policy ([[window]]) says when")),
                Change::NeedsTicket => {
                    Err(not_now("definitions may be changed only for a ticket").with_hint("SET bulkhead.ticket = 'CHG-1'"))
                }
            },
        }
    }
}

/// The statement's text of a Query or Parse, whose other parts (types of parameters) are no text. `None`: it is not UTF-8.
fn text_of(message: &[u8]) -> Option<&str> {
    let mut parts = message.get(frame::HEADER..)?.split(|b| *b == 0);
    let text = if message.first() == Some(&b'P') { parts.nth(1) } else { parts.next() };
    text.and_then(|text| std::str::from_utf8(text).ok())
}

/// Whether a server that reports this reads texts otherwise than they are read here.
fn reads_otherwise(name: &str, value: &str) -> bool {
    match name {
        "standard_conforming_strings" => value != "on",
        "client_encoding" => !value.eq_ignore_ascii_case("UTF8"),
        _ => false, // tidy: not a syntax kind
    }
}

fn not_now(message: &'static str) -> SqlError {
    SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
}

/// Whether the SELECT that this command tag tells of, which has shown no rows, was CREATE TABLE AS, SELECT INTO or CREATE MATERIALIZED
/// VIEW. One of no rows by the extended protocol does not say: what it made is known within a second.
fn has_made_a_table(command_tag: &[u8], simple: bool) -> bool {
    command_tag.strip_prefix(b"SELECT ").is_some_and(|count| simple || !count.starts_with(b"0"))
}

/// Whether a command tag tells of a change to definitions, as far as it does: functions that make one do not say. DO and CALL may
/// have.
fn changes_definitions(command_tag: &[u8]) -> bool {
    const WORDS: [&[u8]; 11] =
        [b"CREATE", b"ALTER", b"DROP", b"GRANT", b"REVOKE", b"IMPORT", b"REASSIGN", b"REFRESH", b"SECURITY", b"DO", b"CALL"];
    let word = command_tag.split(|b| matches!(b, b' ' | 0)).next().unwrap_or_default();
    WORDS.contains(&word) || command_tag.starts_with(b"COMMIT PREPARED")
}

pub(super) fn going_down() -> SqlError {
    SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

pub(super) fn function_call_refused() -> SqlError {
    SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, "function call messages are not supported")
        .with_hint("use SELECT function(..)")
}

pub(super) fn unknown_message(tag: u8) -> SqlError {
    SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, format!("invalid frontend message type {tag}"))
}

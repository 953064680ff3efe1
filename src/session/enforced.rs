//! A tenant's session: every statement is reviewed, backends are shared by transaction.
//!
//! One batch at a time: after Query or Sync nothing more is taken from the client until ReadyForQuery has come, so that the
//! transaction's state is known when the next message is judged. Within a batch messages go up as they come; what is to come
//! back stands in a queue, in which the proxy's own replies have their place too.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use smallvec::SmallVec;

use super::cached::Sought;
use super::copy::Copying;
use super::declared::Declared;
use super::drive::{DrainWatch, HIGH, Happened, Wants, drive};
use super::expect::{Expected, Queue};
use super::recorded::KnownStatements;
use super::settings::{self, Settings, Tracker};
use super::shared::{Database, Drain, Login, Place, Report, Shared};
use super::socket::Client;
use super::startup::Established;
use super::statements::{Names, Under};
use super::tenant::Choice;
use super::unrestricted::going_down;
use super::usual::Own;
use super::{poison, prelude};

use crate::audit::Trail;
use crate::backend::pool::{Holder, Lease};
use crate::cache::Fill;
use crate::cache::tags::Intent;
use crate::error::{Severity, SqlError, SqlState, sqlstate};
use crate::event::{Command, Event, Flow, Verdict};
use crate::finding::{Denial, Reason};
use crate::gate::{Approved, Context, Protocol};
use crate::plan::OwnSequences;
use crate::principal::{Access, Principal, Tenant};
use crate::rules::Signs;
use crate::session::cancel::Registration;
use crate::wire::backend::{self as reply, TransactionStatus};
use crate::wire::{frame, frontend};
use crate::worker;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client left.
    Client,
    /// The client is told why it cannot stay.
    Fatal(SqlError),
    /// The server ended it and has said why.
    Server,
    /// The server's connection broke, or it broke the protocol.
    Lost,
    /// What the client would be told cannot be recorded.
    Unrecorded,
}

pub(super) type Step<T = ()> = Result<T, End>;

/// What is done with the client's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// They are taken as they come.
    Open,
    /// After an error in an extended batch: dropped until Sync.
    Skipping,
    /// Not taken: a ReadyForQuery is to come first.
    Awaiting,
    /// COPY FROM STDIN: data is converted until its end.
    CopyIn { extended: bool },
}

/// What the statements of a transaction block see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Snapshots {
    /// Each what is committed then: READ COMMITTED.
    Each,
    /// It is not known, or all the same.
    Unknown,
}

/// What happened since the last ReadyForQuery.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    /// Something of the client's went to the server.
    pub sent: bool,
    /// And a statement has.
    pub runs: bool,
    pub failed: bool,
}

pub(super) struct Session<'s> {
    pub shared: &'s Shared,
    pub database: Arc<Database>,
    pub login: Arc<Login>,
    pub principal: Principal,
    pub client: Client,
    pub lease: Option<Lease>,
    pub registration: Registration,
    _places: (Place, Place),
    pub settings: Tracker,
    /// Bytes of rows that were passed on since a statement ended.
    pub passed: u64,
    /// Of a statement that is about to be refused: its text, without constants, and what threat rules find in it.
    pub refused: Option<(String, Signs)>,
    /// What the inbox begins with was looked for in the cache, and is not known.
    pub sought: Option<Sought>,
    /// What its application is known to say.
    pub learned: KnownStatements,
    /// A threat rule ends it, once the client has been told.
    pub is_ending: bool,
    /// What is usual of its tenant.
    pub own: Own,
    /// What it has said of itself.
    pub declared: Declared,
    /// As it said when it connected.
    pub application: Option<Box<str>>,
    /// Statements that were counted among the login's.
    pub counted: u64,
    pub choice: Choice,
    pub names: Names,
    pub queue: Queue,
    pub phase: Phase,
    /// COPY FROM STDIN.
    pub copy: Option<Copying>,
    /// As known best: by the last ReadyForQuery, and by BEGIN, COMMIT and the like that have succeeded since.
    pub status: TransactionStatus,
    pub batch: Batch,
    /// Statements sent so far.
    pub statements: u64,
    /// The number of the BEGIN that opened the block.
    pub began_at: Option<u64>,
    /// The backend holds state that cannot be carried.
    pub pinned: bool,
    /// Of whom that state is.
    pub pinned_for: Option<Tenant>,
    /// Sequences that this client has advanced on the backend that it has, in this transaction. INVARIANT: empty for a backend
    /// that it has just got.
    pub own_sequences: OwnSequences,
    pub patience: Patience,
    /// Statements whose Parse is under way.
    pub parsing: SmallVec<[u128; 4]>,
    /// Statements upstream to be closed when the batch is over.
    pub doomed: Vec<u128>,
    /// A frame that is passed on in parts.
    pub down: frame::Passage,
    pub drain: DrainWatch,
    /// An answer that may be kept.
    pub fill: Option<Box<Fill>>,
    /// What the transaction may have written.
    pub intent: Option<Intent>,
    /// Of the transaction block.
    pub snapshots: Snapshots,
    /// search_path of a session with no other.
    default_path: Arc<str>,
    /// Whether idle_in_transaction_session_timeout is set, for a session with no other.
    pub idle_limit: bool,
    /// The schemas of search_path under the settings that they were computed for.
    path: Option<(Settings, Arc<[Box<str>]>)>,
    /// Last, so that the end of the session is told after that of its statements.
    pub trail: Trail,
}

/// How long the server has been at what the client sent, as far as there is a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    #[default]
    Resting,
    Running(Instant),
    /// It was cancelled.
    Ended,
}

impl Patience {
    fn get_or_begin(&mut self) -> &Patience {
        if *self == Patience::Resting {
            *self = Patience::Running(Instant::now());
        }
        self
    }
}

/// What takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Statement,
    /// The client does nothing inside a transaction.
    Transaction,
    /// The client does nothing.
    Client,
}

/// Serves the client until it leaves.
pub fn serve<'a>(established: Box<Established>, shared: &'a Shared) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    // Boxed: what it takes to begin is gone while the session lasts, and so is the box that it came in.
    let begin = Box::pin(begin(*established, shared));
    Box::pin(async move {
        if let Some(session) = begin.await {
            session.serve().await;
        }
    })
}

/// Greets the client; `None`: there is no server to tell of.
async fn begin(established: Established, shared: &Shared) -> Option<Box<Session<'_>>> {
    let Established { mut client, principal, login, database, settings, registration, places, trail, application, purpose } =
        established;
    let holder = Holder::of(principal.tenant(), &principal.user);
    let report = match report(&database, holder, settings.base()).await {
        Ok(report) => report,
        Err(error) => {
            reply::put_error(&mut client.outbox, &SqlError { severity: Severity::Fatal, ..error });
            client.close().await;
            return None;
        }
    };
    greet(&mut client, &principal, &registration, &report);
    Some(Box::new(Session {
        shared,
        choice: Choice::new(principal.tenant().cloned()),
        database,
        login,
        principal,
        client,
        lease: None,
        registration,
        _places: places,
        settings,
        trail,
        passed: 0,
        refused: None,
        sought: None,
        learned: KnownStatements::default(),
        is_ending: false,
        own: Own::default(),
        declared: Declared { purpose, glass_until: None },
        application,
        counted: 0,
        names: Names::default(),
        queue: Queue::new(),
        phase: Phase::Open,
        copy: None,
        status: TransactionStatus::Idle,
        batch: Batch::default(),
        statements: 0,
        began_at: None,
        pinned: false,
        pinned_for: None,
        own_sequences: OwnSequences::default(),
        patience: Patience::default(),
        parsing: SmallVec::new(),
        doomed: Vec::new(),
        down: frame::Passage::default(),
        drain: DrainWatch::new(&shared.drain),
        fill: None,
        intent: None,
        snapshots: Snapshots::Unknown,
        default_path: report.search_path,
        idle_limit: report.idle_limit,
        path: None,
    }))
}

/// What the server reports for these settings: from a recent answer, or from the server.
async fn report(database: &Database, holder: Holder, base: &Settings) -> Result<Report, SqlError> {
    if let Some(report) = database.reports.get(base) {
        return Ok(report);
    }
    let mut lease = prelude::lease(&database.pool, holder, base).await?;
    prelude::apply(&mut lease, base).await?;
    let rows = lease.query("SHOW search_path").await?;
    let search_path = rows.into_iter().flatten().flatten().next().unwrap_or_default().into();
    let rows = lease.query("SHOW idle_in_transaction_session_timeout").await?;
    let idle_limit = rows.into_iter().flatten().flatten().next().is_none_or(|limit| limit != "0");
    let parameters = lease.parameters().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    lease.give_back();
    let report = Report { parameters, search_path, idle_limit };
    database.reports.put(base.clone(), report.clone());
    Ok(report)
}

/// ParameterStatus, BackendKeyData, ReadyForQuery. AuthenticationOk is in the outbox already.
fn greet(client: &mut Client, principal: &Principal, registration: &Registration, report: &Report) {
    for (name, value) in report.parameters.iter() {
        // The role upstream is not the client's business.
        let value = if name == "session_authorization" { &*principal.user } else { value };
        reply::put_parameter_status(&mut client.outbox, name, value);
    }
    reply::put_key_data(&mut client.outbox, registration.pid(), registration.key());
    reply::put_ready(&mut client.outbox, TransactionStatus::Idle);
}

/// Texts longer than this (bytes) are reviewed off the reactor.
const LARGE_TEXT: usize = 16 << 10;

impl Session<'_> {
    async fn serve(mut self: Box<Self>) {
        let end = match self.run().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let slot = self.registration.slot().clone();
        match end {
            End::Client if !self.queue.is_empty() || self.phase == Phase::Awaiting => slot.cancel().await,
            End::Client => {}
            End::Unrecorded => self.end_unrecorded(),
            End::Server => self.forget_answers(),
            End::Fatal(error) => {
                if error.sqlstate == sqlstate::PROTOCOL_VIOLATION {
                    self.note_broken_protocol();
                }
                self.say_goodbye(&error);
            }
            End::Lost => {
                self.forget_answers();
                let error = SqlError::fatal(sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly");
                self.say_goodbye(&error);
            }
        }
        slot.clear();
        if !self.is_at_rest() {
            self.doubt();
        }
        self.end_intent();
        if let Some(lease) = self.lease.take() {
            // KNOWN-STATE: all may be answered while no Sync was sent, and then an implicit transaction is open that neither
            // ReadyForQuery nor the pool knows of. The pool looks again whether the connection is at rest.
            if self.pinned || !self.is_at_rest() && !crate::mutant!("session.the-vanished-give-back") {
                drop(lease)
            } else {
                let _ = lease.give_back();
            }
        }
        // Nothing is told before what it was asked for is recorded, at the end as well.
        if !self.trail.is_safe() && self.trail.safe().await.is_err() {
            self.client.outbox.clear();
        }
        // A client that does not read must not hold what the session holds.
        let _ = tokio::time::timeout(self.shared.limits.startup_timeout, self.client.close()).await;
    }

    pub(super) fn say_goodbye(&mut self, error: &SqlError) {
        // After half a message, it would be read as the rest of it.
        if !self.down.is_inside() {
            reply::put_error(&mut self.client.outbox, &SqlError { severity: Severity::Fatal, ..error.clone() });
        }
    }

    async fn run(&mut self) -> Step<std::convert::Infallible> {
        loop {
            self.take_answers()?;
            self.release();
            while self.take_known() {}
            if !self.client.inbox.is_empty() || matches!(self.phase, Phase::CopyIn { .. }) {
                // Boxed: an idle client's task has no room for all that a message may await.
                Box::pin(self.take_messages()).await?;
                self.release();
            }
            self.check_ending()?;
            if self.drain.seen() > Drain::No && self.is_at_rest() {
                return Err(End::Fatal(going_down()));
            }
            self.wait().await?;
        }
    }

    fn is_at_rest(&self) -> bool {
        let answered = self.queue.is_empty() || crate::mutant!("session.at-rest-with-answers-owed");
        self.status == TransactionStatus::Idle && answered && self.phase == Phase::Open && !self.batch.sent
    }

    /// Waits until something happened on either side.
    pub async fn wait(&mut self) -> Step {
        // Before anything is told: what it was asked for is recorded.
        if !self.trail.is_safe() && self.trail.safe().await.is_err() {
            return Err(End::Unrecorded);
        }
        let max = self.shared.limits.max_message;
        let whole = frame::peek(&self.client.inbox, max).ok().flatten().map_or(0, frame::Header::frame);
        // Read ahead, but no more than the message that is coming in: this is also how a client that left is noticed.
        if self.is_at_rest() && self.lease.is_none() {
            // An idle client holds no memory for messages.
            self.client.rest();
        }
        let wants = Wants { client: self.client.inbox.len() < whole.max(HIGH) };
        let due = self.due();
        let driving = drive(&mut self.client, self.lease.as_deref_mut(), wants, &mut self.drain);
        let happened = match due {
            None => driving.await,
            // Boxed: those who set no limit have no timer in their tasks.
            Some((at, due)) => match Box::pin(tokio::time::timeout_at(at.into(), driving)).await {
                Ok(happened) => happened,
                Err(_) => return self.overdue(due).await,
            },
        };
        match happened {
            Happened::Client | Happened::Server => Ok(()),
            Happened::ClientGone => Err(End::Client),
            Happened::ServerGone => Err(End::Lost),
            Happened::Drain(Drain::Now) => Err(End::Fatal(going_down())),
            Happened::Drain(Drain::No | Drain::Gently) => Ok(()),
        }
    }

    /// What will have taken too long, and when.
    fn due(&mut self) -> Option<(Instant, Due)> {
        let limits = &self.shared.limits;
        if !self.queue.is_empty() {
            let limit = limits.statement_timeout?;
            return match *self.patience.get_or_begin() {
                Patience::Running(since) => Some((since + limit, Due::Statement)),
                // It was cancelled: the server's answer is what ends it.
                Patience::Ended | Patience::Resting => None,
            };
        }
        self.patience = Patience::Resting;
        match self.status {
            TransactionStatus::Idle if self.is_at_rest() => {
                limits.client_idle_timeout.map(|limit| (Instant::now() + limit, Due::Client))
            }
            TransactionStatus::Idle => None,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                limits.idle_in_transaction_timeout.map(|limit| (Instant::now() + limit, Due::Transaction))
            }
        }
    }

    async fn overdue(&mut self, due: Due) -> Step {
        match due {
            Due::Statement => {
                self.patience = Patience::Ended;
                let slot = self.registration.slot().clone();
                slot.cancel().await;
                Ok(())
            }
            Due::Transaction => {
                let code = sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT;
                Err(End::Fatal(SqlError::fatal(code, "terminating connection due to idle-in-transaction timeout")))
            }
            Due::Client => {
                let code = sqlstate::IDLE_SESSION_TIMEOUT;
                Err(End::Fatal(SqlError::fatal(code, "terminating connection due to idle-session timeout")))
            }
        }
    }

    /// Waits until everything that was sent is answered, though no Sync was sent: the message with this tag depends on it.
    /// `false`: something failed meanwhile, and the message is skipped.
    pub async fn settle(&mut self, tag: u8) -> Step<bool> {
        if self.queue.is_empty() {
            return Ok(self.phase == Phase::Open);
        }
        if let Some(lease) = &mut self.lease {
            frontend::put_flush(&mut lease.outbox);
        }
        loop {
            self.take_answers()?;
            match self.phase {
                // The server reads the message as one of the COPY.
                Phase::CopyIn { .. } => return Err(self.misplaced_in_copy(tag)),
                Phase::Open | Phase::Skipping if self.queue.is_empty() => return Ok(self.phase == Phase::Open),
                Phase::Open | Phase::Skipping | Phase::Awaiting => self.wait().await?,
            }
        }
    }

    /// Gives the backend back, if nothing keeps it. INVARIANT (KNOWN-STATE): only when every ReadyForQuery has come.
    fn release(&mut self) {
        let pinned = self.pinned && !crate::mutant!("session.the-pinned-are-released");
        if self.lease.is_none() || pinned || !self.is_at_rest() {
            return;
        }
        if let Some(lease) = self.lease.take() {
            self.registration.slot().clear();
            let _ = lease.give_back();
        }
    }

    /// A backend for what comes next, with the client's settings.
    ///
    /// # Errors
    /// Inner: there is none, or the client cancelled while it waited; nothing was sent.
    pub async fn lease(&mut self) -> Step<Result<(), Denial>> {
        if self.lease.is_some() {
            return Ok(self.lock());
        }
        let holder = Holder::of(self.principal.tenant(), &self.principal.user);
        if let Some(lease) = prelude::lease_now(&self.database.pool, holder, self.settings.committed()) {
            self.hold(lease, Duration::ZERO);
            return Ok(Ok(()));
        }
        let begun = Instant::now();
        let pool = self.database.pool.clone();
        let wanted = self.settings.committed().clone();
        let leased = self
            .wait_for(prelude::lease(&pool, holder, &wanted))
            .await?
            .unwrap_or_else(|| Err(SqlError::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")));
        match leased {
            Ok(lease) => {
                self.hold(lease, begun.elapsed());
                Ok(Ok(()))
            }
            Err(error) => {
                self.registration.slot().clear();
                if error.sqlstate == sqlstate::TOO_MANY_CONNECTIONS {
                    self.shared.events.emit(Event::PoolTimedOut);
                }
                Ok(Err(Denial::new(Reason::Limit, error)))
            }
        }
    }

    /// Waits for something else than the server's answer, with an eye on the client. `None`: it cancelled. The slot of cancels is told
    /// that the client waits; what comes after is the caller's to tell.
    pub async fn wait_for<T>(&mut self, what: impl Future<Output = T>) -> Step<Option<T>> {
        let slot = self.registration.slot().clone();
        let interrupted = slot.interrupted();
        tokio::pin!(interrupted, what);
        interrupted.as_mut().enable();
        slot.set_waiting();
        loop {
            let drain = &mut self.drain;
            tokio::select! {
                biased;
                done = &mut what => return Ok(Some(done)),
                () = &mut interrupted => return Ok(None),
                read = self.client.fill(), if self.client.inbox.len() < HIGH => {
                    if !matches!(read, Ok(1..)) {
                        return Err(End::Client);
                    }
                }
                told = poll_fn(|cx| drain.poll(cx)) => {
                    if told == Drain::Now {
                        return Err(End::Fatal(going_down()));
                    }
                }
            }
        }
    }

    fn hold(&mut self, lease: Lease, waited: Duration) {
        self.shared.events.emit(Event::PoolWaited(waited));
        self.registration.slot().set_backend(lease.cancel_handle());
        self.take_over(lease);
    }

    /// Puts the prelude, where one is needed, in front of the statement: one packet carries both.
    fn take_over(&mut self, mut lease: Lease) {
        let wanted = self.settings.committed();
        let mut sql = String::new();
        if lease.settings != *wanted && !crate::mutant!("session.settings-are-not-carried") {
            settings::write_prelude(&lease.settings, wanted, &mut sql);
        }
        if let Some(key) = &self.database.lock
            && lease.lock.now() != self.principal.tenant()
        {
            if !sql.is_empty() {
                sql.push(';');
            }
            lease.write_lock(key, self.principal.tenant(), false, &mut sql);
            lease.lock.set(self.principal.tenant().cloned(), false);
        }
        if !sql.is_empty() {
            frontend::put_query(&mut lease.outbox, &sql);
            lease.expect_ready();
            self.queue.push_back(Expected::Prelude { wanted: wanted.clone(), in_block: false });
        }
        self.parsing.clear();
        self.forget_sequences();
        self.lease = Some(lease);
    }

    /// Where the second lock is used: makes the backend that is held speak for the session's tenant, if it was chosen since. What
    /// is sent goes in front of the statement, in the same packet. In a transaction it lasts as long as that does.
    ///
    /// # Errors
    /// In the middle of a batch, where a query of the proxy's own would end the batch's transaction.
    fn lock(&mut self) -> Result<(), Denial> {
        let (Some(key), Some(lease)) = (&self.database.lock, &mut self.lease) else { return Ok(()) };
        if lease.lock.now() == self.principal.tenant() {
            return Ok(());
        }
        let in_block = match self.status {
            // Only its end can come.
            TransactionStatus::Failed => return Ok(()),
            TransactionStatus::InTransaction if !self.batch.sent || self.queue.is_empty() => true,
            TransactionStatus::Idle if !self.batch.sent => false,
            TransactionStatus::InTransaction | TransactionStatus::Idle => {
                let message = "a statement for another tenant in the same batch: send Sync first";
                return Err(Denial::unsupported(message));
            }
        };
        let mut sql = String::new();
        lease.write_lock(key, self.principal.tenant(), in_block, &mut sql);
        lease.lock.set(self.principal.tenant().cloned(), in_block);
        frontend::put_query(&mut lease.outbox, &sql);
        lease.expect_ready();
        self.queue.push_back(Expected::Prelude { wanted: lease.settings.clone(), in_block });
        Ok(())
    }

    /// What the backend that is held keeps of sequences is the client's own from here on only where it advances them again.
    pub fn forget_sequences(&mut self) {
        self.own_sequences.clear();
    }

    /// The sequences that the client has advanced on the backend that it has.
    pub fn held_sequences(&self) -> OwnSequences {
        if self.lease.is_some() { self.own_sequences.clone() } else { OwnSequences::default() }
    }

    /// What a statement is reviewed under now.
    pub fn under(&mut self) -> Under {
        let roles = self.principal.roles.clone();
        Under { search_path: self.search_path(), settings: self.settings.effective().clone(), roles }
    }

    /// The schemas of the client's search_path.
    pub fn search_path(&mut self) -> Arc<[Box<str>]> {
        let effective = self.settings.effective();
        match &self.path {
            Some((known, path)) if known == effective => path.clone(),
            Some(_) | None => {
                let text = effective.map().get("search_path").map_or(&*self.default_path, String::as_str);
                let path = settings::search_path(text, &self.database.role);
                self.path = Some((effective.clone(), path.clone()));
                path
            }
        }
    }

    /// Waits, where an unrestricted user has changed definitions, until they are known.
    ///
    /// # Errors
    /// The server does not tell them.
    pub async fn catalog_known(&mut self) -> Result<(), Denial> {
        let Some(refreshed) = self.database.gate.refreshed() else { return Ok(()) };
        tokio::time::timeout(self.shared.limits.pool_wait, refreshed).await.map_err(|_| {
            let message = "definitions have changed on the server, and its catalog cannot be read";
            let error = SqlError::new(sqlstate::CANNOT_CONNECT_NOW, message).with_hint("try again");
            Denial::new(Reason::Limit, error)
        })
    }

    /// INVARIANT (VERDICT): the verdict is returned, bound to its statement.
    pub fn review(&mut self, text: &str, protocol: Protocol, types: &[u32]) -> Result<SmallVec<[Approved; 1]>, Denial> {
        if text.len() > self.shared.limits.max_statement {
            let message = format!("statement is longer than {} bytes", self.shared.limits.max_statement);
            return Err(Denial::new(Reason::Limit, SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)));
        }
        let path = self.search_path();
        let context = Context { principal: &self.principal, search_path: &path, protocol, parameter_types: types };
        let gate = &self.database.gate;
        if text.len() > LARGE_TEXT { worker::aside(|| gate.review(text, &context)) } else { gate.review(text, &context) }
    }

    /// What was sent leaves state on the backend.
    pub fn pin(&mut self, pins: bool) {
        if pins && !self.pinned {
            self.pinned = true;
            self.pinned_for = self.principal.tenant().cloned();
        }
    }

    /// A cursor WITH HOLD outlives its transaction: of a shared login's tenants only one that outlives it too may have one.
    pub fn check_hold(&self, pins: bool) -> Result<(), Denial> {
        match &self.principal.access {
            Access::Shared { tenants: _, chosen } if pins && !self.choice.lasts(chosen.as_ref()) => Err(Denial::unsupported(
                "a cursor WITH HOLD, or a temporary table, needs a tenant that was chosen outside of the transaction",
            )),
            Access::Shared { tenants: _, chosen: _ } | Access::Fixed(_) | Access::Unrestricted => Ok(()),
        }
    }

    /// Refuses what the client asked for, with the effect that a failing statement has: inside a transaction, or where
    /// something was sent in this batch, the server is made to fail at this place, so that its own errors come first and
    /// what was done is undone.
    pub fn deny(&mut self, mut denial: Denial, protocol: Protocol) {
        self.tell(Command::Other, protocol, Verdict::Denied(denial.reason));
        // In a block that has failed there is one answer to nearly everything.
        if self.status == TransactionStatus::Failed && !precedes_state(denial.error.sqlstate) {
            denial.error = Box::new(in_failed_transaction());
        }
        self.record_refusal(&mut denial);
        let in_transaction = self.status == TransactionStatus::InTransaction;
        let poisoned = match &mut self.lease {
            Some(lease) if self.batch.sent || in_transaction => {
                poison::put(&mut lease.outbox);
                self.queue.push_back(Expected::Poison(denial.error));
                self.batch.sent = true;
                true
            }
            Some(_) | None => {
                self.answer(|out| reply::put_error(out, &denial.error));
                self.batch.failed = true;
                false
            }
        };
        match (protocol, poisoned) {
            (Protocol::Simple, true) => self.send_sync(),
            (Protocol::Simple, false) => self.end_batch_here(),
            (Protocol::Extended, _) => self.phase = Phase::Skipping,
        }
    }

    /// Tells what was decided about a statement.
    pub fn tell(&self, command: Command, protocol: Protocol, verdict: Verdict) {
        let protocol = match protocol {
            Protocol::Simple => Flow::Simple,
            Protocol::Extended => Flow::Extended,
        };
        self.shared.events.emit(Event::StatementReviewed { command, protocol, verdict });
    }

    /// Sends Sync on the client's behalf, or the client's own.
    pub fn send_sync(&mut self) {
        if let Some(lease) = &mut self.lease {
            frontend::put_sync(&mut lease.outbox);
            lease.expect_ready();
            self.queue.push_back(Expected::Sync);
            self.phase = Phase::Awaiting;
        }
    }

    /// ReadyForQuery for a batch that the server has seen nothing of.
    pub fn end_batch_here(&mut self) {
        self.fill = None;
        let status = self.status;
        self.answer(|out| reply::put_ready(out, status));
        self.phase = Phase::Open;
        self.end_batch();
    }

    /// Adds a reply of the proxy's own, behind all that is still to come.
    pub fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.queue.is_empty() || crate::mutant!("session.own-replies-go-first") {
            write(&mut self.client.outbox);
        } else if let Some(Expected::Local(last)) = self.queue.back_mut() {
            write(last);
            if last.len() > HIGH
                && let Some(lease) = &mut self.lease
            {
                // What stands before them must come, or they would grow without bound.
                frontend::put_flush(&mut lease.outbox);
            }
        } else {
            let mut own = BytesMut::new();
            write(&mut own);
            self.queue.push_back(Expected::Local(own));
        }
    }

    /// What follows from a ReadyForQuery, whoever made it. `self.status` is what it says.
    pub fn end_batch(&mut self) {
        if self.status == TransactionStatus::Idle {
            if let Some(lease) = &mut self.lease {
                lease.lock.end_transaction();
            }
            if self.batch.failed {
                self.settings.rollback();
                self.choice.rollback(&mut self.principal.access);
            } else {
                self.settings.commit();
                self.choice.commit(&mut self.principal.access);
            }
            self.names.drop_portals();
            self.end_intent();
            self.began_at = None;
            self.forget_sequences();
        }
        self.batch = Batch::default();
        self.parsing.clear();
    }
}

/// What PostgreSQL finds before it looks at the state of the transaction.
fn precedes_state(code: SqlState) -> bool {
    const EARLY: [SqlState; 5] = [
        sqlstate::SYNTAX_ERROR,
        sqlstate::DUPLICATE_PREPARED_STATEMENT,
        sqlstate::PROTOCOL_VIOLATION,
        sqlstate::INVALID_SQL_STATEMENT_NAME,
        sqlstate::INVALID_CURSOR_NAME,
    ];
    EARLY.contains(&code)
}

pub(super) fn in_failed_transaction() -> SqlError {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    SqlError::new(sqlstate::IN_FAILED_TRANSACTION, message)
}

//! Lends connections of one upstream: to each tenant in its turn, and of one tenant to whoever has waited longest.

mod shares;

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::ConnectError;
use super::cancel::{CancelHandle, Closing, Gate};
use super::connection::{Connection, Settings};
use super::stream::Dialer;
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::event::{Event, Events};
use crate::worker;
use shares::Shares;
pub use shares::{Holder, share_of};

/// After the first failure to connect; doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The connections of one upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

/// What a pool may do.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// The most connections, at least 1.
    pub size: usize,
    /// The most that one holder has at once, at least 1; [`share_of`] where nobody says.
    pub share: usize,
    /// As many are kept open.
    pub least: usize,
    /// How long a client waits for one.
    pub wait: Duration,
    /// How long one may be idle.
    pub idle: Duration,
    /// An older one is closed when it comes back: what was changed for its role or database since (ALTER ROLE .. SET) is seen
    /// by new ones only.
    pub lifetime: Duration,
}

/// What a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections, those that are being made included.
    pub size: usize,
    /// Of these, not lent.
    pub idle: usize,
    /// Of these, being made.
    pub connecting: usize,
    /// Clients that wait.
    pub waiting: usize,
}

#[derive(Debug)]
struct Shared {
    dialer: Arc<Dialer>,
    limits: PoolLimits,
    events: Events,
    /// New connections are asked for their identity.
    identify: bool,
    state: Mutex<State>,
    /// Connections and connections in the making; each but the idle ones is held by a [`Slot`].
    size: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    connecting: usize,
    /// Last in, first out: those not needed grow old at the bottom.
    #[expect(clippy::vec_box, reason = "they come in boxes and leave in boxes")]
    idle: Vec<Box<Connection>>,
    /// INVARIANT: while something is idle, nobody who may have it waits.
    shares: Shares<Waiter>,
    backoff: Option<Backoff>,
    /// Connections made before are not lent again.
    not_before: Option<std::time::Instant>,
    last_id: u64,
}

/// Where a client waits for its answer.
type Waiter = oneshot::Sender<Result<Offer, SqlError>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Backoff {
    until: Instant,
    delay: Duration,
}

/// Where a request for a connection leads.
enum Request {
    Idle(Offer),
    Wait(oneshot::Receiver<Result<Offer, SqlError>>),
    Closed,
}

impl Pool {
    /// A pool without connections; they are made when they are needed. Must live in a tokio runtime.
    ///
    /// # Errors
    /// As [`Dialer::new`].
    pub fn new(upstream: Upstream, limits: PoolLimits, events: Events) -> Result<Self, ConnectError> {
        Self::with(upstream, limits, events, false)
    }

    /// A pool whose connections know what tokens of the second lock are bound to.
    ///
    /// # Errors
    /// As [`Dialer::new`].
    pub fn locked(upstream: Upstream, limits: PoolLimits, events: Events) -> Result<Self, ConnectError> {
        Self::with(upstream, limits, events, true)
    }

    fn with(upstream: Upstream, limits: PoolLimits, events: Events, identify: bool) -> Result<Self, ConnectError> {
        let state = State {
            phase: Phase::Open,
            connecting: 0,
            idle: Vec::new(),
            shares: Shares::new(limits.share.max(1)),
            backoff: None,
            not_before: None,
            last_id: 0,
        };
        let limits = PoolLimits { size: limits.size.max(1), ..limits };
        let dialer = Arc::new(Dialer::new(upstream)?);
        let shared = Arc::new(Shared { dialer, limits, events, identify, state: Mutex::new(state), size: watch::Sender::new(0) });
        tokio::spawn(tend(Arc::downgrade(&shared)));
        Ok(Pool(shared))
    }

    pub fn upstream(&self) -> &Upstream {
        self.0.dialer.upstream()
    }

    /// Lends a connection: whose turn it is first, of one holder the longest waiter.
    ///
    /// # Errors
    /// 53300 when the wait was too long; the server's own code where it refuses; 08006 where it cannot be reached and there
    /// is no other connection to wait for; 57P01 when the pool is closed.
    pub async fn lease(&self, holder: Holder) -> Result<Lease, SqlError> {
        let deadline = Instant::now() + self.0.limits.wait;
        loop {
            let offer = match self.0.request(holder) {
                Request::Closed => return Err(closed()),
                Request::Idle(mut offer) => {
                    if offer.come_here() && offer.is_healthy().await {
                        offer
                    } else {
                        offer.discard();
                        continue;
                    }
                }
                Request::Wait(receiver) => {
                    let mut offer = wait(receiver, deadline).await.inspect_err(|error| self.0.note_late(error))?;
                    if !offer.come_here() {
                        offer.discard();
                        continue;
                    }
                    offer
                }
            };
            if let Some(lease) = offer.accept() {
                return Ok(lease);
            }
        }
    }

    /// Lends at once a connection that this thread has, and that answered a moment ago; what most statements get. `suits`: whether
    /// it may be that one. `None`: ask [`Pool::lease`].
    pub fn lease_now(&self, holder: Holder, suits: impl Fn(&Connection) -> bool) -> Option<Lease> {
        let (now, here) = (std::time::Instant::now(), worker::here());
        let mut state = self.0.lock();
        if state.phase == Phase::Closed || !state.shares.has_room(holder) {
            return None;
        }
        let nearest = state.idle.iter().rposition(|c| c.home() == here)?;
        if !state.idle[nearest].is_fresh(now) || !suits(&state.idle[nearest]) {
            return None;
        }
        let connection = state.idle.remove(nearest);
        state.shares.lend(holder);
        Some(Lease { connection, slot: Slot::lent(&self.0, holder), gate: LeaseGate(Arc::default()) })
    }

    /// Makes a connection for one client alone, with its settings in the startup message, so that RESET returns to them. It is
    /// never lent to another.
    ///
    /// # Errors
    /// As [`Pool::lease`]; the server's own code where it does not take a setting.
    pub async fn lease_own(&self, startup: &Settings) -> Result<Lease, SqlError> {
        let deadline = Instant::now() + self.0.limits.wait;
        let mut size = self.0.size.subscribe();
        let (slot, id) = loop {
            match self.0.reserve()? {
                Some(reserved) => break reserved,
                None => {
                    let room = size.wait_for(|size| *size < self.0.limits.size);
                    // The sender lives as long as the pool.
                    let _ = tokio::time::timeout_at(deadline, room)
                        .await
                        .map_err(|_| late())
                        .inspect_err(|error| self.0.note_late(error))?;
                }
            }
        };
        let mut connection = Connection::connect(&self.0.dialer, id, startup).await.map_err(|error| {
            tracing::warn!(upstream = ?self.upstream(), %error, "no connection to the server");
            self.0.events.emit(Event::BackendFailed);
            error.to_sql_error()
        })?;
        connection.count(&self.0.events);
        Ok(Lease { connection: Box::new(connection), slot, gate: LeaseGate(Arc::default()) })
    }

    pub fn stats(&self) -> PoolStats {
        let state = self.0.lock();
        PoolStats {
            size: *self.0.size.borrow(),
            idle: state.idle.len(),
            connecting: state.connecting,
            waiting: state.shares.waiters().filter(|waiter| !waiter.is_closed()).count(),
        }
    }

    /// Makes every connection new: those that are idle are closed now, those that are lent when they come back. For what only
    /// new connections see: another password, ALTER ROLE .. SET.
    pub fn renew(&self) {
        let idle = {
            let mut state = self.0.lock();
            state.not_before = Some(std::time::Instant::now());
            std::mem::take(&mut state.idle)
        };
        self.0.let_go(idle);
    }

    /// Lends nothing any more: who waits is told so, what is idle is closed, what comes back is closed.
    pub fn close(&self) {
        let (idle, waiters) = {
            let mut state = self.0.lock();
            state.phase = Phase::Closed;
            (std::mem::take(&mut state.idle), state.shares.dismiss())
        };
        for waiter in waiters {
            // A waiter that has gone needs no answer.
            let _ = waiter.send(Err(closed()));
        }
        self.0.let_go(idle);
    }

    /// Waits until a closed pool has no connection left.
    pub async fn drained(&self) {
        // The sender lives as long as the pool.
        let _ = self.0.size.subscribe().wait_for(|size| *size == 0).await;
    }
}

async fn wait(mut receiver: oneshot::Receiver<Result<Offer, SqlError>>, deadline: Instant) -> Result<Offer, SqlError> {
    match tokio::time::timeout_at(deadline, &mut receiver).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(closed()),
        Err(_) => {
            // One may have come in the last moment.
            receiver.close();
            receiver.try_recv().unwrap_or_else(|_| Err(late()))
        }
    }
}

fn late() -> SqlError {
    SqlError::new(sqlstate::TOO_MANY_CONNECTIONS, "timed out waiting for a server connection")
        .with_hint("all are lent, or all that one tenant may have: see pool_size, tenant_pool_size and [limits] pool_wait")
}

fn closed() -> SqlError {
    SqlError::new(sqlstate::ADMIN_SHUTDOWN, "the proxy is shutting down")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_late(&self, error: &SqlError) {
        if error.sqlstate == sqlstate::TOO_MANY_CONNECTIONS {
            self.events.emit(Event::PoolTimedOut);
        }
    }

    /// Closes connections that were idle.
    fn let_go(self: &Arc<Self>, idle: impl IntoIterator<Item = Box<Connection>>) {
        for connection in idle {
            close(connection, Slot::of_idle(self));
        }
    }

    fn request(self: &Arc<Self>, holder: Holder) -> Request {
        let mut state = self.lock();
        if state.phase == Phase::Closed {
            return Request::Closed;
        }
        // One of this thread's needs no other reactor.
        let here = worker::here();
        let nearest = state.idle.iter().rposition(|c| c.home() == here).or(state.idle.len().checked_sub(1));
        if let Some(nearest) = nearest.filter(|_| state.shares.has_room(holder)) {
            let connection = state.idle.remove(nearest);
            state.shares.lend(holder);
            return Request::Idle(Offer { inside: Some((connection, Slot::lent(self, holder))) });
        }
        let (sender, receiver) = oneshot::channel();
        state.shares.wait(holder, sender, Waiter::is_closed);
        self.connect_for_waiters(&mut state);
        Request::Wait(receiver)
    }

    /// A place in the count for a connection that the caller makes; `None`: there is no room.
    fn reserve(self: &Arc<Self>) -> Result<Option<(Slot, u64)>, SqlError> {
        let mut state = self.lock();
        if state.phase == Phase::Closed {
            return Err(closed());
        }
        if *self.size.borrow() >= self.limits.size {
            return Ok(None);
        }
        state.last_id += 1;
        Ok(Some((Slot::new(self), state.last_id)))
    }

    /// Starts as many connections as there are waiters that may have one, without one in the making, and room.
    fn connect_for_waiters(self: &Arc<Self>, state: &mut State) {
        if state.phase == Phase::Closed || *self.size.borrow() >= self.limits.size {
            return;
        }
        let entitled = state.shares.entitled(Waiter::is_closed);
        while state.connecting < entitled && *self.size.borrow() < self.limits.size {
            state.connecting += 1;
            state.last_id += 1;
            tokio::spawn(connect(Slot::new(self), state.last_id));
        }
    }

    /// Whether it has grown old.
    fn is_worn(&self, state: &State, connection: &Connection, now: std::time::Instant) -> bool {
        let made = connection.created_at();
        state.not_before.is_some_and(|limit| made < limit) && !crate::mutant!("session.old-connections-are-lent")
            || now.duration_since(made) > self.limits.lifetime
    }

    /// Closes what is idle and not needed, and makes what there should be at least.
    fn tend(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.phase == Phase::Closed {
            return;
        }
        let now = std::time::Instant::now();
        let size = *self.size.borrow();
        let mut spare = size.saturating_sub(self.limits.least);
        // Who was needed last is on top.
        let (kept, old): (Vec<_>, Vec<_>) = std::mem::take(&mut state.idle).into_iter().partition(|connection| {
            let unneeded = spare > 0 && now.duration_since(connection.idle_since()) > self.limits.idle;
            spare -= usize::from(unneeded);
            !unneeded && !self.is_worn(&state, connection, now)
        });
        state.idle = kept;
        // What is closed now is in the count until it has said goodbye.
        for _ in size..self.limits.least.min(self.limits.size) {
            state.connecting += 1;
            state.last_id += 1;
            tokio::spawn(connect(Slot::new(self), state.last_id));
        }
        drop(state);
        self.let_go(old);
    }

    /// Gives a connection whose state is known to whose turn it is, or keeps it.
    fn offer(self: &Arc<Self>, connection: Box<Connection>, mut slot: Slot) {
        let mut state = self.lock();
        slot.end_share(&mut state);
        match state.phase {
            Phase::Open => {
                slot.keep();
                state.idle.push(connection);
                self.serve(&mut state);
            }
            Phase::Closed => {
                drop(state);
                close(connection, slot);
            }
        }
    }

    /// Gives what is idle to those who wait for it and may have it.
    fn serve(self: &Arc<Self>, state: &mut State) {
        while let Some(connection) = state.idle.pop() {
            let Some((holder, waiter)) = state.shares.next() else {
                return state.idle.push(connection);
            };
            state.shares.lend(holder);
            let offer = Offer { inside: Some((connection, Slot::lent(self, holder))) };
            // Who has gone meanwhile hands it back; what was sent was an offer.
            if let Err(Ok(mut back)) = waiter.send(Ok(offer))
                && let Some((connection, mut slot)) = back.inside.take()
            {
                slot.end_share(state);
                slot.keep();
                state.idle.push(connection);
            }
        }
    }

    /// A connection could not be made. Waiters are told at once where waiting cannot help: the server refuses for good, or no
    /// connection exists that could come back.
    fn failed(self: &Arc<Self>, slot: Slot, error: &ConnectError) {
        self.events.emit(Event::BackendFailed);
        let told = {
            let mut state = self.lock();
            state.connecting -= 1;
            let delay = state.backoff.map_or(BACKOFF_FIRST, |b| (b.delay * 2).min(BACKOFF_MAX));
            state.backoff = Some(Backoff { until: Instant::now() + delay, delay });
            let others = self.size.borrow().saturating_sub(1 + state.connecting);
            if error.is_transient() && others > 0 { Vec::new() } else { state.shares.dismiss() }
        };
        for waiter in told {
            // A waiter that has gone needs no answer.
            let _ = waiter.send(Err(error.to_sql_error()));
        }
        drop(slot);
    }
}

/// Says goodbye and makes room.
fn close(connection: Box<Connection>, slot: Slot) {
    tokio::spawn(async move {
        connection.terminate().await;
        drop(slot);
    });
}

/// Looks after a pool as long as there is one.
async fn tend(pool: Weak<Shared>) {
    loop {
        let Some(shared) = pool.upgrade() else { return };
        shared.tend();
        let pause = (shared.limits.idle / 2).clamp(Duration::from_millis(10), Duration::from_secs(10));
        drop(shared);
        tokio::time::sleep(pause).await;
    }
}

/// Makes one connection, after the time of backoff if there is one.
async fn connect(slot: Slot, id: u64) {
    let shared = slot.shared.clone();
    let until = shared.lock().backoff.map(|b| b.until);
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
    {
        let mut state = shared.lock();
        let is_needed = state.shares.entitled(Waiter::is_closed) > 0 || *shared.size.borrow() <= shared.limits.least;
        if !is_needed || state.phase == Phase::Closed {
            state.connecting -= 1;
            return;
        }
    }
    match open(&shared, id).await {
        Ok(connection) => {
            {
                let mut state = shared.lock();
                state.connecting -= 1;
                state.backoff = None;
            }
            shared.offer(Box::new(connection), slot);
        }
        Err(error) => {
            tracing::warn!(upstream = ?shared.dialer.upstream(), %error, "no connection to the server");
            shared.failed(slot, &error);
        }
    }
}

async fn open(shared: &Shared, id: u64) -> Result<Connection, ConnectError> {
    let mut connection = Connection::connect(&shared.dialer, id, &Settings::default()).await?;
    if shared.identify {
        let identified = tokio::time::timeout(BACKOFF_MAX, connection.identify()).await;
        identified.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Protocol)?;
    }
    connection.count(&shared.events);
    Ok(connection)
}

/// One connection's place in the count. Dropped, it makes room for another.
#[derive(Debug)]
struct Slot {
    shared: Arc<Shared>,
    counted: bool,
    /// Whose share it is part of, while the connection is lent.
    holder: Option<Holder>,
}

impl Slot {
    /// Counts one more; the caller holds the lock and has seen that there is room.
    fn new(shared: &Arc<Shared>) -> Self {
        shared.size.send_modify(|size| *size += 1);
        Slot::of_idle(shared)
    }

    /// An idle connection is in the count already.
    fn of_idle(shared: &Arc<Shared>) -> Self {
        Slot { shared: shared.clone(), counted: true, holder: None }
    }

    /// Of an idle connection that the caller, who holds the lock, has counted as lent to the holder.
    fn lent(shared: &Arc<Shared>, holder: Holder) -> Self {
        Slot { shared: shared.clone(), counted: true, holder: Some(holder) }
    }

    fn end_share(&mut self, state: &mut State) {
        if let Some(holder) = self.holder.take() {
            state.shares.take_back(holder);
        }
    }

    /// The connection becomes idle: it stays in the count without a slot.
    fn keep(mut self) {
        self.counted = false;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.counted {
            let shared = self.shared.clone();
            let mut state = shared.lock();
            self.end_share(&mut state);
            shared.size.send_modify(|size| *size -= 1);
            shared.serve(&mut state);
            shared.connect_for_waiters(&mut state);
        }
    }
}

/// A connection on its way to a client. Dropped on the way (the client has gone), it goes to the next one.
#[derive(Debug)]
struct Offer {
    inside: Option<(Box<Connection>, Slot)>,
}

impl Offer {
    /// `false`: the connection is lost.
    fn come_here(&mut self) -> bool {
        self.inside.as_mut().is_some_and(|(connection, _)| connection.come_here().is_ok())
    }

    async fn is_healthy(&mut self) -> bool {
        match &mut self.inside {
            Some((connection, _)) => connection.is_healthy().await,
            None => false,
        }
    }

    fn discard(mut self) {
        self.inside = None;
    }

    fn accept(mut self) -> Option<Lease> {
        let (connection, slot) = self.inside.take()?;
        Some(Lease { connection, slot, gate: LeaseGate(Arc::default()) })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some((connection, slot)) = self.inside.take() {
            let shared = slot.shared.clone();
            shared.offer(connection, slot);
        }
    }
}

/// A connection lent to one client. Dropped without [`Lease::give_back`], it is closed (KNOWN-STATE).
#[derive(Debug)]
pub struct Lease {
    /// Boxed when it is made: what is moved from hand to hand, and lies in every session's future, is a pointer.
    connection: Box<Connection>,
    slot: Slot,
    gate: LeaseGate,
}

/// Closes the gate when the lease ends in any way.
#[derive(Debug)]
struct LeaseGate(Arc<Gate>);

impl Drop for LeaseGate {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What became of a connection given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// To the next client, at once or when a cancel under way has ended.
    Reused,
    /// Its state was in doubt.
    Closed,
}

impl Lease {
    /// Cancels what runs on this lease, as long as it lasts.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.slot.shared.dialer.clone(), &self.connection, self.gate.0.clone())
    }

    /// Ends the lease. INVARIANT (KNOWN-STATE): the pool takes back only a connection that is at rest: no transaction, no
    /// answer to come, nothing unread or unwritten, no cancel under way; any other is closed. What the connection is
    /// labelled with (`settings`, `prepared`) must be true.
    pub fn give_back(self) -> GivenBack {
        let Lease { mut connection, slot, gate } = self;
        if !connection.is_at_rest() {
            tracing::debug!(connection = connection.id(), "closed a connection that was not at rest");
            return GivenBack::Closed;
        }
        let now = std::time::Instant::now();
        if slot.shared.is_worn(&slot.shared.lock(), &connection, now) {
            close(connection, slot);
            return GivenBack::Closed;
        }
        connection.shrink();
        connection.rest(now);
        let shared = slot.shared.clone();
        match gate.0.close() {
            Closing::Quiet => shared.offer(connection, slot),
            Closing::Doubtful => return GivenBack::Closed,
            Closing::UnderWay => {
                tokio::spawn(async move {
                    if gate.0.quiet().await {
                        shared.offer(connection, slot);
                    }
                });
            }
        }
        GivenBack::Reused
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

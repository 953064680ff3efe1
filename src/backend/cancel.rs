//! Cancelling: a fresh connection that carries a CancelRequest, and the gate that keeps a late one from hitting the next client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::ConnectError;
use super::connection::{Connection, ServerProcess};
use super::stream::Dialer;
use crate::wire::startup;

/// From dialling to the server's closing.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

/// What became of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The server has taken the request and acted on it.
    Sent,
    /// The lease has ended: nothing was sent.
    NotRunning,
}

/// Cancels what runs on one lease of a connection; does nothing once the lease has ended. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CancelHandle {
    dialer: Arc<Dialer>,
    server: Arc<ServerProcess>,
    gate: Arc<Gate>,
}

impl CancelHandle {
    pub(super) fn new(dialer: Arc<Dialer>, connection: &Connection, gate: Arc<Gate>) -> Self {
        CancelHandle { dialer, server: connection.server().clone(), gate }
    }

    /// Sends a CancelRequest and waits until the server has closed: only then is it certain that it cannot hit what the
    /// connection does next. Once begun, it is carried through even if the caller goes away.
    ///
    /// # Errors
    /// The server could not be reached, or did not close in 10 s.
    pub async fn cancel(&self) -> Result<Cancelled, ConnectError> {
        let Some(ticket) = Gate::enter(&self.gate) else { return Ok(Cancelled::NotRunning) };
        let handle = self.clone();
        let task = tokio::spawn(async move {
            let sent = tokio::time::timeout(CANCEL_DEADLINE, handle.send()).await.unwrap_or(Err(ConnectError::TimedOut));
            ticket.leave(sent.is_ok());
            sent
        });
        match task.await {
            Ok(Ok(())) => Ok(Cancelled::Sent),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(ConnectError::Io(std::io::Error::other(error))),
        }
    }

    async fn send(&self) -> Result<(), ConnectError> {
        let mut stream = self.dialer.dial_at(&self.server.address).await?;
        let mut request = BytesMut::new();
        startup::put_cancel_request(&mut request, self.server.process_id, &self.server.key);
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The server answers with nothing but the end; a reset is an end too, and so is TLS cut short.
        let mut byte = [0; 64];
        while let Ok(1..) = stream.read(&mut byte).await {}
        Ok(())
    }
}

/// Counts the cancels under way for one lease.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    left: Notify,
}

#[derive(Debug, Default)]
struct GateState {
    /// The lease has ended: no cancel may begin.
    closed: bool,
    under_way: usize,
    /// A cancel failed after it may have been sent: it may still strike.
    doubtful: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(gate: &Arc<Gate>) -> Option<Ticket> {
        let mut state = gate.lock();
        if state.closed {
            return None;
        }
        state.under_way += 1;
        Some(Ticket { gate: gate.clone(), certain: false })
    }

    /// Lets no cancel in any more.
    pub(super) fn close(&self) -> Closing {
        let mut state = self.lock();
        state.closed = !crate::mutant!("session.late-cancels-strike");
        match (state.under_way, state.doubtful) {
            (_, true) => Closing::Doubtful,
            (0, false) => Closing::Quiet,
            (_, false) => Closing::UnderWay,
        }
    }

    /// Waits until no cancel is under way. `false`: one may still strike. Only after [`Gate::close`].
    pub(super) async fn quiet(&self) -> bool {
        loop {
            let left = self.left.notified();
            {
                let state = self.lock();
                if state.under_way == 0 {
                    return !state.doubtful;
                }
            }
            left.await;
        }
    }
}

/// What a gate holds as it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Quiet,
    /// See [`Gate::quiet`].
    UnderWay,
    /// A cancel may still strike: the connection cannot be used again.
    Doubtful,
}

/// One cancel under way.
#[derive(Debug)]
struct Ticket {
    gate: Arc<Gate>,
    certain: bool,
}

impl Ticket {
    fn leave(mut self, certain: bool) {
        self.certain = certain;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.under_way -= 1;
        state.doubtful |= !self.certain;
        drop(state);
        self.gate.left.notify_one();
    }
}

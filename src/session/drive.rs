//! Moves bytes of both sides of a session at once, in one task. Nothing here looks at a message.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::sync::watch;

use super::shared::Drain;
use super::socket::{Client, poll_drain, poll_fill};
use crate::backend::connection::{Connection, Progress};

/// Above this many bytes to be written to one side, nothing is read from the other: back-pressure.
pub const HIGH: usize = 64 << 10;

/// What a session waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Bytes of the client. Off where a session could not take them in: then only the client's outbox moves.
    pub client: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Bytes came from the client.
    Client,
    /// The client closed, or its connection broke.
    ClientGone,
    /// Bytes came from the server.
    Server,
    /// The server closed, or its connection broke.
    ServerGone,
    /// The proxy is going down; the value is what it says now.
    Drain(Drain),
}

/// Tells once for each change that the proxy goes down. Polling it costs no registration when nothing changed.
pub struct DrainWatch {
    seen: Drain,
    receiver: watch::Receiver<Drain>,
    change: Pin<Box<dyn Future<Output = watch::Receiver<Drain>> + Send>>,
}

impl std::fmt::Debug for DrainWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrainWatch").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl DrainWatch {
    pub fn new(receiver: &watch::Receiver<Drain>) -> Self {
        let seen = *receiver.borrow();
        DrainWatch { seen, receiver: receiver.clone(), change: changed(receiver.clone(), seen) }
    }

    /// What was told last.
    pub fn seen(&self) -> Drain {
        self.seen
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Drain> {
        match self.change.as_mut().poll(cx) {
            Poll::Ready(_) => {
                self.seen = *self.receiver.borrow();
                self.change = changed(self.receiver.clone(), self.seen);
                Poll::Ready(self.seen)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

fn changed(mut receiver: watch::Receiver<Drain>, seen: Drain) -> Pin<Box<dyn Future<Output = watch::Receiver<Drain>> + Send>> {
    Box::pin(async move {
        if receiver.wait_for(|now| *now != seen).await.is_err() {
            // The sender is gone with the server: nothing will be told any more.
            std::future::pending::<()>().await;
        }
        receiver
    })
}

/// Writes what is to be written to both sides and reads what may be read, until something happened that the session must
/// look at.
pub async fn drive(client: &mut Client, mut server: Option<&mut Connection>, wants: Wants, drain: &mut DrainWatch) -> Happened {
    poll_fn(|cx| {
        if !client.outbox.is_empty() {
            let was_full = client.outbox.len() >= HIGH;
            match poll_drain(&mut client.socket, &mut client.outbox, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Happened::ClientGone),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            // What waited for room may go on, though nothing has come in.
            if was_full && client.outbox.len() < HIGH {
                return Poll::Ready(Happened::Client);
            }
        }
        if let Some(server) = server.as_deref_mut()
            && let Poll::Ready(happened) = poll_server(server, client.outbox.len() < HIGH, cx)
        {
            return Poll::Ready(happened);
        }
        if wants.client {
            match poll_fill(&mut client.socket, &mut client.inbox, cx) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(Happened::Client),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Happened::ClientGone),
                Poll::Pending => {}
            }
        }
        drain.poll(cx).map(Happened::Drain)
    })
    .await
}

/// Nothing is read while the client is slow, so that the server feels it.
fn poll_server(server: &mut Connection, may_read: bool, cx: &mut Context<'_>) -> Poll<Happened> {
    if !may_read {
        if server.has_output() && matches!(pin!(server.flush()).poll(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Happened::ServerGone);
        }
        return Poll::Pending;
    }
    let was_full = server.outbox.len() >= HIGH;
    loop {
        let progress = pin!(server.exchange()).poll(cx);
        // What waited for room may go on, though nothing has come in.
        let has_room = was_full && server.outbox.len() < HIGH;
        match progress {
            Poll::Ready(Ok(Progress::Read(_))) => return Poll::Ready(Happened::Server),
            Poll::Ready(Ok(Progress::Closed) | Err(_)) => return Poll::Ready(Happened::ServerGone),
            Poll::Ready(Ok(Progress::Flushed)) | Poll::Pending if has_room => return Poll::Ready(Happened::Server),
            Poll::Ready(Ok(Progress::Flushed)) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
}

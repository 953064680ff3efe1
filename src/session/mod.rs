//! One client: startup, then a loop that drives both sockets in one task, with no channel between them.
//!
//! * [`startup`]: negotiation, TLS, SCRAM, startup parameters; yields an [`startup::Established`] (AUTHENTICATED).
//! * [`unrestricted`]: messages passed on as they came, on a pinned backend.
//! * [`relayed`]: what the audit log says of those. [`recorded`]: and of a tenant's.
//! * [`enforced`]: a tenant's session: the loop, leases, denials. Its client's side is in [`simple`] and [`extended`], what
//!   the proxy answers itself in [`own`], its server's side in [`answers`]; between them stands the queue of [`expect`].
//! * [`statements`]: prepared statements and portals, named by the client here and by their content upstream. [`prepared`]:
//!   those of PREPARE and EXECUTE.
//! * [`cached`]: what is answered from the result cache, and what is said to it.
//! * [`drive`]: moves the bytes of both sides; knows no messages.
//! * [`settings`], [`tenant`]: what follows transactions: the client's settings and its tenant.
//! * [`copy`]: COPY FROM STDIN, whose data is converted on its way. [`cancel`]: the proxy's own cancel keys. [`scrub`]: what of a server's error a tenant may see. [`poison`]: fails a
//!   transaction at an exact place. [`prelude`]: gives a backend the settings that a session starts with.

mod answers;
mod cached;
pub mod cancel;
mod copy;
pub mod declared;
mod drive;
mod enforced;
mod expect;
mod extended;
mod own;
#[cfg(test)]
mod permissive;
mod poison;
mod prelude;
mod prepared;
mod recorded;
mod relayed;
pub mod scrub;
pub mod settings;
pub mod shared;
mod simple;
pub mod socket;
pub mod startup;
mod statements;
pub mod tenant;
#[cfg(test)]
mod tests;
mod unrestricted;
pub mod usual;

use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::error::{SqlError, sqlstate};
use crate::event::{Event, Rejection};
use crate::wire::backend as reply;
use shared::Shared;
use startup::{Ended, Established};

/// Serves one accepted socket from its first byte to its last.
pub async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    // Each step in a box of its own: a task is as large as all that it ever awaits in its place, for as long as its client stays.
    let Some(established) = Box::pin(establish(socket, &shared)).await else { return };
    shared.events.emit(Event::AuthSucceeded);
    run(established, &shared).await;
}

/// `None`: the client is not admitted, and knows.
async fn establish(socket: TcpStream, shared: &Arc<Shared>) -> Option<Box<Established>> {
    // Messages are small and waited for; a client whose machine has gone must be noticed some day.
    let keepalive = socket2::TcpKeepalive::new().with_time(std::time::Duration::from_secs(60));
    let prepared = socket.set_nodelay(true).and_then(|()| socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = prepared {
        tracing::debug!(%error, "client left at once");
        return None;
    }
    match tokio::time::timeout(shared.limits.startup_timeout, startup::establish(socket, shared)).await {
        Ok(Ok(established)) => return Some(Box::new(established)),
        Ok(Err(Ended::Quietly)) => {}
        Ok(Err(Ended::Refused(mut client, error))) => {
            tracing::info!(%error, "client refused");
            shared.events.emit(refusal(&error));
            reply::put_error(&mut client.outbox, &error);
            // A client that does not read its refusal must not hold the socket.
            let _ = tokio::time::timeout(shared.limits.startup_timeout, client.close()).await;
        }
        Err(_) => {
            tracing::info!("client did not authenticate in time");
            shared.events.emit(Event::ConnectionRejected(Rejection::Timeout));
        }
    }
    None
}

/// What a refusal counts as.
fn refusal(error: &SqlError) -> Event {
    match error.sqlstate {
        sqlstate::INVALID_PASSWORD | sqlstate::INVALID_AUTHORIZATION => Event::AuthFailed,
        sqlstate::TOO_MANY_CONNECTIONS => Event::ConnectionRejected(Rejection::Limit),
        sqlstate::INVALID_CATALOG_NAME => Event::ConnectionRejected(Rejection::Database),
        _ => Event::ConnectionRejected(Rejection::Protocol),
    }
}

/// INVARIANT (AUTHENTICATED): takes an [`Established`], which only startup makes.
fn run<'a>(established: Box<Established>, shared: &'a Shared) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    if established.principal.is_unrestricted() {
        Box::pin(relay(established, shared))
    } else {
        enforced::serve(established, shared)
    }
}

async fn relay(mut established: Box<Established>, shared: &Shared) {
    let database = established.database.clone();
    match database.unrestricted.get(&established.principal.user) {
        Some(pool) => Box::pin(unrestricted::serve(*established, shared, pool)).await,
        None => {
            let error = SqlError::fatal(sqlstate::INTERNAL_ERROR, "no upstream for this user");
            reply::put_error(&mut established.client.outbox, &error);
            established.client.close().await;
        }
    }
}

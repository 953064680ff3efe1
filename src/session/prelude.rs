//! Gives a leased backend the settings that a session starts with, before the session's first statement.

use super::settings::{Settings, write_prelude};
use crate::backend::pool::{Holder, Lease, Pool};
use crate::error::{SqlError, sqlstate};
use crate::wire::backend::{self as reply, ErrorFields, TransactionStatus, tag};
use crate::wire::{frame, frontend};

/// Settings of one client that may end what is done for the next on the same backend, the prelude included.
const ENDING: [&str; 2] = ["statement_timeout", "idle_session_timeout"];

/// Backends that may be lost before one has the settings.
const ATTEMPTS: usize = 8;

/// A backend for a client with these settings, if one is there that needs no question.
pub fn lease_now(pool: &Pool, holder: Holder, wanted: &Settings) -> Option<Lease> {
    pool.lease_now(holder, |connection| !ends_others(&connection.settings, wanted))
}

/// Whether what a connection has may end what is done for a client that wants something else.
fn ends_others(settings: &Settings, wanted: &Settings) -> bool {
    let value = |settings: &Settings, name: &str| settings.map().get(name).cloned();
    settings != wanted && ENDING.iter().any(|name| value(settings, name).is_some_and(|v| Some(v) != value(wanted, name)))
}

/// A backend for a client with these settings. One that has another client's timeouts is rid of them here, and not in the packet of
/// the client's statement: where they end that, the backend is closed, and the client gets another.
///
/// # Errors
/// There is no backend, or none takes the settings.
pub async fn lease(pool: &Pool, holder: Holder, wanted: &Settings) -> Result<Lease, SqlError> {
    let mut failed = None;
    for _ in 0..ATTEMPTS {
        let mut lease = pool.lease(holder).await?;
        if !ends_others(&lease.settings, wanted) {
            return Ok(lease);
        }
        match apply(&mut lease, wanted).await {
            Ok(()) => return Ok(lease),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| SqlError::new(sqlstate::CONNECTION_FAILURE, "lost the connection to the upstream server")))
}

/// Makes the settings of `lease` those of `wanted`, if they are not.
///
/// # Errors
/// A value is not valid (the server's own code where it is 22023, and its words), or the server is lost. The lease must be
/// dropped then.
pub async fn apply(lease: &mut Lease, wanted: &Settings) -> Result<(), SqlError> {
    if lease.settings == *wanted {
        return Ok(());
    }
    let mut sql = String::new();
    write_prelude(&lease.settings, wanted, &mut sql);
    frontend::put_query(&mut lease.outbox, &sql);
    lease.expect_ready();
    let lost = |_| SqlError::new(sqlstate::CONNECTION_FAILURE, "lost the connection to the upstream server");
    lease.flush().await.map_err(lost)?;
    let mut failure = None;
    loop {
        let Some(message) = frame::take(&mut lease.inbox, frame::CAP_SERVER)? else {
            if lease.fill().await.map_err(lost)? == 0 {
                return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
            }
            continue;
        };
        match message.tag {
            tag::ERROR => failure = Some(told(&message.body)),
            tag::PARAMETER_STATUS => {
                let (name, value) = reply::parse_parameter_status(&message.body)?;
                lease.note_parameter(name, value);
            }
            tag::READY_FOR_QUERY => {
                lease.note_ready(TransactionStatus::parse(&message.body)?)?;
                if let Some(error) = failure {
                    return Err(error);
                }
                lease.settings = wanted.clone();
                return Ok(());
            }
            _ => {}
        }
    }
}

/// What the client is told of a setting that the server does not take.
fn told(body: &[u8]) -> SqlError {
    let fields = ErrorFields::new(body);
    let code = match fields.sqlstate() {
        Some("42704") => sqlstate::UNDEFINED_OBJECT,
        Some("42501") => sqlstate::INSUFFICIENT_PRIVILEGE,
        Some("57014") => sqlstate::QUERY_CANCELED,
        Some(_) | None => sqlstate::INVALID_PARAMETER_VALUE,
    };
    SqlError::new(code, fields.message().into_owned())
}

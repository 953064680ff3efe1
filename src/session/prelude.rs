//! Gives a leased backend the settings that a session starts with, before the session's first statement.

use super::settings::{Settings, write_prelude};
use crate::backend::pool::Lease;
use crate::error::{SqlError, sqlstate};
use crate::wire::backend::{self as reply, ErrorFields, TransactionStatus, tag};
use crate::wire::{frame, frontend};

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

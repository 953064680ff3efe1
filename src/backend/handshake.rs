//! From an open stream to a server that is ready: startup packet, authentication, first settings.

use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::wire::backend::{self, Authentication, ErrorFields, TransactionStatus, tag};
use crate::wire::cursor::utf8;
use crate::wire::{frame, frontend, md5, scram, startup};

use super::ConnectError;
use super::connection::{Connection, Settings};

/// How far authentication has come: each step is only taken from the one before it.
enum Step {
    /// Nothing was asked for yet.
    Asked,
    /// A password was sent; the server says yes or no.
    PasswordSent,
    SaslStarted(scram::Client),
    SaslAnswered(scram::ClientFinal),
    /// The server proved itself.
    SaslProved,
    Authenticated,
}

/// Logs in and waits until the server is ready. `settings` become the session's defaults, which RESET returns to.
pub(super) async fn run(connection: &mut Connection, upstream: &Upstream, settings: &Settings) -> Result<(), ConnectError> {
    let own = [("user", upstream.user.as_str()), ("database", upstream.database.as_str()), ("client_encoding", "UTF8")];
    let name = settings.map().is_empty().then_some(("application_name", "bulkhead"));
    let wanted = settings.map().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::put_startup(&mut connection.outbox, own.into_iter().chain(name).chain(wanted));
    connection.flush().await?;
    let mut step = Step::Asked;
    loop {
        let message = next(connection).await?;
        match (message.tag, &step) {
            (tag::ERROR, _) => return Err(refused(&message.body)),
            (tag::NOTICE, _) => {}
            (tag::AUTHENTICATION, Step::Authenticated) => return Err(unexpected()),
            (tag::AUTHENTICATION, _) => step = authenticate(connection, upstream, step, &message.body).await?,
            (tag::PARAMETER_STATUS, Step::Authenticated) => {
                let (name, value) = backend::parse_parameter_status(&message.body).map_err(ConnectError::Protocol)?;
                connection.note_parameter(name, value);
            }
            (tag::BACKEND_KEY_DATA, Step::Authenticated) => {
                let (process_id, key) = backend::parse_key_data(&message.body).map_err(ConnectError::Protocol)?;
                connection.set_cancel_key(process_id, key);
            }
            (tag::READY_FOR_QUERY, Step::Authenticated) => {
                let status = TransactionStatus::parse(&message.body).map_err(ConnectError::Protocol)?;
                if status != TransactionStatus::Idle || !connection.inbox.is_empty() {
                    return Err(unexpected());
                }
                return check_settings(connection);
            }
            (_, _) => return Err(unexpected()),
        }
    }
}

async fn next(connection: &mut Connection) -> Result<frame::Frame, ConnectError> {
    loop {
        match frame::take(&mut connection.inbox, frame::CAP_SERVER_STARTUP).map_err(ConnectError::Protocol)? {
            Some(message) => return Ok(message),
            None if connection.fill().await? == 0 => {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            None => {}
        }
    }
}

async fn authenticate(connection: &mut Connection, upstream: &Upstream, step: Step, body: &[u8]) -> Result<Step, ConnectError> {
    let request = Authentication::parse(body).map_err(ConnectError::Protocol)?;
    let text = |bytes| utf8(bytes).map_err(ConnectError::Protocol);
    let next = match (request, step) {
        (Authentication::Ok, Step::Asked | Step::PasswordSent | Step::SaslProved) => Step::Authenticated,
        (Authentication::CleartextPassword, Step::Asked) => {
            frontend::put_password(&mut connection.outbox, password(upstream)?);
            Step::PasswordSent
        }
        (Authentication::Md5Password { salt }, Step::Asked) => {
            let answer = md5::response(&upstream.user, password(upstream)?, salt);
            frontend::put_password(&mut connection.outbox, &answer);
            Step::PasswordSent
        }
        (Authentication::Sasl { mechanisms }, Step::Asked) => {
            if !mechanisms.contains(&scram::MECHANISM) {
                return Err(ConnectError::Unsuitable(format!("it offers no SASL mechanism but {}", mechanisms.join(", "))));
            }
            let (client, first) = scram::Client::start();
            frontend::put_sasl_initial(&mut connection.outbox, scram::MECHANISM, first.as_bytes());
            Step::SaslStarted(client)
        }
        (Authentication::SaslContinue(data), Step::SaslStarted(client)) => {
            let (client, last) = answer(client, password(upstream)?.to_owned(), text(data)?.to_owned()).await?;
            frontend::put_sasl_response(&mut connection.outbox, last.as_bytes());
            Step::SaslAnswered(client)
        }
        (Authentication::SaslFinal(data), Step::SaslAnswered(client)) => {
            client.finish(text(data)?).map_err(ConnectError::Protocol)?;
            Step::SaslProved
        }
        (Authentication::Other(code), Step::Asked) => {
            return Err(ConnectError::Unsuitable(format!("it asks for authentication method {code}, which is not supported")));
        }
        (_, _) => return Err(unexpected()),
    };
    connection.flush().await?;
    Ok(next)
}

/// Off the reactor: the server chooses how many hashes it costs.
async fn answer(
    client: scram::Client,
    password: String,
    server_first: String,
) -> Result<(scram::ClientFinal, String), ConnectError> {
    let computed = tokio::task::spawn_blocking(move || client.answer(&password, &server_first)).await;
    computed.map_err(|error| ConnectError::Io(std::io::Error::other(error)))?.map_err(ConnectError::Protocol)
}

fn password(upstream: &Upstream) -> Result<&str, ConnectError> {
    let missing = || ConnectError::Unsuitable("it asks for a password, and the upstream URL has none".into());
    upstream.password.as_deref().ok_or_else(missing)
}

/// The reading of SQL relies on both (DESIGN, reading SQL).
fn check_settings(connection: &Connection) -> Result<(), ConnectError> {
    for (name, needed) in [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")] {
        match connection.parameters().get(name) {
            Some(value) if value == needed => {}
            Some(value) => return Err(ConnectError::Unsuitable(format!("{name} is {value}, it must be {needed}"))),
            None => return Err(ConnectError::Unsuitable(format!("it does not report {name}"))),
        }
    }
    Ok(())
}

fn refused(body: &[u8]) -> ConnectError {
    let fields = ErrorFields::new(body);
    ConnectError::Refused {
        sqlstate: fields.sqlstate().unwrap_or(sqlstate::CONNECTION_FAILURE.0).to_owned(),
        message: fields.message().into_owned(),
    }
}

fn unexpected() -> ConnectError {
    ConnectError::Protocol(SqlError::new(sqlstate::PROTOCOL_VIOLATION, "unexpected message during startup"))
}

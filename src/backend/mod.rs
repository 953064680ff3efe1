//! Connections to PostgreSQL, the pool that lends them out, cancelling, and the catalog loader.
//!
//! A server is untrusted input too: its lengths are checked, it must prove in SCRAM that it knows the verifier, and nothing
//! that it sends before TLS is up counts.

pub mod cancel;
pub mod catalog;
pub mod connection;
mod handshake;
mod hashed;
pub mod lock;
pub mod pool;
pub mod replication;
pub mod stream;

use crate::config::Upstream;
use crate::error::{SqlError, SqlState, sqlstate};

/// Why there is no connection to the server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("TLS: {0}")]
    Tls(String),
    /// The server's own ErrorResponse.
    #[error("the server says: {message} (SQLSTATE {sqlstate})")]
    Refused { sqlstate: String, message: String },
    #[error("the server breaks the protocol: {0}")]
    Protocol(SqlError),
    /// The server works in a way that Bulkhead cannot.
    #[error("the server cannot be used: {0}")]
    Unsuitable(String),
}

impl ConnectError {
    /// Whether trying again may help without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            ConnectError::Io(_) | ConnectError::TimedOut => true,
            // too many connections; starting up, shutting down, crashed
            ConnectError::Refused { sqlstate, .. } => matches!(sqlstate.as_str(), "53300" | "57P01" | "57P02" | "57P03"),
            ConnectError::Tls(_) | ConnectError::Protocol(_) | ConnectError::Unsuitable(_) => false,
        }
    }

    /// What an operator is told, with where it was tried.
    pub fn at(&self, upstream: &Upstream) -> SqlError {
        let mut error = self.to_sql_error();
        let place = format!("{}:{}/{} as {}", upstream.host, upstream.port, upstream.database, upstream.user);
        let what = match self {
            ConnectError::Refused { sqlstate: _, message } => message.clone(),
            other => other.to_string(),
        };
        if error.sqlstate == sqlstate::CONNECTION_FAILURE
            && !matches!(self, ConnectError::Io(_) | ConnectError::TimedOut | ConnectError::Refused { .. })
        {
            error.sqlstate = sqlstate::CONNECTION_REJECTED;
        }
        error.message = format!("cannot connect to {place}: {what}").into();
        error
    }

    /// What a client is told: the server's own words and code where it refused, else 08006 without names of hosts.
    pub fn to_sql_error(&self) -> SqlError {
        let text = match self {
            ConnectError::Refused { sqlstate, message } => {
                let code = forwarded(sqlstate).unwrap_or(sqlstate::CONNECTION_FAILURE);
                return SqlError::new(code, format!("the upstream server refused the connection: {message}"));
            }
            ConnectError::Io(_) => "could not connect to the upstream server",
            ConnectError::TimedOut => "the upstream server did not answer in time",
            ConnectError::Tls(_) => "could not set up TLS with the upstream server",
            ConnectError::Protocol(_) => "the upstream server broke the protocol",
            ConnectError::Unsuitable(_) => "the upstream server's settings cannot be used",
        };
        SqlError::new(sqlstate::CONNECTION_FAILURE, text)
    }
}

/// Whether what [`ConnectError::at`] tells may change without anyone changing anything: no server yet, or one that is starting.
pub fn is_transient(error: &SqlError) -> bool {
    let transient =
        [sqlstate::CONNECTION_FAILURE, sqlstate::TOO_MANY_CONNECTIONS, sqlstate::CANNOT_CONNECT_NOW, sqlstate::ADMIN_SHUTDOWN];
    transient.contains(&error.sqlstate)
}

/// A connection of its own, for what the proxy itself asks.
pub async fn connect(upstream: &Upstream) -> Result<connection::Connection, SqlError> {
    let told = |error: ConnectError| error.at(upstream);
    let dialer = stream::Dialer::new(upstream.clone()).map_err(told)?;
    connection::Connection::connect(&dialer, 0, &connection::Settings::default()).await.map_err(told)
}

/// The codes with which PostgreSQL refuses connections, as they are passed on.
fn forwarded(code: &str) -> Option<SqlState> {
    const KNOWN: [SqlState; 10] = [
        sqlstate::INVALID_PARAMETER_VALUE,
        sqlstate::UNDEFINED_OBJECT,
        sqlstate::INVALID_PASSWORD,
        sqlstate::INVALID_AUTHORIZATION,
        sqlstate::INVALID_CATALOG_NAME,
        sqlstate::TOO_MANY_CONNECTIONS,
        sqlstate::CANNOT_CONNECT_NOW,
        sqlstate::ADMIN_SHUTDOWN,
        sqlstate::INSUFFICIENT_PRIVILEGE,
        sqlstate::PROTOCOL_VIOLATION,
    ];
    KNOWN.into_iter().find(|known| known.0 == code)
}

//! Connections to PostgreSQL, the pool that lends them out, cancelling, and the catalog loader.
//!
//! A server is untrusted input too: its lengths are checked, it must prove in SCRAM that it knows the verifier, and nothing
//! that it sends before TLS is up counts.

pub mod cancel;
pub mod catalog;
pub mod connection;
mod handshake;
pub mod lock;
pub mod pool;
pub mod stream;

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

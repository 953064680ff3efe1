//! The PostgreSQL wire protocol, version 3: frames, messages, startup packets, SCRAM. Pure: bytes in, values or bytes
//! out; no socket is opened here. <https://www.postgresql.org/docs/current/protocol-message-formats.html>
//!
//! Two kinds of error, both as [`SqlError`](crate::error::SqlError): a broken *frame* (its length cannot be trusted, so
//! nothing after it can) is FATAL; a broken *body* inside a sound frame is an ERROR, and the next frame is still good.
//!
//! Everything that arrives is hostile until checked, from servers as much as from clients: lengths are compared with a cap
//! before they are used, text must be UTF-8 without NUL, counts must match, and nothing may be left over.

pub mod backend;
pub mod cursor;
pub mod frame;
pub mod frontend;
pub mod md5;
pub mod pgoutput;
pub mod scram;
pub mod startup;

#[cfg(test)]
mod properties;

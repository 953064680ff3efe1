//! A logical replication slot for as long as a connection lasts, and what it tells.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rand::RngCore;

use super::connection::{Connection, Settings};
use super::stream::Dialer;
use crate::config::Upstream;
use crate::error::{SqlError, sqlstate};
use crate::wire::backend::ErrorFields;
use crate::wire::cursor::violation;
use crate::wire::{frame, frontend};

/// The publication that is followed.
pub const PUBLICATION: &str = "bulkhead";

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// As PostgreSQL prints it: `16/B374D848`.
    pub fn parse(text: &str) -> Option<Lsn> {
        let (high, low) = text.split_once('/')?;
        Some(Lsn(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?)))
    }
}

/// The stream of one slot.
#[derive(Debug)]
pub struct Replication {
    connection: Connection,
    /// All that was written before was told.
    position: Lsn,
}

/// What comes next.
#[derive(Debug)]
pub enum Told {
    /// A message of pgoutput.
    Change(Bytes),
    /// The position has moved.
    Position,
}

impl Replication {
    /// Makes a temporary slot, which waits for transactions that run now, and begins to read it. It goes with its connection, so that
    /// nothing keeps the server from removing its log.
    ///
    /// # Errors
    /// No connection, or the server refuses: no right to replicate, wal_level, max_wal_senders.
    pub async fn start(upstream: &Upstream) -> Result<Replication, SqlError> {
        let settings = [("replication", "database"), ("application_name", "bulkhead")];
        let settings = Settings::new(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect());
        let dialer = Dialer::new(upstream.clone()).map_err(|error| error.at(upstream))?;
        let mut connection = Connection::connect(&dialer, 0, &settings).await.map_err(|error| error.at(upstream))?;
        let name = format!("bulkhead_{:016x}", rand::rng().next_u64());
        connection.ask(&format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")).await?;
        let start = format!("START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{PUBLICATION}')");
        frontend::put_query(&mut connection.outbox, &start);
        let mut replication = Replication { connection, position: Lsn(0) };
        replication.flush().await?;
        match replication.frame().await? {
            // CopyBothResponse
            frame if frame.tag == b'W' => Ok(replication),
            frame => Err(told_else(&frame)),
        }
    }

    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Waits for what is told next. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the server has ended it.
    pub async fn next(&mut self) -> Result<Told, SqlError> {
        let frame = self.frame().await?;
        if frame.tag != b'd' {
            return Err(told_else(&frame));
        }
        let mut body = frame.body.freeze();
        match body.try_get_u8() {
            // XLogData: where it begins, where the log ends, a time.
            Ok(b'w') if body.len() >= 24 => {
                body.advance(24);
                Ok(Told::Change(body))
            }
            // Keepalive: all before was told.
            Ok(b'k') if body.len() >= 8 => {
                self.position = self.position.max(Lsn(body.get_u64()));
                Ok(Told::Position)
            }
            Ok(_) | Err(_) => Err(violation("unknown message in the replication stream")),
        }
    }

    /// Says that all was read, and asks for the position.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn ask_position(&mut self) -> Result<(), SqlError> {
        let mut status = BytesMut::new();
        status.put_u8(b'r');
        (0..3).for_each(|_| status.put_u64(self.position.0));
        status.put_u64(0);
        status.put_u8(1);
        frontend::put_copy_data(&mut self.connection.outbox, &status);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), SqlError> {
        self.connection.flush().await.map_err(|_| lost())
    }

    async fn frame(&mut self) -> Result<frame::Frame, SqlError> {
        loop {
            if let Some(frame) = frame::take(&mut self.connection.inbox, frame::CAP_SERVER)? {
                return Ok(frame);
            }
            match self.connection.fill().await {
                Ok(0) | Err(_) => return Err(lost()),
                Ok(_) => {}
            }
        }
    }
}

fn lost() -> SqlError {
    SqlError::new(sqlstate::CONNECTION_FAILURE, "lost the replication connection to the upstream server")
}

fn told_else(frame: &frame::Frame) -> SqlError {
    if frame.tag == b'E' {
        let fields = ErrorFields::new(&frame.body);
        return SqlError::new(sqlstate::CONNECTION_FAILURE, format!("the upstream server: {}", fields.message()));
    }
    violation("unexpected message from the upstream server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_printed() {
        assert_eq!(Lsn::parse("16/B374D848"), Some(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn::parse("0/0"), Some(Lsn(0)));
        for text in ["", "1", "x/1", "1/100000000"] {
            assert_eq!(Lsn::parse(text), None, "{text}");
        }
    }
}

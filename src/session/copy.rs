//! COPY .. FROM STDIN of a tenant: the data becomes rows of the proxy's own form on its way (see [`crate::sql::copy`]), as fast
//! as the server takes them. INVARIANT: no byte of the client's data goes up but through the converter.

use bytes::{Buf, BufMut, BytesMut};

use super::answers::{broken, unexpected};
use super::enforced::{End, Phase, Session, Step};
use super::expect::Expected;
use super::{poison, scrub};
use crate::error::{SqlError, sqlstate};
use crate::plan::CopyIn;
use crate::sql::copy::{Converter, Dialect, Failure};
use crate::wire::backend::{self as reply, tag};
use crate::wire::frame;
use crate::wire::frontend::{self as request, Format, FrontendMessage};

/// How much is converted before it is looked again whether the server takes it, bytes.
const PIECE: usize = 16 << 10;

/// A COPY under way, until the server has said how it ended.
#[derive(Debug)]
pub(super) struct Copying {
    table: String,
    converter: Converter,
    /// Data that has come and was not converted yet.
    pending: BytesMut,
    rows: BytesMut,
    /// Why the proxy made it fail.
    failure: Option<Box<Failure>>,
}

impl Session<'_> {
    /// The server is ready for the data. `copy`: what was permitted; without it, nothing is.
    pub fn begin_copy(&mut self, copy: Option<CopyIn>, body: &[u8], extended: bool) -> Step {
        let copy = copy.ok_or_else(|| unexpected(tag::COPY_IN))?;
        let target = copy.target();
        let format = match target.dialect {
            Dialect::Binary => Format::Binary,
            Dialect::Text { .. } | Dialect::Csv(_) => Format::Text,
        };
        let wanted = reply::parse_copy_response(body).map_err(|error| broken(&error))?;
        if wanted.format != format || wanted.columns.len() != target.sent_columns().len() {
            return Err(unexpected(tag::COPY_IN));
        }
        let max_row = self.shared.limits.max_message;
        let converter = Converter::new(target, &copy.tenant().0, max_row).map_err(|error| broken(&error))?;
        reply::put_copy_in(&mut self.client.outbox, format, u16::try_from(target.columns.len()).unwrap_or(u16::MAX));
        let (pending, rows) = (BytesMut::new(), BytesMut::new());
        self.copy = Some(Copying { table: target.table.clone(), converter, pending, rows, failure: None });
        self.phase = Phase::CopyIn { extended };
        Ok(())
    }

    /// What the client sends while the server waits for data is for the COPY.
    pub fn copy_in(&mut self, message: &FrontendMessage<'_>, tag: u8, body: &[u8], extended: bool) -> Step {
        let Some(copy) = &mut self.copy else { return Err(End::Lost) };
        match message {
            FrontendMessage::CopyData(data) => copy.pending.extend_from_slice(data),
            FrontendMessage::CopyDone => {
                copy.rows.clear();
                let finished = copy.converter.finish(&mut copy.rows);
                self.send_rows();
                match finished {
                    Ok(()) => self.end_data(extended, request::put_copy_done),
                    Err(failure) => self.fail_copy(failure, extended),
                }
            }
            FrontendMessage::CopyFail(_) => {
                self.end_data(extended, |out| frame::write(out, tag, |out| out.put_slice(body)));
            }
            // The server ignores these in a COPY.
            FrontendMessage::Flush | FrontendMessage::Sync => {}
            FrontendMessage::Query(_)
            | FrontendMessage::Parse(_)
            | FrontendMessage::Bind(_)
            | FrontendMessage::Describe(_)
            | FrontendMessage::Execute(_)
            | FrontendMessage::Close(_)
            | FrontendMessage::Terminate
            | FrontendMessage::FunctionCall
            | FrontendMessage::Authentication(_) => return Err(self.misplaced_in_copy(tag)),
        }
        Ok(())
    }

    /// Ends the session with PostgreSQL's words for a message that does not belong into a COPY.
    pub fn misplaced_in_copy(&mut self, tag: u8) -> End {
        let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
        reply::put_error(&mut self.client.outbox, &SqlError::new(sqlstate::PROTOCOL_VIOLATION, message));
        let message = "terminating connection because protocol synchronization was lost";
        End::Fatal(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, message))
    }

    /// Converts a piece of the data that waits. `false`: none does.
    pub fn convert_data(&mut self) -> bool {
        let Phase::CopyIn { extended } = self.phase else { return false };
        let Some(copy) = self.copy.as_mut().filter(|copy| !copy.pending.is_empty()) else { return false };
        let length = copy.pending.len().min(PIECE);
        copy.rows.clear();
        let converted = copy.converter.feed(&copy.pending[..length], &mut copy.rows);
        copy.pending.advance(length);
        if copy.pending.is_empty() {
            // A large message does not stay.
            copy.pending = BytesMut::new();
        }
        self.send_rows();
        if let Err(failure) = converted {
            self.fail_copy(failure, extended);
        }
        true
    }

    fn send_rows(&mut self) {
        if let (Some(copy), Some(lease)) = (&mut self.copy, &mut self.lease)
            && !copy.rows.is_empty()
        {
            request::put_copy_data(&mut lease.outbox, &copy.rows);
            frame::shrink(&mut copy.rows, PIECE);
        }
    }

    /// No more data goes up; what the client still sends of it is dropped.
    fn end_data(&mut self, extended: bool, end: impl FnOnce(&mut BytesMut)) {
        if let Some(lease) = &mut self.lease {
            end(&mut lease.outbox);
        }
        self.phase = if extended { Phase::Open } else { Phase::Awaiting };
    }

    /// The server is made to fail, so that its own error, if it has one by then, comes first and nothing is stored.
    fn fail_copy(&mut self, failure: Box<Failure>, extended: bool) {
        if let Some(copy) = &mut self.copy {
            copy.pending = BytesMut::new();
            copy.failure = Some(failure);
        }
        self.end_data(extended, poison::put_copy_fail);
    }

    /// Data has come that may be for a COPY whose start the server has not confirmed yet: waits until that is known.
    pub async fn await_copy(&mut self) -> Step {
        let waits = |session: &Self| {
            let copies = |e: &&Expected| matches!(e, Expected::Execute { sent, .. } if sent.copy.is_some());
            let begun = usize::from(session.copy.is_some());
            session.phase == Phase::Open && session.queue.iter().filter(copies).count() > begun
        };
        while waits(self) {
            if let Some(lease) = self.lease.as_mut().filter(|lease| !lease.has_output()) {
                request::put_flush(&mut lease.outbox);
            }
            self.take_answers()?;
            if waits(self) {
                self.wait().await?;
            }
        }
        Ok(())
    }

    /// Writes a server's error or notice for the client.
    pub fn write_told(&mut self, tag: u8, body: &[u8]) {
        let own = self.own_rows();
        let out = &mut self.client.outbox;
        match &self.copy {
            Some(Copying { failure: Some(failure), .. }) if tag == tag::ERROR && poison::is_poison(body) => {
                put_failure(out, failure);
            }
            Some(copy) => scrub::write(tag, &copy.relocated(body), own, out),
            None => scrub::write(tag, body, own, out),
        }
    }
}

impl Copying {
    /// The fields of an error, with the line of the client's data that it is about. The server's copy of a whole line is not
    /// the client's.
    fn relocated(&self, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::with_capacity(body.len());
        for (kind, value) in scrub::fields(body) {
            out.put_u8(kind);
            match std::str::from_utf8(value) {
                Ok(text) if kind == b'W' => out.put_slice(self.context(text).as_bytes()),
                Ok(_) | Err(_) => out.put_slice(value),
            }
            out.put_u8(0);
        }
        out.put_u8(0);
        out
    }

    fn context(&self, text: &str) -> String {
        let head = format!("COPY {}, line ", self.table);
        let starts = |at: &usize| *at == 0 || text.as_bytes()[at - 1] == b'\n';
        let Some(at) = text.match_indices(&head).map(|(at, _)| at).find(starts) else { return text.to_owned() };
        let rest = &text[at + head.len()..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(line) = rest[..digits].parse::<u64>() else { return text.to_owned() };
        let after = &rest[digits..];
        let after = match after.strip_prefix(": ") {
            Some(whole) => whole.find('\n').map_or("", |end| &whole[end..]),
            None => after,
        };
        format!("{}{head}{}{after}", &text[..at], self.converter.line(line))
    }
}

fn put_failure(out: &mut BytesMut, failure: &Failure) {
    let Failure { error, context } = failure;
    let severity = error.severity.as_str().as_bytes();
    let fields = [
        (b'S', Some(severity)),
        (b'V', Some(severity)),
        (b'C', Some(error.sqlstate.0.as_bytes())),
        (b'M', Some(error.message.as_bytes())),
        (b'D', error.detail.as_deref().map(str::as_bytes)),
        (b'H', error.hint.as_deref().map(str::as_bytes)),
        (b'W', Some(context.as_bytes()).filter(|c| !c.is_empty())),
    ];
    reply::put_error_fields(out, tag::ERROR, fields.into_iter().filter_map(|(kind, value)| Some((kind, value?))));
}
